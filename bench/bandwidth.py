"""How exact bandwidth limits are, as a Markdown table for docs/bandwidth.md.

    make bench                              or, as root: .venv/bin/python bench/bandwidth.py [--seconds 10]

One TCP connection, or UDP at twice the limit, between two nodes; towards the pod, from it, and from a pod that has removed
the shaper in its own namespace, so that the switch's meter is alone. 1M and 10M run side by side, 100M by itself. What
`goodput` and `frames` are is told in `fakes.bandwidth`.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from fakes.bandwidth import EGRESS, INGRESS, Flow, Rates, create_pods, measure, remove_shaper, running
from fakes.labs import Lab, running_lab

LIMITS = (1, 10, 100)
"""Mbit/s."""
STEPS = (5, 10, 2, 8, 1, 4)
"""Mbit/s of a pod whose limits change, every STEP seconds."""
STEP = 3.0
SOURCE, TARGET = "default/source", "default/target"
KINDS = {"in": "towards the pod", "out": "from the pod", "bare": "from the pod, shaper removed"}
HEADER = (
    "protocol",
    "direction",
    "limit",
    "goodput Mbit/s",
    "of the limit",
    "frames Mbit/s",
    "of the limit",
    "first second",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    options = parser.parse_args()
    with running_lab(nodes=2) as lab:
        build(lab)
        free = measure(lab, [Flow(SOURCE, TARGET, "tcp")], options.seconds)
        print(f"Without limits: {next(iter(free.values())).goodput:.0f} Mbit/s of TCP.\n")
        row(HEADER)
        row(["---"] * len(HEADER))
        for protocol in ("tcp", "udp"):
            for kind, direction in KINDS.items():
                for limits in (LIMITS[:2], LIMITS[2:]):
                    flows = {limit: flow(kind, limit, protocol) for limit in limits}
                    rates = measure(lab, list(flows.values()), options.seconds)
                    for limit, each in flows.items():
                        figures(each, direction, limit, rates[each.name])
        changes(lab)
        print(f"\nLoad of the machine at the end: {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores.")


def build(lab: Lab) -> None:
    """A pod for each kind and limit, and a receiver for each limit."""
    pods: dict[str, tuple[str, dict[str, str]]] = {SOURCE: ("node1", {}), TARGET: ("node2", {})}
    for limit in LIMITS:
        pods[f"default/in{limit}m"] = ("node2", {INGRESS: f"{limit}M"})
        pods[f"default/out{limit}m"] = pods[f"default/bare{limit}m"] = ("node1", {EGRESS: f"{limit}M"})
        pods[f"default/to{limit}m"] = ("node2", {})
    create_pods(lab, pods)
    for limit in LIMITS:
        remove_shaper(lab, f"default/bare{limit}m")


def flow(kind: str, limit: int, protocol: str) -> Flow:
    if kind == "in":
        return Flow(SOURCE, f"default/in{limit}m", protocol, limit * 2e6)
    return Flow(f"default/{kind}{limit}m", f"default/to{limit}m", protocol, limit * 2e6)


def changes(lab: Lab) -> None:
    """How long a change of both annotations takes until it is seen in the traffic, from when kubectl has returned."""
    flows = {"towards the pod": Flow(SOURCE, "default/out1m", "udp", 20e6)}
    flows["from the pod"] = Flow("default/out1m", TARGET, "udp", 20e6)
    begun: list[tuple[int, int]] = []
    with running(lab, list(flows.values())) as these:
        for limit in STEPS:
            lab.kubectl(
                "annotate", "pod", "out1m", "--overwrite", f"{INGRESS}={limit}M", f"{EGRESS}={limit}M"
            )
            begun.append((limit, these.now()))
            time.sleep(STEP)  # the measurement itself
        these.end()
        rates = these.rates()
    for direction, each in flows.items():
        seconds = [rates[each.name].settled(begin, limit * 0.7, limit * 1.1) for limit, begin in begun]
        print(f"\nChanges {direction} are seen {statistics.median(seconds):.2f} s (median), ", end="")
        print(f"{max(seconds):.2f} s (longest of {len(seconds)}) after kubectl has returned.")


def figures(each: Flow, direction: str, limit: int, rates: Rates) -> None:
    begin = rates.samples[0][0]
    first = rates.between(begin, begin + 10**9)
    whole = [f"{rate:.2f} | {rate / limit:.1%}" for rate in (rates.goodput, rates.frames)]
    row([each.protocol.upper(), direction, f"{limit}M", *whole, f"{first / limit:.1%}"])


def row(cells: "tuple[str, ...] | list[str]") -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
