import asyncio
import contextlib

import pytest
from sqlalchemy import text

from kumiai.core.errors import ConfigError, NotFoundError, StorageError
from kumiai.identity.audit import (
    Act,
    Actor,
    AuditScribe,
    Frontier,
    LogVerifier,
    NewEntry,
    Outcome,
    PersonKey,
    Sealed,
    decode_entry,
    leaf_hash,
    open_actor,
)
from kumiai.storage import AuditLog, AuditQuery, AuditRecord, DatabaseManager

ANN = Actor("operator", "ann", 7, "10.0.0.1")
BOB = Actor("operator", "bob", 8, "10.0.0.2")
MACHINE = Actor("coordinator", "coordinator-1")


@pytest.fixture
def log(database: DatabaseManager) -> AuditLog:
    return AuditLog(database, AuditScribe())


def created(run: str, actor: Actor = ANN) -> NewEntry:
    return NewEntry(Act.RUN_CREATED, actor, f"run/{run}", detail={"rounds": 3})


async def all_of(log: AuditLog) -> list[AuditRecord]:
    return [record async for record in log.read(0, 2**40)]


async def verified(log: AuditLog) -> LogVerifier:
    verifier = LogVerifier()
    for record in await all_of(log):
        verifier.add(record.sequence, record.body.encode(), record.chain)
    return verifier


async def test_an_entry_stands_with_its_act_or_not_at_all(
    database: DatabaseManager, log: AuditLog
) -> None:
    async with database.transaction() as connection:
        assert await log.append(connection, created("a")) == 0
    with contextlib.suppress(ZeroDivisionError):
        async with database.transaction() as connection:
            assert await log.append(connection, created("b")) == 1
            raise ZeroDivisionError
    async with database.transaction() as connection:
        assert await log.append(connection, created("c")) == 1

    records = await all_of(log)
    assert [record.subject for record in records] == ["run/a", "run/c"]
    end = await log.end()
    assert end is not None
    assert (await verified(log)).head.chain == end.chain


async def test_what_a_row_is_found_by_is_what_its_body_says(log: AuditLog) -> None:
    await log.record([created("a"), NewEntry(Act.COORDINATOR_STARTED, MACHINE)])

    for record in await all_of(log):
        entry = decode_entry(record.body.encode())
        names = ("sequence", "at", "act", "outcome", "subject", "person")
        assert [getattr(entry, name) for name in names] == [getattr(record, name) for name in names]


async def test_replicas_that_append_at_once_never_fork_the_chain(
    database_url: str, database: DatabaseManager
) -> None:
    replicas = [DatabaseManager(database_url) for _ in range(3)]

    async def append(replica: DatabaseManager, name: int) -> None:
        log = AuditLog(replica, AuditScribe())
        for number in range(10):
            async with replica.transaction() as connection:
                # The same new persons for all: who comes second must find the first one's key.
                actor = Actor("operator", f"person-{number}")
                await log.append(connection, created(f"{name}-{number}", actor))

    for replica in replicas:
        await replica.connect()
    await asyncio.gather(
        *(append(replica, 2 * n + k) for n, replica in enumerate(replicas) for k in (0, 1))
    )

    log = AuditLog(database, AuditScribe())
    assert (await verified(log)).size == 60
    assert len({record.subject for record in await all_of(log)}) == 60
    assert len({record.person for record in await all_of(log)}) == 10
    for replica in replicas:
        await replica.close()


async def test_persons_are_read_with_their_key_until_they_are_redacted(log: AuditLog) -> None:
    await log.record([created("a"), created("b", BOB), created("c")])
    before = await verified(log)
    first, second, _ = await all_of(log)
    entry = decode_entry(first.body.encode())
    assert isinstance(entry.actor, Sealed)
    kind, name, secret = (await log.secrets_of([entry.actor.person]))[entry.actor.person]
    assert (kind, name) == ("operator", "ann")
    assert open_actor(entry.role, entry.actor, PersonKey(secret), 0) == ANN

    person = await log.redact(
        "operator", "ann", lambda who: NewEntry(Act.AUDIT_REDACTED, BOB, f"person/{who}")
    )

    assert person == first.person
    assert list(await log.secrets_of([first.person, second.person])) == [second.person]
    after = LogVerifier()
    for record in (await all_of(log))[:3]:
        after.add(record.sequence, record.body.encode(), record.chain)
    assert after.head == before.head
    assert (await verified(log)).size == 4
    with pytest.raises(NotFoundError, match="person operator/ann must have a key"):
        await log.redact("operator", "ann", lambda _: created("x"))


async def test_a_redacted_person_who_comes_back_gets_another_pseudonym(log: AuditLog) -> None:
    await log.record([created("a")])
    old = await log.redact("operator", "ann", lambda _: NewEntry(Act.AUDIT_REDACTED, BOB))

    await log.record([created("b")])

    (new,) = await log.persons_named("ann")
    assert new != old
    assert await log.persons_named("ann", "client") == []
    assert await log.persons_named("ann", "operator") == [new]


