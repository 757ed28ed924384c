"""The demo's part about tenants: isolated, joined, parted again, one of them global; measured after each change.

Called by the demo. What should be is said here a second time, in the words of the story: the matrix compares packets
with the oracle, this part compares them with what an administrator would expect of the command that he typed.
"""

import json
from collections.abc import Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass

from k8s_ovs.errors import LabError
from k8s_ovs.lab import matrix, matrixtext, places, status
from k8s_ovs.lab.cluster import ETCD_PREFIX, NETWORK_NAME, Cluster
from k8s_ovs.lab.demo_stage import Shell, Stage
from k8s_ovs.lab.demo_traffic import datagrams
from k8s_ovs.lab.matrix import End, Matrix
from k8s_ovs.lab.wait import until
from k8s_ovs.model.tenancy import Kind

RED, BLUE, GREEN = "red", "blue", "green"
TENANTS = (RED, BLUE, GREEN)
NET_NAMESPACES = f"{ETCD_PREFIX}/{NETWORK_NAME}/netnamespaces"
_ANSWER_SECONDS = 30.0
_REQUEST = {"NetName": RED, "Action": "isolate"}
_STREAMS = (("red/web1", "red/web2"), ("red/web1", "red/shop"), ("green/web1", "green/web2"))


@dataclass(frozen=True, slots=True)
class Story:
    """Who should reach whom: Namespaces that are joined, and those that are global."""

    joined: tuple[frozenset[str], ...] = ()
    everywhere: frozenset[str] = frozenset()

    def allows(self, one: str, other: str) -> bool:
        """Whether the pods of the one reach those of the other, and its Services."""
        pair = frozenset((one, other))
        return one == other or pair in self.joined or bool(pair & self.everywhere)


def pod(cluster: Cluster, title: str) -> places.PodPlace:
    """The pod NAMESPACE/NAME. Raises LabError."""
    for place in places.pods(cluster):
        if place.title == title:
            return place
    raise LabError(f"pod {title} has gone", remedy="run the demo again")


async def changes(shell: Shell) -> Story:
    """All of it; at the end green is global, and red and blue are for themselves. Raises LabError."""
    cluster, stage = shell.cluster, shell.stage
    await _isolated(shell)
    async with AsyncExitStack() as stack:
        streams = []
        for source, destination in _STREAMS:
            there = pod(cluster, destination)
            counted = await stack.enter_async_context(
                datagrams(pod(cluster, source).netns, there.address, there.ports[0])
            )
            streams.append((source, destination, counted))
        await _joined(shell)
        await _parted(shell)
        story = await _made_global(shell)
    stage.title("what the three changes cost traffic that was allowed all along: UDP, a packet every 5 ms")
    for source, destination, counted in streams:
        right = counted.sent > 0 and counted.lost == 0
        stage.found(
            f"{source} to {destination}",
            f"{counted.sent} sent, {counted.answered} answered",
            right=right,
        )
    return story


async def _isolated(shell: Shell) -> None:
    shell.stage.title("a Namespace is a tenant: each has a NetID (VNI) of its own, and reaches nobody else")
    await shell.run("k8s-ovs", "tenant", "list")
    await shell.run("etcdctl", "get", "--prefix", "--print-value-only", f"{NET_NAMESPACES}/")
    measured = await matrix.measure(shell.cluster)
    lines = matrixtext.render(measured, shell.stage.paint).splitlines()
    # The last line says what `judge` says, unless there are differences: then it lists them.
    shell.stage.lines(["", *(lines if measured.differences else lines[:-1])])
    judge(shell.stage, measured, Story())


async def _joined(shell: Shell) -> None:
    shell.stage.title("join: red and blue become one tenant")
    await shell.run("k8s-ovs", "tenant", "join", RED, BLUE, "--wait")
    await show_reach(shell, Story(joined=(frozenset((RED, BLUE)),)))


async def _parted(shell: Shell) -> None:
    shell.stage.title(
        "isolate: red for itself again, this time through etcd; the controller writes its answer"
    )
    key = f"{NET_NAMESPACES}/{RED}"
    await shell.run("etcdctl", "put", key, json.dumps(_REQUEST, separators=(",", ":")))

    async def answered() -> bool:
        snapshot = await status.records(shell.cluster)
        record = None if snapshot is None else snapshot.net_namespaces.get(RED)
        return record is not None and not record.action

    if not await until(answered, _ANSWER_SECONDS):
        raise LabError(
            f"{key} was not answered within {_ANSWER_SECONDS:.0f} s", remedy="see the controllers' logs"
        )
    await shell.run("etcdctl", "get", "--print-value-only", key)
    await show_reach(shell, Story())


async def _made_global(shell: Shell) -> Story:
    shell.stage.title("global: green reaches all, and all reach green; red and blue stay apart")
    await shell.run("k8s-ovs", "tenant", "global", GREEN, "--dry-run")
    await shell.run("k8s-ovs", "tenant", "global", GREEN, "--wait")
    story = Story(everywhere=frozenset((GREEN,)))
    await show_reach(shell, story)
    return story


async def show_reach(shell: Shell, story: Story) -> None:
    """Measure all pairs, and show Namespaces (and the tenants' Services, if there are any) instead of pods."""
    measured = await matrix.measure(shell.cluster)
    rows = [("FROM \\ TO", *TENANTS, *(f"Service {name}" for name in _services(measured)))]
    for source in TENANTS:
        cells = (_cell(measured, source, ends) for ends in _columns(measured))
        rows.append((source, *cells))
    shell.stage.lines(["", *status.table(rows)])
    judge(shell.stage, measured, story)


def judge(stage: Stage, measured: Matrix, story: Story) -> None:
    """Compare with the story, and say what the matrix found against the oracle."""
    wrong = [str(finding) for finding in measured.differences]
    tenant_of = {end.title: _tenant(end) for end in measured.ends}
    for finding in measured.findings:
        source, destination = tenant_of[finding.source], tenant_of[finding.destination]
        if source and destination and finding.reached != story.allows(source, destination):
            wrong.append(f"{finding}; the story says otherwise")
    total = len(measured.findings)
    verdict = f"{len(wrong)} wrong, such as {wrong[0]}" if wrong else "all as they should be"
    stage.found(f"{total} probes, TCP, UDP and ICMP, on one node and across nodes", verdict, right=not wrong)


def _tenant(end: End) -> str:
    """The tenant of the story that this end is in; empty if it is in none."""
    title = end.title.removeprefix("service ")
    namespace = title.partition("/")[0]
    return namespace if end.party.kind in (Kind.POD, Kind.SERVICE) and namespace in TENANTS else ""


def _services(measured: Matrix) -> list[str]:
    return [
        end.title.removeprefix("service ")
        for end in measured.ends
        if end.party.kind is Kind.SERVICE and _tenant(end)
    ]


def _columns(measured: Matrix) -> list[set[str]]:
    """The destinations of each column, by title."""
    pods = [
        {end.title for end in measured.ends if end.party.kind is Kind.POD and _tenant(end) == tenant}
        for tenant in TENANTS
    ]
    return [*pods, *({f"service {name}"} for name in _services(measured))]


def _cell(measured: Matrix, source: str, destinations: Collection[str]) -> str:
    sources = {end.title for end in measured.ends if end.party.kind is Kind.POD and _tenant(end) == source}
    reached = {
        finding.reached
        for finding in measured.findings
        if finding.source in sources and finding.destination in destinations
    }
    return {frozenset((True,)): "yes", frozenset((False,)): "no"}.get(frozenset(reached), "in part")
