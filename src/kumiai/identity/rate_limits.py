"""How often who may call, in memory that does not grow.

Each identity and each address has a token bucket: so many calls at once, so many a second on
average. Connections have one of their own, which is asked before the TLS handshake: that is the
dear part of a bad call, and nothing is known by then but the address. So it makes them wait for
their turn, briefly, before it refuses any, and gives more to addresses that good callers came
from lately. An address whose callers are refused again and again is locked out, each time for twice
as long up to a limit. Everything that is remembered stands in tables of a fixed size, from which
the oldest goes: an attacker with ten thousand addresses makes us forget others' failures sooner,
not grow.

A good certificate is never locked out for its address (see `kumiai.identity.authenticator`).
"""

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, TypeVar

from kumiai.core.clock import Clock
from kumiai.identity.check import PeerRefusedError, Refusal

__all__ = ["CallLimits", "LimitRules"]

_UNCOUNTED: Final = frozenset(
    {Refusal.RATE_LIMITED, Refusal.LOCKED_OUT, Refusal.MISSING_PERMISSION}
)
_IPV6_PREFIX: Final = 64
_HANDSHAKE_WAIT_SECONDS: Final = 2.0
_KNOWN_SECONDS: Final = 3_600.0
"""For so long after a good call an address is one that good callers come from."""
_KNOWN_FACTOR: Final = 5.0
_Remembered = TypeVar("_Remembered")


@dataclass(frozen=True, slots=True)
class LimitRules:
    """How much is allowed.

    Attributes:
        identity_calls_per_second: on average, of one identity, > 0.
        identity_calls_max: at once, of one identity, >= 1.
        address_calls_per_second: on average, of callers that are not known yet, > 0.
        address_calls_max: at once, of these, >= 1.
        handshakes_per_second: on average, from one address, > 0; five times as many from one that
            a good caller came from within the last hour.
        handshakes_max: at once, from one address, >= 1.
        failures_max: so many refusals of one address in a row lock it out, >= 1.
        lockout_seconds: for so long at first, > 0.
        lockout_seconds_max: and never longer than this, > 0.
        remembered_max: how many identities, and how many addresses for each of these reasons, are
            remembered, >= 1.
    """

    identity_calls_per_second: float = 200.0
    identity_calls_max: int = 1_000
    address_calls_per_second: float = 20.0
    address_calls_max: int = 100
    handshakes_per_second: float = 20.0
    handshakes_max: int = 10
    failures_max: int = 10
    lockout_seconds: float = 1.0
    lockout_seconds_max: float = 300.0
    remembered_max: int = 4_096


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float

    def take(self, now: float, per_second: float, most: float, *, patience_seconds: float) -> float:
        """Return the seconds until there is a token, and take it if it is worth waiting for."""
        self.tokens = min(most, self.tokens + (now - self.filled_at) * per_second)
        self.filled_at = now
        wait = max(0.0, (1.0 - self.tokens) / per_second)
        if wait <= patience_seconds:
            self.tokens -= 1.0
        return wait


@dataclass(slots=True)
class _Failures:
    count: int = 0
    lockouts: int = 0
    locked_until: float = 0.0
    failed_at: float = 0.0


