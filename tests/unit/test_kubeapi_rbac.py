"""Service accounts of the embedded API: their tokens, and what RBAC lets them do."""

from ipaddress import IPv4Network
from typing import Any

import pytest

from k8s_ovs.lab.kubeapi.answers import ApiError
from k8s_ovs.lab.kubeapi.rbac import ADMIN, Authorizer, User, Wish
from k8s_ovs.lab.kubeapi.registry import Registry
from k8s_ovs.lab.kubeapi.resources import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    NAMESPACES,
    PODS,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    Object,
)
from k8s_ovs.lab.kubeapi.store import Store
from k8s_ovs.lab.kubeapi.tokens import ServiceAccountTokens

NODE = User("system:serviceaccount:net:node", ("system:serviceaccounts", "system:authenticated"))
SUBJECTS = [{"kind": "ServiceAccount", "name": "node", "namespace": "net"}]


def make_registry() -> Registry:
    registry = Registry(Store(None), IPv4Network("10.96.0.0/16"))
    registry.create(NAMESPACES, "", {"metadata": {"name": "net"}})
    registry.create(SERVICE_ACCOUNTS, "net", {"metadata": {"name": "node"}})
    return registry


def granted(*rules: Object, namespace: str = "") -> Authorizer:
    """The rights of `NODE` after the rules are bound to it, in the Namespace or everywhere."""
    registry = make_registry()
    role: Object = {"metadata": {"name": "r"}, "rules": list(rules)}
    kind = "Role" if namespace else "ClusterRole"
    binding: Object = {
        "metadata": {"name": "b"},
        "subjects": SUBJECTS,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "r"},
    }
    registry.create(ROLES if namespace else CLUSTER_ROLES, namespace, role)
    registry.create(ROLE_BINDINGS if namespace else CLUSTER_ROLE_BINDINGS, namespace, binding)
    return Authorizer(registry.store)


READ = {"apiGroups": [""], "resources": ["pods", "pods/status"], "verbs": ["get", "list"]}


@pytest.mark.parametrize(
    ("wish", "allowed"),
    [
        (Wish("list", "", "pods"), True),
        (Wish("list", "", "pods", "red"), True),
        (Wish("get", "", "pods/status", "red", "a"), True),
        (Wish("watch", "", "pods"), False),
        (Wish("list", "apps", "pods"), False),
        (Wish("list", "", "nodes"), False),
        (Wish("get", "", "pods/log", "red", "a"), False),
        (Wish("get", path="/version"), True),
        (Wish("get", path="/metrics"), False),
        (Wish("post", path="/version"), False),
    ],
)
def test_cluster_role(wish: Wish, allowed: bool) -> None:
    assert granted(READ).allows(NODE, wish) is allowed
    assert granted(READ).allows(ADMIN, wish)
    stranger = User("system:serviceaccount:net:other", NODE.groups)
    assert granted(READ).allows(stranger, wish) is (wish.path == "/version" and allowed)


def test_a_role_holds_in_its_namespace_only() -> None:
    rights = granted(READ, namespace="net")
    assert rights.allows(NODE, Wish("list", "", "pods", "net"))
    assert not rights.allows(NODE, Wish("list", "", "pods", "red"))
    assert not rights.allows(NODE, Wish("list", "", "pods"))


