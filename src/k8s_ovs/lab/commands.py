"""The command line, environment and namespace of every process of a lab. Pure.

Called by the supervisor, which starts them. The agent's and the controller's lines are the ones that a node's unit or
a DaemonSet would have: nothing here reaches into them in another way.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from k8s_ovs.lab import authority
from k8s_ovs.lab.cluster import (
    API_PORT,
    ETCD_PORT,
    ETCD_PREFIX,
    METRICS_PORT,
    NODE_PORT,
    POD_PORTS,
    Cluster,
    Node,
)

VSWITCH_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
PODSERVER = Path(__file__).with_name("podserver.py")


@dataclass(frozen=True, slots=True)
class Command:
    """One process: `name` is unique in the lab, `netns` the namespace it runs in, `env` comes on top of ours."""

    name: str
    argv: tuple[str, ...]
    netns: Path
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def full_argv(self) -> tuple[str, ...]:
        """With the step into the namespace: nsenter replaces itself, so the pid is the process's own."""
        return ("nsenter", f"--net={self.netns}", "--", *self.argv)


def product(*arguments: str) -> tuple[str, ...]:
    """`k8s-ovs ARGUMENTS` with this very installation."""
    return (sys.executable, "-m", "k8s_ovs.cli.main", *arguments)


def etcd(cluster: Cluster) -> Command:
    """The real etcd, one member."""
    address = cluster.networks.control.ip
    listen, tls = cluster.etcd_endpoint, tuple[str, ...]()
    if cluster.manifests is not None:
        files = authority.of(cluster)
        # Nodes come with a certificate; the lab's own tools, which nobody else can be, through the control namespace.
        listen = f"{listen},http://127.0.0.1:{ETCD_PORT}"
        tls = (
            f"--cert-file={files.certificate('server')}",
            f"--key-file={files.key('server')}",
            f"--trusted-ca-file={files.ca}",
            "--client-cert-auth",
        )
    peer = f"http://{address}:{ETCD_PORT + 1}"
    return Command(
        name="etcd",
        argv=(
            "etcd",
            "--name=lab",
            f"--data-dir={cluster.directory / 'etcd'}",
            f"--listen-client-urls={listen}",
            *tls,
            f"--advertise-client-urls={cluster.etcd_endpoint}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=lab={peer}",
            "--heartbeat-interval=50",
            "--election-timeout=500",
            "--log-level=warn",
            "--logger=zap",
        ),
        netns=cluster.netns("control"),
        log=cluster.logs / "etcd.log",
    )


def embedded_api(cluster: Cluster) -> Command:
    """The embedded Kubernetes API. Its journal lets it come back with all objects after a kill."""
    return Command(
        name="apiserver",
        argv=(
            sys.executable,
            "-m",
            "k8s_ovs.lab.kubeapi",
            "--listen",
            f"{cluster.networks.control.ip}:{API_PORT}",
            "--journal",
            str(cluster.directory / "kubeapi.journal"),
            "--service-cidr",
            str(cluster.networks.services),
            "--advertise",
            f"{cluster.networks.control.ip}:{API_PORT}",
            *_api_access(cluster),
        ),
        netns=cluster.netns("control"),
        log=cluster.logs / "apiserver.log",
    )


def _api_access(cluster: Cluster) -> tuple[str, ...]:
    """With manifests the API is as in a real cluster: TLS, tokens, and rights that RBAC gives."""
    if cluster.manifests is None:
        return ()
    files = authority.of(cluster)
    return (
        *("--tls-cert", str(files.certificate("server")), "--tls-key", str(files.key("server"))),
        *("--token", str(files.admin_token)),
        *("--service-account-key", str(files.directory / "accounts.key")),
    )


def etcd_files(cluster: Cluster) -> tuple[Path, Path, Path]:
    """CA, certificate and key of a client of etcd, in a lab whose etcd asks for them."""
    if cluster.etcd_pod_port is not None:
        folder = cluster.directory / "etcd-client"  # of the pod's Secret
        return folder / "ca.crt", folder / "client.crt", folder / "client.key"
    files = authority.of(cluster)
    return files.ca, files.certificate("client"), files.key("client")


def etcd_environment(cluster: Cluster) -> dict[str, str]:
    """What a client of etcd on a node needs beside the endpoint, for etcdctl and k8s-ovs."""
    if cluster.manifests is None:
        return {}
    ca, certificate, key = map(str, etcd_files(cluster))
    return {
        "ETCDCTL_CACERT": ca,
        "ETCDCTL_CERT": certificate,
        "ETCDCTL_KEY": key,
        "K8S_OVS_ETCD_CAFILE": ca,
        "K8S_OVS_ETCD_CERTFILE": certificate,
        "K8S_OVS_ETCD_KEYFILE": key,
    }


def operator_environment(cluster: Cluster) -> dict[str, str]:
    """The same for the user's own shell: an etcd of the lab's own needs nothing there."""
    return {} if cluster.etcd_pod_port is None else etcd_environment(cluster)


def ovs_environment(node: Node) -> dict[str, str]:
    """What makes every OVS tool talk to this node's switch."""
    return {
        "OVS_RUNDIR": str(node.ovs_rundir),
        "OVS_LOGDIR": str(node.directory),
        "OVS_DBDIR": str(node.directory),
        "OVS_SYSCONFDIR": str(node.directory),
    }


PRIORITY = ("nice", "-n", "-10")
"""As ovs-ctl(8) starts them: a userspace switch that waits for the CPU loses what its receive buffers do not hold."""


