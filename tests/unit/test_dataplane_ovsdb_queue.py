"""Which edits share an OVSDB transaction: order per subject, exclusive ones alone, nothing lost."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ovs.db.idl import Transaction

from k8s_ovs.dataplane.ovsdb_client import MAX_BATCH, OvsdbClient, Replica


def nothing(replica: Replica, transaction: Transaction) -> None:
    del replica, transaction


def batches(subjects: list[int | None], cancelled: set[int] = frozenset()) -> list[list[str]]:
    """The batches that a queue of edits of these subjects is made into; an edit is called subject#position."""

    async def body() -> list[list[str]]:
        client = OvsdbClient(Path("/nowhere"), {}, lambda *_: None)
        for position, subject in enumerate(subjects):
            done = client.post(f"{subject}#{position}", subject, nothing)
            if position in cancelled:
                done.cancel()
        made: list[list[str]] = []
        while batch := client._next_batch():
            made.append([request.what for request in batch])
        return made

    return asyncio.run(body())


@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=30), st.sets(st.integers(0, 29)))
def test_order_and_sharing(subjects: list[int | None], cancelled: set[int]) -> None:
    made = batches(subjects, cancelled)
    names = [
        f"{subject}#{position}" for position, subject in enumerate(subjects) if position not in cancelled
    ]
    flat = [name for batch in made for name in batch]
    assert sorted(flat) == sorted(names)
    for batch in made:
        kinds = [name.partition("#")[0] for name in batch]
        assert len(set(kinds)) == len(kinds)
        assert "None" not in kinds or len(kinds) == 1
    for subject in {name.partition("#")[0] for name in names}:
        ours = [name for name in flat if name.partition("#")[0] == subject]
        assert ours == [name for name in names if name.partition("#")[0] == subject]
    for position, name in enumerate(flat):
        if name.startswith("None#"):
            number = int(name.partition("#")[2])
            before = {int(other.partition("#")[2]) for other in flat[:position]}
            assert before == {int(n.partition("#")[2]) for n in names if int(n.partition("#")[2]) < number}


def test_twenty_ports_are_one_transaction_and_a_flood_is_cut() -> None:
    assert len(batches(list(range(20)))) == 1
    assert [len(batch) for batch in batches(list(range(MAX_BATCH + 3)))] == [MAX_BATCH, 3]


async def test_nobody_waits_for_ever() -> None:
    client = OvsdbClient(Path("/nowhere"), {}, lambda *_: None)
    with pytest.raises(TimeoutError):
        await client.until(lambda: None, 0.01)
