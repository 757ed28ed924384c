"""What the matrix of a lab has to look like, by the records, and what is wrong with what it looks like.

The ends and the expectation are those of `lab matrix`: `model.tenancy`, asked about the VNIs that `etcdctl get` shows and the
Services that `kubectl` shows. No flow is looked at, and nothing that an agent says.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fakes.labs import Lab
from fakes.matrix_probe import Ask, MatrixProbe, Told, matrix_probe
from fakes.tenant_admin import RECORDS
from k8s_ovs.lab import matrix, places, servicepoints, state
from k8s_ovs.lab.cluster import DEFAULT_BASE, NODE_PORT, Cluster
from k8s_ovs.lab.matrix import End
from k8s_ovs.lab.probes import Protocol, Target
from k8s_ovs.lab.servicepoints import ServicePoint
from k8s_ovs.model.tenancy import Kind
from k8s_ovs.model.types import HAIRPIN_IP, Vni

SERVED = 80
"""Where the pods' servers listen, and the doors are watched."""


@dataclass(frozen=True)
class Pair:
    """What one probe is about, and what the oracle says."""

    source: End
    destination: End
    protocol: Protocol
    allowed: bool
    why: str

    @property
    def ask(self) -> Ask:
        return Ask(self.source.title, self.destination.target, self.protocol, self.allowed)

    @property
    def key(self) -> tuple[str, str, Protocol]:
        return self.source.title, self.destination.title, self.protocol

    def __str__(self) -> str:
        should = "should pass" if self.allowed else "should NOT pass"
        return f"{self.source.title} → {self.destination.title} {self.protocol}: {should} ({self.why})"


@dataclass(frozen=True)
class Truth:
    """A lab with its pods and Services as they are now; they must not change while this is used."""

    lab: Lab
    cluster: Cluster
    pods: tuple[places.PodPlace, ...]
    services: tuple[ServicePoint, ...]
    probe: MatrixProbe

    def vnis(self) -> dict[str, Vni]:
        """The NetIDs as an administrator reads them."""
        lines = self.lab.etcdctl("get", "--prefix", "--print-value-only", RECORDS).splitlines()
        records = [json.loads(line) for line in lines if line]
        return {record["NetName"]: record["NetID"] for record in records}

    def pairs(self, vnis: Mapping[str, Vni]) -> list[Pair]:
        """Every pair that the oracle can speak of, when the tenants are these."""
        ends = matrix.ends_of(self.cluster, self.pods, vnis)
        ends += matrix.service_ends(self.cluster, self.services, ends, vnis)
        return list(_pairs(ends, self.cluster))

    def differences(self, pairs: Sequence[Pair]) -> list[str]:
        """Measure it all; what is not as it should be, in words."""
        told = self.probe.measure([pair.ask for pair in pairs])
        return [text for pair, each in zip(pairs, told, strict=True) if (text := self._wrong(pair, each))]

    def losses(self, pairs: Sequence[Pair]) -> list[str]:
        """Send each of these, which are allowed, once; what got lost or went astray, in words."""
        told = self.probe.strike([pair.ask for pair in pairs])
        found = [text for pair, each in zip(pairs, told, strict=True) if (text := self._wrong(pair, each))]
        found += [
            f"{pair}; the connection request was lost and sent again"
            for pair, each in zip(pairs, told, strict=True)
            if each.repeated and each.arrivals and len(each.arrivals) <= each.repeated
        ]
        return found

    def _wrong(self, pair: Pair, told: Told) -> str:
        if not pair.allowed:
            if told.answered:
                return f"{pair}, was answered"
            return f"{pair}, arrived at {told.arrivals}" if told.arrivals else ""
        if not told.answered:
            return f"{pair}, was not answered {told.refused}".rstrip()
        faults = [fault for arrival in told.arrivals if (fault := _fault(pair, *arrival))]
        if not told.arrivals and _is_pod(pair.destination):
            faults.append("was answered and arrived nowhere")
        return f"{pair}; {', '.join(faults)}" if faults else ""


def _pairs(ends: Sequence[End], cluster: Cluster) -> Iterator[Pair]:
    for source in ends:
        for destination in ends:
            if not matrix.is_probed(source, destination):
                continue
            verdict = matrix.expected(source, destination, cluster.mode)
            if verdict is not None:
                for protocol in destination.protocols:
                    yield Pair(source, destination, protocol, verdict.allowed, verdict.why)


def _is_pod(end: End) -> bool:
    return all(each.party.kind is Kind.POD for each in end.backends or (end,))


def _fault(pair: Pair, place: str, seen: str) -> str:
    """What is wrong with an arrival: another pod than meant, or a client that is not itself any more."""
    if place not in {end.title for end in pair.destination.backends or (pair.destination,)}:
        return f"arrived at {place}"
    if pair.source.party.kind is not Kind.POD:
        return ""
    wanted = str(HAIRPIN_IP) if place == pair.source.title else pair.source.target.address
    return f"seen as {seen}, not as {wanted}" if seen != wanted else ""


@contextmanager
def truth(lab: Lab) -> Iterator[Truth]:
    """The lab's pods and Services (as far as the pods' own servers stand behind them), and sockets in all of its places."""
    cluster = state.load_cluster(DEFAULT_BASE, lab.name)
    pods = tuple(places.pods(cluster))
    every = asyncio.run(servicepoints.read(cluster))
    services = tuple(point for point in every if {port for _, port in point.backends} == {SERVED})
    inside = {pod.title: pod.netns for pod in pods}
    inside |= {node.name: node.netns for node in cluster.nodes} | {"outside": cluster.netns("outside")}
    nodes = [Target(str(node.ip), NODE_PORT) for node in cluster.nodes]
    with matrix_probe(inside, [pod.title for pod in pods], nodes) as probe:
        yield Truth(lab, cluster, pods, services, probe)


def both(before: Iterable[Pair], after: Iterable[Pair]) -> list[Pair]:
    """What is allowed before a change and after it."""
    still = {pair.key for pair in after if pair.allowed}
    return [pair for pair in before if pair.allowed and pair.key in still]
