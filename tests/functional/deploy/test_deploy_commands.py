"""A mistake in a manifest fails here: command lines, variables, probes, paths and references of every container.

They are held against the real commands of the CLI, option by option.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from fakes.manifests import FILES, VARIANTS, Container, Document, committed, containers, find, rendered
from k8s_ovs.cli.main import cli
from k8s_ovs.config import NetworkConfig
from k8s_ovs.dataplane.sysctl import MOUNTED
from k8s_ovs.runtime.http import parse_address
from k8s_ovs.sources.kube.credentials import SERVICE_ACCOUNT_DIR

CLI = "k8s-ovs"
DAEMONS = {"agent": "/readyz", "controller": "/readyz"}
OF_PODS = {"/var/run/secrets/kubernetes.io/serviceaccount": SERVICE_ACCOUNT_DIR}
KUBERNETES = {"KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"}
"""Variables of the shared ConfigMap that are not of the form K8S_OVS_…"""
CLUSTER_FILES = {
    "k8s-ovs.yaml": {"ConfigMap/k8s-ovs-etcd", "Secret/k8s-ovs-etcd-tls"},
    "k8s-ovs-own-etcd.yaml": {"ConfigMap/k8s-ovs-etcd", "Secret/k8s-ovs-etcd-tls"},
}
"""What a file needs that is in none: made by etcd's init container, or by hand."""
CASES = [*(("file", name) for name in FILES), *(("values", name) for name in VARIANTS)]


def documents_of(case: tuple[str, str]) -> list[Document]:
    kind, name = case
    return committed(name) if kind == "file" else rendered(name)


def all_containers() -> Iterator[tuple[tuple[str, str], Container]]:
    for case in CASES:
        for container in containers(documents_of(case)):
            yield case, container


def ours() -> Iterator[tuple[tuple[str, str], Container]]:
    """The containers that run `k8s-ovs`."""
    for case, container in all_containers():
        if container.command_line[:1] == [CLI]:
            yield case, container


def command_of(container: Container) -> click.Command:
    name = container.command_line[1]
    found = cli.get_command(click.Context(cli), name)
    assert found is not None, f"{container.name}: there is no command {name}"
    return found


