"""Two controllers that both believe they lead, on a real etcd, killed again and again: nothing is ever given twice."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

from fakes.daemon import Daemon, Launcher
from fakes.private_etcd import PrivateEtcd
from k8s_ovs.model.events import Event, HostSubnetGone, HostSubnetSet, TenantGone, TenantSet
from k8s_ovs.model.types import Vni
from k8s_ovs.sources.etcd.store import EtcdStore

NODES, NAMESPACES = 300, 1000
KILLS = 10
DEADLINE = 100.0
SCRIPT = str(Path(__file__).with_name("eager_controller.py"))


@dataclass
class Ledger:
    """Every assignment ever seen, and what was wrong with any of them."""

    subnets: dict[str, IPv4Network] = field(default_factory=dict)
    vnis: dict[str, Vni] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    _hosts: dict[IPv4Network, str] = field(default_factory=dict)
    _tenants: dict[Vni, str] = field(default_factory=dict)

    def take(self, batch: Sequence[Event]) -> None:
        for event in batch:
            match event:
                case HostSubnetSet(record):
                    subnet, host = record.subnet, record.host
                    assert subnet is not None
                    self._check(host, self._hosts.setdefault(subnet, host), f"{subnet} is of")
                    self._check(str(subnet), str(self.subnets.setdefault(host, subnet)), f"{host} has")
                case TenantSet(tenant):
                    vni, name = tenant.vni, tenant.name
                    self._check(name, self._tenants.setdefault(vni, name), f"VNI {vni} is of")
                    self._check(str(vni), str(self.vnis.setdefault(name, vni)), f"{name} has")
                case HostSubnetGone() | TenantGone():
                    self.wrong.append(f"deleted: {event}")

    def _check(self, new: str, known: str, what: str) -> None:
        if new != known:
            self.wrong.append(f"{what} {known}, and now {new}")

    @property
    def size(self) -> int:
        return len(self.subnets) + len(self.vnis)


async def test_two_leaders_killed_at_random_give_nothing_twice(
    etcd: PrivateEtcd, store: EtcdStore, launch: Launcher
) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    ledger = Ledger()
    total = NODES + NAMESPACES
    # A controller dies whenever the number of assignments passes one of these.
    moments = sorted(rng.sample(range(1, total), KILLS), reverse=True)

    def start() -> Daemon:
        return launch(SCRIPT, etcd.endpoint, str(rng.random()), str(NODES), str(NAMESPACES))

    rivals = [start(), start()]
    async with asyncio.timeout(DEADLINE):
        async for batch in store.watch():
            ledger.take(batch)
            while moments and ledger.size >= moments[-1]:
                moments.pop()
                victim = rng.randrange(2)
                rivals[victim].end()
                rivals[victim] = start()
            if ledger.size >= total:
                break
            assert any(rival.running for rival in rivals), rivals[0].log.read_text()[-2000:]
    for rival in rivals:
        rival.end()
    snapshot = await store.snapshot()
    assert ledger.wrong == []
    assert (len(snapshot.host_subnets), len(snapshot.net_namespaces)) == (NODES, NAMESPACES)
    assert len({record.subnet for record in snapshot.host_subnets.values()}) == NODES
    assert len({record.net_id for record in snapshot.net_namespaces.values()}) == NAMESPACES
    answered = {name: record.net_id for name, record in snapshot.net_namespaces.items()}
    assert {name: tenant.vni for name, tenant in snapshot.tenants.items()} == answered == ledger.vnis
    assert {record.host: record.subnet for record in snapshot.host_subnets.values()} == ledger.subnets