class CallLimits:
    """Counts calls and failures."""

    def __init__(self, clock: Clock, rules: LimitRules | None = None) -> None:
        """Begin with nobody known."""
        self._clock = clock
        self._rules = rules or LimitRules()
        self._identities: OrderedDict[str, _Bucket] = OrderedDict()
        self._addresses: OrderedDict[str, _Bucket] = OrderedDict()
        self._handshakes: OrderedDict[str, _Bucket] = OrderedDict()
        self._known: OrderedDict[str, float] = OrderedDict()
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def admit_identity(self, uri: str, address: str) -> None:
        """Count a call of somebody who was recognised, and remember where from.

        Raises:
            PeerRefusedError: it calls too often.
        """
        rules, key = self._rules, address_key(address)
        self._known[key] = self._clock.monotonic()
        self._known.move_to_end(key)
        _forget_oldest(self._known, rules.remembered_max)
        wait = self._take(
            self._identities, uri, rules.identity_calls_per_second, rules.identity_calls_max
        )
        if wait:
            raise _too_often(f"{uri} must make", rules.identity_calls_per_second, wait)

    def admit_unknown(self, address: str) -> None:
        """Count a call of somebody who must still be looked up, before the work.

        Raises:
            PeerRefusedError: the address is locked out, or too many such calls come from it.
        """
        key, rules = address_key(address), self._rules
        self._verify_not_locked_out(key)
        wait = self._take(
            self._addresses, key, rules.address_calls_per_second, rules.address_calls_max
        )
        if wait:
            raise _too_often("an address must make", rules.address_calls_per_second, wait)

    def admit_handshake(self, address: str) -> float:
        """Return how many seconds a new connection must wait before its handshake may begin.

        Raises:
            PeerRefusedError: too many from this address wait already.
        """
        key, rules = address_key(address), self._rules
        known_at = self._known.get(key, float("-inf"))
        is_known = self._clock.monotonic() - known_at <= _KNOWN_SECONDS
        per_second = rules.handshakes_per_second * (_KNOWN_FACTOR if is_known else 1.0)
        wait = self._take(
            self._handshakes,
            key,
            per_second,
            rules.handshakes_max,
            patience_seconds=_HANDSHAKE_WAIT_SECONDS,
        )
        if wait > _HANDSHAKE_WAIT_SECONDS:
            raise PeerRefusedError(
                Refusal.RATE_LIMITED,
                f"an address must open at most {per_second:g} connections a second on average, "
                "got more than can wait; use one connection for many calls, or raise "
                "limits.connections_per_second",
                retry_seconds=wait - _HANDSHAKE_WAIT_SECONDS,
            )
        return wait

    def note_refusal(self, address: str, error: PeerRefusedError) -> None:
        """Count that somebody from this address was refused.

        Raises:
            PeerRefusedError: the address was locked out already; in place of the error.
        """
        if error.refusal in _UNCOUNTED:
            return
        key, now, rules = address_key(address), self._clock.monotonic(), self._rules
        self._verify_not_locked_out(key)
        failures = self._remembered_failures(key)
        if now - failures.failed_at > 2 * rules.lockout_seconds_max:
            failures.count = failures.lockouts = 0
        failures.failed_at = now
        failures.count += 1
        if failures.count >= rules.failures_max:
            failures.count = 0
            seconds = rules.lockout_seconds * 2.0**failures.lockouts
            failures.locked_until = now + min(seconds, rules.lockout_seconds_max)
            # Counted no further than it makes a difference: a power of two that keeps growing ends
            # in an error.
            failures.lockouts += seconds < rules.lockout_seconds_max

    @property
    def remembered_count(self) -> int:
        """How many identities and addresses are remembered."""
        buckets = len(self._identities) + len(self._addresses) + len(self._handshakes)
        return buckets + len(self._known) + len(self._failures)

    def _verify_not_locked_out(self, key: str) -> None:
        failures = self._failures.get(key)
        if failures is None:
            return
        left = failures.locked_until - self._clock.monotonic()
        if left > 0:
            raise PeerRefusedError(
                Refusal.LOCKED_OUT,
                "callers from this address must wait after so many refusals, got another call; "
                f"try again in {left:.0f} s, with a certificate or token that is good",
                retry_seconds=left,
            )

    def _take(
        self,
        buckets: OrderedDict[str, _Bucket],
        key: str,
        per_second: float,
        most: float,
        *,
        patience_seconds: float = 0.0,
    ) -> float:
        now = self._clock.monotonic()
        bucket = buckets.get(key)
        if bucket is None:
            bucket = buckets[key] = _Bucket(most, now)
            _forget_oldest(buckets, self._rules.remembered_max)
        else:
            buckets.move_to_end(key)
        return bucket.take(now, per_second, most, patience_seconds=patience_seconds)

    def _remembered_failures(self, key: str) -> _Failures:
        failures = self._failures.get(key)
        if failures is None:
            failures = self._failures[key] = _Failures()
            _forget_oldest(self._failures, self._rules.remembered_max)
        else:
            self._failures.move_to_end(key)
        return failures


def address_key(address: str) -> str:
    """Return what an address is counted under: an IPv6 host can take any of its network's 2^64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
    return str(parsed)


def _forget_oldest(table: "OrderedDict[str, _Remembered]", most: int) -> None:
    if len(table) > most:
        table.popitem(last=False)


def _too_often(who: str, per_second: float, wait: float) -> PeerRefusedError:
    return PeerRefusedError(
        Refusal.RATE_LIMITED,
        f"{who} at most {per_second:g} calls a second on average, got more; "
        f"try again in {wait:.1f} s",
        retry_seconds=wait,
    )
