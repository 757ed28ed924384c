"""`forget` with a real UDP connection, which the switch translates."""

import asyncio
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from fakes.dataplane_examples import flow, mod
from fakes.dataplane_wire import Host, wired_bridge
from fakes.private_ovs import PrivateOvs, until
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.flows.fields import CT_ZONES
from k8s_ovs.flows.names import StageId, cookie_of

SERVICE = ("198.51.100.1", 53)
ENDPOINT = IPv4Address("192.0.2.2")
OLD, NEW = 1009, 1010
UDP = socket.IPPROTO_UDP
MANY = 300


def to_endpoint(port: int, zone: int) -> str:
    return f"table=62,priority=9,udp,ct_state=+new,actions=ct(commit,zone={zone},nat(dst={ENDPOINT}:{port}),table=70)"


def pipeline(zone: int) -> list[str]:
    return [
        f"table=0,priority=9,udp,nw_dst={SERVICE[0]},actions=ct(zone={zone},nat,table=62)",
        f"table=0,priority=8,udp,nw_src={ENDPOINT},actions=ct(zone={zone},nat,table=70)",
        "table=62,priority=1,udp,actions=goto_table:70",
        to_endpoint(OLD, zone),
        "table=70,udp,nw_dst=192.0.2.1,actions=output:1",
        "table=70,udp,nw_dst=192.0.2.2,actions=output:2",
    ]


@pytest.fixture
def hosts(ovs: PrivateOvs) -> Iterator[tuple[Host, Host]]:
    with wired_bridge(ovs) as made:
        yield made


def ask(client: socket.socket, endpoint: socket.socket) -> bool:
    """The client's datagram reaches this endpoint, and the answer comes from the Service."""
    client.sendto(b"question", SERVICE)
    question, sender = endpoint.recvfrom(64)
    endpoint.sendto(b"answer", sender)
    return (question, client.recvfrom(64)) == (b"question", (b"answer", SERVICE))


OTHERS = [(IPv4Address("192.0.2.77") + number, UDP, 5) for number in range(3)]


@pytest.mark.parametrize("others", [OTHERS[:1], OTHERS])
@pytest.mark.parametrize("zone", CT_ZONES.values())
async def test_a_client_that_goes_on_sending_comes_to_another_endpoint(
    ovs: PrivateOvs, hosts: tuple[Host, Host], zone: int, others: list[tuple[IPv4Address, int, int]]
) -> None:
    """Also if so many are to be forgotten that the switch is asked first what there is."""
    table = OfctlFlowTable(ovs.mgmt())
    await table.replace(map(flow, pipeline(zone)))
    client, server = hosts
    with client.udp() as first, client.udp() as second, server.udp(OLD) as old, server.udp(NEW) as new:
        assert ask(first, old)
        await table.commit([mod(f"add {to_endpoint(NEW, zone)}")])
        await table.settle()  # until then the switch may go on with what it has cached
        assert ask(first, old), "an established connection stays"
        assert ask(second, new)
        before = ovs.appctl("dpctl/dump-conntrack", f"zone={zone}")
        await table.forget([(ENDPOINT, UDP, OLD), *others])
        assert ask(first, new)
        after = ovs.appctl("dpctl/dump-conntrack", f"zone={zone}")
        mine = f"sport={second.getsockname()[1]}"
        assert [line for line in before.splitlines() if mine in line] == [
            line for line in after.splitlines() if mine in line
        ], "the other connection is the same"


def tracked(ovs: PrivateOvs, text: str) -> int:
    """How many connections have this in their description."""
    return sum(text in line for line in ovs.appctl("dpctl/dump-conntrack").splitlines())


def connections(host: Host, count: int) -> None:
    """Datagrams from so many ports of the host to the Service."""
    for port in range(20_000, 20_000 + count):
        with host.udp(port) as client:
            client.sendto(b"question", SERVICE)


async def test_of_many_clients_none_is_passed_over(ovs: PrivateOvs, hosts: tuple[Host, Host]) -> None:
    """The switch's own way through them misses about half each time."""
    table = OfctlFlowTable(ovs.mgmt())
    await table.replace(map(flow, pipeline(1)))
    await asyncio.to_thread(connections, hosts[0], MANY)
    until(lambda: tracked(ovs, f"src={ENDPOINT}") == MANY, "all connections")
    await table.forget([(ENDPOINT, UDP, OLD)])
    assert tracked(ovs, "src=") == 0


