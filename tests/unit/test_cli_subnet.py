"""`k8s-ovs subnet …` on a store in memory: what is written, what is refused, what is waited for."""

import json
from typing import Any

import pytest

from fakes.cli import CommandLine, Ended
from fakes.tenants import TenantStore
from k8s_ovs.cli import session

LB = "192.0.2.50"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TenantStore:
    made = TenantStore()
    monkeypatch.setattr(session, "EtcdStore", made.open)
    return made


@pytest.fixture
def k8s_ovs(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


def answer(ended: Ended, code: int = 0) -> Any:
    assert ended.code == code, ended
    return json.loads(ended.out)


def external(subnet: str = "", host: str = "lb", **extra: object) -> dict[str, object]:
    return {f"subnets/{LB}": {"Host": host, "HostIP": LB, "Subnet": subnet, "Assign": True, **extra}}


def test_assign_writes_what_etcdctl_would(k8s_ovs: CommandLine, store: TenantStore) -> None:
    ended = k8s_ovs("subnet", "assign", "LB", LB)
    assert ended.code == 0
    assert "asked for; `k8s-ovs subnet list` shows the subnet" in ended.out
    assert store.read(f"subnets/{LB}") == external()[f"subnets/{LB}"]
    assert answer(k8s_ovs("subnet", "assign", "lb", LB, "-o", "json"))["subnet"] is None
    assert len(store.requests) == 1


def test_wait_until_the_controller_has_given_it(k8s_ovs: CommandLine, store: TenantStore) -> None:
    store.script = [external(), external(Note="theirs"), external("172.11.12.0/22")]
    ended = k8s_ovs("subnet", "assign", "lb", LB, "--wait")
    assert ended.code == 0
    assert "has 172.11.12.0/22: run `k8s-ovs agent --external --hostname lb` there" in ended.out
    found = answer(k8s_ovs("subnet", "assign", "lb", LB, "--wait", "-o", "json"))
    assert found["subnet"] == "172.11.12.0/22"


def test_wait_gives_up_in_time_or_when_the_record_is_gone(k8s_ovs: CommandLine, store: TenantStore) -> None:
    ended = k8s_ovs("subnet", "assign", "lb", LB, "--wait", "--timeout=0.05")
    assert ended.code == 3
    assert "no subnet yet; the request stays: see that a controller runs" in ended.out
    store.script = [{f"subnets/{LB}": None}]
    ended = k8s_ovs("subnet", "assign", "lb", LB, "--wait")
    assert (ended.code, ended.out) == (1, "")
    assert "somebody has removed or replaced it meanwhile: ask again" in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lb", "192.0.2"), "IP: "),
        (("lb", "172.11.200.5"), "the address is inside Network 172.11.0.0/16: give the address that the"),
        (("lb", "10.96.3.4"), "the address is inside ServiceNetwork 10.96.0.0/12"),
        (("lb", "127.0.0.1"), "no host can be reached at this address"),
        (("lb", "224.0.0.9"), "no host can be reached at this address"),
        (("lb", "192.0.2.1"), "the address has the record of the node node1: give the external host's own"),
        (
            ("other", "192.0.2.60"),
            "external host other at 192.0.2.60: an external host at 192.0.2.61 has this",
        ),
        (("node2", LB), "external host node2 at 192.0.2.50: a node at 192.0.2.2 has this name"),
        (("lb", "192.0.2.61"), "the address has the record of the external host other: give another address"),
        (("lb", "192.0.2.62"), "its record is there, and cannot be read: "),
        (("a b", LB), "HOST is 'a b': give the name that"),
    ],
)
def test_what_can_be_seen_to_be_wrong_is_refused(
    k8s_ovs: CommandLine, store: TenantStore, words: tuple[str, str], said: str
) -> None:
    other = {"Host": "other", "HostIP": "192.0.2.61", "Subnet": "", "Assign": True}
    store.play({"subnets/192.0.2.61": other, "subnets/192.0.2.62": "{"})
    before = store.raw()
    ended = k8s_ovs("subnet", "assign", *words)
    assert (ended.code, ended.out) == (2, ""), ended
    assert said in ended.err
    assert store.raw() == before


def test_of_two_who_assign_one_address_one_is_told(k8s_ovs: CommandLine, store: TenantStore) -> None:
    store.before_commit = lambda: store.play(external(host="theirs"))
    ended = k8s_ovs("subnet", "assign", "lb", LB)
    assert ended.code == 2
    assert "the address has the record of the external host theirs" in ended.err
    assert store.read(f"subnets/{LB}")["Host"] == "theirs"


def test_list_shows_nodes_then_external_hosts_then_what_cannot_be_read(
    k8s_ovs: CommandLine, store: TenantStore
) -> None:
    store.play({**external("172.11.12.0/22"), "subnets/192.0.2.62": "{"})
    lines = k8s_ovs("subnet", "list").out.splitlines()
    assert lines[:5] == [
        "HOST   IP          SUBNET          KIND      AGENT",
        "node1  192.0.2.1   172.11.0.0/22   node      live",
        "node2  192.0.2.2   172.11.4.0/22   node      live",
        "node3  192.0.2.3   172.11.8.0/22   node      -",
        "lb     192.0.2.50  172.11.12.0/22  external  -",
    ]
    assert lines[6] == "MALFORMED RECORDS"
    rows = answer(k8s_ovs("subnet", "list", "-o", "json"))
    assert rows[3] == {
        "host": "lb",
        "hostIP": LB,
        "subnet": "172.11.12.0/22",
        "external": True,
        "agent": False,
    }
    assert "192.0.2.62" in rows[4]["error"]


@pytest.mark.parametrize("named", ["lb", "LB", LB])
def test_release_by_name_or_address(k8s_ovs: CommandLine, store: TenantStore, named: str) -> None:
    store.play(external("172.11.12.0/22"))
    ended = k8s_ovs("subnet", "release", named)
    assert (ended.code, ended.out) == (0, f"released 172.11.12.0/22 of lb ({LB})\n")
    assert f"{store.keys.root}subnets/{LB}" not in store.raw()
    again = k8s_ovs("subnet", "release", named)
    assert again.code == 2
    assert "has a subnet: `k8s-ovs subnet list` shows all" in again.err


def test_a_nodes_subnet_is_released_only_by_force(k8s_ovs: CommandLine, store: TenantStore) -> None:
    ended = k8s_ovs("subnet", "release", "node1")
    assert ended.code == 2
    assert "172.11.0.0/22 is the subnet of the Node node1: its pods would lose their network" in ended.err
    assert "delete the Node to release it, or give --force" in ended.err
    assert k8s_ovs("subnet", "release", "node1", "--force").code == 0
    assert f"{store.keys.root}subnets/192.0.2.1" not in store.raw()


def test_a_name_that_two_have_is_not_enough(k8s_ovs: CommandLine, store: TenantStore) -> None:
    store.play(external(host="node1"))
    ended = k8s_ovs("subnet", "release", "node1")
    assert ended.code == 2
    assert f"2 hosts are called node1: give the address: 192.0.2.1, {LB}" in ended.err


def test_a_record_that_nobody_can_read_is_released_only_by_force(
    k8s_ovs: CommandLine, store: TenantStore
) -> None:
    store.play({f"subnets/{LB}": "{"})
    assert "it may be a Node's: correct it, or remove it with --force" in k8s_ovs("subnet", "release", LB).err
    assert k8s_ovs("subnet", "release", LB, "--force").code == 0
    assert f"{store.keys.root}subnets/{LB}" not in store.raw()