def read(case: tuple[str, str], container: Container, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The values of the command's parameters, as the command would get them in this container."""
    environment = container.environment(documents_of(case))
    for name, value in environment.items():
        monkeypatch.setenv(name, "192.0.2.7" if value == "<status.hostIP>" else value)
    command = command_of(container)
    context = command.make_context(CLI, container.command_line[2:], auto_envvar_prefix="K8S_OVS")
    return dict(context.params)


def variables(command: click.Command) -> set[str]:
    """The variables that a command reads, beside those that the Kubernetes client knows."""
    found = set()
    for option in command.params:
        assert isinstance(option, click.Option)
        found.add(str(option.envvar) if option.envvar else f"K8S_OVS_{str(option.name).upper()}")
    return found


def test_every_command_line_is_one_that_the_program_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for case, container in ours():
        with monkeypatch.context() as patch:
            assert read(case, container, patch), container.name
        seen.add(container.command_line[1])
    assert seen == {"agent", "controller", "init-config", "install-cni", "etcd-tls", "uninstall"}


def test_other_programs_are_the_few_that_the_images_have() -> None:
    found = {
        (container.spec["image"].rpartition("/")[2].partition(":")[0], container.command_line[0])
        for _, container in all_containers()
        if container.command_line[0] != CLI
    }
    assert found == {
        ("etcd", "etcd"),
        ("etcd", "/bin/sh"),
        ("openvswitch", "k8s-ovs-openvswitch"),
        ("k8s-ovs", "sleep"),
    }


def test_every_variable_of_a_container_is_read_by_its_command() -> None:
    for _, container in ours():
        own = {entry["name"] for entry in container.spec.get("env", ())}
        assert own <= variables(command_of(container)), container.name


def test_every_setting_of_a_config_map_is_read_by_somebody_who_gets_it() -> None:
    for case in CASES:
        documents = documents_of(case)
        for document in documents:
            if document["kind"] != "ConfigMap":
                continue
            name = document["metadata"]["name"]
            readers: set[str] = set()
            for container in containers(documents):
                sources = [each["configMapRef"]["name"] for each in container.spec.get("envFrom", ())]
                if name in sources and container.command_line[0] == CLI:
                    readers |= variables(command_of(container))
            assert set(document["data"]) <= readers | KUBERNETES, (case, name)


def test_hosts_and_addresses_come_from_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for case, container in ours():
        environment = container.environment(documents_of(case))
        verb = container.command_line[1]
        if verb in DAEMONS:
            assert environment["K8S_OVS_HOSTNAME"] == "<spec.nodeName>", container.name
        if verb in {"agent", "init-config"}:
            assert environment["K8S_OVS_NODE_IP"] == "<status.hostIP>", container.name
        if verb == "etcd-tls":
            assert environment["K8S_OVS_ETCD_ADDRESS"] == "<status.hostIP>", container.name


def test_probes_ask_where_the_daemon_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    probed = set()
    for case, container in ours():
        verb = container.command_line[1]
        probes = {kind: container.spec.get(f"{kind}Probe") for kind in ("liveness", "readiness")}
        if verb not in DAEMONS:
            assert not any(probes.values()), container.name
            continue
        with monkeypatch.context() as patch:
            host, port = parse_address(read(case, container, patch)["metrics_address"])
        assert host == "127.0.0.1", "not to be asked by pods"
        paths = {}
        for kind, probe in probes.items():
            assert probe is not None, container.name
            asked = probe["httpGet"]
            assert (asked["host"], asked["port"]) == (host, port), container.name
            paths[kind] = asked["path"]
        assert paths == {"liveness": "/healthz", "readiness": "/readyz"}
        probed.add((verb, port))
    assert probed == {("agent", 9640), ("controller", 9641)}


def test_every_path_that_a_command_is_given_is_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of each path option, default or not; of the image itself only what the image brings."""
    for case, container in ours():
        with monkeypatch.context() as patch:
            values = read(case, container, patch)
        for name, value in values.items():
            if not isinstance(value, Path) or value.is_relative_to("/usr/lib/k8s-ovs"):
                continue
            mounted = [mount for mount in container.mounts if value.is_relative_to(mount)]
            assert mounted, f"{container.name}: nothing is mounted for {name} {value}"


def test_mounts_have_their_volumes_and_volumes_their_mounts() -> None:
    for case, container in all_containers():
        claims = [
            each["metadata"]["name"] for each in container.document["spec"].get("volumeClaimTemplates", ())
        ]
        for mount in container.mounts.values():
            assert container.volume(mount["name"]) or mount["name"] in claims, (case, container.name)
    for case in CASES:
        for document in documents_of(case):
            pod = document.get("spec", {}).get("template", {}).get("spec", {})
            used = {
                mount["name"]
                for each in (*pod.get("initContainers", ()), *pod.get("containers", ()))
                for mount in each.get("volumeMounts", ())
            }
            assert {volume["name"] for volume in pod.get("volumes", ())} <= used, (case, document["metadata"])


def test_the_agent_sees_the_host_where_it_looks_for_it() -> None:
    """One path inside and outside for what is named to others: the runtime's namespaces, and the socket in the conflist."""
    (agent,) = [each for each in containers(committed("k8s-ovs.yaml")) if each.name == "k8s-ovs-node/agent"]
    hosts = {
        mount: agent.volume(said["name"])["hostPath"]["path"]
        for mount, said in agent.mounts.items()
        if "hostPath" in agent.volume(said["name"])
    }
    differing = {mount: host for mount, host in hosts.items() if str(mount) != host}
    assert differing == {MOUNTED: "/proc/sys/net"}
    netns = agent.mounts[Path("/run/netns")]
    assert netns["mountPropagation"] == "HostToContainer", (
        "pods that come later have their namespaces mounted later"
    )


def test_files_of_etcd_are_in_the_secret_that_etcd_tls_makes() -> None:
    for case, container in ours():
        environment = container.environment(documents_of(case))
        for name in ("CAFILE", "CERTFILE", "KEYFILE", "PASSWORD_FILE"):
            file = environment.get(f"K8S_OVS_ETCD_{name}")
            if file is None:
                continue
            volume = container.volume(container.mounts[Path(file).parent]["name"])
            assert volume["secret"]["secretName"] == "k8s-ovs-etcd-tls"
            assert Path(file).name in {item["path"] for item in volume["secret"]["items"]}, (case, file)
            assert "server.key" not in {item["key"] for item in volume["secret"]["items"]}


def test_what_is_referred_to_is_there() -> None:
    for name in FILES:
        documents = committed(name)
        have = {f"{each['kind']}/{each['metadata']['name']}" for each in documents}
        wanted: set[str] = set()
        for container in containers(documents):
            wanted |= {
                f"ConfigMap/{each['configMapRef']['name']}" for each in container.spec.get("envFrom", ())
            }
            for volume in container.pod.get("volumes", ()):
                if "secret" in volume:
                    wanted.add(f"Secret/{volume['secret']['secretName']}")
            if "serviceAccountName" in container.pod:
                wanted.add(f"ServiceAccount/{container.pod['serviceAccountName']}")
            else:
                assert container.pod["automountServiceAccountToken"] is False, container.name
        assert wanted - have == CLUSTER_FILES.get(name, set())


def test_the_default_network_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    data = find(committed("k8s-ovs.yaml"), "ConfigMap", "k8s-ovs-config")["data"]
    fields = {
        "Name": data["K8S_OVS_NAME"],
        "Network": data["K8S_OVS_POD_NETWORK"],
        "HostSubnetLength": int(data["K8S_OVS_HOST_BITS"]),
        "ServiceNetwork": data["K8S_OVS_SERVICE_NETWORK"],
        "PluginName": f"k8s-ovs-{data['K8S_OVS_MODE']}",
    }
    assert NetworkConfig.from_fields(fields, origin="deploy").network.is_private


def test_no_node_is_left_without_network_by_an_update() -> None:
    """The agent is replaced a few nodes at a time and undoes nothing at its end; the switch only when the operator says so."""
    agents = find(committed("k8s-ovs.yaml"), "DaemonSet", "k8s-ovs-node")["spec"]
    switch = find(committed("openvswitch.yaml"), "DaemonSet", "k8s-ovs-openvswitch")["spec"]
    assert agents["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": "10%", "maxSurge": 0},
    }
    assert switch["updateStrategy"] == {"type": "OnDelete"}
    for _, container in all_containers():
        assert "lifecycle" not in container.spec, container.name
    for spec in (agents, switch):
        pod = spec["template"]["spec"]
        assert (pod["priorityClassName"], pod["tolerations"]) == (
            "system-node-critical",
            [{"operator": "Exists"}],
        )


