import ipaddress

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import ConfigError
from kumiai.identity.hosts import HOST_COUNT_MAX, verify_hosts

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


def test_names_and_addresses_are_told_apart() -> None:
    hosts = verify_hosts(["localhost", "127.0.0.1", "::1", "fl.example.org", "my_service"])

    assert hosts == (
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
        x509.DNSName("fl.example.org"),
        x509.DNSName("my_service"),
    )


def test_nothing_is_added_that_was_not_asked_for() -> None:
    assert verify_hosts([]) == ()


def test_repetitions_are_dropped_and_the_order_kept() -> None:
    hosts = verify_hosts(["b", "A", "a", "::1", "b", "0:0:0:0:0:0:0:1"])

    assert [str(host.value) for host in hosts] == ["b", "a", "::1"]


@given(st.ip_addresses())
def test_every_address_is_an_address(address: str) -> None:
    assert verify_hosts([str(address)]) == (x509.IPAddress(address),)


@given(st.lists(LABELS, min_size=1, max_size=5), LABELS.filter(lambda label: not label.isdigit()))
def test_every_dns_name_is_a_dns_name(labels: list[str], last: str) -> None:
    name = ".".join([*labels, last])

    assert verify_hosts([name.upper()]) == (x509.DNSName(name),)


@given(st.text(max_size=30))
def test_any_text_is_a_host_or_refused(text: str) -> None:
    try:
        (host,) = verify_hosts([text])
    except ConfigError:
        return

    assert str(host.value).isascii()


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "a..b",
        "a.",
        ".a",
        "-a",
        "a-",
        "a b",
        "*.example.org",
        "https://example.org",
        "example.org:443",
        "127.0.0.1:443",
        "[::1]",
        "256.1.1.1",
        "1.2.3",
        "münchen.de",
        "a\n",
        "a" * 64,
        "a." * 127,
    ],
)
def test_what_is_no_host_is_refused_by_name(host: str) -> None:
    with pytest.raises(ConfigError, match="host must be a DNS name or an IP address"):
        verify_hosts(["localhost", host])


def test_the_longest_name_is_accepted_and_a_longer_one_shortened_in_the_message() -> None:
    longest = ".".join(["a" * 63] * 3 + ["a" * 61])

    assert verify_hosts([longest]) == (x509.DNSName(longest),)
    with pytest.raises(ConfigError, match=rf"got '{longest}\.\.\.'$"):
        verify_hosts([longest + "a"])
    whole = "-" * 253
    with pytest.raises(ConfigError, match=f"got '{whole}'$"):
        verify_hosts([whole])


def test_a_label_has_63_characters_at_most() -> None:
    assert verify_hosts(["a" * 63])
    with pytest.raises(ConfigError):
        verify_hosts(["a" * 64])


def test_an_address_with_a_zone_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"without a zone, got 'fe80::1%eth0'"):
        verify_hosts(["fe80::1%eth0"])


def test_the_number_of_hosts_is_limited() -> None:
    hosts = [f"host-{index}" for index in range(HOST_COUNT_MAX + 1)]

    assert len(verify_hosts(hosts[:-1])) == HOST_COUNT_MAX
    with pytest.raises(ConfigError, match="must be at most 100, got 101"):
        verify_hosts(hosts)
