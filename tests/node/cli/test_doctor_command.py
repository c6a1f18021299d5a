import pytest

from kumiai.core.clock import SystemClock
from kumiai.node.doctor import State, examine
from kumiai.node.settings_source import load_settings
from tests.node.cli.program import Federation, invoke


def test_what_is_wrong_is_told_with_the_mend_and_code_one() -> None:
    table = invoke("doctor")
    told = invoke("doctor", "-o", "json")

    assert (table.code, told.code) == (1, 1)
    assert "WRONG  certificate" in table.out
    assert all(each["mend"] for each in told.data)


def test_an_unknown_role_is_a_usage_error() -> None:
    assert invoke("doctor", "--role", "boss").code == 2


@pytest.mark.integration
def test_every_member_of_a_running_federation_is_well(federation: Federation) -> None:
    folder = federation.processes.folder.path
    for member in ("coordinator", "clients/site-1", "operator"):
        outcome = invoke("--config", folder / member / "kumiai.toml", "doctor", "-o", "json")

        assert outcome.code == 0, outcome.out
        assert {each["state"] for each in outcome.data} <= {"ok", "warn"}


class ShiftedClock(SystemClock):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def now(self) -> float:
        return super().now() + self._seconds


@pytest.mark.integration
@pytest.mark.parametrize(
    ("seconds", "state"),
    [(0, State.OK), (20, State.WARNING), (-20, State.WARNING), (100, State.WRONG)],
)
def test_a_clock_that_differs_is_told(federation: Federation, seconds: float, state: State) -> None:
    settings = load_settings(federation.config, environ={}).settings

    findings = examine(settings, clock=ShiftedClock(seconds))

    assert {each.state for each in findings if each.check == "clock"} == {state}
