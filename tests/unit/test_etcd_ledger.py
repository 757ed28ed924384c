from hypothesis import given
from hypothesis import strategies as st

from k8s_ovs.config import EXAMPLE, NetworkConfig
from k8s_ovs.errors import RecordError
from k8s_ovs.model.events import Event, HostSubnetSet, TenantGone, TenantSet
from k8s_ovs.model.types import Tenant, Vni
from k8s_ovs.sources.etcd.ledger import Decoder, Ledger
from k8s_ovs.sources.records import Keys, decode_tenant

KEYS = Keys("/p", "net")
RED, BLUE = KEYS.tenant("red"), KEYS.tenant("blue")

names = st.sampled_from(["a", "b", "c"])
values = st.sampled_from([b"malformed", 10, 11, None])
step = st.tuples(names, values)


def body(name: str, value: bytes | int | None) -> bytes | None:
    return b'{"Namespace":"%s","NetID":%d}' % (name.encode(), value) if isinstance(value, int) else value


def fresh() -> tuple[Ledger, dict[str, RecordError]]:
    problems: dict[str, RecordError] = {}
    return Ledger(KEYS, problems), problems


def follow(known: dict[str, Vni | None], events: list[Event]) -> None:
    """What somebody who hears the events believes; none of them may say what is believed already."""
    for event in events:
        if isinstance(event, TenantSet):
            known[event.tenant.name] = event.tenant.vni
        else:
            assert isinstance(event, TenantGone)
            assert event.name in known
            del known[event.name]


@given(st.lists(st.lists(step, max_size=4)), st.sets(st.integers(0, 30)))
def test_gaps_make_no_difference_in_the_end(batches: list[list[tuple[str, object]]], gaps: set[int]) -> None:
    """A listing in place of the changes leads to the same belief, except that malformed states leave more or less."""
    ledger, problems = fresh()
    known: dict[str, Vni | None] = {}
    exists: dict[str, bytes] = {}
    for number, batch in enumerate(batches):
        changes = [(KEYS.tenant(name), body(name, value)) for name, value in dict(batch).items()]
        for key, value in changes:
            exists.pop(key, None)
            exists.update({} if value is None else {key: value})
        if number in gaps:
            told = ledger.replace(exists)
            assert ledger.replace(exists) == []
        else:
            told = ledger.apply(changes)
        follow(known, told)
    good = {key: value for key, value in exists.items() if value != b"malformed"}
    assert set(problems) == exists.keys() - good.keys()
    assert {key: decode_tenant(key, value).vni for key, value in good.items()} == {
        KEYS.tenant(name): net_id for name, net_id in known.items() if KEYS.tenant(name) not in problems
    }
    assert all(KEYS.tenant(name) in exists for name in known)


def test_gone_comes_before_set_so_that_what_is_free_can_be_given_again() -> None:
    ledger, _ = fresh()
    ledger.replace({RED: b'{"Namespace":"red","NetID":10}'})
    assert ledger.replace({BLUE: b'{"Namespace":"blue","NetID":10}'}) == [
        TenantGone("red"),
        TenantSet(Tenant("blue", Vni(10))),
    ]


def test_a_record_that_was_malformed_for_a_while_is_not_told_again_by_a_listing() -> None:
    ledger, problems = fresh()
    good = b'{"Namespace":"red","NetID":10}'
    ledger.apply([(RED, good)])
    ledger.apply([(RED, b"[]")])
    assert list(problems) == [RED]
    assert ledger.replace({RED: good}) == []
    assert problems == {}


def test_a_host_subnet_written_again_as_it_was_is_told_with_its_new_revision() -> None:
    ledger, _ = fresh()
    key, value = KEYS.subnets + "192.0.2.1", b'{"Host":"a","HostIP":"192.0.2.1","Subnet":"172.11.4.0/22"}'
    told = [
        ledger.apply([(key, value)], 4),
        ledger.replace({key: value}, {key: 4}),
        ledger.replace({key: value}, {key: 6}),
    ]
    assert [[e.record.revision for e in events if isinstance(e, HostSubnetSet)] for events in told] == [
        [4],
        [],
        [6],
    ]


def test_other_keys_are_nothing_to_it() -> None:
    ledger, problems = fresh()
    assert ledger.apply([("/p/net/config", b"{"), ("/p/other/netnamespaces/red", None)]) == []
    assert problems == {}