async def test_the_key_of_a_redacted_person_is_in_no_file(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: object
) -> None:
    path = tmp_path_factory.mktemp("redacted") / "kumiai.db"
    database = DatabaseManager(sqlite_template.copy_to(path))  # type: ignore[attr-defined]
    await database.connect()
    log = AuditLog(database, AuditScribe())
    await log.record([created("a")])
    (person,) = await log.persons_named("ann")
    secret = (await log.secrets_of([person]))[person][2]

    await log.redact("operator", "ann", lambda _: NewEntry(Act.AUDIT_REDACTED, BOB))
    await database.close()  # the write-ahead log goes into the file with the last connection

    assert not any(secret in file.read_bytes() for file in path.parent.iterdir())


@pytest.fixture
async def filled(log: AuditLog) -> AuditLog:
    refused = NewEntry(Act.AUTHENTICATION_REFUSED, BOB, "", Outcome.REFUSED)
    await log.record([created("a"), refused, created("b"), created("a", BOB)])
    return log


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (AuditQuery(), [3, 2, 1, 0]),
        (AuditQuery(is_newest_first=False), [0, 1, 2, 3]),
        (AuditQuery(acts=["run.created"]), [3, 2, 0]),
        (AuditQuery(acts=["run.deleted"]), []),
        (AuditQuery(subject="run/a"), [3, 0]),
        (AuditQuery(outcome="refused"), [1]),
        (AuditQuery(persons=[]), []),
        (AuditQuery(at_before=1.0), []),
        (AuditQuery(at_from=1.0, at_before=1e11), [3, 2, 1, 0]),
    ],
)
async def test_a_filter_lets_through(filled: AuditLog, query: AuditQuery, found: list[int]) -> None:
    page = await filled.list_entries(query)

    assert [record.sequence for record in page.items] == found
    assert page.next_cursor is None


async def test_the_entries_of_a_person_are_found(filled: AuditLog) -> None:
    page = await filled.list_entries(AuditQuery(persons=await filled.persons_named("bob")))

    assert [record.sequence for record in page.items] == [3, 1]


async def test_pages_follow_each_other(filled: AuditLog) -> None:
    first = await filled.list_entries(limit=3)
    second = await filled.list_entries(limit=3, cursor=first.next_cursor)

    assert [record.sequence for record in (*first.items, *second.items)] == [3, 2, 1, 0]
    with pytest.raises(ConfigError, match="cursor must be of this list"):
        await filled.list_entries(AuditQuery(subject="run/a"), cursor=first.next_cursor)


async def test_an_entry_that_is_not_there_is_not_found(filled: AuditLog) -> None:
    assert (await filled.get(3)).subject == "run/a"
    with pytest.raises(NotFoundError, match="entry of the audit log must exist, got 4"):
        await filled.get(4)


async def test_the_nodes_over_256_entries_are_kept(log: AuditLog) -> None:
    for start in range(0, 600, 50):
        await log.record([created(f"{start + number}", MACHINE) for number in range(50)])

    edge = Frontier()
    kept = [
        node
        for record in await all_of(log)
        for node in edge.append(leaf_hash(record.body.encode()))
    ]
    assert await log.nodes(8, 0, 9) == [digest for _, _, digest in kept]
    assert len(kept) == 2
    assert await log.nodes(8, 1, 2) == [kept[1][2]]


async def test_many_entries_are_read_in_batches(log: AuditLog) -> None:
    await log.record([created(f"{number}", MACHINE) for number in range(4100)])

    assert [record.sequence async for record in log.read(1, 4099)] == list(range(1, 4099))


async def test_checkpoints_and_signers_are_kept_once(log: AuditLog) -> None:
    assert await log.find_newest_checkpoint() is None
    for size in (3, 5, 5):
        await log.add_checkpoint(size=size, key_id="k", at=1.0, note=f"note {size}")
    for _ in range(2):
        await log.add_signer("k", "document")

    newest = await log.find_newest_checkpoint()
    assert newest is not None
    assert (newest.size, newest.note) == (5, "note 5")
    assert [point.size async for point in log.checkpoints()] == [3, 5]
    assert [point.size async for point in log.checkpoints(above=3)] == [5]
    assert await log.signers() == ["document"]


async def test_an_empty_log_has_no_end(log: AuditLog) -> None:
    assert await log.end() is None
    assert await log.secrets_of([]) == {}


async def test_an_entry_that_the_database_refuses_ends_the_transaction(
    database: DatabaseManager, log: AuditLog
) -> None:
    await log.record([created("a")])
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO audit_entries (sequence, at, act, outcome, subject, body, chain) "
                "SELECT 1, at, act, outcome, subject, body, chain FROM audit_entries"
            )
        )

    with pytest.raises(StorageError):
        await log.record([created("b")])


async def test_many_checkpoints_are_read_in_batches(
    database: DatabaseManager, log: AuditLog
) -> None:
    rows = [{"size": n // 2 + 1, "key_id": f"k{n % 2}"} for n in range(1001)]
    async with database.transaction() as connection:
        await connection.execute(
            text("INSERT INTO audit_checkpoints VALUES (:size, :key_id, 1.0, 'note')"), rows
        )

    found = [(point.size, point.key_id) async for point in log.checkpoints()]

    assert found == [(row["size"], row["key_id"]) for row in rows]
