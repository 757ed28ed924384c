"""The units of the Debian package at work, in a lab's node: their own command lines, settings file, capabilities and filters.

No systemd runs here: `fakes/units.py` does what it would do with the lines that matter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes.labs import METRICS_PORT, Lab, eventually, running_lab
from fakes.package_root import run
from fakes.units import Unit, started
from k8s_ovs.config import DEFAULT_PREFIX
from k8s_ovs.lab.cluster import DEFAULT_BASE
from k8s_ovs.lab.places import find
from k8s_ovs.lab.state import load_cluster

pytestmark = [pytest.mark.lab, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(600)]

AGENT, CONTROLLER = "k8s-ovs-agent.service", "k8s-ovs-controller.service"


@dataclass(frozen=True)
class Site:
    """A lab without daemons of its own, and the package's files; `scratch` is for sockets and logs."""

    lab: Lab
    package: Path
    scratch: Path

    def unit(self, name: str) -> Unit:
        return Unit.read(self.package / "lib/systemd/system" / name)

    def netns(self, place: str) -> Path:
        return find(load_cluster(DEFAULT_BASE, self.lab.name), place).netns

    def set(self, **settings: object) -> None:
        """Write the settings file as an administrator does."""
        lines = [f"K8S_OVS_{name.upper()}={value}\n" for name, value in settings.items()]
        (self.package / "etc/k8s-ovs/k8s-ovs.env").write_text("# of a test\n" + "".join(lines))


@pytest.fixture(scope="module")
def site(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    scratch = tmp_path_factory.mktemp("u")
    run("dpkg-deb", "-x", str(deb), str(scratch / "package"))
    with running_lab("--bare", nodes=1) as lab:
        config = load_cluster(DEFAULT_BASE, lab.name).network_config
        lab.etcdctl("put", f"{DEFAULT_PREFIX}/config", config.to_json())
        yield Site(lab, scratch / "package", scratch)


def test_the_units_serve_pods(site: Site) -> None:
    lab, scratch = site.lab, site.scratch
    cluster = load_cluster(DEFAULT_BASE, lab.name)
    node = cluster.node("node1")
    plugins = scratch / "cni-bin"
    common = {"etcd_endpoints": cluster.etcd_endpoint, "etcd_prefix": DEFAULT_PREFIX}
    site.set(**common, kubeconfig=cluster.control_kubeconfig, hostname="controller1")
    with started(site.unit(CONTROLLER), site.package, site.netns("control"), scratch) as controller:
        controller.wait_for("READY=1")
        site.set(
            **common,
            kubeconfig=node.kubeconfig,
            hostname=node.name,
            node_ip=node.ip,
            datapath="netdev",
            ovs_rundir=node.ovs_rundir,
            cni_socket=node.cni_socket,
            cni_conf_dir=node.cni_conf_dir,
            cni_bin_dir=plugins,
        )
        with started(site.unit(AGENT), site.package, site.netns("node1"), scratch) as agent:
            agent.wait_for("READY=1")
            assert (plugins / "k8s-ovs").stat().st_mode & 0o111
            lab.create_pods({("red", "web"): "node1"})
            assert lab.exec("node1", "ping", "-c1", "-W5", lab.pod_ip("red", "web")).returncode == 0
            # Sysctls, rules, links, the namespaces of pods: nothing that a filter refused is waiting to be done again.
            assert "not permitted" not in agent.log.read_text().lower(), agent.log.read_text()
            assert lab.get("node1", "/readyz")[0] == 200

            assert agent.stop() == 0
            assert "STOPPING=1" in agent.told
            assert lab.exec("node1", "ping", "-c1", "-W5", lab.pod_ip("red", "web")).returncode == 0
        assert lab.get("control", "/readyz", METRICS_PORT + 1)[0] == 200, (
            "an agent's port would be taken on a node"
        )
        assert controller.stop() == 0
        assert "not permitted" not in controller.log.read_text().lower(), controller.log.read_text()


def test_an_external_host_gets_no_cni_plugins(site: Site) -> None:
    lab, scratch = site.lab, site.scratch
    cluster = load_cluster(DEFAULT_BASE, lab.name)
    plugins = scratch / "none"
    site.set(
        external="true",
        hostname="lb1",
        etcd_endpoints=cluster.etcd_endpoint,
        datapath="netdev",
        ovs_rundir=cluster.node("node1").ovs_rundir,
        cni_bin_dir=plugins,
    )
    place = scratch / "external"
    place.mkdir()
    with started(site.unit(AGENT), site.package, site.netns("node1"), place) as agent:
        # It waits for an administrator to assign a subnet, and says so.
        eventually(lambda: "[-] bridge" in lab.get("node1", "/readyz")[1], "the agent waits for its subnet")
        assert not plugins.exists()
        assert agent.stop() == 0
    assert "READY=1" not in agent.told
