"""The hosts that a coordinator's certificate answers for: DNS names and IP addresses.

Syntax only; nothing is looked up.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from cryptography import x509

from kumiai.core.errors import ConfigError

__all__ = ["HOST_COUNT_MAX", "verify_hosts"]

HOST_COUNT_MAX: Final = 100

_NAME_LENGTH_MAX: Final = 253
# RFC 1123 labels, and the underscore that container networks put into names.
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


def verify_hosts(hosts: Sequence[str]) -> tuple[x509.DNSName | x509.IPAddress, ...]:
    """Return the hosts as names for a certificate, without repetitions, in their order.

    Args:
        hosts: at most 100 DNS names (ASCII, no wildcard) or IP addresses, without ports.

    Raises:
        ConfigError: too many, or one is neither; the message names it.
    """
    if len(hosts) > HOST_COUNT_MAX:
        raise ConfigError(f"hosts must be at most {HOST_COUNT_MAX}, got {len(hosts)}")
    return tuple(dict.fromkeys(_general_name_of(host) for host in hosts))


def _general_name_of(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return x509.DNSName(_dns_name_of(host))
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise ConfigError(f"host must be an address without a zone, got {host!r}")
    return x509.IPAddress(address)


def _dns_name_of(host: str) -> str:
    name = host.lower()
    labels = name.split(".")
    # A last label of digits is a mistyped address (RFC 3696): no top-level domain looks like it.
    if (
        len(name) > _NAME_LENGTH_MAX
        or not all(_LABEL.fullmatch(label) for label in labels)
        or labels[-1].isdigit()
    ):
        shown = host if len(host) <= _NAME_LENGTH_MAX else host[:_NAME_LENGTH_MAX] + "..."
        raise ConfigError(
            "host must be a DNS name or an IP address, without scheme, port or wildcard "
            f"(write an international name as xn--…), got {shown!r}"
        )
    return name
