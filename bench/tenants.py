"""What a change of a tenant costs, as a Markdown table for docs/tenants.md.

    make bench                              or, as root: .venv/bin/python bench/tenants.py [--cycles 20] [--pods 100]

Lost packets over many cycles of join, global and isolate on three nodes; and the time that a change takes, seen from an
administrator who writes the record with etcdctl and watches it, with few and with many pods in the Namespace.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from fakes.labs import running_lab
from fakes.tenant_admin import Administrator, administrator
from fakes.tenant_cycles import CYCLE, Outcome, build, run_cycles
from fakes.traffic import Probe

NODES = ("node1", "node2", "node3")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=20, help=f"each of {len(CYCLE)} changes")
    parser.add_argument("--pods", type=int, default=100, help="in the Namespace of the second measurement")
    parser.add_argument("--changes", type=int, default=20, help="of each kind, for the times")
    parser.add_argument("--no-services", action="store_true", help="direct traffic only")
    options = parser.parse_args()
    with running_lab() as lab:
        outcome = run_cycles(lab, options.cycles, build(lab, services=not options.no_services))
        losses(outcome)
        print(
            "\n| pods in the Namespace | action | changes | median ms | longest ms |\n| --- | --- | --- | --- | --- |"
        )
        with administrator(lab) as admin:
            times(admin, "red", "blue", 4, options.changes)
        crowd = {("crowd", f"p{number}"): NODES[number % 3] for number in range(options.pods)}
        lab.create_pods(crowd)
        with administrator(lab) as admin:
            times(admin, "crowd", "blue", options.pods, options.changes)


def losses(outcome: Outcome) -> None:
    print(
        f"{len(outcome.history)} changes, longest {max(c.seconds for c in outcome.history) * 1000:.0f} ms\n"
    )
    print(
        "| traffic | streams | sent while allowed | lost | longest pause ms | tried while forbidden | passed |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    groups: dict[str, list[Probe]] = {}
    for probe in outcome.probes:
        where = "through a Service" if probe.label else "direct"
        kinds = [what for what in (True, False) if outcome.windows(probe, allowed=what)]
        when = {(True,): "always allowed", (False,): "never allowed"}.get(
            tuple(kinds), "now and then allowed"
        )
        groups.setdefault(f"{'TCP' if probe.tcp else 'UDP'} {where}, {when}", []).append(probe)
    for name, probes in groups.items():
        cells = [
            len(probes),
            sum(map(outcome.sent, probes)),
            sum(map(outcome.lost, probes)),
            f"{max(map(outcome.stall, probes)) * 1000:.0f}",
            sum(map(outcome.tried, probes)),
            sum(map(outcome.passed, probes)),
        ]
        print(f"| {name} | {' | '.join(map(str, cells))} |")


def times(admin: Administrator, namespace: str, other: str, pods: int, changes: int) -> None:
    taken: dict[str, list[float]] = {"join": [], "global": [], "isolate": []}
    for _ in range(changes):
        taken["join"].append(admin.join(namespace, other).seconds)
        taken["global"].append(admin.make_global(namespace).seconds)
        taken["isolate"].append(admin.isolate(namespace).seconds)
    for action, seconds in taken.items():
        print(f"| {pods} | {action} | {len(seconds)} | {_ms(seconds)} | {max(seconds) * 1000:.0f} |")


def _ms(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f}"


if __name__ == "__main__":
    main()
