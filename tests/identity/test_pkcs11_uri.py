import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import ConfigError
from kumiai.identity.pkcs11_uri import KeyURI, is_key_uri

TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def test_a_uri_names_a_token_and_a_key() -> None:
    uri = KeyURI.parse("pkcs11:token=Our%20HSM;object=root;id=%01%ff;serial=0ba1;type=private")

    assert uri == KeyURI(token="Our HSM", serial="0ba1", object="root", id=b"\x01\xff")
    assert str(uri) == "pkcs11:token=Our%20HSM;serial=0ba1;object=root;id=%01%FF"
    assert str(KeyURI(token="a", id=b"x")) == "pkcs11:token=a;id=%78"


@given(
    uri=st.builds(
        KeyURI,
        token=TEXTS,
        manufacturer=TEXTS,
        serial=st.text(min_size=1, max_size=8, alphabet="0123456789abcdef"),
        model=TEXTS,
        object=TEXTS,
        id=st.binary(min_size=1, max_size=20),
    )
)
def test_every_name_survives_being_written(uri: KeyURI) -> None:
    assert KeyURI.parse(str(uri)) == uri


def test_what_rfc_7512_lets_stand_in_a_value_may_stand_in_it() -> None:
    text = "pkcs11:token=a:b[c]@d!e$f'(g)*h+i,j=k&l-._~;object=x"

    uri = KeyURI.parse(text)

    assert uri.token == "a:b[c]@d!e$f'(g)*h+i,j=k&l-._~"
    assert str(uri) == text


def test_a_name_has_at_most_1024_characters() -> None:
    text = "pkcs11:token=a;object="

    assert KeyURI.parse(text + "b" * (1024 - len(text))).token == "a"
    with pytest.raises(ConfigError, match="of at most 1024 characters, got 1025"):
        KeyURI.parse(text + "b" * (1025 - len(text)))


def test_people_know_a_token_by_its_label_or_its_serial_number() -> None:
    assert KeyURI.parse("pkcs11:token=a;serial=1;object=x").token_name == "'a'"
    assert KeyURI.parse("pkcs11:serial=0ba1;object=x").token_name == "of serial number '0ba1'"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must be pkcs11:token=…;object=…"),
        ("file:/etc/key.pem", "must be pkcs11:token=…;object=…"),
        ("pkcs11:token=a;object=" + "b" * 1024, "of at most 1024 characters"),
        ("pkcs11:token=a;object=x?pin-value=1", r"must end before its '\?'"),
        ("pkcs11:", "must consist of id, manufacturer, model, object, serial, token, type"),
        ("pkcs11:token=a;object=x;slot-id=3", "got another"),
        ("pkcs11:token=a;object=x;", "got another"),
        ("pkcs11:object=x", "must name the token"),
        ("pkcs11:manufacturer=m;model=o;object=x", "must name the token"),
        ("pkcs11:token=a", "must name the key"),
        ("pkcs11:token=a;object=x;object=y", "must name its object once"),
        ("pkcs11:token=a;object=", "a object that is not empty"),
        ("pkcs11:token=a;object", "a object that is not empty"),
        ("pkcs11:token=a b;object=x", "every unusual character as %XX"),
        ("pkcs11:token=a%2;object=x", "every unusual character as %XX"),
        ("pkcs11:token=ä;object=x", "every unusual character as %XX"),
        ("pkcs11:token=a/b;object=x", "every unusual character as %XX"),
        ("pkcs11:token=%FF;object=x", "must hold UTF-8"),
        ("pkcs11:token=a;object=x;type=public", "type=private"),
    ],
)
def test_what_is_no_name_of_a_key_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem.replace("(", r"\(")):
        KeyURI.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "pkcs11:token=a;object=x?pin-value=planted4711",
        "pkcs11:token=a;object=x?pin-source=planted4711",
        "pkcs11:token=a;object=x?module-path=/tmp/planted4711.so",
        "pkcs11:token=a;object=x;pin-value=planted4711",
        "pkcs11:token=a;object=x;planted4711",
        "planted4711",
    ],
)
def test_a_pin_in_a_uri_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        KeyURI.parse(text)

    assert "planted" not in str(caught.value)
    assert "planted" not in repr(caught.value.__cause__)


def test_a_file_that_holds_a_name_is_told_from_one_that_holds_a_key() -> None:
    assert is_key_uri(b"pkcs11:token=a;object=x\n")
    assert is_key_uri("PKCS11:token=a")
    assert not is_key_uri(b"-----BEGIN PRIVATE KEY-----")
    assert not is_key_uri(b'{"kumiai_sealed": 1}')
    assert not is_key_uri(b"\xff\xfe")
