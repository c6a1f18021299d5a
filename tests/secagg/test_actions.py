"""What a machine asks for shows nothing of what it holds."""

import numpy as np
import pytest

from kumiai.secagg.actions import Exclude, KeepReceipt, Outcome, Persist, Publish, Send


@pytest.mark.parametrize(
    ("action", "shown"),
    [
        (Persist(b"record"), "Persist()"),
        (Send(b"message", b"attached", memoryview(b"vector"), ("a",)), "Send(recipients=('a',))"),
        (KeepReceipt(b"receipt"), "KeepReceipt()"),
        (Exclude("a", "lied", b"signed"), "Exclude(client='a', reason='lied')"),
        (
            Publish(Outcome(np.zeros(1, np.int64), 3, 0.5, ("a",))),
            "Publish(outcome=Outcome(weight=3, step=0.5, survivors=('a',)))",
        ),
    ],
)
def test_messages_records_and_sums_stand_in_no_repr(action: object, shown: str) -> None:
    assert repr(action) == shown


def test_what_is_not_given_is_empty() -> None:
    send, exclude = Send(b"message"), Exclude("a", "lied")

    assert (send.attachment, send.vector, send.recipients) == (b"", None, ())
    assert exclude.evidence == b""


def test_a_mean_is_the_sum_in_steps_divided_by_the_weight() -> None:
    outcome = Outcome(np.array([6, -3], np.int64), 3, 0.5, ("a",))

    assert outcome.mean().tolist() == [1.0, -0.5]
    assert outcome.mean().dtype == np.float32
