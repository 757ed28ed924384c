"""Cuts the writes of a plan into transactions that the store accepts. Pure; called by the planners.

Writes that depend on each other stay together: a record that moves must not be missing, not even between two
transactions, or its subnet could be given away.
"""

from collections.abc import Hashable, Mapping
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Writes = dict[K, V | None]
"""What each key is to hold; None: the key is to go."""


def next_batch(writes: Mapping[K, V | None], moves: Mapping[K, K], limit: int) -> Writes[K, V]:
    """At most `limit` of `writes`; `moves` maps the key that a record leaves to the key that it goes to.

    Of moves that need each other (each to the key that the next one leaves) all or the last ones are taken;
    only a ring of them that is longer than `limit` comes out whole, because no part of it can go first.
    Deletions come last.
    """
    batch: Writes[K, V] = {}
    moving = moves.keys() | set(moves.values())
    alone = [key for key in writes if key not in moving]
    for chain in _chains(moves):
        part = _fitting(chain, writes, limit - len(batch), whole=not batch)
        batch.update(part)
    for key in sorted(alone, key=lambda key: writes[key] is None):  # stable: the caller's order otherwise
        if len(batch) >= limit:
            break
        batch[key] = writes[key]
    return batch


def _chains(moves: Mapping[K, K]) -> list[list[K]]:
    """The keys of moves that follow one another, in the order of the moves; rings come last and closed."""
    chains = []
    seen: set[K] = set()
    targets = set(moves.values())
    starts = [key for key in moves if key not in targets]
    for start in [*starts, *moves]:
        if start in seen:
            continue
        chain = [start]
        while chain[-1] in moves and chain[-1] not in seen:
            seen.add(chain[-1])
            chain.append(moves[chain[-1]])
        chains.append(chain)
    return chains


def _fitting(chain: list[K], writes: Mapping[K, V | None], room: int, *, whole: bool) -> Writes[K, V]:
    """What of a chain fits into `room`: all of it, or its last moves and the end of the key they leave."""
    ring = chain[0] == chain[-1]
    keys = chain[:-1] if ring else chain
    if len(keys) <= room or (ring and whole):
        return {key: writes[key] for key in keys}
    if ring or room < 2:
        return {}
    # The first key of the part is left by its record, and the move to it comes in a later transaction.
    first, *rest = keys[-room:]
    return {first: None, **{key: writes[key] for key in rest}}
