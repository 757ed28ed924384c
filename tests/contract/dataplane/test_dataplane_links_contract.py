"""What `bridge.PodLinks` promises, held by the fake and by the kernel."""

import asyncio
import errno
from dataclasses import replace

import pytest

from fakes.dataplane import FakePodLinks
from fakes.dataplane_examples import address, pod_link
from fakes.private_ovs import netns_path, run
from k8s_ovs.dataplane.bridge import PodLink, PodLinks
from k8s_ovs.dataplane.links import NetlinkPodLinks
from k8s_ovs.errors import LinkError
from k8s_ovs.model.types import mac_of


@pytest.fixture
def links(kind: str, host: str, pod: str) -> PodLinks:
    return FakePodLinks({netns_path(pod)}) if kind == "fake" else NetlinkPodLinks(netns=netns_path(host))


@pytest.fixture
def link(pod: str) -> PodLink:
    return pod_link(1, netns_path(pod))


def occupy(links: PodLinks, pod: str) -> None:
    """Another plugin has made eth0 in the pod."""
    if isinstance(links, FakePodLinks):
        links.foreign.add((netns_path(pod), "eth0"))
    else:
        run("ip", "-n", pod, "link", "add", "eth0", "type", "veth")


async def test_a_link_is_made_checked_and_deleted(links: PodLinks, link: PodLink) -> None:
    await links.create(link)
    await links.check(link)
    assert await links.leftovers() == [link.host_ifname]
    for _ in range(2):
        await links.delete(link.host_ifname)
        assert await links.leftovers() == []


async def test_making_it_again_keeps_it(links: PodLinks, link: PodLink) -> None:
    for _ in range(2):
        await links.create(link)
        await links.check(link)
    assert await links.leftovers() == [link.host_ifname]


async def test_making_it_with_another_address_corrects_it(links: PodLinks, link: PodLink) -> None:
    await links.create(link)
    other = replace(link, address=address(5), mac=mac_of(address(5)), mtu=1400)
    with pytest.raises(LinkError):
        await links.check(other)
    await links.create(other)
    await links.check(other)
    with pytest.raises(LinkError):
        await links.check(link)


async def test_no_namespace(links: PodLinks, link: PodLink) -> None:
    with pytest.raises(LinkError, match="/run/netns/nowhere") as caught:
        await links.create(replace(link, netns="/run/netns/nowhere"))
    assert caught.value.errno == errno.ENOENT
    assert await links.leftovers() == []


async def test_an_interface_of_others_is_not_touched(links: PodLinks, link: PodLink, pod: str) -> None:
    occupy(links, pod)
    with pytest.raises(LinkError, match="another interface eth0") as caught:
        await links.create(link)
    assert caught.value.errno == errno.EEXIST
    assert await links.leftovers() == []


async def test_what_is_missing_is_named(links: PodLinks, link: PodLink) -> None:
    with pytest.raises(LinkError, match=f"{link.host_ifname}: does not exist"):
        await links.check(link)


async def test_two_interfaces_in_one_pod(links: PodLinks, link: PodLink) -> None:
    second = replace(link, host_ifname="veth2", ifname="net1", address=address(2), mac=mac_of(address(2)))
    await asyncio.gather(links.create(link), links.create(second))
    assert sorted(await links.leftovers()) == sorted([link.host_ifname, "veth2"])
    await links.delete("veth2")
    assert await links.leftovers() == [link.host_ifname]


@pytest.mark.parametrize("egress", [1_000, 10_000_000, 40_000_000_000, 10**15])
async def test_a_link_is_born_with_its_shaper(links: PodLinks, link: PodLink, egress: int) -> None:
    limited = replace(link, egress=egress)
    await links.create(limited)
    await links.check(limited)
    with pytest.raises(LinkError):
        await links.check(link)


async def test_the_shaper_changes_while_the_link_stays(links: PodLinks, link: PodLink) -> None:
    await links.create(link)
    for egress in (10**6, 10**6, 10**9, None, None, 10**7):
        await links.shape(replace(link, egress=egress))
        await links.check(replace(link, egress=egress))
    with pytest.raises(LinkError):
        await links.check(link)


async def test_making_it_again_brings_the_shaper_up_to_date(links: PodLinks, link: PodLink) -> None:
    for egress in (10**6, 10**7, None):
        await links.create(replace(link, egress=egress))
        await links.check(replace(link, egress=egress))


async def test_no_link_no_shaper(links: PodLinks, link: PodLink) -> None:
    with pytest.raises(LinkError, match="does not exist"):
        await links.shape(replace(link, egress=10**6))


async def test_a_pair_is_vouched_for_until_that_is_taken_back_or_it_is_gone(
    links: PodLinks, link: PodLink
) -> None:
    await links.vouch(link.host_ifname, link.address)
    assert await links.vouched() == {}
    await links.create(link)
    assert await links.vouched() == {}
    await links.vouch(link.host_ifname, link.address)
    await links.create(replace(link, mtu=1400))
    assert await links.vouched() == {link.host_ifname: link.address}
    await links.vouch(link.host_ifname, None)
    assert await links.vouched() == {}
    await links.vouch(link.host_ifname, link.address)
    await links.delete(link.host_ifname)
    assert await links.vouched() == {}


async def test_a_host_end_that_somebody_set_down_is_set_up(links: PodLinks, link: PodLink, host: str) -> None:
    await links.create(link)
    await links.vouch(link.host_ifname, link.address)
    assert await links.keep_up() == ()
    if isinstance(links, FakePodLinks):
        links.down.add(link.host_ifname)
    else:
        run("ip", "-n", host, "link", "set", link.host_ifname, "down")
    (finding,) = await links.keep_up()
    assert str(finding) == f"1 link: {link.host_ifname}: was down"
    assert await links.keep_up() == ()
    await links.check(link)
