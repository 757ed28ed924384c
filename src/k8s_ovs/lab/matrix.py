"""Who reaches whom: what the oracle says against what packets do, for pods, nodes, the outside, and Services.

Called by the CLI, the demo and the end-to-end tests. The expectation is `model.tenancy`, and nothing here repeats it:
a party's tenant is read from etcd, where the administrator reads it too. A pair that should pass and did not is probed
a second time, with more patience; a pair that should not pass has to stay silent for the whole of the first. To reach
a Service one has to be allowed to it and to the endpoints behind it: where the endpoints differ in that, nobody could
say what has to happen, and the pair is left out.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from k8s_ovs.config import Mode
from k8s_ovs.errors import LabError
from k8s_ovs.lab import places, probes, servicepoints, status
from k8s_ovs.lab.cluster import NODE_PORT, Cluster
from k8s_ovs.lab.probes import MISS, Answer, Protocol, Target
from k8s_ovs.lab.servicepoints import ServicePoint
from k8s_ovs.model import tenancy
from k8s_ovs.model.tenancy import Kind, Party, Verdict
from k8s_ovs.model.types import GLOBAL_VNI, HAIRPIN_IP, Vni

FIRST_SECONDS = 1.0
SECOND_SECONDS = 4.0
OUTSIDE_PORT = 80


@dataclass(frozen=True, slots=True)
class End:
    """One end of pairs. `server` is what its server calls itself; `node_address` the address it goes outside with.

    A Service is never a source; `backends` are the ends behind it, and `node` is named if it is its node port there.
    """

    title: str
    party: Party
    netns: Path
    target: Target
    server: str
    node: str = ""
    node_address: str = ""
    protocols: tuple[Protocol, ...] = tuple(Protocol)
    backends: tuple["End", ...] = ()


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
    pods = places.pods(cluster)
    ends = ends_of(cluster, pods, vnis)
    ends += service_ends(cluster, await servicepoints.read(cluster), [*ends, *host_pods(cluster, pods)], vnis)
    pairs = [
        (source, destination)
        for source in ends
        for destination in ends
        if is_probed(source, destination) and expected(source, destination, cluster.mode) is not None
    ]
    answers = await _probe(pairs, FIRST_SECONDS)
    again = [
        (source, destination)
        for source, destination in pairs
        if any(
            not answers[source.netns, destination.target, protocol].reached
            for protocol in destination.protocols
        )
        and (verdict := expected(source, destination, cluster.mode)) is not None
        and verdict.allowed
    ]
    answers |= await _probe(again, SECOND_SECONDS)
    findings = [
        judge(
            source, destination, protocol, answers[source.netns, destination.target, protocol], cluster.mode
        )
        for source, destination in pairs
        for protocol in destination.protocols
    ]
    return Matrix(cluster.mode, tuple(ends), tuple(findings))


async def _probe(
    pairs: Sequence[tuple[End, End]], seconds: float
) -> dict[tuple[Path, Target, Protocol], Answer]:
    wanted: dict[Path, list[probes.Probe]] = defaultdict(list)
    for source, destination in pairs:
        wanted[source.netns] += [(destination.target, protocol) for protocol in destination.protocols]
    try:
        return await probes.probe_all(wanted, seconds=seconds)
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


def host_pods(cluster: Cluster, pods: Iterable[places.PodPlace]) -> list[End]:
    """Pods on the host's network: they are ends only behind a Service, and their nodes for the rest."""
    parties = {node.name: tenancy.host(node.name) for node in cluster.nodes}
    return [
        End(pod.title, parties[pod.node], pod.netns, Target(pod.address, pod.ports[0]), pod.title, pod.node)
        for pod in pods
        if pod.host_network and pod.node in parties
    ]


def service_ends(
    cluster: Cluster, points: Iterable[ServicePoint], behind: Iterable[End], vnis: Mapping[str, Vni | None]
) -> list[End]:
    """Services, and the node port of each on each node. What is no end of ours behind them belongs to the outside."""
    known: dict[str, list[End]] = defaultdict(list)
    for end in behind:
        known[end.target.address].append(end)
    found = []
    for point in points:
        backends = tuple(
            end for address in _addresses(point) for end in known.get(address) or [_stranger(address)]
        )
        end = End(
            title=point.title,
            party=tenancy.service(vnis.get(point.namespace), point.namespace, point.name),
            netns=Path(),
            target=Target(str(point.address or ""), point.port, speaks=all(end.server for end in backends)),
            server="",
            protocols=point.protocols,
            backends=backends,
        )
        if point.address is not None:
            found.append(end)
            continue
        for node in cluster.nodes:
            target = replace(end.target, address=str(node.ip))
            found.append(replace(end, title=f"{end.title} on {node.name}", target=target, node=node.name))
    return found


def _addresses(point: ServicePoint) -> list[str]:
    return [str(address) for address in sorted({IPv4Address(address) for address, _ in point.backends})]


def _stranger(address: str) -> End:
    return End(address, tenancy.outside(address), Path(), Target(address, 0), "")


def is_probed(source: End, destination: End) -> bool:
    """Whether the pair says anything.

    Not with oneself; not from outside to pods and Services, which no route leads to; and node ports only from pods, since
    for everybody else they are kube-proxy's, which a lab does not have.
    """
    if source == destination or source.party.kind is Kind.SERVICE:
        return False
    if destination.party.kind is Kind.SERVICE and destination.node:
        return source.party.kind is Kind.POD
    return source.party.kind is not Kind.OUTSIDE or destination.party.kind not in (Kind.POD, Kind.SERVICE)


def expected(source: End, destination: End, mode: Mode) -> Verdict | None:
    """What the oracle says; None where it depends on which endpoint is chosen."""
    verdict = tenancy.judge(source.party, destination.party, mode)
    if not verdict.allowed or not destination.backends:
        return verdict
    verdicts = [tenancy.judge(source.party, end.party, mode) for end in destination.backends]
    refused = [each for each in verdicts if not each.allowed]
    if not refused:
        return verdict
    return refused[0] if len(refused) == len(verdicts) else None


def judge(source: End, destination: End, protocol: Protocol, answer: Answer, mode: Mode) -> Finding:
    """Compare one answer with the oracle, and the source address with the design's.

    The pair has to be one of which the oracle can speak (`expected` is not None).
    """
    verdict = expected(source, destination, mode)
    if verdict is None:
        raise ValueError(f"{source.title} → {destination.title}: it depends on the endpoint")
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
    servers = [end for end in destination.backends or (destination,) if end.server == answer.server]
    if not servers:
        return f"{answer.server} answered"
    wanted = _source_address(source, servers[0])
    return f"seen as {answer.seen}, not as {wanted}" if wanted and answer.seen != wanted else ""


def _source_address(source: End, destination: End) -> str:
    """The source address that the destination has to see; empty where the design leaves it open."""
    if source.party.kind is not Kind.POD:
        return ""
    if destination == source:
        return str(HAIRPIN_IP)  # through a Service
    if destination.party.kind is Kind.POD:
        return source.target.address
    return source.node_address if destination.party.kind is Kind.OUTSIDE else ""
