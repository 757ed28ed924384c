"""Which attachments of this node can be used, found by address, port and Namespace.

A part of `NodeView`. A lease that disagrees with another lease must never widen what a pod may send: of attachments
with one address only the one with the lowest key counts, and of attachments with one port number none (one of the
numbers is stale, and the switch will tell us which).
"""

from collections.abc import Hashable
from typing import TypeVar

from k8s_ovs.errors import RecordError
from k8s_ovs.model.records import LocalHost
from k8s_ovs.model.types import GATEWAY_OFPORT, VXLAN_OFPORT, Attachment, AttachmentKey, OfPort

LAST_OFPORT = 0xFEFF
"""The highest port number that OpenFlow 1.0 leaves to real ports (OFPP_MAX - 1 of the specification)."""
_FIXED = (VXLAN_OFPORT, GATEWAY_OFPORT)

K = TypeVar("K", bound=Hashable)


class PodIndex:
    """The attachments of this node."""

    def __init__(self) -> None:
        self._all: dict[AttachmentKey, Attachment] = {}
        self._by_address: dict[Hashable, set[AttachmentKey]] = {}
        self._by_ofport: dict[Hashable, set[AttachmentKey]] = {}
        self._by_namespace: dict[str, set[AttachmentKey]] = {}

    def replace(self, key: AttachmentKey, attachment: Attachment | None) -> set[AttachmentKey]:
        """The attachment is now this (None: gone); the attachments for which that may make a difference."""
        affected = {key}
        old = self._all.pop(key, None)
        if old is not None:
            affected |= self._sharing(old)
            _discard(self._by_address, old.address, key)
            _discard(self._by_ofport, old.ofport, key)
            _discard(self._by_namespace, old.namespace, key)
        if attachment is not None:
            self._all[key] = attachment
            self._by_address.setdefault(attachment.address, set()).add(key)
            self._by_ofport.setdefault(attachment.ofport, set()).add(key)
            self._by_namespace.setdefault(attachment.namespace, set()).add(key)
            affected |= self._sharing(attachment)
        return affected

    def get(self, key: AttachmentKey) -> Attachment | None:
        """The attachment with this key."""
        return self._all.get(key)

    def in_namespace(self, namespace: str) -> set[AttachmentKey]:
        """The attachments of a Namespace's pods."""
        return self._by_namespace.get(namespace, set())

    def namespaces(self) -> list[str]:
        """Namespaces with an attachment here."""
        return list(self._by_namespace)

    def usable(self, attachment: Attachment, local: LocalHost) -> OfPort | None:
        """The port of an attachment that can be used; else None."""
        ofport = attachment.ofport
        if ofport is None or self.problem(attachment, local) is not None:
            return None
        return ofport

    def problem(self, attachment: Attachment, local: LocalHost) -> RecordError | None:
        """Why the attachment cannot be used; None if it can, or has no port yet."""
        ofport, address, key = attachment.ofport, attachment.address, attachment.key
        if ofport is not None and (ofport in _FIXED or not 0 < ofport <= LAST_OFPORT):
            return _error(attachment, f"port number {ofport} is none that a pod can have")
        if ofport is not None and len(self._by_ofport[ofport]) > 1:
            return _error(
                attachment,
                f"port number {ofport} is also that of {self._another(self._by_ofport[ofport], key)}",
            )
        network, broadcast = local.subnet.network_address, local.subnet.broadcast_address
        if address not in local.subnet or address in (network, broadcast, local.gateway):
            return _error(
                attachment, f"address {address} is no pod address of this node's subnet {local.subnet}"
            )
        lowest = min(self._by_address[address])
        if lowest != key:
            return _error(attachment, f"address {address} is already that of {_name(self._all[lowest])}")
        return None

    def _another(self, keys: set[AttachmentKey], key: AttachmentKey) -> str:
        return _name(self._all[min(keys - {key})])

    def _sharing(self, attachment: Attachment) -> set[AttachmentKey]:
        same_address = self._by_address.get(attachment.address, set())
        if attachment.ofport is None:
            return set(same_address)
        return same_address | self._by_ofport.get(attachment.ofport, set())


def _discard(mapping: dict[K, set[AttachmentKey]], value: K, key: AttachmentKey) -> None:
    keys = mapping[value]
    keys.discard(key)
    if not keys:
        del mapping[value]


def _name(attachment: Attachment) -> str:
    return f"{attachment.namespace}/{attachment.pod}"


def _error(attachment: Attachment, reason: str) -> RecordError:
    return RecordError(
        f"attachments/{attachment.key.sandbox}/{attachment.key.ifname}",
        f"pod {_name(attachment)}: {reason}",
        remedy="no traffic from or to it; delete the pod so that it is attached again",
    )
