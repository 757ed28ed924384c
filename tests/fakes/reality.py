"""A lab compared in full with what it should be: records, switches, kernels, processes.

    assert differences(lab.name) == []              # nothing may be under way; `settled` waits for that
    assert settled(lab.name, expected) == []

For end-to-end tests that do harm, and ask afterwards whether anything was lost, leaked or left. The records are what the
API, etcd and OVSDB say; what follows from them is computed by the product's pure code (`reality_switch`) and compared
with real switches and kernels. With `expected`, the records are compared with what somebody has done.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from fakes import reality_host, reality_records, reality_switch
from fakes.reality_known import Known, read
from fakes.reality_records import GLOBAL, Expected, ExpectedPod, ExpectedService
from k8s_ovs.errors import K8sOvsError
from k8s_ovs.lab.cluster import Node

__all__ = ["GLOBAL", "Expected", "ExpectedPod", "ExpectedService", "differences", "settled"]

Check = Callable[[Known, Node], Iterator[str]]


def differences(lab: str, expected: Expected | None = None, *, connections: bool = False) -> list[str]:
    """What is not as it should be in the lab of this name, in words; empty if all is.

    With `connections`, what the switches track of addresses that nobody has counts too. A part that cannot be asked is a
    difference.
    """
    try:
        known = read(lab)
        found = list(reality_records.differences(known))
        if expected is not None:
            found += reality_records.unexpected(known, expected)
        checks: list[Check] = [reality_switch.differences, reality_host.differences]
        checks += [reality_host.connections] if connections else []
        found += _everywhere(known, checks)
        found += reality_host.processes(known)
    except (K8sOvsError, OSError, TimeoutError) as err:
        return [f"not known: {err!r}"]
    return found


def _everywhere(known: Known, checks: Iterable[Check]) -> list[str]:
    members = known.cluster.members

    def look(member: Node) -> list[str]:
        found = chain.from_iterable(check(known, member) for check in checks)
        return [f"{member.name}: {text}" for text in found]

    with ThreadPoolExecutor(len(members), thread_name_prefix="reality") as pool:
        return list(chain.from_iterable(pool.map(look, members)))


def settled(
    lab: str,
    expected: Expected | None = None,
    *,
    seconds: float = 45.0,
    connections: bool = False,
    tell: Callable[[list[str]], None] = lambda found: None,
) -> list[str]:
    """Wait until there is no difference; what is left of them after so many seconds. `tell` hears of all on the way."""
    deadline = time.monotonic() + seconds
    while found := differences(lab, expected, connections=connections):
        tell(found)
        if time.monotonic() > deadline:
            return found
        time.sleep(1)  # a look costs a second of one processor
    return []
