"""The chart and the plain manifests: one content, valid for every Kubernetes from 1.28 to the newest that is known."""

import json
import subprocess
import tomllib

import kubernetes_validate
import pytest
import yaml

from fakes.manifests import (
    CHART,
    DEPLOY,
    FILES,
    ROOT,
    VARIANTS,
    Document,
    committed,
    find,
    generator,
    helm,
    parsed,
    rendered,
    template,
)

OLDEST = "1.28"
NEWEST = ".".join(kubernetes_validate.latest_version().split(".")[:2])


def test_committed_manifests_are_the_chart_rendered() -> None:
    assert {each.name for each in generator().MANIFESTS} == set(FILES)
    for each in generator().MANIFESTS:
        fresh, kept = generator().render(each), (DEPLOY / each.name).read_text()
        assert parsed(fresh) == parsed(kept), f"deploy/{each.name} is stale: make manifests"
        assert fresh == kept, f"the comments of deploy/{each.name} are stale: make manifests"


def test_every_document_of_the_chart_is_in_a_manifest() -> None:
    shown = [name_of(document) for name in FILES for document in committed(name)]
    for variant in ("default", "everything", "uninstall"):
        assert {name_of(document) for document in rendered(variant)} <= set(shown)


def name_of(document: Document) -> tuple[str, str]:
    return document["kind"], document["metadata"]["name"]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", FILES)
def test_manifests_are_valid(name: str, version: str) -> None:
    for document in committed(name):
        kubernetes_validate.validate(document, version, strict=True)
    assert committed(name)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("variant", VARIANTS)
def test_rendered_chart_is_valid(variant: str, version: str) -> None:
    for document in rendered(variant):
        kubernetes_validate.validate(document, version, strict=True)
    assert rendered(variant)


def test_schemas_are_strict_and_recent() -> None:
    document = json.loads(json.dumps(committed("k8s-ovs.yaml")[-1]))
    document["spec"]["template"]["spec"]["hostNetwerk"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, OLDEST, strict=True)
    assert tuple(map(int, NEWEST.split("."))) >= (1, 37)


def test_lint() -> None:
    done = helm("lint", "--strict", "--namespace", "kube-system", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("network.mode=flat", "'multitenant', 'subnet'"),
        ("network.podNetwork=10.0.0.0", "/network/podNetwork"),
        ("agent.mtuu=1400", "'mtuu' not allowed"),
        ("etcd.ports.client=0", "/etcd/ports/client"),
        ("agent.paths.cniBin=opt", "/agent/paths/cniBin"),
        ("agent.maxUnavailable=0", "/agent/maxUnavailable"),
        ("agent.updateStrategy=Recreate", "'RollingUpdate', 'OnDelete'"),
    ],
)
def test_values_that_cannot_be_are_refused_with_their_place(value: str, said: str) -> None:
    done = template(value)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("etcd.username=network", "etcd.enabled=false"),
        ("etcd.clientCertificate=false", "etcd.enabled=false"),
        ("etcd.ports.client=12380", "must differ"),
        ("etcd.ports.metrics=12379", "must differ"),
        ("etcd.storage.hostPath=", "etcd.storage.className"),
    ],
)
def test_values_that_cannot_be_together_are_refused_with_the_remedy(value: str, said: str) -> None:
    done = template(value)
    assert done.returncode != 0
    assert said in done.stderr
    assert template(value, "etcd.enabled=false").returncode == 0


@pytest.mark.parametrize("name", ["k8s-ovs.yaml", "k8s-ovs-own-etcd.yaml"])
def test_the_command_of_the_docs_for_one_node_first_changes_what_the_value_does(name: str) -> None:
    (line,) = [
        line
        for line in (ROOT / "docs/upgrade.md").read_text().splitlines()
        if "one-node.yaml" in line and "sed" in line
    ]
    command = line.strip().replace("deploy/k8s-ovs.yaml", "-").partition(" >")[0]
    plain = (DEPLOY / name).read_text()
    done = subprocess.run(["sh", "-c", command], input=plain, capture_output=True, text=True, check=True)
    changed, before = parsed(done.stdout), parsed(plain)
    agents = find(before, "DaemonSet", "k8s-ovs-node")
    assert agents["spec"]["updateStrategy"]["type"] == "RollingUpdate"
    agents["spec"]["updateStrategy"] = {"type": "OnDelete"}
    assert changed == before
    asked = parsed(template("agent.updateStrategy=OnDelete").stdout)
    assert find(asked, "DaemonSet", "k8s-ovs-node")["spec"]["updateStrategy"] == {"type": "OnDelete"}


def test_a_full_etcd_is_not_restarted_for_it() -> None:
    etcd = next(each for each in committed("k8s-ovs.yaml") if each["kind"] == "StatefulSet")
    container = etcd["spec"]["template"]["spec"]["containers"][0]
    assert "exclude=NOSPACE" in container["livenessProbe"]["httpGet"]["path"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/health"


def test_every_value_has_a_schema_and_a_default() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(found: object, described: Document, place: str) -> None:
        if "properties" in described and "$ref" not in described:
            assert isinstance(found, dict), place
            assert set(found) == set(described["properties"]) - {"global"}, place
            for name, inner in found.items():
                compare(inner, described["properties"][name], f"{place}.{name}")

    compare(values, schema, "")


def test_it_says_that_it_belongs_into_kube_system() -> None:
    done = template(namespace="default")
    assert done.returncode != 0
    assert "--namespace kube-system" in done.stderr


def test_versions_are_those_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    text = "".join((DEPLOY / name).read_text() for name in FILES)
    images = {line.split()[-1] for line in text.splitlines() if line.strip().startswith("image:")}
    assert images == {f"k8s-ovs/{name}:{version}" for name in ("k8s-ovs", "etcd", "openvswitch")}


def test_images_come_from_the_registry_and_tag_that_are_named() -> None:
    text = yaml.safe_dump_all(rendered("everything"))
    images = {line.split()[-1] for line in text.splitlines() if line.strip().startswith("image:")}
    assert images == {
        f"registry.example.com/mirror/k8s-ovs/{name}:other" for name in ("k8s-ovs", "etcd", "openvswitch")
    }
