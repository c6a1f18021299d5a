from hypothesis import given
from hypothesis import strategies as st

from kumiai.identity import Identity, Permission, Principal, Role
from kumiai.identity.audit import Act, Actor, NewEntry
from kumiai.node.auditing.actors import actor_of, said_by_stranger, subject_of

NOBODY = Actor("nobody")


def test_who_calls_is_named_by_certificate_or_by_the_maker_of_a_token() -> None:
    identity = Identity("hospitals", Role.OPERATOR, "ann", 7, 0.0)
    with_certificate = Principal(
        "ann", Role.OPERATOR, frozenset({Permission.RUNS_READ}), "10.0.0.1", identity
    )
    with_token = Principal("ann", Role.OPERATOR, frozenset(), "10.0.0.1", token_id="t")

    assert actor_of(with_certificate) == Actor("operator", "ann", 7, "10.0.0.1")
    assert actor_of(with_token) == Actor("operator", "ann", 0, "10.0.0.1")


@given(st.text(max_size=300))
def test_whatever_a_stranger_says_fits_into_an_entry(text: str) -> None:
    detail = {"refusal": "x" * 40, "call": said_by_stranger(text)}

    NewEntry(Act.AUTHENTICATION_REFUSED, NOBODY, subject_of("run", text), detail=detail)


def test_a_quote_and_a_broken_letter_fit_too() -> None:
    for text in ('"' * 500, "\\" * 500, "\ud800" * 500, "\x00" * 500):
        detail = {"refusal": "x" * 40, "call": said_by_stranger(text)}

        NewEntry(Act.AUTHENTICATION_REFUSED, NOBODY, subject_of("run", text), detail=detail)


def test_a_name_that_nothing_can_have_is_left_out() -> None:
    assert subject_of("run", "run-1") == "run/run-1"
    assert subject_of("run", "a b") == "run/-"
