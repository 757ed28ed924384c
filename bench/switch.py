"""How long a node's traffic stands still when its switch is killed, as a Markdown table for docs/reliability.md.

    make bench                              or, as root: .venv/bin/python bench/switch.py [--times 10] [--pods 24]

Each with the agent, and by hand: the same processes killed, and a script that gives the new switch its flows: the floor.
"""

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from fakes.labs import running_lab
from fakes.switch_outage import KINDS, MILESTONES, PROBES, outages


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=10, help="how often each is done")
    parser.add_argument("--pods", type=int, default=24, help="on the node whose switch is killed")
    options = parser.parse_args()
    with running_lab(nodes=2) as lab, outages(lab, options.pods) as running:
        for _ in range(options.times):
            for kind in KINDS:
                running.kill(kind)
                running.kill_with_script(kind)
        logs = running.flow.finish()
        stages = {kind: running.stages(logs, kind) for kind in KINDS if "vswitchd" in KINDS[kind]}
    print(
        "| killed | traffic | with the agent, median ms | longest | by hand, median ms | longest | ratio of the medians |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in KINDS:
        for probe in PROBES:
            ours, floor = (running.lengths(logs, who, kind, probe) for who in ("agent", "by hand"))
            medians = statistics.median(ours), statistics.median(floor)
            cells = [
                kind,
                probe.name,
                *(f"{value * 1000:.0f}" for value in (medians[0], max(ours), medians[1], max(floor))),
            ]
            print(f"| {' | '.join(cells)} | {medians[0] / medians[1]:.2f} |")
    print()
    print("Where the time goes with the agent, median ms since the kill:\n")
    print("| killed | " + " | ".join([*MILESTONES, "the first packet has passed"]) + " |")
    print("| --- |" + " --- |" * (len(MILESTONES) + 1))
    for kind, each in stages.items():
        columns = zip(*each, strict=True)
        print(f"| {kind} | " + " | ".join(f"{statistics.median(c) * 1000:.0f}" for c in columns) + " |")


if __name__ == "__main__":
    main()
