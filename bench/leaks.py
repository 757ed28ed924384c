"""What an agent keeps of pods that have come and gone, as a Markdown table for docs/reliability.md.

    make bench                              or, as root: .venv/bin/python bench/leaks.py [--pairs 10000] [--every 1000]

Pairs of ADD and DEL through the CNI executable, on one node, several at once, each pod with a datagram through a Service.
"""

import argparse
import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from fakes.leaks import HEADER, mill

MOST = 5_000
"""kB that the agent may grow by after the first thousand pairs."""


async def run(pairs: int, every: int, at_once: int) -> int:
    async with mill(at_once) as one:
        print(HEADER)
        begun = await one.footprint()
        print(begun.row(0), flush=True)
        first = begun
        while one.pairs < pairs:
            await one.turn(min(every, pairs - one.pairs))
            now = await one.forgotten(begun.connections)
            print(now.row(one.pairs), flush=True)
            if first is begun:
                first = now
    grown = now.agent_kb - first.agent_kb
    print(f"\nThe agent has grown by {grown:,} kB after the first {every:,} pairs.")
    return int(grown >= MOST)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument(
        "--every", type=int, default=1_000, help="pairs from one row of the table to the next"
    )
    parser.add_argument("--at-once", type=int, default=8, help="pods that come and go side by side")
    options = parser.parse_args()
    sys.exit(asyncio.run(run(options.pairs, options.every, options.at_once)))


if __name__ == "__main__":
    main()
