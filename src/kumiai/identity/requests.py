"""Requests for a certificate (PKCS#10): made where the key is, judged where it is signed.

A request proves that its sender holds the private key, and brings the public one. What it says
of names is not believed: whoever signs decides whom the certificate is for; a request that names
somebody else is refused, because somebody has made a mistake.

Source: RFC 2986 (PKCS#10), RFC 5280 section 4.2 (critical extensions).
"""

from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kumiai.core.errors import CertificateError
from kumiai.core.ids import verify_name
from kumiai.identity.keys import MemberKey, verify_strong

__all__ = ["REQUEST_SIZE_BYTES_MAX", "CertificateRequest", "new_request", "verify_request"]

REQUEST_SIZE_BYTES_MAX: Final = 16 * 1024

_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_CONSTRAINTS: Final = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage)
_BEGIN: Final = b"-----BEGIN CERTIFICATE REQUEST-----"


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """A request whose sender has proved that it holds the key.

    Attributes:
        public_key: strong enough for a member.
        common_name: whom it says it is for; ``None`` if it does not.
        uris: the URI names that it asks for.
    """

    public_key: MemberKey
    common_name: str | None
    uris: tuple[str, ...]

    def verify_for(self, name: str, uri: str) -> None:
        """Check that the request names nobody else.

        Args:
            name: the owner of the certificate to be.
            uri: its identity.

        Raises:
            CertificateError: it does.
        """
        if self.common_name is not None and self.common_name != name:
            raise CertificateError(
                f"request must be for {name!r} or leave the name out, "
                f"got {_shown(self.common_name)}; make it anew at the site"
            )
        others = [each for each in self.uris if each != uri]
        if others:
            raise CertificateError(
                f"request must ask for no other identity than {uri}, got {_shown(others[0])}"
            )


def new_request(key: ec.EllipticCurvePrivateKey, name: str | None = None) -> bytes:
    """Return a request for a certificate, PEM.

    Args:
        key: on P-256; it signs, and does not leave.
        name: whom the certificate is for; ``None``: whoever signs knows.

    Raises:
        ConfigError: the name breaks its rule.
    """
    attributes = []
    if name is not None:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, verify_name("name", name)))
    builder = x509.CertificateSigningRequestBuilder(subject_name=x509.Name(attributes))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def verify_request(csr_pem: bytes) -> CertificateRequest:
    """Return what a request asks for, if its sender holds a strong key.

    Args:
        csr_pem: PEM, at most 16 KiB; nothing but the one request.

    Raises:
        CertificateError: it is too long, does not parse, is not signed by its own key, the key
            is weak, or it demands what is not granted.
    """
    if len(csr_pem) > REQUEST_SIZE_BYTES_MAX:
        raise CertificateError(
            f"request must be at most {REQUEST_SIZE_BYTES_MAX} bytes, got {len(csr_pem)}"
        )
    # Lazily parsed: damage shows itself only when a field is read.
    try:
        request = _parsed(csr_pem)
        key = request.public_key()
        is_own = request.is_signature_valid
        hash_algorithm = request.signature_hash_algorithm
        common_names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        extensions = list(request.extensions)
        uris = _uris_in(request)
    except (
        ValueError,
        TypeError,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        x509.ExtensionNotFound,
        UnsupportedAlgorithm,
        InvalidSignature,
    ) as error:
        raise CertificateError(
            f"request must be one PKCS#10 request in PEM, got {len(csr_pem)} bytes that do not "
            "parse; make it with `kumiai site request`"
        ) from error
    public_key = verify_strong(key)
    if not is_own or not isinstance(hash_algorithm, _HASHES):
        raise CertificateError(
            "request must be signed by its own key with SHA-2, got another signature; "
            "make it anew where the key is"
        )
    _verify_modest(extensions)
    return CertificateRequest(public_key, _one_name(common_names), uris)


def _parsed(csr_pem: bytes) -> x509.CertificateSigningRequest:
    if not csr_pem.lstrip().startswith(_BEGIN) or csr_pem.count(b"-----BEGIN") != 1:
        raise ValueError("not one request")
    return x509.load_pem_x509_csr(csr_pem)


def _uris_in(request: x509.CertificateSigningRequest) -> tuple[str, ...]:
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(names.value.get_values_for_type(x509.UniformResourceIdentifier))


def _verify_modest(extensions: list[x509.Extension[x509.ExtensionType]]) -> None:
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise CertificateError("request must be for a member, got one for an authority")
        known = (*_CONSTRAINTS, x509.SubjectAlternativeName)
        if extension.critical and not isinstance(value, known):
            raise CertificateError(
                "request must demand nothing that is not known here, got the critical extension "
                f"{extension.oid.dotted_string}"
            )


def _one_name(common_names: list[x509.NameAttribute[str | bytes]]) -> str | None:
    if not common_names:
        return None
    value = common_names[0].value
    if len(common_names) > 1 or not isinstance(value, str):
        raise CertificateError(f"request must have one name at most, got {len(common_names)}")
    return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
