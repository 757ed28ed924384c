"""Exactly the rights in use: what the source asks the Kubernetes API for against what the manifests grant, both ways.

The lab with manifests (`lab up --from-manifests`) enforces the same rules while the product runs.
"""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import click
import pytest

import k8s_ovs
from fakes.kube_calls import CLIENT_VERBS, CONSTANTS, KubeCalls, Module, Request, client_methods, verbs_of
from fakes.manifests import Document, committed, find
from k8s_ovs.cli.main import cli
from k8s_ovs.controller.app import LEASE_NAME, LEASE_NAMESPACE

NODE, CONTROLLER, ETCD = "k8s-ovs-node", "k8s-ovs-controller", "k8s-ovs-etcd"
OPERATOR = "whoever types a command outside the cluster, with rights of his own"
ACCOUNTS = {
    "agent/": NODE,
    # The CLI in an agent's pod: kubectl exec daemonset/k8s-ovs-node -- k8s-ovs status
    "cli/status_facts.py": NODE,
    "cli/workloads.py": NODE,
    "controller/": CONTROLLER,
    "sources/kube/lease.py": CONTROLLER,
    "cli/etcd_tls_keep.py": ETCD,
    # Only where no etcd is configured; in the pods of deploy/ it is (`test_deploy_commands.py`).
    "cli/cluster_etcd.py": OPERATOR,
}
"""With whose rights a part of the source runs in a cluster."""

Grant = tuple[str, str, str, str, tuple[str, ...]]
"""Verb, group, resource, Namespace (empty: all) and names (none: all)."""


@cache
def kube_calls() -> KubeCalls:
    return KubeCalls(Path(k8s_ovs.__file__).parent)


def asked() -> dict[str, set[Request]]:
    """What each service account's code asks for."""
    found: defaultdict[str, set[Request]] = defaultdict(set)
    for path, requests in kube_calls().by_module().items():
        accounts = [account for prefix, account in ACCOUNTS.items() if path.startswith(prefix)]
        assert len(accounts) == 1, f"k8s_ovs/{path} calls the Kubernetes API: with whose rights?"
        found[accounts[0]] |= requests
    del found[OPERATOR]
    return dict(found)


def granted(documents: list[Document]) -> dict[str, set[Grant]]:
    """What each service account may do."""
    found: defaultdict[str, set[Grant]] = defaultdict(set)
    for binding in documents:
        if binding["kind"] not in {"RoleBinding", "ClusterRoleBinding"}:
            continue
        role = find(documents, binding["roleRef"]["kind"], binding["roleRef"]["name"])
        (subject,) = binding["subjects"]
        assert (subject["kind"], subject["namespace"]) == ("ServiceAccount", "kube-system")
        namespace = binding["metadata"].get("namespace", "")
        for rule in role["rules"]:
            names = tuple(sorted(rule.get("resourceNames", ())))
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    found[subject["name"]] |= {
                        (verb, group, resource, namespace, names) for verb in rule["verbs"]
                    }
    return dict(found)


def requests_of(grants: set[Grant]) -> set[Request]:
    return {(verb, group, resource) for verb, group, resource, _, _ in grants}


def test_granted_is_what_is_asked_for() -> None:
    used, given = asked(), granted(committed("k8s-ovs.yaml"))
    assert set(used) == set(given) == {NODE, CONTROLLER, ETCD}
    for account, requests in used.items():
        allowed = requests_of(given[account])
        assert requests - allowed == set(), f"{account} asks for what deploy/ does not grant"
        assert allowed - requests == set(), f"{account} is granted what no code asks for"


@pytest.mark.parametrize("account", [NODE, CONTROLLER])
def test_the_same_with_an_etcd_of_ones_own(account: str) -> None:
    given = granted(committed("k8s-ovs-own-etcd.yaml"))
    assert set(given) == {NODE, CONTROLLER}
    assert given[account] == granted(committed("k8s-ovs.yaml"))[account]


def test_rights_end_at_the_names_and_the_namespace_in_use() -> None:
    """All Namespaces only for what is of all of them; secrets, leases and ConfigMaps by name, but for `create`."""
    command = cli.get_command(click.Context(cli), "etcd-tls")
    assert command is not None
    named = {str(option.name): option.default for option in command.params}
    names = {
        "leases": (LEASE_NAME,),
        "secrets": tuple(sorted((named["secret"], named["ca_secret"]))),
        "configmaps": (named["config_map"],),
    }
    assert LEASE_NAMESPACE == named["namespace"] == "kube-system"
    for grants in granted(committed("k8s-ovs.yaml")).values():
        for verb, _, resource, namespace, only in grants:
            wanted = () if verb == "create" else names.get(resource, ())
            assert only == wanted, f"{verb} {resource}"
            assert namespace == ("kube-system" if resource in names else ""), f"{verb} {resource}"


def test_every_role_is_bound_and_every_account_used() -> None:
    for name in ("k8s-ovs.yaml", "k8s-ovs-own-etcd.yaml"):
        documents = committed(name)
        by_kind = {
            kind: {each["metadata"]["name"] for each in documents if each["kind"] == kind}
            for kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ServiceAccount")
        }
        assert by_kind["Role"] == by_kind["RoleBinding"]
        assert by_kind["ClusterRole"] == by_kind["ClusterRoleBinding"]
        assert by_kind["ServiceAccount"] == set(granted(documents))


def test_nothing_is_granted_with_a_star() -> None:
    for grants in granted(committed("k8s-ovs.yaml")).values():
        assert not [grant for grant in grants if "*" in "".join(grant[:3])]


def test_every_method_of_the_client_is_known_here() -> None:
    assert client_methods() == set(CLIENT_VERBS)


def test_there_is_no_way_past_the_client() -> None:
    assert kube_calls().bypasses() == []


HELPERS = {"look": frozenset({"get"})}


@pytest.mark.parametrize(
    ("text", "verbs"),
    [
        ("await client.list(PODS)", {"list"}),
        ("await self._client.delete(PODS, name)", {"delete"}),
        ("look(PODS)", {"get"}),
        ("write = api.update if x else api.create; await write(PODS, x)", {"update", "create"}),
        ("say(PODS.kind)", set()),
    ],
)
def test_what_is_read_from_a_source(text: str, verbs: set[str]) -> None:
    module, name = use_in(text)
    assert verbs_of(module, name, HELPERS) == verbs


@pytest.mark.parametrize(
    "text", ["unknown(PODS)", "all = [PODS]", "PODS.path()", "other = PODS", "await client.frobnicate(PODS)"]
)
def test_what_is_not_understood_is_an_error(text: str) -> None:
    module, name = use_in(text)
    with pytest.raises(AssertionError, match="kube_calls"):
        verbs_of(module, name, HELPERS)


def use_in(text: str) -> tuple[Module, ast.Name]:
    module = Module("new.py", ast.parse(f"async def new():\n    {text}\n"))
    (name,) = [node for node in ast.walk(module.tree) if isinstance(node, ast.Name) and node.id in CONSTANTS]
    return module, name
