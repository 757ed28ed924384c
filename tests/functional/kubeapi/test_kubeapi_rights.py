"""The rights in deploy/ against the embedded API: enough for what the agent watches; a verb too few is named."""

import asyncio
import base64
import json
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fakes.private_kubeapi import KubeApi, until
from k8s_ovs.agent.services import ServiceFeed, ServiceSources
from k8s_ovs.model.events import Synced
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials

DEPLOY = Path(__file__).resolve().parents[3] / "deploy" / "k8s-ovs.yaml"
NODE = "k8s-ovs-node"
ADMIN = "the-admin"


@pytest.fixture
def secured(tmp_path: Path, started: Callable[..., KubeApi]) -> KubeApi:
    """An API server that knows who asks."""
    certificate, key = tmp_path / "server.crt", tmp_path / "server.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=api"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    (tmp_path / "admin").write_text(ADMIN)
    return started(
        *("--token", str(tmp_path / "admin"), "--service-account-key", str(tmp_path / "accounts.key")),
        *("--tls-cert", str(certificate), "--tls-key", str(key)),
        scheme="https",
    )


def admin(api: KubeApi, *arguments: str, stdin: str = "") -> str:
    """kubectl of somebody who may do everything."""
    return api.ok("--insecure-skip-tls-verify", f"--token={ADMIN}", *arguments, stdin=stdin)


def manifests(resource: str, verb: str) -> str:
    """The accounts, roles and bindings of deploy/, without this verb on this resource."""
    kept: list[Any] = []
    for entry in yaml.safe_load_all(DEPLOY.read_text()):
        if entry["kind"] not in (
            "ServiceAccount",
            "ClusterRole",
            "ClusterRoleBinding",
            "Role",
            "RoleBinding",
        ):
            continue
        for rule in entry.get("rules", []):
            if entry["metadata"]["name"] == NODE and resource in rule.get("resources", []):
                rule["verbs"] = [given for given in rule["verbs"] if given != verb]
        kept.append(entry)
    return yaml.safe_dump_all(kept)


def token_of(api: KubeApi, account: str) -> str:
    """A token of a service account, as kubelet asks for it."""
    path = f"/api/v1/namespaces/kube-system/serviceaccounts/{account}/token"
    answer = admin(api, "create", "--raw", path, "-f", "-", stdin='{"spec":{"expirationSeconds":600}}')
    token: str = json.loads(answer)["status"]["token"]
    return token


def credentials(api: KubeApi, tmp_path: Path) -> KubeSettings:
    """What the agent's pod finds in its container."""
    folder = tmp_path / "account"
    folder.mkdir()
    (folder / "token").write_text(token_of(api, NODE))
    (folder / "ca.crt").write_bytes((tmp_path / "server.crt").read_bytes())
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port)}
    return KubeSettings(environ=environ, service_account_dir=folder)


async def feed(settings: KubeSettings, condition: Callable[[ServiceFeed, list[Any]], bool]) -> str:
    """Run the agent's own watch of Services until the condition holds; what it says of its trouble then."""
    told: list[Any] = []
    async with KubeClient(load_credentials(settings)) as kube:
        one = ServiceFeed(ServiceSources.of(kube), lambda *events: told.extend(events))
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(one.run(), name="feed")
            await until(lambda: condition(one, told))
            trouble = one.trouble()
            task.cancel()
    return trouble


async def test_what_the_manifests_grant_is_enough_to_watch(secured: KubeApi, tmp_path: Path) -> None:
    admin(secured, "apply", "-f", "-", stdin=manifests("", ""))

    def synced(_: ServiceFeed, told: list[Any]) -> bool:
        return sum(isinstance(event, Synced) for event in told) >= 2

    assert await feed(credentials(secured, tmp_path), synced) == ""


@pytest.mark.parametrize(
    ("resource", "verb"), [("services", "list"), ("endpointslices", "watch"), ("endpointslices", "list")]
)
async def test_a_verb_that_is_missing_is_named(
    secured: KubeApi, tmp_path: Path, resource: str, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, and in what /readyz says of Kubernetes."""
    admin(secured, "apply", "-f", "-", stdin=manifests(resource, verb))
    caplog.set_level(logging.INFO)
    trouble = await feed(credentials(secured, tmp_path), lambda one, _: bool(one.trouble()))
    refusal = f'User "system:serviceaccount:kube-system:{NODE}" cannot {verb} resource "{resource}"'
    assert refusal in trouble
    assert refusal in caplog.text


def test_a_token_is_of_its_account_alone(secured: KubeApi) -> None:
    admin(secured, "apply", "-f", "-", stdin=manifests("", ""))
    token = token_of(secured, NODE)
    claims = token.split(".")[1]
    told = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    assert told["sub"] == f"system:serviceaccount:kube-system:{NODE}"
    as_node = ("--insecure-skip-tls-verify", f"--token={token}")
    assert secured.ok(*as_node, "get", "pods", "-A", "--no-headers").strip() == ""
    assert 'cannot list resource "secrets"' in secured.refused(*as_node, "get", "secrets", "-A")
    assert "Unauthorized" in secured.refused("--insecure-skip-tls-verify", "--token=x", "get", "pods")