@pytest.mark.parametrize(
    ("zone", "which", "others"),
    [(CT_ZONES["hairpin"], "client", 0), (CT_ZONES["service"], "endpoint", 1020)],
)
async def test_an_address_keeps_no_connection(
    ovs: PrivateOvs, hosts: tuple[Host, Host], zone: int, which: str, others: int
) -> None:
    """Neither those that it began nor those that it answers; what has nothing to do with it stays."""
    table = OfctlFlowTable(ovs.mgmt())
    await table.replace(map(flow, pipeline(zone)))
    await asyncio.to_thread(connections, hosts[0], MANY)
    until(lambda: tracked(ovs, f"src={ENDPOINT}") == MANY, "all connections")
    unused = {IPv4Address("192.0.3.0") + number for number in range(1 + others)}
    await table.forget_addresses(unused)
    assert tracked(ovs, "src=") == MANY
    await table.forget_addresses(unused | {IPv4Address(hosts[0].address) if which == "client" else ENDPOINT})
    assert tracked(ovs, "src=") == 0


async def test_what_was_learned_of_an_address_goes_with_it(ovs: PrivateOvs, hosts: tuple[Host, Host]) -> None:
    """Session affinity, of clients and of endpoints."""
    del hosts
    table = OfctlFlowTable(ovs.mgmt())
    cookie = f"cookie={cookie_of(StageId.AFFINITY):#x}"
    learned = {
        ("192.0.2.1", "192.0.2.2"),
        ("192.0.2.1", "192.0.2.20"),
        ("192.0.2.11", "192.0.2.2"),
        ("192.0.2.11", "192.0.2.20"),
    }
    for client, endpoint in learned:
        match = f"udp,nw_src={client},nw_dst=198.51.100.{endpoint.rpartition('.')[2]},tp_dst=53"
        loads = f"load:{int(IPv4Address(endpoint)):#x}->NXM_NX_REG5[],load:0x1->NXM_NX_REG6[]"
        text = f"{cookie},table=63,priority=200,hard_timeout=900,{match},actions={loads}"
        ovs.ofctl("add-flow", ovs.mgmt(), text)
    await table.replace([flow(f"{cookie},table=66,priority=9,ip,nw_src=192.0.2.1,actions=drop")])
    await table.forget_addresses({IPv4Address("192.0.2.1"), IPv4Address("192.0.2.20")})
    flows = [each for each in await table.dump() if each.table == 63]
    assert [each.match for each in flows] == ["udp,nw_src=192.0.2.11,nw_dst=198.51.100.2,tp_dst=53"]
    assert len(await table.dump()) == 2


async def test_with_datapaths_of_two_types(ovs: PrivateOvs) -> None:
    """ovs-vswitchd 3.1 then understands no tuple; ovs-ofctl says which bridge is meant."""
    ovs.kill_vswitchd()
    ovs.vswitchd = ovs._spawn("ovs-vswitchd", "--enable-dummy", ovs.remote)
    ovs.vsctl("add-br", "other", "--", "set", "bridge", "other", "datapath_type=dummy")
    with wired_bridge(ovs) as (client, server):
        table = OfctlFlowTable(ovs.mgmt())
        await table.replace(map(flow, pipeline(1)))
        with client.udp() as first, server.udp(OLD) as old, server.udp(NEW) as new:
            assert ask(first, old)
            await table.commit([mod(f"add {to_endpoint(NEW, 1)}")])
            await table.forget([(ENDPOINT, UDP, OLD)])
            assert ask(first, new)


async def test_no_switch(tmp_path: Path) -> None:
    table = OfctlFlowTable(f"unix:{tmp_path}/br0.mgmt")
    await table.forget([])
    await table.forget_addresses(set())
    with pytest.raises(
        OpenFlowError, match=r"forgetting the connections of \d .*No such file.*check that ovs-vswitchd"
    ):
        await table.forget([(ENDPOINT, UDP, OLD)])