def test_everything_starts_before_there_is_a_pod_network() -> None:
    for _, container in all_containers():
        assert (container.pod["hostNetwork"], container.pod["dnsPolicy"]) == (True, "Default"), container.name


ALLOWED = {
    "k8s-ovs-node/install-cni": {"DAC_OVERRIDE"},
    "k8s-ovs-node/agent": {"NET_ADMIN", "NET_RAW", "SYS_ADMIN", "DAC_OVERRIDE"},
    "k8s-ovs-uninstall/uninstall": {"NET_ADMIN", "NET_RAW", "DAC_OVERRIDE"},
    "k8s-ovs-openvswitch/ovsdb-server": {"DAC_OVERRIDE"},
    "k8s-ovs-openvswitch/ovs-vswitchd": {"NET_ADMIN", "NET_RAW", "IPC_LOCK", "DAC_OVERRIDE"},
}


def test_least_capabilities() -> None:
    for case, container in all_containers():
        context = container.spec["securityContext"]
        assert not context.get("privileged"), container.name
        assert context["readOnlyRootFilesystem"], container.name
        assert context["capabilities"]["drop"] == ["ALL"], container.name
        allowed = ALLOWED.get(container.name, set())
        if case == ("values", "everything") and container.name == "k8s-ovs-node/agent":
            allowed = allowed | {"SYS_PTRACE"}
        assert set(context["capabilities"].get("add", ())) == allowed, container.name
        if not allowed:
            assert context["allowPrivilegeEscalation"] is False, container.name
        assert container.pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        by_process = case == ("values", "everything") and container.name.startswith("k8s-ovs-node/")
        assert container.pod.get("hostPID", False) is by_process, container.name
        assert container.spec["resources"]["requests"].keys() == {"cpu", "memory"}, container.name


