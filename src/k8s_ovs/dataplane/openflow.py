"""The bridge's flows: `OfctlFlowTable` implements `bridge.FlowTable` with ovs-ofctl on the management socket.

For the task that owns the bridge. Every change is one atomic bundle (OpenFlow 1.5.1, 6.9): the switch takes all of it
or nothing, and no packet meets half of it. It computes no flows. See ovs-ofctl(8).
"""

import logging
import re
from collections.abc import Iterable, Sequence

from k8s_ovs.dataplane import process
from k8s_ovs.dataplane.bridge import FlowStats, SyncResult
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.flows.diff import FlowMod
from k8s_ovs.flows.flow import Flow

DEADLINE = 30.0
"""Seconds for one run of ovs-ofctl: 100,000 flows take about 2."""
PROGRAM = ("ovs-ofctl", "-O", "OpenFlow15", "--no-names")
DEFAULT_PRIORITY = 32768
REMEDY = "check that ovs-vswitchd runs and that --ovs-rundir names its folder"

_LINE = re.compile(r"(?:-|/dev/stdin):(\d+): (.*)")
_REFUSED = re.compile(r"Error (OFP\w+) for: OFPT_FLOW_MOD .*?: (.*)")
_STATISTIC = re.compile(r"\b(cookie|table|n_packets|n_bytes)=(\w+)")
_PRIORITY = re.compile(r"(?:^|,)priority=(\d+)")
_NO_MATCH = re.compile(
    r"(?:^|[, ])(?:\w+_age|n_bytes|\w+_timeout|importance)=\d+[^,]*$|(?:^|[ ,])(?:send_flow_rem|reset_counts)$"
)

_log = logging.getLogger(__name__)


class OfctlFlowTable:
    """See `bridge.FlowTable`. `target` is the bridge's management socket, as in `unix:/run/openvswitch/br0.mgmt`."""

    def __init__(self, target: str, *, deadline: float = DEADLINE) -> None:
        self._target = target
        self._deadline = deadline

    async def commit(self, mods: Sequence[FlowMod]) -> None:
        """See `bridge.FlowTable`. No mods, no bundle."""
        if mods:
            lines = [mod.to_ofctl() for mod in mods]
            await self._run(
                ("--bundle", "add-flows", self._target, "-"), lines, f"bundle of {len(lines)} changes"
            )

    async def replace(self, flows: Iterable[Flow]) -> SyncResult:
        """See `bridge.FlowTable`. Flows that are as they should be are not sent, and keep their counters.

        ovs-ofctl computes the difference, since it alone knows all spellings of a flow; most often there is none.
        """
        lines = [flow.to_ofctl() for flow in flows]
        what = f"full synchronisation of {len(lines)} flows"
        # By default the switch shows every fragment with port 0, the first one too, and matches on ports would be blind
        # to fragmented datagrams (ovs-fields(7), "IP fragments"). The mode is lost when ovs-vswitchd restarts.
        await self._run(("set-frags", self._target, "nx-match"), [], "fragment mode")
        printed = await self._run(("diff-flows", self._target, "/dev/stdin"), lines, what, fine=(0, 2))
        result = count_differences(printed)
        if result.added or result.deleted:
            await self._run(("--bundle", "replace-flows", self._target, "-"), lines, what)
        return result

    async def dump(self, cookie: int = 0, mask: int = 0) -> list[FlowStats]:
        """See `bridge.FlowTable`. The switch does the selecting."""
        arguments = ("dump-flows", self._target, f"cookie={cookie:#x}/{mask:#x}")
        printed = await self._run(arguments, [], "dump of the flows")
        return [parse_flow(line) for line in printed.splitlines() if " actions=" in line]

    async def _run(
        self, arguments: Sequence[str], lines: Sequence[str], what: str, fine: Sequence[int] = (0,)
    ) -> str:
        """Run ovs-ofctl with `lines` as its input; its output, if its exit status is one of `fine`."""
        stdin = "".join(f"{line}\n" for line in lines)
        try:
            done = await process.run((*PROGRAM, *arguments), stdin, self._deadline)
        except TimeoutError:
            message = f"{what}: no answer from {self._target} within {self._deadline:g} s"
            raise OpenFlowError(message, remedy=REMEDY) from None
        except OSError as error:
            remedy = "install the package openvswitch-switch (or openvswitch-common)"
            raise OpenFlowError(f"{what}: {PROGRAM[0]}: {error.strerror}", remedy=remedy) from error
        if done.status not in fine:
            reason = explain(done.stderr, lines)
            remedy = REMEDY if reason.startswith(("connecting to", "talking to")) else ""
            raise OpenFlowError(f"{what} on {self._target}: {reason}", remedy=remedy)
        if done.stderr:
            # ovs-ofctl took the flows, but read them in another way than they are written.
            _log.warning("%s: ovs-ofctl says: %s", what, done.stderr.strip())
        return done.stdout


def explain(stderr: str, lines: Sequence[str]) -> str:
    """What ovs-ofctl complains of, with the flow that it complains of.

    A syntax error names a line of the input; a refusal by the switch shows the flow itself.
    """
    if found := _REFUSED.search(stderr):
        return f"{found[1]} for the flow {found[2].strip()!r}"
    if found := _LINE.search(stderr):
        position = int(found[1]) - 1
        line = lines[position] if position < len(lines) else "?"
        return f"{found[2]} in line {found[1]}: {line!r}"
    said = [line for line in stderr.strip().splitlines() if line.startswith("ovs-ofctl: ")]
    return (said or stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("ovs-ofctl: ")


def count_differences(printed: str) -> SyncResult:
    """Count the output of `diff-flows`: one line per flow, `-` what the switch has, `+` what it should have.

    A line begins with "table=N " (unless 0) and the match; those with the same beginning are the same flow, changed.
    """
    have = {_identity(line) for line in printed.splitlines() if line.startswith("-")}
    want = {_identity(line) for line in printed.splitlines() if line.startswith("+")}
    return SyncResult(added=len(want), deleted=len(have - want))


def _identity(line: str) -> tuple[str, str]:
    words = line[1:].split(" ")
    return (words[0], words[1]) if words[0].startswith("table=") else ("table=0", words[0])


def parse_flow(line: str) -> FlowStats:
    """One line of `dump-flows`. Raises OpenFlowError if it is not one."""
    head, _, actions = line.strip().partition(" actions=")
    numbers = dict(_STATISTIC.findall(head))
    if not numbers.keys() >= {"cookie", "table", "n_packets", "n_bytes"}:
        raise OpenFlowError(f"dump of the flows: not a flow: {line.strip()!r}")
    head = head.rstrip(", ")
    match = "" if _NO_MATCH.search(head) else head.rpartition(", ")[2].rpartition(" ")[2]
    priority = _PRIORITY.search(match)
    return FlowStats(
        table=int(numbers["table"]),
        priority=int(priority[1]) if priority else DEFAULT_PRIORITY,
        cookie=int(numbers["cookie"], 16),
        packets=int(numbers["n_packets"]),
        octets=int(numbers["n_bytes"]),
        match=_PRIORITY.sub("", match).lstrip(","),
        actions=actions,
    )
