"""All parts of the dataplane at once: two pods and their host exchange TCP through a switch that was made by them."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fakes.dataplane import running
from fakes.dataplane_examples import address, attachment, flow, gateway_spec, pod_link
from fakes.private_ovs import PrivateOvs, netns_path, network_namespace
from k8s_ovs.dataplane.bridge import BridgeSpec
from k8s_ovs.dataplane.hostnet import NetlinkHostNetwork
from k8s_ovs.dataplane.links import NetlinkPodLinks
from k8s_ovs.dataplane.netns import call_in
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.dataplane.ovsdb import OvsdbSwitch

MEGABYTE = bytes(1 << 20)


@pytest.fixture
def pods() -> Iterator[list[str]]:
    with ExitStack() as stack:
        yield [netns_path(stack.enter_context(network_namespace("k8p"))) for _ in range(2)]


def transfer(server_netns: str, server_address: str, client_netns: str) -> tuple[int, str]:
    """Send a megabyte by TCP; how much arrived, and from which address."""
    with call_in(server_netns, socket.socket) as server:
        server.settimeout(20)
        server.bind((server_address, 8080))
        server.listen()
        with call_in(client_netns, socket.socket) as client:
            client.settimeout(20)

            def send() -> None:
                client.connect((server_address, 8080))
                client.sendall(MEGABYTE)
                client.shutdown(socket.SHUT_WR)

            sender = threading.Thread(target=send)
            sender.start()
            connection, (source, _) = server.accept()
            with connection:
                connection.settimeout(20)
                received = 0
                while octets := connection.recv(1 << 16):
                    received += len(octets)
            sender.join()
    return received, source


async def test_pods_and_host_talk_and_nothing_stays(ovs: PrivateOvs, pods: list[str]) -> None:
    host = netns_path(ovs.netns)
    links, network = NetlinkPodLinks(netns=host), NetlinkHostNetwork(netns=host)
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        await network.ensure_gateway(gateway_spec())
        await OfctlFlowTable(ovs.mgmt()).replace([flow("table=0,priority=0,actions=normal")])

        async def attach(number: int) -> None:
            await links.create(pod_link(number, pods[number]))
            await switch.add_port(attachment(number, pods[number]))

        await asyncio.gather(*(attach(number) for number in range(2)))
        first, second = (str(address(number)) for number in range(2))
        gateway = str(gateway_spec().address)
        assert await asyncio.to_thread(transfer, pods[1], second, pods[0]) == (len(MEGABYTE), first)
        assert await asyncio.to_thread(transfer, pods[0], first, host) == (len(MEGABYTE), gateway)
        assert await asyncio.to_thread(transfer, host, gateway, pods[1]) == (len(MEGABYTE), second)

        async def detach(number: int) -> None:
            await switch.remove_port(attachment(number).key)
            await links.delete(attachment(number).host_ifname)

        await asyncio.gather(*(detach(number) for number in range(2)))
        assert switch.attachments() == []
        assert await links.leftovers() == []
        await switch.remove_bridge("br0")
        assert not (ovs.rundir / "br0.mgmt").exists()
