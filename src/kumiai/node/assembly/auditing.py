"""How a coordinator's audit log is put together: who writes it, who signs it."""

import hashlib
from collections.abc import Sequence

import structlog

from kumiai.core.clock import Clock
from kumiai.core.errors import KumiaiError
from kumiai.identity import Refusal, RefusedCall, WatchedFiles
from kumiai.identity.audit import Act, Actor, AuditScribe, CheckpointSigner
from kumiai.node.assembly.passphrases import passphrase_of
from kumiai.node.auditing.actors import actor_of, said_by_stranger, subject_of
from kumiai.node.auditing.signer_files import load_signer
from kumiai.node.coordinator.auditing import AuditRecorder, CheckpointKeeper
from kumiai.node.coordinator.checkpoint_offers import CheckpointOffers
from kumiai.node.coordinator.sessions import SessionHub
from kumiai.node.coordinator.supervision import SupervisedWork
from kumiai.node.settings import Settings
from kumiai.storage import AuditLog, DatabaseManager, MigrationStep

__all__ = ["CoordinatorAudit"]


class CoordinatorAudit:
    """The log of a coordinator's database, with its writer and its signer."""

    def __init__(
        self,
        settings: Settings,
        database: DatabaseManager,
        clock: Clock,
        coordinator_id: str,
        hub: SessionHub,
    ) -> None:
        """Prepare; the signing key is made now if there is none.

        Raises:
            KumiaiError: the signing key or the certificate cannot be used.
        """
        identity, folder = settings.identity, settings.coordinator.data_dir

        passphrase = passphrase_of(
            settings.coordinator.audit_passphrase, settings.coordinator.audit_passphrase_file
        )

        def signer() -> CheckpointSigner:
            return load_signer(folder, identity.certificate, identity.key, passphrase)

        # With a renewed certificate comes a new key; to open the same each minute would be slow.
        signers = WatchedFiles((identity.certificate, identity.key), signer, clock)
        self.log = AuditLog(database, AuditScribe())
        self.recorder = AuditRecorder(self.log, clock, coordinator_id)
        self.offers = CheckpointOffers(self.log, hub)
        self.keeper = CheckpointKeeper(
            self.log, signers.current, clock, folder, on_checkpoint=self.offers.announce
        )
        self._settings_digest = _digest_of(settings)
        self._works = (
            SupervisedWork("audit recorder", self.recorder.serve, clock),
            SupervisedWork("audit signer", self.keeper.serve, clock),
            SupervisedWork("audit checkpoint offers", self.offers.serve, clock),
        )
        self._is_open = False
        self._logger = structlog.get_logger("kumiai.audit")

    async def open(self, steps: Sequence[MigrationStep]) -> None:
        """Begin to write and to sign; the start itself is the first entry.

        Args:
            steps: of the database's schema, as far as it was migrated now.

        Raises:
            StorageError: the database failed.
        """
        for step in steps:
            self.recorder.record_own(
                Act.SCHEMA_MIGRATED, f"schema/{step.revision}", {"direction": step.direction}
            )
        self.recorder.record_own(
            Act.COORDINATOR_STARTED, detail={"settings_sha256": self._settings_digest}
        )
        await self.recorder.flush()
        for work in self._works:
            work.start()
        self._is_open = True

    def unwell(self) -> list[str]:
        """Return what has ended by an error and does not go on again for sure."""
        return [work.name for work in self._works if not work.is_well]

    async def close(self) -> None:
        """Write what waits, and sign; a database that is gone keeps nobody from stopping."""
        if not self._is_open:
            return
        self._is_open = False
        for work in self._works:
            await work.stop()
        self.recorder.record_own(Act.COORDINATOR_STOPPED)
        try:
            await self.recorder.flush(is_last=True)
            await self.keeper.sign()
        except KumiaiError as error:
            self._logger.warning("audit log not closed", error=str(error))

    def note_refusal(self, call: RefusedCall) -> None:
        """Record a call that did not get in; of a flood the first and the count."""
        act, error = Act.AUTHENTICATION_REFUSED, call.error
        actor = Actor("nobody", address=call.address[:64])
        if call.caller is not None:
            actor = actor_of(call.caller)
            if error.refusal is Refusal.MISSING_PERMISSION:
                act = Act.PERMISSION_DENIED
        elif call.claimed is not None:
            # Whom the certificate names; for refusals of strangers that is not proved.
            actor = Actor.of(call.claimed, call.address[:64])
        token_id = error.token_id or (call.caller.token_id if call.caller else None)
        subject = subject_of("token", token_id) if token_id else ""
        detail = {"refusal": error.refusal.value, "call": said_by_stranger(call.act)}
        known = subject or f"{actor.role}/{actor.name}"
        self.recorder.record_refusal(
            act, subject, actor, detail, caller=known if call.is_of_known else ""
        )

    async def settle_refusal(self, _call: RefusedCall) -> None:
        """Return once what `note_refusal` has noted is on disk."""
        await self.recorder.written()


def _digest_of(settings: Settings) -> str:
    # Secrets are masked in what pydantic writes: their digest would let others guess them.
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()
