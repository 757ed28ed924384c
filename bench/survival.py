"""What restarts, crashes, upgrades and outages cost, as a Markdown table for docs/reliability.md.

    make bench                              or, as root: .venv/bin/python bench/survival.py [--times 10] [--outage 30]

UDP every 2 ms and long TCP connections, on one node, across nodes and through a Service, while agents and controllers are
stopped, killed and upgraded, and etcd and the API server are away.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import k8s_ovs
from fakes.labs import Lab
from fakes.survival import (
    Toll,
    kill_controllers,
    lab_with_builds,
    outage,
    restart_agents,
    survivors,
    tolls,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=10, help="how often each is done")
    parser.add_argument(
        "--outage", type=float, default=30.0, help="seconds that etcd and the API server are away"
    )
    options = parser.parse_args()
    source = Path(k8s_ovs.__file__).parent.parent
    with tempfile.TemporaryDirectory() as place, lab_with_builds(Path(place), source) as (lab, builds):

        def upgrade(number: int) -> None:
            builds.use(new=number % 2 == 0)
            restart_agents(lab, signal.SIGTERM)

        harms: dict[str, Callable[[int], None]] = {
            "agents stopped and started": lambda _: restart_agents(lab, signal.SIGTERM),
            "agents killed (SIGKILL)": lambda _: restart_agents(lab, signal.SIGKILL),
            "agents upgraded to other table numbers": upgrade,
            "controllers killed": lambda _: kill_controllers(lab),
            f"etcd away for {options.outage:.0f} s": lambda _: away(lab, "etcd", options.outage),
            f"API server away for {options.outage:.0f} s": lambda _: away(lab, "apiserver", options.outage),
        }
        with survivors(lab) as running:
            for name, action in harms.items():
                for number in range(options.times):
                    running.harm(name, lambda action=action, number=number: action(number))
            show(tolls(running.flow.finish(), running.watched, running.history))


def away(lab: Lab, process: str, seconds: float) -> None:
    with outage(lab, process):
        time.sleep(seconds)  # the outage itself


def show(costs: list[Toll]) -> None:
    print(
        "| what happens | times | UDP sent | lost | TCP sent | lost | connections ended | longest pause ms | forbidden passed |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for cost in costs:
        cells = (
            cost.name,
            cost.times,
            cost.udp_sent,
            cost.udp_lost,
            cost.tcp_sent,
            cost.tcp_lost,
            cost.resets,
            f"{cost.stall * 1000:.0f}",
            cost.forbidden,
        )
        print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
