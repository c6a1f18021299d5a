"""The same keys in a real token: SoftHSM2, where it is installed."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from kumiai.core.errors import ConfigError, NotFoundError, UnavailableError
from kumiai.identity.pkcs11 import KeyTokens
from kumiai.identity.pkcs11_uri import KeyURI
from kumiai.testing.signing_contract import Keys, SigningKeyContract
from kumiai.testing.softhsm import SoftHSM
from tests.identity.tokens import softhsm_or_skip

ECDSA = ec.ECDSA(hashes.SHA256())


@pytest.fixture
def hsm(tmp_path_factory: pytest.TempPathFactory) -> SoftHSM:
    return softhsm_or_skip(lambda: tmp_path_factory.mktemp("softhsm"))


@pytest.fixture
def tokens(hsm: SoftHSM) -> KeyTokens:
    return KeyTokens(hsm.module, lambda _: hsm.pin)


class TestKeysInSoftHSM(SigningKeyContract):
    @pytest.fixture
    def keys(self, hsm: SoftHSM, tokens: KeyTokens) -> Keys:
        return tokens.key(hsm.new_key()), tokens.key(hsm.new_key())


def test_a_wrong_pin_is_told_and_the_right_one_works_afterwards(
    hsm: SoftHSM, tokens: KeyTokens
) -> None:
    uri = hsm.new_key()
    wrong = KeyTokens(hsm.module, lambda _: "planted-wrong-pin")

    for problem in ("got one that it refuses", "refused before"):
        with pytest.raises(ConfigError, match=problem) as caught:
            wrong.key(uri)
        assert "planted" not in str(caught.value)
    tokens.key(uri).verify_whole()


@pytest.mark.parametrize(("kind", "got"), [("rsa", "another kind"), ("secp384r1", "another curve")])
def test_a_key_of_another_kind_is_refused(
    hsm: SoftHSM, tokens: KeyTokens, kind: str, got: str
) -> None:
    with pytest.raises(ConfigError, match=f"must be on P-256, got {got}"):
        tokens.key(hsm.new_key(kind=kind))


def test_what_is_not_there_is_named(hsm: SoftHSM, tokens: KeyTokens) -> None:
    with pytest.raises(UnavailableError, match="token 'elsewhere' must be there"):
        tokens.key(KeyURI(token="elsewhere", object="root"))
    with pytest.raises(NotFoundError, match="private key must be in token 'authority', got none"):
        tokens.key(KeyURI(token=hsm.label, object="nothing"))


def test_threads_take_turns(hsm: SoftHSM, tokens: KeyTokens) -> None:
    key = tokens.key(hsm.new_key())
    begin = time.perf_counter()

    with ThreadPoolExecutor(8) as pool:
        signatures = list(pool.map(lambda n: key.sign(bytes([n]), ECDSA), range(100)))

    print(f"{(time.perf_counter() - begin) * 10:.1f} ms a signature, login included")
    for number, signature in enumerate(signatures):
        key.public_key().verify(signature, bytes([number]), ECDSA)