def test_net_namespaces_have_no_events_but_stir() -> None:
    ledger, problems = fresh()
    key, good = KEYS.namespace("red"), b'{"NetName":"red","NetID":10}'
    assert (ledger.apply([(key, good)]), ledger.stirred) == ([], True)
    assert (ledger.replace({key: good}), ledger.stirred) == ([], False)
    assert (ledger.replace({key: b'{"NetName":"red"}'}), ledger.stirred) == ([], True)
    assert (ledger.replace({key: b"["}), ledger.stirred, list(problems)) == ([], True, [key])
    assert (ledger.replace({key: b"["}), ledger.stirred) == ([], False)
    assert (ledger.replace({}), ledger.stirred, problems) == ([], True, {})


def test_a_decoder_reads_a_value_once() -> None:
    config, decoder = NetworkConfig.from_json(EXAMPLE), Decoder(KEYS)
    entries = {RED: b'{"Namespace":"red","NetID":10}', BLUE: b"["}
    first = decoder.snapshot(1, config, entries.items())
    second = decoder.snapshot(2, config, entries.items())
    assert second.tenants["red"] is first.tenants["red"]
    assert second.problems[BLUE] is first.problems[BLUE]
    third = decoder.snapshot(3, config, {RED: b'{"Namespace":"red","NetID":11}'}.items())
    assert third.tenants == {"red": Tenant("red", Vni(11))}
    assert decoder.snapshot(4, config, {}.items()).tenants == {}


def test_what_a_restored_store_lacks_stays_and_what_compaction_hid_does_not() -> None:
    for restored, gone in ((True, []), (False, [TenantGone("red")])):
        ledger, _ = fresh()
        ledger.replace({RED: tenant("red", 10)})
        assert ledger.replace({}, restored=restored) == gone
        assert set(ledger.lost.records) == ({RED} if restored else set())
        assert ledger.replace({}) == [], "the new history was compacted: it stays lost"
        assert set(ledger.lost.records) == ({RED} if restored else set())


def test_a_lost_tenant_gives_way_to_another_with_its_vni_before_that_is_told() -> None:
    ledger, _ = fresh()
    ledger.replace({RED: tenant("red", 10)})
    assert ledger.replace({BLUE: tenant("blue", 10)}, restored=True) == [
        TenantGone("red"),
        TenantSet(Tenant("blue", Vni(10))),
    ]
    assert not ledger.lost.records


def test_joined_tenants_do_not_contradict_each_other() -> None:
    ledger, _ = fresh()
    ledger.replace({RED: tenant("red", 10), BLUE: tenant("blue", 10)})
    assert ledger.replace({BLUE: tenant("blue", 10)}, restored=True) == []
    assert ledger.apply([(BLUE, tenant("blue", 11))]) == [TenantSet(Tenant("blue", Vni(11)))]
    assert ledger.apply([(BLUE, tenant("blue", 10))]) == [TenantSet(Tenant("blue", Vni(10)))]
    assert list(ledger.lost.records) == [RED]


def test_lost_global_tenants_contradict_nobody() -> None:
    ledger, _ = fresh()
    ledger.replace({RED: tenant("red", 0)})
    assert ledger.replace({BLUE: tenant("blue", 0)}, restored=True) == [TenantSet(Tenant("blue", Vni(0)))]
    assert list(ledger.lost.records) == [RED]


lost_name = st.sampled_from(["a", "b", "c", "d"])
vni = st.sampled_from([10, 11, 12])
belief = st.dictionaries(lost_name, vni)


@given(belief, st.lists(st.tuples(belief, st.booleans()), max_size=6))
def test_whoever_hears_of_restored_stores_never_believes_two_strangers_to_be_one(
    first: dict[str, int], histories: list[tuple[dict[str, int], bool]]
) -> None:
    """Of two with one VNI, either both are written now, or they shared it when one of them was lost."""
    ledger, _ = fresh()
    known: dict[str, Vni | None] = {}
    shared: set[frozenset[str]] = set()
    written: dict[str, int] = {}
    for names, restored in [(first, False), *histories]:
        shared = {pair(a, b) for a in known for b in known if known[a] == known[b]}
        events = ledger.replace({KEYS.tenant(n): tenant(n, v) for n, v in names.items()}, restored=restored)
        follow(known, events)
        written = names
        assert names.items() <= known.items()
        for one in known.keys() - written.keys():
            for other in known.keys() - {one}:
                assert known[one] != known[other] or pair(one, other) in shared
        assert known.keys() - written.keys() == {record.name for record in ledger.lost.records.values()}


def pair(one: str, other: str) -> frozenset[str]:
    return frozenset((one, other))


def tenant(name: str, number: int) -> bytes:
    return b'{"Namespace":"%s","NetID":%d}' % (name.encode(), number)
