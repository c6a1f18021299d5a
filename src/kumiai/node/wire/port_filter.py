"""Lets only some of the new connections to a port of ours through, by a program in the kernel.

gRPC accepts whatever comes, and nobody can stand between it and its port without carrying every
byte of every model. But a listening socket of Linux takes a small program of classic BPF, as any
other socket does and without a privilege: it sees each packet, and what it drops was never there.
This one drops requests for new connections, by chance, and nothing else: those that are open go on
as they were. Whose request is dropped tries again, after one second, then two, then four.

Elsewhere than on Linux nothing is filtered.

Source: Linux, Documentation/networking/filter.rst.
"""

import array
import ipaddress
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterable
from typing import Final, NamedTuple

import structlog

__all__ = ["ADDRESSES_MAX", "PortFilter"]

ADDRESSES_MAX: Final = 256
"""So many known addresses fit, with room to spare, into what a kernel of any age takes."""

_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
_LOAD_BYTE: Final = 0x30
_LOAD_WORD: Final = 0x20
_LOAD_X: Final = 0x01
_AND: Final = 0x54
_SHIFT_RIGHT: Final = 0x74
_JUMP: Final = 0x05
_JUMP_IF_EQUAL: Final = 0x15
_JUMP_IF_ABOVE_X: Final = 0x2D
_RETURN: Final = 0x06
_IP_HEADER: Final = 0xFFF00000
_RANDOM: Final = 0xFFFFF000 + 56
_TCP_FLAGS: Final = 13
_SYN, _ACK = 0x02, 0x10
_IPV4_SOURCE: Final = 12
_IPV6_SOURCE: Final = 8
_WORD_MAX: Final = 0xFFFFFFFF
_DESCRIPTORS: Final = "/proc/self/fd"


class _Step(NamedTuple):
    code: int
    value: int
    if_so: int = 0
    if_not: int = 0


class PortFilter:
    """What stands in the kernel before one port of this process."""

    def __init__(self, port: int) -> None:
        """Find the sockets that listen on the port; all connections are let through."""
        self._sockets = _listening_on(port)
        self._log = structlog.get_logger("kumiai.coordinator")

    def let_through(self, strangers: float, known: float, addresses: Iterable[str]) -> None:
        """Drop requests for new connections by chance.

        Args:
            strangers: the share of requests to let through, 0 to 1.
            known: the same for those from these addresses, and at least as large.
            addresses: IPv4 and IPv6, of which the network counts; at most `ADDRESSES_MAX`.
        """
        steps = _program(_threshold(strangers), _threshold(known), addresses)
        code = array.array("B", b"".join(_encoded(step) for step in steps))
        where, _ = code.buffer_info()
        self._set(_SO_ATTACH_FILTER, struct.pack("HL", len(steps), where))

    def let_all_through(self) -> None:
        """Drop nothing any more."""
        self._set(_SO_DETACH_FILTER, struct.pack("i", 0))

    def close(self) -> None:
        """Let go of the sockets: until then the port stays taken. What is set stays."""
        for each in self._sockets:
            each.close()
        self._sockets = []

    def _set(self, option: int, value: bytes) -> None:
        try:
            for each in self._sockets:
                each.setsockopt(socket.SOL_SOCKET, option, value)
        except OSError as error:
            # Some sandboxes have no such programs.
            self._log.warning("new connections can not be limited", error=str(error))
            self.close()


def _listening_on(port: int) -> list[socket.socket]:
    if sys.platform != "linux":
        return []
    # By their number in the kernel: handles that are made here are met again in the folder.
    found: dict[int, socket.socket] = {}
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - numbers, not paths
        each = _socket_of(int(name))
        if each is None:
            continue
        number = os.fstat(each.fileno()).st_ino
        if number not in found and _listens_on(each, port):
            found[number] = each
        else:
            each.close()
    return list(found.values())


def _socket_of(descriptor: int) -> socket.socket | None:
    """Return a second handle of a socket; ``None`` for what is another kind of file, or gone."""
    try:
        is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        return socket.socket(fileno=os.dup(descriptor)) if is_socket else None
    except OSError:
        return None


def _listens_on(each: socket.socket, port: int) -> bool:
    if each.family not in {socket.AF_INET, socket.AF_INET6}:
        return False
    is_listening = each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return bool(is_listening) and each.getsockname()[1] == port


def _program(strangers: int, known: int, addresses: Iterable[str]) -> list[_Step]:
    parsed = [ipaddress.ip_address(each) for each in addresses]
    mapped = [getattr(each, "ipv4_mapped", None) or each for each in parsed]
    of_4, of_6 = [], []
    for each in mapped:
        if isinstance(each, ipaddress.IPv4Address):
            of_4 += [
                _Step(_JUMP_IF_EQUAL, int(each), if_not=1),
                _Step(_LOAD_X, known),
            ]
        else:
            of_6 += [
                _Step(_LOAD_WORD, _IP_HEADER + _IPV6_SOURCE),
                _Step(_JUMP_IF_EQUAL, int(each) >> 96, if_not=3),
                _Step(_LOAD_WORD, _IP_HEADER + _IPV6_SOURCE + 4),
                _Step(_JUMP_IF_EQUAL, int(each) >> 64 & _WORD_MAX, if_not=1),
                _Step(_LOAD_X, known),
            ]
    return [
        _Step(_LOAD_BYTE, _TCP_FLAGS),
        _Step(_AND, _SYN | _ACK),
        _Step(_JUMP_IF_EQUAL, _SYN, if_so=1),
        _Step(_RETURN, _WORD_MAX),
        _Step(_LOAD_X, strangers),
        *_for_version(4, [_Step(_LOAD_WORD, _IP_HEADER + _IPV4_SOURCE), *of_4]),
        *_for_version(6, of_6),
        _Step(_LOAD_WORD, _RANDOM),
        _Step(_JUMP_IF_ABOVE_X, 0, if_not=1),
        _Step(_RETURN, 0),
        _Step(_RETURN, _WORD_MAX),
    ]


def _for_version(version: int, steps: list[_Step]) -> list[_Step]:
    return [
        _Step(_LOAD_BYTE, _IP_HEADER),
        _Step(_SHIFT_RIGHT, 4),
        _Step(_JUMP_IF_EQUAL, version, if_so=1),
        _Step(_JUMP, len(steps)),
        *steps,
    ]


def _encoded(step: _Step) -> bytes:
    return struct.pack("HBBI", step.code, step.if_so, step.if_not, step.value)


def _threshold(share: float) -> int:
    return round(share * _WORD_MAX)