def ovsdb(cluster: Cluster, node: Node) -> Command:
    """The node's own ovsdb-server."""
    return Command(
        name=f"{node.name}/ovsdb",
        argv=(
            *PRIORITY,
            "ovsdb-server",
            str(node.ovs_database),
            f"--remote=punix:{node.ovs_rundir / 'db.sock'}",
            "--pidfile",
            "--no-chdir",
            "-vconsole:warn",
            "-vsyslog:off",
            "-vfile:off",
        ),
        netns=node.netns,
        log=cluster.logs / f"{node.name}-ovsdb.log",
        env=ovs_environment(node),
    )


def vswitchd(cluster: Cluster, node: Node) -> Command:
    """The node's own switch. The kernel datapath is disabled: namespaces would share its state, and many hosts lack it.

    Its routes come from `ovsnode.Uplink`, which says why.
    """
    return Command(
        name=f"{node.name}/vswitchd",
        argv=(
            *PRIORITY,
            "ovs-vswitchd",
            f"unix:{node.ovs_rundir / 'db.sock'}",
            "--pidfile",
            "--disable-system",
            "--disable-system-route",
            "--no-chdir",
            "-vconsole:warn",
            "-vsyslog:off",
            "-vfile:off",
        ),
        netns=node.netns,
        log=cluster.logs / f"{node.name}-vswitchd.log",
        env=ovs_environment(node),
    )


def podserver(cluster: Cluster, node: Node) -> Command:
    """What answers inside this node's pods, and on the node itself."""
    return _server(cluster, node.name, node.podserver_socket, (NODE_PORT,))


def outside_server(cluster: Cluster) -> Command:
    """What answers on the outside host."""
    return _server(cluster, "outside", cluster.directory / "outside.sock", POD_PORTS)


def _server(cluster: Cluster, place: str, socket: Path, ports: tuple[int, ...]) -> Command:
    # By file, isolated and without site: it needs the standard library only, and starts in a third of the time.
    argv = (sys.executable, "-I", "-S", str(PODSERVER), str(socket), place, *map(str, ports))
    return Command(
        name=f"{place}/podserver",
        argv=argv,
        netns=cluster.netns(place),
        log=cluster.logs / f"{place}-podserver.log",
    )


def agent(cluster: Cluster, node: Node) -> Command:
    """The agent of a node."""
    return Command(
        name=f"{node.name}/agent",
        argv=product(
            "agent",
            f"--hostname={node.name}",
            f"--node-ip={node.ip}",
            f"--etcd-endpoints={cluster.etcd_endpoint}",
            f"--etcd-prefix={ETCD_PREFIX}",
            f"--kubeconfig={node.kubeconfig}",
            "--datapath=netdev",
            f"--ovs-rundir={node.ovs_rundir}",
            f"--cni-socket={node.cni_socket}",
            f"--cni-conf-dir={node.cni_conf_dir}",
            f"--cni-bin-dir={cluster.cni_bin}",
            f"--metrics-address=127.0.0.1:{METRICS_PORT}",
        ),
        netns=node.netns,
        log=cluster.logs / f"{node.name}-agent.log",
        env=ovs_environment(node),
    )


def external_agent(cluster: Cluster, host: Node, *, kubernetes: bool) -> Command:
    """The agent of an external host: etcd only, and Kubernetes if it shall serve ClusterIPs."""
    credentials = (f"--kubeconfig={cluster.control_kubeconfig}",) if kubernetes else ()
    return Command(
        name=f"{host.name}/agent",
        argv=product(
            "agent",
            "--external",
            f"--hostname={host.name}",
            f"--node-ip={host.ip}",
            f"--etcd-endpoints={cluster.etcd_endpoint}",
            f"--etcd-prefix={ETCD_PREFIX}",
            *credentials,
            "--datapath=netdev",
            f"--ovs-rundir={host.ovs_rundir}",
            f"--metrics-address=127.0.0.1:{METRICS_PORT}",
        ),
        netns=host.netns,
        log=cluster.logs / f"{host.name}-agent.log",
        env={**ovs_environment(host), **etcd_environment(cluster)},
    )


def assign_subnet(cluster: Cluster, host: Node) -> tuple[str, ...]:
    """What an administrator types to let an external host in."""
    return product(
        "subnet",
        "assign",
        host.name,
        str(host.ip),
        f"--etcd-endpoints={cluster.loopback_etcd_endpoint}",
        f"--etcd-prefix={ETCD_PREFIX}",
    )


def controller(cluster: Cluster, index: int) -> Command:
    """One of the controllers; they elect a leader among themselves."""
    return Command(
        name=f"controller{index}",
        argv=product(
            "controller",
            f"--hostname=controller{index}",
            f"--etcd-endpoints={cluster.etcd_endpoint}",
            f"--etcd-prefix={ETCD_PREFIX}",
            f"--kubeconfig={cluster.control_kubeconfig}",
            f"--metrics-address=127.0.0.1:{METRICS_PORT + index}",
        ),
        netns=cluster.netns("control"),
        log=cluster.logs / f"controller{index}.log",
    )


def init_config(cluster: Cluster) -> Command:
    """Write the network config, if there is none, and check it."""
    return Command(
        name="init-config",
        argv=product(
            "init-config",
            f"--etcd-endpoints={cluster.etcd_endpoint}",
            f"--etcd-prefix={ETCD_PREFIX}",
            f"--from-json={cluster.network_config.to_json()}",
            f"--node-ip={','.join(str(node.ip) for node in cluster.nodes)}",
        ),
        netns=cluster.netns("control"),
        log=cluster.logs / "init-config.log",
    )
