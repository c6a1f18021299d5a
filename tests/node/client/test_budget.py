"""A site's own ledger: paid before anything leaves, refused when spent, never shortened."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from kumiai.core.errors import BudgetExhaustedError, ConflictError, IntegrityError, StorageError
from kumiai.node.client.budget import LEDGER_FILE, SiteLedger, read_copy
from kumiai.privacy import GaussianEvent, PrivacyUnit, event_to_json
from kumiai.privacy.budget import BudgetLimit, epsilon_spent
from kumiai.privacy.events import Adjacency
from kumiai.privacy.ledger import BudgetScope, ChargeKey, Guarantee
from tests.alone import run_alone


class Watch:
    """A clock that stands until it is advanced."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


EVENT = GaussianEvent(4.0)
DELTA = 1e-5
DATA = BudgetScope.parse("dataset/site-1/heart")
CLIENT_LEVEL = Guarantee(PrivacyUnit.CLIENT, Adjacency.ZERO_OUT)
DAY_SECONDS = 86_400.0


def limit_for(count: int, *, window_days: int = 0) -> BudgetLimit:
    epsilon = epsilon_spent({event_to_json(EVENT): count}, DELTA)
    return BudgetLimit(DATA, CLIENT_LEVEL, epsilon, DELTA, window_days)


def ledger_at(folder: Path, *limits: BudgetLimit, clock: Watch | None = None) -> SiteLedger:
    return SiteLedger(folder, "site-1", clock or Watch(), limits)


def pay(
    ledger: SiteLedger, round_: int, *, event: GaussianEvent = EVENT, context: bytes = b"first"
) -> None:
    key = ChargeKey("run-a", round_, 1)
    ledger.charge(key, context=context, app="heart", unit="client", event=event)


def test_a_budget_is_spent_round_by_round_and_then_refused(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path, limit_for(3))
    for round_ in (1, 2, 3):
        pay(ledger, round_)

    with pytest.raises(BudgetExhaustedError, match="budget of dataset/site-1/heart"):
        pay(ledger, 4)

    (now,) = ledger_at(tmp_path, limit_for(3)).standings()
    assert now.left == 0.0


def test_the_same_attempt_is_paid_once_and_stands_for_one_release(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path, limit_for(1))
    pay(ledger, 1)
    pay(ledger, 1)

    with pytest.raises(ConflictError, match="run-a/1/1 must stay what it is"):
        pay(ledger, 1, event=GaussianEvent(5.0))


def test_a_coordinator_that_was_put_back_gets_nothing_again_for_the_old_price(
    tmp_path: Path,
) -> None:
    pay(ledger_at(tmp_path), 1)
    restarted = ledger_at(tmp_path)
    pay(restarted, 1)

    with pytest.raises(ConflictError, match="asks twice for one price"):
        pay(restarted, 1, context=b"opened again after a restore")


def test_two_processes_of_a_site_share_its_budget(tmp_path: Path) -> None:
    first, second = (ledger_at(tmp_path, limit_for(2)) for _ in range(2))
    pay(first, 1)
    pay(second, 2)

    with pytest.raises(BudgetExhaustedError):
        pay(first, 3)


def test_a_window_opens_again(tmp_path: Path) -> None:
    clock = Watch()
    ledger = ledger_at(tmp_path, limit_for(1, window_days=7), clock=clock)
    pay(ledger, 1)

    with pytest.raises(BudgetExhaustedError, match=r"\(7 days\)"):
        pay(ledger, 2)
    clock.seconds += 9 * DAY_SECONDS
    pay(ledger, 2)


def test_what_a_crash_cut_off_is_not_paid(tmp_path: Path) -> None:
    pay(ledger_at(tmp_path), 1)
    path = tmp_path / LEDGER_FILE
    whole = path.read_bytes()
    pay(ledger_at(tmp_path), 2)
    path.write_bytes(path.read_bytes()[: len(whole) + 40])

    ledger = ledger_at(tmp_path, limit_for(2))
    pay(ledger, 3)

    with pytest.raises(BudgetExhaustedError):
        pay(ledger, 4)
    assert [str(each.key) for each in read_copy(ledger.export()).charges] == [
        "run-a/1/1",
        "run-a/3/1",
    ]


@pytest.mark.parametrize("place", [3, 80, 200])
def test_a_ledger_that_was_changed_stops_the_site(tmp_path: Path, place: int) -> None:
    for round_ in (1, 2):
        pay(ledger_at(tmp_path), round_)
    path = tmp_path / LEDGER_FILE
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)

    with pytest.raises(IntegrityError, match="must be as it was written"):
        pay(ledger_at(tmp_path), 3)


def test_a_ledger_that_was_put_back_under_a_running_site_is_noticed(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    pay(ledger, 1)
    (tmp_path / LEDGER_FILE).write_bytes(b"")

    with pytest.raises(IntegrityError, match="must only grow"):
        pay(ledger, 2)


def test_a_folder_that_can_not_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / LEDGER_FILE).mkdir()

    with pytest.raises(StorageError, match="cannot use"):
        pay(ledger_at(tmp_path), 1)


def test_a_copy_says_whose_it_is_and_is_verified(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    pay(ledger, 1)

    copy = read_copy(ledger.export())

    assert copy.site == "site-1"
    assert [str(scope) for scope in copy.charges[0].charge.scopes] == [
        "client/site-1",
        "dataset/site-1/heart",
    ]
    with pytest.raises(IntegrityError, match="must be as it was written"):
        read_copy(ledger.export().replace(b"client/site-1", b"client/site-2"))


@pytest.mark.parametrize("content", [b"", b"{}\n", b"nothing", b'{"site": 7}\n', b"\xff\n"])
def test_what_is_no_copy_is_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError, match="must be one of `kumiai privacy budget export`"):
        read_copy(content)


def _spend_until_killed(folder: str, said: str) -> None:
    ledger, round_ = ledger_at(Path(folder)), 0
    with Path(said).open("a", encoding="utf-8") as file:
        while True:
            round_ += 1
            key = ChargeKey(f"run-{os.getpid()}", round_, 1)
            ledger.charge(key, context=b"first", app="heart", unit="client", event=EVENT)
            file.write(f"{key}\n")
            file.flush()


def test_a_killed_site_has_paid_for_all_that_left(tmp_path: Path) -> None:
    run_alone(_kill_spenders, str(tmp_path))


def _kill_spenders(name: str) -> None:
    folder = Path(name)
    said = folder / "said"
    said.touch()
    context = multiprocessing.get_context("fork")
    for _ in range(10):
        before = said.stat().st_size
        process = context.Process(target=_spend_until_killed, args=(name, str(said)))
        process.start()
        while said.stat().st_size == before:
            process.join(0.001)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()

    paid = {str(each.key) for each in read_copy(ledger_at(folder).export()).charges}
    left = said.read_text(encoding="utf-8").splitlines(keepends=True)
    assert left
    assert {line.strip() for line in left if line.endswith("\n")} <= paid
