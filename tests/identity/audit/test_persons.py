import copy

import pytest

from kumiai.core.errors import IntegrityError
from kumiai.identity.audit import Actor, PersonKey, Sealed, open_actor, seal_actor
from kumiai.identity.audit.persons import _seal_with

ANN = Actor("operator", "ann", 0xABC, "10.0.0.1")
KEY = PersonKey(bytes(range(32)))


def test_who_has_the_key_reads_the_person() -> None:
    sealed = seal_actor(ANN, KEY, 7)

    assert open_actor("operator", sealed, KEY, 7) == ANN
    assert b"ann" not in sealed.content
    assert seal_actor(ANN, KEY, 7).content != sealed.content


def test_the_bytes_of_a_sealed_person_are_known() -> None:
    sealed = _seal_with(ANN, KEY, 7, bytes(12))

    assert sealed.person == "947c3a42e986cc281e3b93a662401876cddfedcf0cd05f4d73fa970ae4b7e21e"
    assert sealed.content.hex() == (
        "000000000000000000000000759ed4bad15ee6ce7b8a9317291cbfa9fc7378620aad4241e1f3d6a1"
        "ffdd3c38207dca9e5997ca6f52af53cfe3af0b2d8b7a8337b1af8507a29a9246b4e904eee58a"
    )


def test_what_was_sealed_by_an_older_release_is_opened() -> None:
    assert open_actor("operator", _seal_with(ANN, KEY, 7, bytes(12)), KEY, 7) == ANN
    assert seal_actor(ANN, KEY, 7).content[:12] != bytes(12)


def test_another_key_another_place_and_changed_bytes_are_refused() -> None:
    sealed = seal_actor(ANN, KEY, 7)
    other = PersonKey.new()

    with pytest.raises(IntegrityError, match="key must be that of person"):
        open_actor("operator", sealed, other, 7)
    with pytest.raises(IntegrityError, match="sealed for it"):
        open_actor("operator", sealed, KEY, 8)
    with pytest.raises(IntegrityError, match="sealed for it"):
        open_actor("operator", Sealed(KEY.person, sealed.content[:-1] + b"x"), KEY, 7)
    with pytest.raises(IntegrityError, match="sealed for it"):
        open_actor("operator", Sealed(KEY.person, b""), KEY, 7)


def test_a_key_shows_itself_to_nobody() -> None:
    assert KEY.secret.hex() not in repr(KEY)
    assert repr(KEY) == f"PersonKey({KEY.person[:12]})"
    with pytest.raises(TypeError, match="holds a secret"):
        copy.copy(KEY)
    with pytest.raises(ValueError, match="32 bytes, got 5"):
        PersonKey(b"short")
