"""The store of the embedded API: revisions, history, listeners, and the journal that survives kill -9."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s_ovs.errors import LabError
from k8s_ovs.lab.kubeapi.answers import ApiError
from k8s_ovs.lab.kubeapi.journal import Journal
from k8s_ovs.lab.kubeapi.resources import CONFIG_MAPS, PODS
from k8s_ovs.lab.kubeapi.store import Change, Entry, Store, Verb


def item(name: str, namespace: str = "red", **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "data": data}


def opened(path: Path) -> Store:
    store = Store(Journal(path))
    store.load()
    return store


def state(store: Store) -> list[tuple[tuple[str, str], int, bytes]]:
    return [(e.key, e.revision, e.raw) for e in store.entries(CONFIG_MAPS)]


def test_every_change_gets_the_next_revision_whatever_the_resource() -> None:
    store = Store()
    first = store.put(CONFIG_MAPS, item("a"))
    second = store.put(PODS, {"metadata": {"name": "p", "namespace": "red"}})
    gone = store.remove(CONFIG_MAPS, ("red", "a"))
    assert (first.revision, second.revision, gone.revision) == (2, 3, 4)
    assert first.obj["metadata"]["resourceVersion"] == "2"
    assert gone.obj["metadata"]["resourceVersion"] == "4"
    assert store.get(CONFIG_MAPS, ("red", "a")) is None


def test_entries_are_ordered_and_narrowed_to_a_namespace() -> None:
    store = Store()
    for namespace, name in (("red", "b"), ("blue", "z"), ("red", "a")):
        store.put(CONFIG_MAPS, item(name, namespace))
    assert [e.key for e in store.entries(CONFIG_MAPS)] == [("blue", "z"), ("red", "a"), ("red", "b")]
    assert [e.key[1] for e in store.entries(CONFIG_MAPS, "red")] == ["a", "b"]


def test_items_of_lists_lack_what_the_list_says_already() -> None:
    entry = Store().put(CONFIG_MAPS, item("a"))
    assert entry.raw.startswith(b'{"apiVersion":"v1","kind":"ConfigMap","metadata"')
    assert entry.item.startswith(b'{"metadata"')


def test_listeners_hear_their_resource_until_they_end_it() -> None:
    store = Store()
    heard: list[Change] = []
    end = store.subscribe(CONFIG_MAPS, heard.append)
    store.put(PODS, {"metadata": {"name": "p", "namespace": "red"}})
    store.put(CONFIG_MAPS, item("a"))
    store.put(CONFIG_MAPS, item("a", x="1"))
    store.remove(CONFIG_MAPS, ("red", "a"))
    end()
    store.put(CONFIG_MAPS, item("b"))
    assert [change.verb for change in heard] == [Verb.ADDED, Verb.MODIFIED, Verb.DELETED]
    assert heard[2].previous is not None
    assert heard[2].entry.obj["data"] == {"x": "1"}


def test_history_resumes_from_any_known_revision_and_refuses_older_and_future_ones() -> None:
    store = Store(history=3)
    for number in range(5):
        store.put(CONFIG_MAPS, item(f"m{number}"))
    assert [c.entry.revision for c in store.since(CONFIG_MAPS, 4)] == [5, 6]
    assert store.since(CONFIG_MAPS, 6) == []
    for revision in (1, 2, 7):
        with pytest.raises(ApiError) as caught:
            store.since(CONFIG_MAPS, revision)
        assert caught.value.code == 410


def test_forgetting_makes_every_older_revision_too_old() -> None:
    store = Store()
    store.put(CONFIG_MAPS, item("a"))
    store.put(CONFIG_MAPS, item("b"))
    store.forget()
    with pytest.raises(ApiError):
        store.since(CONFIG_MAPS, 2)
    assert store.since(CONFIG_MAPS, 3) == []


def test_a_restart_brings_back_objects_revision_and_recent_history(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    store = opened(path)
    store.put(CONFIG_MAPS, item("a"))
    store.put(CONFIG_MAPS, item("b"))
    store.remove(CONFIG_MAPS, ("red", "a"))
    before = state(store)  # no close: as after kill -9
    again = opened(path)
    assert state(again) == before
    assert again.revision == 4
    assert [c.verb for c in again.since(CONFIG_MAPS, 3)] == [Verb.DELETED]
    third = opened(path)  # compacted by the second
    assert state(third) == before
    assert third.revision == 4
    with pytest.raises(ApiError):
        third.since(CONFIG_MAPS, 3)


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    store = opened(path)
    store.put(CONFIG_MAPS, item("a"))
    before = state(store)
    with path.open("ab") as file:
        file.write(b'{"rv":3,"of":"configmaps","set":{"apiVer')
    again = opened(path)
    assert state(again) == before
    assert again.put(CONFIG_MAPS, item("c")).revision == 3
    assert len(state(opened(path))) == 2


@pytest.mark.parametrize(
    "text",
    [
        "nonsense\nmore\n",
        "[1]\n",
        '{"rv":3,"of":"gone","set":{}}\n',
        '{"rv":3,"of":"pods","del":["a","b"]}\n',
    ],
)
def test_a_file_that_is_no_journal_is_refused_with_a_remedy(tmp_path: Path, text: str) -> None:
    path = tmp_path / "journal"
    path.write_text(text)
    with pytest.raises(LabError, match="remove"):
        opened(path)


class _FullDisk(Journal):
    full = False

    def append(self, record: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().append(record)


def test_what_the_journal_refuses_has_not_happened(tmp_path: Path) -> None:
    journal = _FullDisk(tmp_path / "journal")
    store = Store(journal)
    store.load()
    store.put(CONFIG_MAPS, item("a"))
    heard: list[Change] = []
    store.subscribe(CONFIG_MAPS, heard.append)
    journal.full = True
    with pytest.raises(ApiError, match="No space left") as caught:
        store.put(CONFIG_MAPS, item("b"))
    assert caught.value.code == 500
    with pytest.raises(ApiError):
        store.remove(CONFIG_MAPS, ("red", "a"))
    assert (store.revision, heard, len(state(store))) == (2, [], 1)
    journal.full = False
    assert store.put(CONFIG_MAPS, item("b")).revision == 3


def test_a_grown_journal_is_compacted_while_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k8s_ovs.lab.kubeapi.store.COMPACT_ABOVE", 2000)
    path = tmp_path / "journal"
    store = opened(path)
    for number in range(200):
        store.put(CONFIG_MAPS, item("a", n=str(number)))
    assert path.stat().st_size < 5000
    assert state(opened(path)) == state(store)


_NAMES = st.sampled_from(["a", "b", "c"])


@given(
    st.lists(
        st.tuples(_NAMES, st.sampled_from(["put", "remove", "restart"]), st.text(max_size=4)), max_size=30
    )
)
def test_replay_equals_the_store_that_wrote_it(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"
    store = opened(path)
    for name, action, value in steps:
        if action == "put":
            store.put(CONFIG_MAPS, item(name, v=value))
        elif action == "remove" and store.get(CONFIG_MAPS, ("red", name)):
            store.remove(CONFIG_MAPS, ("red", name))
        elif action == "restart":
            store.close()
            store = opened(path)
    again = opened(path)
    assert (state(again), again.revision) == (state(store), store.revision)
    store.close()
    again.close()


def test_a_copy_can_be_changed_without_touching_the_store() -> None:
    store = Store()
    entry: Entry = store.put(CONFIG_MAPS, item("a", x="1"))
    entry.copy()["data"]["x"] = "2"
    found = store.get(CONFIG_MAPS, ("red", "a"))
    assert found is not None
    assert found.obj["data"] == {"x": "1"}
