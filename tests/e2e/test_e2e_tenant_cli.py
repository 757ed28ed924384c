"""Tenants through `k8s-ovs tenant …` on a running lab: the preview, the change, the refusal, and what packets do."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from fakes.labs import PYTHON, Lab, eventually

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(300)]

NETNAMESPACES = "/k8s.ovs.com/ovs/network/k8ssdn/netnamespaces/"
PODS = {("cred", "near"): "node1", ("cred", "far"): "node2", ("cblue", "far"): "node3"}
FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=2).read().decode())"
"""With time for a second SYN: the userspace datapath drops the first packet to a host whose MAC it does not know yet."""
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"namespace": "cblue", "name": "web"},
    "spec": {"selector": {"app": "none"}, "ports": [{"port": 80}]},
}


@dataclass(frozen=True)
class Town:
    """Pods of two tenants, and a Service."""

    lab: Lab

    def tenant(self, *words: str, code: int = 0) -> Any:
        """`k8s-ovs tenant …`, its JSON."""
        done = self.lab.cli("tenant", *words, "-o", "json", check=False)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def reaches(self, source: str, destination: str) -> bool:
        namespace, _, name = destination.partition("/")
        url = f"http://{self.lab.pod_ip(namespace, name)}/"
        return self.lab.exec(source, PYTHON, "-I", "-S", "-c", FETCH, url, check=False).returncode == 0

    def record(self, namespace: str) -> dict[str, Any]:
        """What `etcdctl get` shows."""
        found: dict[str, Any] = json.loads(
            self.lab.etcdctl("get", "--print-value-only", NETNAMESPACES + namespace)
        )
        return found


@pytest.fixture(scope="module")
def town(lab: Lab) -> Iterator[Town]:
    lab.create_pods(PODS)
    lab.kubectl("create", "-f", "-", stdin=json.dumps(SERVICE))
    try:
        yield Town(lab)
    finally:
        lab.delete_namespaces("cred", "cblue")


def test_join_and_isolate_do_what_the_preview_said(town: Town) -> None:
    assert not town.reaches("cred/near", "cblue/far")
    foreseen = town.tenant("join", "cred", "cblue", "--dry-run")
    assert foreseen["noLongerReaches"] == []
    assert foreseen["newlyReaches"] == [
        {
            "from": {"namespace": "cblue", "pods": ["far"]},
            "to": {"namespace": "cred", "pods": ["far", "near"], "services": []},
        },
        {
            "from": {"namespace": "cred", "pods": ["far", "near"]},
            "to": {"namespace": "cblue", "pods": ["far"], "services": ["web"]},
        },
    ]
    assert town.record("cred")["Action"] == ""

    joined = town.tenant("join", "cred", "cblue", "--wait")
    assert (joined["result"], joined["notWaitedFor"]) == ("complete", [])
    assert joined["netID"] == town.record("cblue")["NetID"] == town.record("cred")["NetID"]
    assert town.reaches("cred/near", "cblue/far")
    assert town.reaches("cblue/far", "cred/far")
    shown = town.tenant("show", "cred")
    assert (shown["sameTenant"], shown["change"], shown["error"]) == (["cblue"], None, None)
    assert "cblue" in shown["reaches"]

    assert town.tenant("join", "cred", "cblue", "--wait")["result"] == "unchanged"
    foreseen = town.tenant("isolate", "cred", "--dry-run")
    assert [way["to"]["namespace"] for way in foreseen["noLongerReaches"]] == ["cred", "cblue"]
    apart = town.tenant("isolate", "cred", "--wait")
    assert apart["result"] == "complete"
    assert not town.reaches("cred/near", "cblue/far")
    assert not town.reaches("cblue/far", "cred/far")
    assert town.reaches("cred/near", "cred/far")


def test_global_reaches_all_until_it_is_isolated(town: Town) -> None:
    assert town.tenant("global", "cred", "--wait")["netID"] == 0
    assert town.reaches("cred/near", "cblue/far")
    assert town.reaches("cblue/far", "cred/near")
    rows = {row["namespace"]: row for row in town.tenant("list")}
    assert rows["cred"]["global"]
    assert "cred" in rows["kube-system"]["sameTenant"]
    assert town.tenant("isolate", "cred", "--wait")["netID"] >= 10
    assert not town.reaches("cblue/far", "cred/near")


@pytest.mark.parametrize(
    "words", [("join", "cred", "nowhere"), ("join", "cred", "cred"), ("global", "nowhere")]
)
def test_what_the_command_refuses_changes_nothing(town: Town, words: tuple[str, ...]) -> None:
    before = town.record("cred")
    done = town.lab.cli("tenant", *words, "--wait", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("k8s-ovs: ")
    assert town.record("cred") == before


def test_what_the_controller_refuses_is_shown(town: Town) -> None:
    before = town.record("cred")
    stolen = {**before, "NetID": town.record("cblue")["NetID"]}
    town.lab.etcdctl("put", NETNAMESPACES + "cred", json.dumps(stolen))
    eventually(lambda: bool(town.tenant("show", "cred")["error"]), "the controller says why")
    shown = town.tenant("show", "cred")
    assert shown["netID"] == before["NetID"]
    assert shown["error"] in town.lab.cli("tenant", "list").stdout
    assert not town.reaches("cred/near", "cblue/far")
    assert town.tenant("join", "cred", "cblue", "--wait")["result"] == "complete"
    assert town.tenant("show", "cred")["error"] is None
    assert town.tenant("isolate", "cred", "--wait")["result"] == "complete"
