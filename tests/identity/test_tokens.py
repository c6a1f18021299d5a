import copy
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.identity import PeerRefusedError, Refusal, new_api_token, parse_api_token


def test_a_token_proves_itself_and_no_other() -> None:
    token, other = new_api_token(), new_api_token()

    assert parse_api_token(token.text) == token
    assert token.is_proved_by(token.secret_hash)
    assert not other.is_proved_by(token.secret_hash)


def test_another_secret_under_the_same_identifier_proves_nothing() -> None:
    token, other = new_api_token(), new_api_token()
    forged = parse_api_token(f"kumiai_{token.token_id}_{other.text[-43:]}")

    assert forged.token_id == token.token_id
    assert not forged.is_proved_by(token.secret_hash)


def test_the_hash_that_is_kept_stays_the_same_from_release_to_release() -> None:
    token = parse_api_token(f"kumiai_0123456789abcdef0123_{'A' * 43}")

    labelled = b"kumiai/identity/api-token/v1\x00" + token.text.encode()
    assert token.secret_hash == hashlib.sha256(labelled).hexdigest()


def test_secrets_are_drawn_anew() -> None:
    texts = {new_api_token().text for _ in range(1000)}

    assert len(texts) == 1000
    assert {len(text) for text in texts} == {len("kumiai_") + 20 + 1 + 43}


def test_a_secret_does_not_show_itself_by_accident() -> None:
    token = new_api_token()

    assert token.text[-43:] not in repr(token)
    assert token.text[-43:] not in token.secret_hash
    with pytest.raises(TypeError, match="must not be pickled or copied"):
        copy.copy(token)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kumiai_",
        "kumiai_x_y",
        "kumiai_" + "0" * 20 + "_" + "a" * 42,
        "kumiai_" + "0" * 20 + "_" + "a" * 44,
        " " + "a" * 80,
    ],
)
def test_what_is_no_token_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(PeerRefusedError, match="of another form") as caught:
        parse_api_token(text)

    assert caught.value.refusal is Refusal.BAD_TOKEN
    assert "a" * 42 not in str(caught.value)


@given(st.text(max_size=100))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    with pytest.raises(PeerRefusedError):
        parse_api_token(text)
