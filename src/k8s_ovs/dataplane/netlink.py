"""The kernel's netlink messages: requests, answers and attributes, for rtnetlink, generic netlink and conntrack.

For `rtnetlink`, which knows links, addresses and routes, and `ctnetlink`. Blocking: one request, one answer, over a socket
that stays in the namespace in which it was opened. Formats: netlink(7), rtnetlink(7), linux/netlink.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from types import TracebackType

from k8s_ovs.errors import LinkError

HEADER = struct.Struct("=IHHII")
"""length, type, flags, sequence number, port"""
ATTRIBUTE = struct.Struct("=HH")
ERRNO = struct.Struct("=i")

F_REQUEST, F_ACK = 0x1, 0x4
F_REPLACE, F_EXCL, F_CREATE = 0x100, 0x200, 0x400
F_DUMP = 0x300
F_MULTI, F_DUMP_INTR = 0x2, 0x10
F_CAPPED, F_ACK_TLVS = 0x100, 0x200
MSG_ERROR, MSG_DONE = 2, 3
NESTED = 0x8000
TYPE_MASK = 0x3FFF

SOL_NETLINK = 270
CAP_ACK, EXT_ACK, GET_STRICT_CHK = 10, 11, 12
ERRATTR_MSG = 1

NETLINK_ROUTE, NETLINK_GENERIC = 0, 16
GENL_ID_CTRL = 16
CTRL_CMD_GETFAMILY = 3
CTRL_ATTR_FAMILY_NAME = 2
OVS_FAMILY = "ovs_datapath"

TIMEOUT = 10.0
RECEIVE = 1 << 16
DUMP_TRIES = 10

Keep = Callable[[bytes], bool]


def attr(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four octets."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def nest(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attr(kind | NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """A string attribute, with its NUL."""
    return attr(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """A 32-bit attribute in the host's byte order."""
    return attr(kind, struct.pack("=I", value))


def u8(kind: int, value: int) -> bytes:
    """An 8-bit attribute."""
    return attr(kind, struct.pack("=B", value))


def attributes(payload: bytes) -> dict[int, bytes]:
    """The attributes of `payload` by type; of two of a type, the last."""
    found: dict[int, bytes] = {}
    position = 0
    while position + ATTRIBUTE.size <= len(payload):
        length, kind = ATTRIBUTE.unpack_from(payload, position)
        if length < ATTRIBUTE.size:
            break
        found[kind & TYPE_MASK] = payload[position + ATTRIBUTE.size : position + length]
        position += (length + 3) & ~3
    return found


def string(payload: bytes) -> str:
    """A string attribute's value."""
    return payload.rstrip(b"\0").decode(errors="replace")


def number(payload: bytes) -> int:
    """A number attribute's value, whatever its width, in the host's byte order."""
    return int.from_bytes(payload, "little" if struct.pack("=H", 1)[0] else "big")


class Netlink:
    """A netlink socket. Use it as a context manager, in one thread at a time."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        try:
            self._socket.settimeout(TIMEOUT)
            for option in (CAP_ACK, EXT_ACK, GET_STRICT_CHK):
                self._socket.setsockopt(SOL_NETLINK, option, 1)
            self._socket.bind((0, 0))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> "Netlink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; doing it twice is harmless."""
        self._socket.close()

    def request(
        self, kind: int, payload: bytes, flags: int = 0, *, what: str, keep: Keep = lambda payload: True
    ) -> list[bytes]:
        """Send one message, and return the payloads of the answer once the kernel has acknowledged it.

        Of a long list, only that is kept which `keep` is true of. `what` begins the message
        of the LinkError (with the kernel's errno) that a refusal becomes.
        """
        for _ in range(DUMP_TRIES):
            self._sequence += 1
            header = HEADER.pack(
                HEADER.size + len(payload), kind, flags | F_REQUEST | F_ACK, self._sequence, 0
            )
            try:
                self._socket.send(header + payload)
                answers, interrupted = self._receive(what, keep)
            except TimeoutError as error:
                raise LinkError(
                    f"{what}: the kernel has not answered in {TIMEOUT:g} s", errno=errno.ETIMEDOUT
                ) from error
            if not interrupted:
                return answers
        raise LinkError(f"{what}: changed during each of {DUMP_TRIES} reads", errno=errno.EINTR)

    def _receive(self, what: str, keep: Keep) -> tuple[list[bytes], bool]:
        """The answer's payloads, and whether the kernel says that they are inconsistent (changed meanwhile)."""
        answers: list[bytes] = []
        interrupted = False
        while True:
            for kind, flags, sequence, payload in messages(self._socket.recv(RECEIVE)):
                if sequence != self._sequence:
                    continue
                interrupted |= bool(flags & F_DUMP_INTR)
                if kind == MSG_ERROR:
                    _check(flags, payload, what)
                    return answers, interrupted
                if kind == MSG_DONE:
                    return answers, interrupted
                if keep(payload):
                    answers.append(payload)


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and payload of each message in a datagram."""
    position = 0
    while position + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, position)
        if length < HEADER.size:
            return
        yield kind, flags, sequence, data[position + HEADER.size : position + length]
        position += (length + 3) & ~3


def _check(flags: int, payload: bytes, what: str) -> None:
    """Raise LinkError if an acknowledgement is a refusal; with the kernel's own words where it gives some."""
    code = -ERRNO.unpack_from(payload)[0]
    if code == 0:
        return
    reason = os.strerror(code)
    if flags & F_ACK_TLVS:
        request_length = HEADER.unpack_from(payload, ERRNO.size)[0]
        skip = ERRNO.size + (HEADER.size if flags & F_CAPPED else (request_length + 3) & ~3)
        said = attributes(payload[skip:]).get(ERRATTR_MSG)
        if said is not None:
            reason += f" ({string(said)})"
    raise LinkError(f"{what}: {reason}", errno=code)


def kernel_has_openvswitch() -> bool:
    """Whether the kernel has the Open vSwitch datapath; asking loads the module if there is one to load."""
    with Netlink(NETLINK_GENERIC) as control:
        payload = struct.pack("=BBH", CTRL_CMD_GETFAMILY, 1, 0) + text(CTRL_ATTR_FAMILY_NAME, OVS_FAMILY)
        try:
            control.request(GENL_ID_CTRL, payload, what=f"generic netlink family {OVS_FAMILY}")
        except LinkError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
    return True
