"""`k8s-ovs tenant …` on a store in memory: what is written, what is refused, what is waited for, what is printed."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from fakes.cli import CommandLine, Ended
from fakes.tenants import TenantStore, record, tenant
from k8s_ovs.cli import session, tenant_change
from k8s_ovs.cli.tenant_change import Outcome, Request
from k8s_ovs.config import EXAMPLE
from k8s_ovs.errors import EtcdUnavailable

STEP = {"ID": "1a2b3c4d", "Old": 10, "New": 11, "Action": "join", "Other": "blue"}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TenantStore:
    made = TenantStore()
    monkeypatch.setattr(session, "EtcdStore", made.open)
    for variable in ("KUBECONFIG", "KUBERNETES_MASTER", "KUBERNETES_SERVICE_HOST", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    return made


@pytest.fixture
def k8s_ovs(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


def answer(ended: Ended, code: int = 0) -> Any:
    assert ended.code == code, ended
    return json.loads(ended.out)


def test_list_shows_who_is_one_tenant(k8s_ovs: CommandLine, store: TenantStore) -> None:
    store.play({**tenant("red", 11), **record("red", 11)})
    assert k8s_ovs("tenant", "list").out.splitlines() == [
        "NAMESPACE    NETID       SAME TENANT  UNDER WAY  ERROR",
        "blue         11          red          -          -",
        "green        12          -            -          -",
        "kube-system  0 (global)  -            -          -",
        "red          11          blue         -          -",
    ]
    rows = answer(k8s_ovs("tenant", "list", "-o", "json"))
    assert rows[0] == {
        "namespace": "blue",
        "netID": 11,
        "global": False,
        "sameTenant": ["red"],
        "request": None,
        "change": None,
        "error": None,
    }
    assert yaml.safe_load(k8s_ovs("tenant", "list", "-o", "yaml").out) == rows


def test_show_tells_how_far_a_change_is_and_on_which_node(k8s_ovs: CommandLine, store: TenantStore) -> None:
    store.play({**record("red", 10, "join", "blue"), **tenant("red", 10, Step="send", **STEP)})
    store.report("node1", {"red": "1a2b3c4d/send"})
    store.report("node2", {"red": "1a2b3c4d/accept"})
    shown = answer(k8s_ovs("tenant", "show", "red", "-o", "json"))
    assert shown["request"] == {"action": "join", "other": "blue"}
    assert shown["change"] == {
        "id": "1a2b3c4d",
        "step": "send",
        "action": "join",
        "other": "blue",
        "oldNetID": 10,
        "newNetID": 11,
        "reported": ["node1"],
        "waitingFor": ["node2"],
        "notLive": ["node3"],
    }
    text = k8s_ovs("tenant", "show", "red").out
    assert "NetID:        10\n" in text
    assert "Reaches:      kube-system (and is reached by)\n" in text
    line = "red: NetID 10 to 11, step send; applied by node1; waiting for node2; no agent on node3"
    assert line in text
    assert "join blue: send, 1 of 2 nodes" in k8s_ovs("tenant", "list").out


def test_show_tells_a_refusal_and_a_malformed_record(k8s_ovs: CommandLine, store: TenantStore) -> None:
    store.play(record("red", 10, Error="join gone: there is no such Namespace: create it"))
    store.play({"netnamespaces/blue": "{"})
    assert answer(k8s_ovs("tenant", "show", "red", "-o", "json"))["error"].startswith("join gone: ")
    assert "Error:        join gone: there is no such" in k8s_ovs("tenant", "show", "red").out
    blue = answer(k8s_ovs("tenant", "show", "blue", "-o", "json"))
    assert blue["error"].startswith("not JSON")
    assert blue["netID"] == 11
    ended = k8s_ovs("tenant", "show", "gone")
    assert (ended.code, ended.out) == (2, "")
    assert "Namespace gone: no tenant of this name: `k8s-ovs tenant list` shows all" in ended.err


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("join", "red", "blue"), {"Action": "join", "Namespace": "blue"}),
        (("isolate", "kube-system"), {"Action": "isolate", "Namespace": ""}),
        (("global", "red"), {"Action": "global", "Namespace": ""}),
    ],
)
def test_a_request_is_the_record_that_etcdctl_would_write(
    k8s_ovs: CommandLine, store: TenantStore, words: tuple[str, ...], asked: dict[str, str]
) -> None:
    before = store.read(f"netnamespaces/{words[1]}")
    store.play(record(words[1], int(str(before["NetID"])), Error="something before", Note="theirs"))
    result = answer(k8s_ovs("tenant", *words, "-o", "json"))
    assert result["result"] == "asked"
    assert store.read(f"netnamespaces/{words[1]}") == before | asked | {"Note": "theirs"}
    assert f"k8s-ovs tenant show {words[1]}" in k8s_ovs("tenant", *words).out
    assert len(store.requests) == 1


@pytest.mark.parametrize("words", [("isolate", "red"), ("global", "kube-system"), ("join", "red", "blue")])
def test_what_is_so_already_is_not_asked_for(
    k8s_ovs: CommandLine, store: TenantStore, words: tuple[str, ...]
) -> None:
    store.play({**tenant("blue", 11), **record("blue", 11)})
    if words[0] == "join":
        store.play({**tenant("red", 11), **record("red", 11)})
    result = answer(k8s_ovs("tenant", *words, "--wait", "-o", "json"))
    assert result["result"] == "unchanged"
    assert not store.requests


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("join", "red", "gone"), "red: join gone: there is no Namespace gone: `k8s-ovs tenant list` shows"),
        (("isolate", "gone"), "gone: isolate: there is no Namespace gone"),
        (("join", "red", "red"), "red: join red: a Namespace cannot join itself: name another one"),
        (("join", "green", "blue"), "already asked to isolate, which is not complete yet: wait for that, or"),
        (("isolate", "new"), "new has no NetID yet: see that a controller runs"),
        (("isolate", "bad"), "the record of bad cannot be read: "),
        (("join", "red"), "Missing argument 'OTHER'"),
    ],
)
def test_what_can_be_seen_to_be_wrong_is_refused_before_anything_is_written(
    k8s_ovs: CommandLine, store: TenantStore, words: tuple[str, ...], said: str
) -> None:
    store.play({**record("green", 12, "isolate"), **record("new", None), "netnamespaces/bad": "[]"})
    before = store.raw()
    for more in ((), ("--dry-run",), ("--wait",)):
        ended = k8s_ovs("tenant", *words, *more)
        assert (ended.code, ended.out) == (2, ""), ended
        assert said in ended.err
    assert store.raw() == before


def test_in_single_tenant_mode_there_is_nothing_to_change(
    k8s_ovs: CommandLine, monkeypatch: pytest.MonkeyPatch, store: TenantStore
) -> None:
    flat = TenantStore(EXAMPLE.replace("multitenant", "subnet"))
    monkeypatch.setattr(session, "EtcdStore", flat.open)
    ended = k8s_ovs("tenant", "isolate", "red")
    assert ended.code == 2
    assert "single-tenant mode" in ended.err
    assert {row["netID"] for row in answer(k8s_ovs("tenant", "list", "-o", "json"))} == {0}


def test_another_request_is_replaced_only_by_force(k8s_ovs: CommandLine, store: TenantStore) -> None:
    store.play({**record("red", 10, "join", "blue"), **tenant("red", 10, Step="send", **STEP)})
    assert k8s_ovs("tenant", "isolate", "red").code == 2
    assert k8s_ovs("tenant", "isolate", "red", "--force").code == 0
    written = store.read("netnamespaces/red")
    assert written["Action"] == "isolate"
    assert "NetID" not in written  # which one is right changes when the running change completes


def test_a_record_that_was_deleted_is_written_again(k8s_ovs: CommandLine, store: TenantStore) -> None:
    store.play({"netnamespaces/red": None})
    assert k8s_ovs("tenant", "join", "red", "blue").code == 0
    assert store.read("netnamespaces/red") == {
        "NetName": "red",
        "NetID": 10,
        "Action": "join",
        "Namespace": "blue",
    }


def test_the_same_request_twice_is_one(k8s_ovs: CommandLine, store: TenantStore) -> None:
    k8s_ovs("tenant", "join", "red", "blue")
    assert answer(k8s_ovs("tenant", "join", "red", "blue", "-o", "json"))["result"] == "asked"
    assert len(store.requests) == 1


def test_wait_follows_the_change_to_its_end(k8s_ovs: CommandLine, store: TenantStore) -> None:
    store.script = [
        tenant("red", 10, Step="accept", **STEP),
        tenant("red", 10, Step="send", **STEP),
        tenant("red", 10, Step="close", **STEP),
        {**tenant("red", 11), **record("red", 11)},
    ]
    ended = k8s_ovs("tenant", "join", "red", "blue", "--wait", "-o", "json")
    result = answer(ended)
    assert (result["result"], result["netID"], result["error"]) == ("complete", 11, None)
    assert result["notWaitedFor"] == ["node3"]
    steps = [line.split("step ")[1].split(";")[0] for line in ended.err.splitlines()]
    assert steps == ["accept", "send", "close"]


def test_wait_names_the_nodes_that_nobody_waited_for(k8s_ovs: CommandLine, store: TenantStore) -> None:
    store.script = [{**tenant("red", 11), **record("red", 11)}]
    said = k8s_ovs("tenant", "join", "red", "blue", "--wait").out
    assert said.startswith("red: join blue: complete after ")
    assert said.endswith("NetID is 11; not waited for, because no agent lives there: node3\n")


def test_wait_names_the_nodes_whose_agent_lives_and_has_not_applied_it(
    k8s_ovs: CommandLine, monkeypatch: pytest.MonkeyPatch, store: TenantStore
) -> None:
    """The controller has lost patience with node2 at the first step; node1 was only slower than our look at the second."""
    store.report("node1", {"red": "1a2b3c4d/accept"})
    store.script = [
        tenant("red", 10, Step="accept", **STEP),
        tenant("red", 10, Step="send", **STEP),
        {**tenant("red", 11), **record("red", 11)},
    ]
    late = 30.0  # seconds from the second step on
    clock = SimpleNamespace(monotonic=lambda: 0.0 if store.script else late)
    monkeypatch.setattr(tenant_change, "time", clock)
    result = answer(k8s_ovs("tenant", "join", "red", "blue", "--wait", "-o", "json"))
    assert (result["notApplied"], result["notWaitedFor"]) == (["node2"], ["node3"])
    said = str(Outcome(Request("red", "join", "blue"), "complete", 11, "", ("node3",), ("node2",), 31.0))
    assert said.endswith(": node3; not applied by node2, whose agent lives: see its log")


def test_wait_tells_the_controllers_refusal(k8s_ovs: CommandLine, store: TenantStore) -> None:
    store.script = [record("red", 10, Error="no free VNI: delete Namespaces")]
    ended = k8s_ovs("tenant", "join", "red", "blue", "--wait")
    assert ended.code == 1
    assert ended.out == "red: join blue: refused: no free VNI: delete Namespaces\n"


def test_wait_tells_that_somebody_asked_for_something_else(k8s_ovs: CommandLine, store: TenantStore) -> None:
    store.script = [record("red", 10, "global")]
    result = answer(k8s_ovs("tenant", "join", "red", "blue", "--wait", "-o", "json"), 1)
    assert (result["result"], result["error"]) == (
        "replaced",
        "somebody else has asked it to global meanwhile",
    )


def test_wait_tells_that_the_namespace_is_gone(k8s_ovs: CommandLine, store: TenantStore) -> None:
    store.script = [{"netnamespaces/red": None, "tenants/red": None}]
    assert "the Namespace is gone" in k8s_ovs("tenant", "join", "red", "blue", "--wait").out


def test_wait_gives_up_in_time_and_the_request_stays(k8s_ovs: CommandLine, store: TenantStore) -> None:
    ended = k8s_ovs("tenant", "join", "red", "blue", "--wait", "--timeout=0.05")
    assert ended.code == 3
    assert ended.out == "red: join blue: not complete after 0 s; the request stays\n"
    assert store.read("netnamespaces/red")["Action"] == "join"


def test_of_two_administrators_none_overwrites_the_other(k8s_ovs: CommandLine, store: TenantStore) -> None:
    store.before_commit = lambda: store.play(record("red", 10, "global"))
    ended = k8s_ovs("tenant", "join", "red", "blue")
    assert ended.code == 2
    assert "already asked to global" in ended.err
    assert store.read("netnamespaces/red")["Action"] == "global"
    store.before_commit = lambda: store.play(record("blue", 13))
    ended = k8s_ovs("tenant", "join", "blue", "green")
    assert ended.code == 2
    assert "blue: join green: somebody else has written the record meanwhile: look with" in ended.err
    assert not store.requests
    store.before_commit = lambda: store.play(record("green", 12, Note="theirs"))
    assert k8s_ovs("tenant", "join", "green", "blue").code == 0
    assert store.read("netnamespaces/green")["Note"] == "theirs"


def test_what_others_write_elsewhere_is_no_obstacle(k8s_ovs: CommandLine, store: TenantStore) -> None:
    store.before_commit = lambda: store.play(record("green", 12, "isolate"))
    assert k8s_ovs("tenant", "join", "red", "blue").code == 0
    assert store.read("netnamespaces/red")["Action"] == "join"
    assert store.read("netnamespaces/green")["Action"] == "isolate"


def test_dry_run_shows_both_directions_and_writes_nothing(k8s_ovs: CommandLine, store: TenantStore) -> None:
    before = store.raw()
    ended = k8s_ovs("tenant", "join", "red", "blue", "--dry-run")
    assert ended.code == 0
    assert [line.split() for line in ended.out.splitlines() if line.startswith(("red", "blue"))] == [
        ["blue", "-", "red", "-", "-"],
        ["red", "-", "blue", "-", "-"],
    ]
    assert "nothing was changed (--dry-run)" in ended.out
    assert "no Kubernetes credentials (--kubeconfig): pods and Services are not listed" in ended.err
    found = answer(k8s_ovs("tenant", "global", "red", "--dry-run", "-o", "json"))
    assert len(found["newlyReaches"]) == 4
    assert found["noLongerReaches"] == []
    assert k8s_ovs("tenant", "isolate", "red", "--dry-run").out == "red: isolate would change nothing\n"
    assert store.raw() == before


def test_without_etcd_or_config_it_fails(k8s_ovs: CommandLine, store: TenantStore) -> None:
    store.outage = EtcdUnavailable("etcd: no endpoint answers", remedy="start it")
    ended = k8s_ovs("tenant", "list")
    assert (ended.code, ended.err) == (1, "k8s-ovs: etcd: no endpoint answers: start it\n")
    store.outage = None
    store.delete_raw(f"{store.prefix}/config")
    assert k8s_ovs("tenant", "list").code == 2


@pytest.mark.parametrize("command", ["join", "isolate", "global"])
def test_help_tells_the_exit_codes(k8s_ovs: CommandLine, command: str) -> None:
    shown = k8s_ovs("tenant", command, "--help")
    assert shown.code == 0
    for code in range(4):
        assert f"\n    {code}  " in shown.out or f"\n  {code}  " in shown.out
