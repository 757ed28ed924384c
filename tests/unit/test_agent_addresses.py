"""Which addresses are given out: in rotation, never one that is taken, and none before nothing is known of it any more."""

import asyncio
from collections.abc import Set
from ipaddress import IPv4Address, IPv4Network

import pytest

from fakes.dataplane import FakeFlowTable, FakeHostNetwork
from fakes.virtual_time import virtual_time
from k8s_ovs.agent.addresses import AddressBook
from k8s_ovs.agent.traces import RETRY_FIRST, AddressCleaner, Traces
from k8s_ovs.errors import ExhaustedError, LinkError, OpenFlowError

SUBNET = IPv4Network("172.11.4.0/22")
SMALL = IPv4Network("172.11.4.0/29")
GATEWAY = IPv4Address("172.11.4.1")


class Records:
    """Leases, and which addresses were cleaned when."""

    def __init__(self) -> None:
        self.leased: list[IPv4Address] = []
        self.cleaned: list[Set[IPv4Address]] = []
        self.failure: OpenFlowError | None = None
        self.cleaner = AddressCleaner(self.forget)
        self.book = AddressBook(lambda: self.leased, self.cleaner)

    async def forget(self, addresses: Set[IPv4Address]) -> None:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.cleaned.append(addresses)

    async def all_clean(self, subnet: IPv4Network = SUBNET) -> AddressBook:
        """The book when everything that was free at its start has been cleaned."""
        self.book.look(subnet, GATEWAY)
        await self.cleaner.clean()
        return self.book


async def test_taken_addresses_are_kept_until_the_block_ends() -> None:
    records = Records()
    book = await records.all_clean()
    with book.take(SUBNET, GATEWAY) as first, book.take(SUBNET, GATEWAY) as second:
        assert (str(first), str(second)) == ("172.11.4.2", "172.11.4.3")
        assert book.reserved == {first, second}
        records.leased.append(first)
    assert book.reserved == frozenset()
    with book.take(SUBNET, GATEWAY) as third:
        assert str(third) == "172.11.4.4", "rotation: not the one that was just freed"


async def test_a_failed_block_frees_the_address_and_exhaustion_counts_reservations() -> None:
    book = await Records().all_clean()
    with pytest.raises(ValueError, match="undo"), book.take(SUBNET, GATEWAY):
        raise ValueError("undo")
    tiny = IPv4Network("172.11.4.0/30")
    await book.prepare(tiny, GATEWAY)
    with book.take(tiny, GATEWAY), pytest.raises(ExhaustedError), book.take(tiny, GATEWAY):
        pass
    assert book.reserved == frozenset()


async def test_a_kept_address_is_not_given_to_others() -> None:
    book = await Records().all_clean()
    with book.keep(IPv4Address("172.11.4.2")), book.take(SUBNET, GATEWAY) as address:
        assert str(address) == "172.11.4.3"


async def test_after_a_restart_the_rotation_goes_on_behind_the_leases() -> None:
    records = Records()
    records.leased = [IPv4Address("172.11.4.4"), IPv4Address("172.11.8.6")]
    book = await records.all_clean()
    with book.take(SUBNET, GATEWAY) as address:
        assert str(address) == "172.11.4.5"


# -- no address is given again before it is clean --------------------------------------------------------------------


async def test_at_start_every_free_address_is_cleaned_and_no_leased_one() -> None:
    records = Records()
    records.leased = [IPv4Address("172.11.4.4")]
    await records.book.prepare(SUBNET, GATEWAY)
    assert len(records.cleaned) == 1
    assert len(records.cleaned[0]) == 1022 - 2  # the gateway and the leased one
    assert not records.cleaned[0] & {GATEWAY, *records.leased}
    await records.book.prepare(SUBNET, GATEWAY)
    assert len(records.cleaned) == 1


async def test_an_address_whose_lease_is_gone_is_given_again_only_when_clean() -> None:
    """However it went: by DEL, or a row that somebody removed."""
    records = Records()
    book = await records.all_clean(SMALL)
    for _ in range(5):
        with book.take(SMALL, GATEWAY) as address:
            records.leased.append(address)
    del records.cleaned[:]
    gone = records.leased.pop(2)
    book.freed()
    records.failure = OpenFlowError("no answer")
    with pytest.raises(OpenFlowError):
        await book.prepare(SMALL, GATEWAY)
    with pytest.raises(ExhaustedError), book.take(SMALL, GATEWAY):
        pass
    records.failure = None
    await book.prepare(SMALL, GATEWAY)
    assert records.cleaned == [{gone}]
    with book.take(SMALL, GATEWAY) as address:
        assert address == gone


async def test_an_address_that_its_pod_keeps_is_not_cleaned() -> None:
    records = Records()
    book = await records.all_clean()
    with book.take(SUBNET, GATEWAY) as address:
        records.leased.append(address)
    with book.keep(address):
        records.leased.clear()
        book.freed()
        records.leased.append(address)
    assert records.cleaner.dirty == frozenset()
    with book.keep(address):
        records.leased.clear()
    assert records.cleaner.dirty == {address}


@virtual_time
async def test_the_cleaner_shares_its_work_rests_and_tries_again() -> None:
    records = Records()
    loop = asyncio.get_running_loop()
    a, b, c = (IPv4Address("172.11.4.10") + number for number in range(3))
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(records.cleaner.run(), name="cleaner")
        records.failure = OpenFlowError("no answer")
        records.cleaner.note([a])
        await asyncio.sleep(0.1)
        records.cleaner.note([b, c])
        records.cleaner.note([c])
        assert records.cleaner.dirty == {a, b, c}
        records.failure = None
        begun = loop.time()
        while records.cleaner.dirty:
            await asyncio.sleep(0.01)
        assert loop.time() - begun < RETRY_FIRST
        assert records.cleaned == [{a, b, c}]
        running.cancel()


async def test_a_kernel_that_cannot_forget_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    flows, host = FakeFlowTable(), FakeHostNetwork()
    traces = Traces(flows, host)
    host.fail_next("forget_addresses", LinkError("Protocol not supported"), times=2)
    for number in range(3):
        await traces.forget({IPv4Address("172.11.4.2") + number})
    assert caplog.text.count("Protocol not supported") == 1
    assert len(flows.forgotten_addresses) == 3
    assert host.forgotten == {IPv4Address("172.11.4.4")}