def test_etcd_listens_where_its_clients_and_probes_look() -> None:
    for name in ("default", "storage class"):
        documents = rendered(name)
        (etcd,) = [each for each in containers(documents) if each.name == "k8s-ovs-etcd/etcd"]
        (tls,) = [each for each in containers(documents) if each.name == "k8s-ovs-etcd/tls"]
        flags = dict(argument.removeprefix("--").split("=", 1) for argument in etcd.spec["args"])
        port = next(each.partition("=")[2] for each in tls.spec["args"] if each.startswith("--port="))
        assert flags["listen-client-urls"] == f"https://$(HOST_IP):{port},https://127.0.0.1:{port}"
        assert flags["client-cert-auth"] == "true"
        metrics = flags["listen-metrics-urls"]
        for kind in ("liveness", "readiness"):
            asked = etcd.spec[f"{kind}Probe"]["httpGet"]
            assert f"http://{asked['host']}:{asked['port']}" == metrics
        folder = next(each.partition("=")[2] for each in tls.spec["args"] if each.startswith("--dir="))
        for flag in ("cert-file", "key-file", "trusted-ca-file"):
            assert Path(flags[flag]).parent == Path(folder)
        assert etcd.mounts[Path(folder)]["name"] == tls.mounts[Path(folder)]["name"]
        assert Path(flags["data-dir"]) in etcd.mounts


@pytest.mark.parametrize(
    ("endpoints", "data", "starts"),
    [
        ("", False, True),
        ("https://192.0.2.7:12379", False, True),
        ("https://192.0.2.9:12379", True, True),
        ("https://192.0.2.9:12379", False, False),
    ],
)
def test_etcd_starts_empty_only_where_there_was_none(
    endpoints: str, data: bool, starts: bool, tmp_path: Path
) -> None:
    """First start; its own node; restored on another node; an empty folder on another node."""
    (guard,) = [each for each in containers(committed("k8s-ovs.yaml")) if each.name.endswith("/only-at-home")]
    if data:
        (tmp_path / "member").mkdir()
    command = [part.replace("/var/lib/etcd/", f"{tmp_path}/") for part in guard.command_line]
    environment = {"HOST_IP": "192.0.2.7", "PATH": os.environ["PATH"]}
    if endpoints:
        environment["K8S_OVS_ETCD_ENDPOINTS"] = endpoints
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is starts
    assert (endpoints in done.stderr and "k8s-ovs.com/etcd" in done.stderr) is not starts


def test_removal_keeps_etcds_data_and_is_not_held_up() -> None:
    """A folder of the node outlives claim and volume; of a storage class the claim is kept, since its data go with it."""
    default, other = rendered("default"), rendered("storage class")
    volume = find(default, "PersistentVolume", "k8s-ovs-etcd")["spec"]
    claim = volume["claimRef"]
    (template,) = find(default, "StatefulSet", "k8s-ovs-etcd")["spec"]["volumeClaimTemplates"]
    assert claim["name"] == f"{template['metadata']['name']}-k8s-ovs-etcd-0"
    assert template["spec"]["storageClassName"] == volume["storageClassName"]
    assert volume["persistentVolumeReclaimPolicy"] == "Retain"
    policies = [
        find(each, "StatefulSet", "k8s-ovs-etcd")["spec"].get("persistentVolumeClaimRetentionPolicy")
        for each in (default, other)
    ]
    assert policies == [{"whenDeleted": "Delete", "whenScaled": "Retain"}, None]
    assert "PersistentVolume" not in {each["kind"] for each in other}


def test_ports_of_the_node_are_not_taken_twice() -> None:
    """Nor those of a control-plane node: etcd 2379 to 2381, API server 6443, kubelet and its like 10248 to 10259."""
    documents = [*committed("k8s-ovs.yaml"), *committed("openvswitch.yaml")]
    ports = [
        each.spec["readinessProbe"]["httpGet"]["port"]
        for each in containers(documents)
        if "readinessProbe" in each.spec
    ]
    (etcd,) = [each for each in containers(documents) if each.name == "k8s-ovs-etcd/etcd"]
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in etcd.spec["args"])
    ports += [int(flags[name].rpartition(":")[2]) for name in ("advertise-client-urls", "listen-peer-urls")]
    assert len(ports) == len(set(ports)) == 5
    assert not set(ports) & {*range(2379, 2382), 6443, *range(10248, 10260), *range(30000, 32768)}
