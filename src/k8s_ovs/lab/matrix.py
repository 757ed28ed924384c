"""Who reaches whom: what the oracle says against what packets do, for every pair of pods, nodes and the outside.

Called by the CLI, the demo and the end-to-end tests. The expectation is `model.tenancy`, and nothing here repeats it:
a party's tenant is read from etcd, where the administrator reads it too. A pair that should pass and did not is probed
a second time, with more patience; a pair that should not pass has to stay silent for the whole of the first.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from k8s_ovs.config import Mode
from k8s_ovs.errors import LabError
from k8s_ovs.lab import places, probes, status
from k8s_ovs.lab.cluster import NODE_PORT, Cluster
from k8s_ovs.lab.probes import MISS, Answer, Protocol, Target
from k8s_ovs.model import tenancy
from k8s_ovs.model.tenancy import Kind, Party
from k8s_ovs.model.types import GLOBAL_VNI, Vni

FIRST_SECONDS = 1.0
SECOND_SECONDS = 4.0
OUTSIDE_PORT = 80


@dataclass(frozen=True, slots=True)
class End:
    """One end of pairs. `server` is what its server calls itself; `node_address` the address it goes outside with."""

    title: str
    party: Party
    netns: Path
    target: Target
    server: str
    node: str = ""
    node_address: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One probe: what was expected and why, and what happened. `seen` is the source address that the server saw."""

    source: str
    destination: str
    protocol: Protocol
    expected: bool
    reached: bool
    why: str
    seen: str = ""
    fault: str = ""

    @property
    def right(self) -> bool:
        """Whether it is as it should be."""
        return self.expected == self.reached and not self.fault

    def __str__(self) -> str:
        should = "should pass" if self.expected else "should NOT pass"
        did = "passed" if self.reached else "did not"
        fault = f"; {self.fault}" if self.fault else ""
        return f"{self.source} → {self.destination} {self.protocol}: {should} ({self.why}), {did}{fault}"


@dataclass(frozen=True, slots=True)
class Matrix:
    """All findings, and the ends in order."""

    mode: Mode
    ends: tuple[End, ...]
    findings: tuple[Finding, ...]

    @property
    def differences(self) -> list[Finding]:
        """What is not as it should be."""
        return [finding for finding in self.findings if not finding.right]

    def to_json(self) -> dict[str, object]:
        """As plain data."""
        return {
            "mode": self.mode.value,
            "ends": [
                {"name": end.title, "kind": end.party.kind.value, "vni": end.party.vni, "node": end.node}
                for end in self.ends
            ],
            "pairs": [
                {
                    "from": finding.source,
                    "to": finding.destination,
                    "protocol": finding.protocol.value,
                    "expected": finding.expected,
                    "observed": finding.reached,
                    "right": finding.right,
                    "why": finding.why,
                    "sourceSeen": finding.seen,
                    "fault": finding.fault,
                }
                for finding in self.findings
            ],
            "differences": len(self.differences),
        }


async def measure(cluster: Cluster) -> Matrix:
    """Probe every pair. Raises LabError if the tenants cannot be read, or a pod goes away meanwhile."""
    snapshot = await status.records(cluster)
    if snapshot is None:
        raise LabError(
            "etcd does not answer or holds no network config: the tenants are not known",
            remedy="see `k8s-ovs lab status`",
        )
    vnis = {name: record.net_id for name, record in snapshot.net_namespaces.items()}
    ends = ends_of(cluster, places.pods(cluster), vnis)
    pairs = [
        (source, destination) for source in ends for destination in ends if is_probed(source, destination)
    ]
    answers = await _probe(pairs, FIRST_SECONDS)
    again = [
        (source, destination)
        for source, destination in pairs
        if any(not answers[source.netns, destination.target, protocol].reached for protocol in Protocol)
        and tenancy.may_reach(source.party, destination.party, cluster.mode)
    ]
    answers |= await _probe(again, SECOND_SECONDS)
    findings = [
        judge(
            source, destination, protocol, answers[source.netns, destination.target, protocol], cluster.mode
        )
        for source, destination in pairs
        for protocol in Protocol
    ]
    return Matrix(cluster.mode, tuple(ends), tuple(findings))


async def _probe(
    pairs: Sequence[tuple[End, End]], seconds: float
) -> dict[tuple[Path, Target, Protocol], Answer]:
    wanted: dict[Path, list[Target]] = defaultdict(list)
    for source, destination in pairs:
        wanted[source.netns].append(destination.target)
    try:
        return await probes.probe_all(
            {netns: probes.all_protocols(targets) for netns, targets in wanted.items()}, seconds=seconds
        )
    except* OSError as group:
        raise LabError(
            f"a pod went away while it was probed ({group.exceptions[0]})", remedy="run it again"
        ) from group


def ends_of(cluster: Cluster, pods: Iterable[places.PodPlace], vnis: Mapping[str, Vni | None]) -> list[End]:
    """Pods by Namespace (the global ones last), then nodes, then the outside. Pods on the host's network are nodes."""
    addresses = {node.name: str(node.ip) for node in cluster.nodes}
    found = [
        End(
            title=pod.title,
            party=tenancy.pod(vnis.get(pod.namespace), pod.title),
            netns=pod.netns,
            target=Target(pod.address, pod.ports[0]),
            server=pod.title,
            node=pod.node,
            node_address=addresses.get(pod.node, ""),
        )
        for pod in pods
        if not pod.host_network
    ]
    found.sort(key=lambda end: (end.party.vni == GLOBAL_VNI, end.title.split("/")[0], end.node, end.title))
    found += [
        End(node.name, tenancy.host(node.name), node.netns, Target(str(node.ip), NODE_PORT), node.name)
        for node in cluster.nodes
    ]
    outside = Target(str(cluster.networks.outside_host.ip), OUTSIDE_PORT)
    return [*found, End("outside", tenancy.outside("outside"), cluster.netns("outside"), outside, "outside")]


def is_probed(source: End, destination: End) -> bool:
    """Whether the pair says anything: not with oneself, and not from outside to pods, which no route leads to."""
    if source == destination:
        return False
    return not (source.party.kind is Kind.OUTSIDE and destination.party.kind is Kind.POD)


def judge(source: End, destination: End, protocol: Protocol, answer: Answer, mode: Mode) -> Finding:
    """Compare one answer with the oracle, and the source address with the design's."""
    verdict = tenancy.judge(source.party, destination.party, mode)
    return Finding(
        source=source.title,
        destination=destination.title,
        protocol=protocol,
        expected=verdict.allowed,
        reached=answer.reached,
        why=verdict.why,
        seen=answer.seen,
        fault=_fault(source, destination, answer),
    )


def _fault(source: End, destination: End, answer: Answer) -> str:
    """What is wrong with an answer beside its coming or not: another server, or a source that was changed."""
    if answer == MISS or not answer.server:
        return ""
    if answer.server != destination.server:
        return f"{answer.server} answered"
    wanted = _source_address(source, destination)
    return f"seen as {answer.seen}, not as {wanted}" if wanted and answer.seen != wanted else ""


def _source_address(source: End, destination: End) -> str:
    """The source address that the destination has to see; empty where the design leaves it open."""
    if source.party.kind is not Kind.POD:
        return ""
    if destination.party.kind is Kind.POD:
        return source.target.address
    return source.node_address if destination.party.kind is Kind.OUTSIDE else ""