def test_names_wildcards_subresources_and_paths() -> None:
    named = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["tls"], "verbs": ["*"]}
    status = {"apiGroups": ["*"], "resources": ["*/status"], "verbs": ["patch"]}
    paths = {"nonResourceURLs": ["/metrics", "/logs/*"], "verbs": ["get"]}
    rights = granted(named, status, paths)
    assert rights.allows(NODE, Wish("update", "", "secrets", "net", "tls"))
    assert not rights.allows(NODE, Wish("update", "", "secrets", "net", "other"))
    assert not rights.allows(NODE, Wish("create", "", "secrets", "net"))
    assert rights.allows(NODE, Wish("patch", "apps", "daemonsets/status", "net", "x"))
    assert not rights.allows(NODE, Wish("patch", "apps", "daemonsets", "net", "x"))
    assert rights.allows(NODE, Wish("get", path="/logs/a"))
    assert not rights.allows(NODE, Wish("post", path="/metrics"))


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (
            Wish("list", "", "nodes"),
            'nodes is forbidden: User "system:serviceaccount:net:node" cannot list resource "nodes" in API group ""'
            " at the cluster scope",
        ),
        (
            Wish("update", "coordination.k8s.io", "leases", "net", "x"),
            'leases.coordination.k8s.io "x" is forbidden: User "system:serviceaccount:net:node" cannot update resource '
            '"leases" in API group "coordination.k8s.io" in the namespace "net"',
        ),
        (
            Wish("get", path="/metrics"),
            'forbidden: User "system:serviceaccount:net:node" cannot get path "/metrics"',
        ),
    ],
)
def test_the_words_of_a_refusal(wish: Wish, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        granted(READ).check(NODE, wish)
    assert (caught.value.code, caught.value.reason, caught.value.message) == (403, "Forbidden", message)


@pytest.mark.parametrize(
    ("resource", "body", "said"),
    [
        (CLUSTER_ROLES, {"rules": [{"resources": ["pods"], "verbs": ["get"]}]}, "apiGroups"),
        (CLUSTER_ROLES, {"rules": [{"apiGroups": [""], "resources": ["pods"]}]}, "verbs"),
        (CLUSTER_ROLE_BINDINGS, {"roleRef": {"kind": "Group", "name": "x"}}, "roleRef"),
        (
            CLUSTER_ROLE_BINDINGS,
            {
                "roleRef": {"kind": "ClusterRole", "name": "x"},
                "subjects": [{"kind": "ServiceAccount", "name": "y"}],
            },
            r"subjects\[0\].namespace",
        ),
    ],
)
def test_roles_that_cannot_be(resource: Any, body: Object, said: str) -> None:
    with pytest.raises(ApiError, match=said) as caught:
        make_registry().create(resource, "", {"metadata": {"name": "system:x"}, **body})
    assert caught.value.code == 422


class World:
    """Tokens with a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.registry = make_registry()
        self.tokens = ServiceAccountTokens(self.registry.store, b"secret", lambda: self.now)

    def issue(self, **spec: Any) -> str:
        token: str = self.tokens.issue(("net", "node"), {"spec": spec})["status"]["token"]
        return token


def test_a_token_is_its_account_until_it_expires() -> None:
    world = World()
    token = world.issue(expirationSeconds=20)
    user = world.tokens.user(token)
    assert user is not None
    assert user.name == "system:serviceaccount:net:node"
    assert "system:serviceaccounts:net" in user.groups
    world.now += 19
    assert world.tokens.user(token) is not None
    world.now += 1
    assert world.tokens.user(token) is None


def test_a_token_ends_with_its_account_and_its_pod() -> None:
    world = World()
    pod = world.registry.create(
        PODS, "net", {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    )
    bound = world.issue(boundObjectRef={"kind": "Pod", "name": "p", "uid": pod.obj["metadata"]["uid"]})
    free = world.issue()
    assert world.tokens.user(bound) is not None
    world.registry.store.remove(PODS, ("net", "p"))
    assert world.tokens.user(bound) is None
    assert world.tokens.user(free) is not None
    world.registry.store.remove(SERVICE_ACCOUNTS, ("net", "node"))
    world.registry.create(SERVICE_ACCOUNTS, "net", {"metadata": {"name": "node"}})
    assert world.tokens.user(free) is None, "an account that was made anew is another one"


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "e30.e30.", "e30.e30.AAAA"])
def test_what_is_no_token(token: str) -> None:
    assert World().tokens.user(token) is None


def test_tokens_of_others_and_for_others_are_refused() -> None:
    world, other = World(), World()
    other.tokens = ServiceAccountTokens(other.registry.store, b"another", lambda: other.now)
    assert world.tokens.user(other.issue()) is None
    assert world.tokens.user(world.issue(audiences=["vault"])) is None
    with pytest.raises(ApiError, match="not found"):
        world.tokens.issue(("net", "nobody"), {})
    with pytest.raises(ApiError, match="not found"):
        world.issue(boundObjectRef={"kind": "Pod", "name": "gone"})
