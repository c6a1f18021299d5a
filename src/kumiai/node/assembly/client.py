"""How a site's client is put together."""

import asyncio

from kumiai.core.clock import SystemClock
from kumiai.core.errors import ConfigError, KumiaiError
from kumiai.identity import RenewableFiles, Role, verify_own_certificate
from kumiai.node.assembly.studies import load_apps
from kumiai.node.client.agent import ClientAgent
from kumiai.node.client.budget import SiteLedger, ledger_folder, limits_of
from kumiai.node.client.secure.opening import SecurePolicy
from kumiai.node.ports import diagnose_port
from kumiai.node.settings import Settings, split_address
from kumiai.node.study import Site
from kumiai.node.wire.channel import TlsFiles

__all__ = ["new_client", "serve_client"]

_EXPLAIN_SECONDS = 5.0


async def serve_client(settings: Settings) -> None:
    """Run a site's client until cancelled.

    Raises:
        CertificateError: the coordinator refuses this client for good, or this client it.
        ConflictError: another process holds this client's identity.
        ConfigError: a setting or a study can not be used.
    """
    await new_client(settings).run()


def new_client(settings: Settings) -> ClientAgent:
    """Return a client that is ready to run.

    Args:
        settings: with absolute paths.

    Raises:
        KumiaiError: the certificate or a study can not be used.
    """
    clock, identity = SystemClock(), settings.identity
    RenewableFiles(identity.certificate, identity.key, identity.ca).recover()
    own = verify_own_certificate(
        identity.certificate, identity.key, identity.ca, clock, role=Role.CLIENT
    )
    apps = load_apps(settings.client.apps, "client.apps")
    if not apps:
        raise ConfigError("client.apps must name at least one study, got none")
    host, port = split_address(settings.client.coordinator)

    async def explain() -> KumiaiError | None:
        return await asyncio.to_thread(
            diagnose_port,
            "clients",
            host,
            port,
            identity.certificate,
            identity.key,
            identity.ca,
            _EXPLAIN_SECONDS,
        )

    return ClientAgent(
        address=settings.client.coordinator,
        tls=TlsFiles(certificate=identity.certificate, key=identity.key, ca=identity.ca),
        apps=apps,
        site=Site(own.name, settings.client.data),
        state_dir=settings.client.state_dir,
        clock=clock,
        explain=explain,
        policy=SecurePolicy(
            requires_secure=settings.client.requires_secure_aggregation,
            requires_verification=settings.client.requires_verification,
            minimum_survivors=settings.client.minimum_survivors,
            accepts_paillier=settings.client.accepts_paillier,
            knows_all_peers=settings.client.knows_all_peers,
            counters_dir=settings.client.counters_dir,
        ),
        ledger=SiteLedger(
            ledger_folder(settings.client), own.name, clock, limits_of(settings.client, own.name)
        ),
        crl=identity.crl,
    )
