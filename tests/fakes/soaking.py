"""A soak: random changes of everything that a cluster has, random kills of everything that serves it, then a reckoning.

    soak(lab, seed=7, chapters=…)

Chapters of some actions each; at the end of each one no more harm is done, and within a deadline everything has to be as the
records say and as this module knows that it did (`fakes.reality`), and every packet has to go as the oracle says
(`fakes.matrix_truth`). What is drawn for an action depends on the seed and the action's number only, so that a seed repeats a
run as far as time allows.
"""

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fakes.labs import Lab, eventually
from fakes.matrix_truth import truth
from fakes.reality import settled
from fakes.soaking_actions import ACTIONS, World, give_back, look, make_namespace
from fakes.soaking_api import Api, Records
from fakes.soaking_harm import Harm, forgetful_runtime
from fakes.soaking_model import Model
from fakes.soaking_traffic import Steady, steady
from k8s_ovs.lab.cluster import DEFAULT_BASE
from k8s_ovs.lab.state import load_cluster

SETTLE = 45.0
"""Seconds until all has to be as it should be: less than a resync period, which would hide what nobody has noticed."""
COLLECT = 75.0
"""Likewise, where a DEL got lost: nobody tells of that, and only the period brings it to light."""
MOST_PAIRS = 900
"""Of a matrix that is larger, so many are drawn."""
PAUSE = 0.4
LOGS = os.environ.get("K8S_OVS_SOAK_LOGS", "")
"""A directory that gets the logs of the lab's processes when a run fails."""


@dataclass
class Soak:
    """A run. `told` are all actions in words."""

    world: World
    seed: int
    steady: Steady
    told: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    reckonings: list[float] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)

    def chapter(self, actions: int) -> None:
        """So many actions, and the reckoning. AssertionError with everything that was done."""
        with self._history():
            for _ in range(actions):
                self._act()
            self._reckon()

    def end(self) -> None:
        """The judgement of the steady traffic."""
        with self._history():
            self._tell(self.steady.judge())

    @contextmanager
    def _history(self) -> Iterator[None]:
        """Whatever fails is told with everything that was done."""
        try:
            yield
        except AssertionError as err:
            if LOGS:
                logs = self.world.harm.cluster.logs
                shutil.copytree(logs, Path(LOGS) / f"soak-{self.seed}", dirs_exist_ok=True)
            history = "\n".join(self.told)
            raise AssertionError(f"seed {self.seed}: {err}\n{history}") from err

    def _act(self) -> None:
        """One action that is possible now."""
        rng = random.Random(f"{self.seed}/{len(self.told)}")
        self.world.harm.end_outages()
        look(self.world)
        told = ""
        while not told:
            action = rng.choices(list(ACTIONS), list(ACTIONS.values()))[0]
            told = action(self.world, rng)
        self.done[action.__name__] += 1
        self._tell(told)
        time.sleep(rng.uniform(0, PAUSE))  # the pace of the run; nothing is waited for

    def _tell(self, text: str) -> None:
        self.told.append(f"{len(self.told):4} {time.monotonic() - self._begun:7.2f} s  {text}")
        print(self.told[-1], flush=True)

    def _reckon(self) -> None:
        """No more harm; everything has to be as it should be, soon."""
        world, begun = self.world, time.monotonic()
        world.harm.end_outages(all_of_them=True)
        for name in sorted(world.model.away):
            give_back(world, name)
        eventually(lambda: look(world), "the tenant's change to be complete", seconds=SETTLE)
        lost = any(world.harm.lost.iterdir())
        limit = COLLECT if lost else SETTLE
        found = settled(world.harm.lab.name, world.model.expected(), seconds=limit, tell=self._different)
        assert not found, "\n".join([f"{len(found)} differences", *found])
        for marker in world.harm.lost.iterdir():
            marker.unlink()
        self.reckonings.append(time.monotonic() - begun)
        self._tell(f"all is as it should be after {self.reckonings[-1]:.1f} s: {len(world.model.pods)} pods")
        self._matrix()

    def _different(self, found: list[str]) -> None:
        """What is left to be done on the way: each kind once a reckoning, as it tells what takes long."""
        kinds = sorted({text[:70] for text in found})
        self._tell(f"  {len(found)} differences: {'; '.join(kinds[:4])}")

    def _matrix(self) -> None:
        """Real packets, as the oracle says."""
        with truth(self.world.harm.lab) as known:
            pairs = known.pairs(known.vnis())
            if len(pairs) > MOST_PAIRS:
                pairs = random.Random(f"{self.seed}/{len(self.told)}/pairs").sample(pairs, MOST_PAIRS)
            wrong = known.differences(pairs)
        assert not wrong, "\n".join([f"{len(wrong)} of {len(pairs)} pairs", *wrong[:20]])
        self._tell(f"matrix: {len(pairs)} pairs as the oracle says")


@contextmanager
def soaking(lab: Lab, seed: int, *, hosts: tuple[str, ...] = ()) -> Iterator[Soak]:
    """A run in a lab, with these external hosts added; whoever made the lab takes it down, with all that is in it."""
    for name in hosts:
        lab.lab("add-host", name, "--with-kubernetes", timeout=90)
    cluster = load_cluster(DEFAULT_BASE, lab.name)
    with forgetful_runtime(cluster) as lost:
        harm = Harm(lab, lost)
        world = World(
            Model({node.name: node.ip for node in cluster.nodes}),
            Api(cluster.loopback_api, harm.end_outages),
            Records(lab, harm.end_outages),
            harm,
        )
        world.model.hosts.update({host.name: host.ip for host in cluster.hosts})
        first = random.Random(seed)
        for _ in range(3):
            make_namespace(world, first)
        with steady(world) as traffic:
            yield Soak(world, seed, traffic)


def until(seconds: float) -> Callable[[], bool]:
    """Whether there is time left."""
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() < deadline
