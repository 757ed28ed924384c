"""A lab as data: the names, addresses and paths that follow from its options.

Every other module of the lab takes a `Cluster` and asks it; `lifecycle` writes it to `lab.json`, and `down` needs
nothing else to find what has to be removed. Pure: no file, process or namespace is touched here.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.errors import ConfigError, LabError

DEFAULT_BASE = Path("/run/k8s-ovs-lab")
DEFAULT_NAME = "lab"
NETWORK_NAME = "k8ssdn"
ETCD_PREFIX = "/k8s.ovs.com/ovs/network"
ETCD_PORT = 2379
API_PORT = 6443
METRICS_PORT = 9640
NODE_PORT = 10079
"""Where the lab's own probe server listens on every node, beside the pods' servers."""
POD_PORTS = (80, 8080)
"""What a pod serves when its containers name no port."""

UNDERLAY_BRIDGE = "br-phy"
"""The bridge of each node that holds its uplink and its underlay address (the netdev datapath needs it so)."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_MAX_NAME = 32
_UNIX_PATH_MAX = 107
"""Octets of a unix socket's path, unix(7)."""
_MAX_HOST_NAME = len("external-host-name")
_LONGEST_SOCKET = "nodes/external-host-name/ovs/ovs-vswitchd.4194304.ctl"
_FIRST_NODE = 11
MAX_NODES = 64
MAX_HOSTS = 16
"""External hosts; their addresses come after those of the most nodes that the underlay has room for."""
PLACES = ("fabric", "control", "outside")
"""Namespaces of every lab that no node and no host can be called after."""


def check_name(name: str) -> str:
    """Return `name` if a lab can be called so. Raises LabError."""
    if len(name) > _MAX_NAME:
        raise LabError(f"lab name {name!r} has {len(name)} characters", remedy=f"use at most {_MAX_NAME}")
    if not _NAME.fullmatch(name):
        raise LabError(
            f"lab name {name!r} cannot be used",
            remedy="use lower-case letters, digits and inner hyphens, like `lab-2`",
        )
    return name


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the lab: a network namespace with a switch, an agent and a kubelet of its own."""

    name: str
    address: IPv4Interface
    directory: Path
    netns: Path

    @property
    def ip(self) -> IPv4Address:
        """The node's underlay address: InternalIP, and the tunnel's end."""
        return self.address.ip

    @property
    def ovs_rundir(self) -> Path:
        """Where this node's db.sock, control sockets and bridge management sockets are."""
        return self.directory / "ovs"

    @property
    def ovs_database(self) -> Path:
        """The file of this node's OVSDB."""
        return self.directory / "conf.db"

    @property
    def cni_conf_dir(self) -> Path:
        """Where the agent writes its conflist and the kubelet looks for one."""
        return self.directory / "net.d"

    @property
    def cni_socket(self) -> Path:
        """The socket between the CNI executable and the agent."""
        return self.directory / "cni.sock"

    @property
    def kubeconfig(self) -> Path:
        """What processes of this node use to reach the API server."""
        return self.directory / "kubeconfig"

    @property
    def podserver_socket(self) -> Path:
        """Where the kubelet tells the pod server which ports to serve."""
        return self.directory / "pods.sock"


@dataclass(frozen=True, slots=True)
class ExternalHost:
    """What `lab add-host` was told: the host's name, and whether it has Kubernetes credentials (then it serves ClusterIPs)."""

    name: str
    kubernetes: bool = False


@dataclass(frozen=True, slots=True)
class Networks:
    """The four networks of a lab. `outside` is beyond the underlay's router: nothing of the cluster lives there."""

    pods: IPv4Network
    services: IPv4Network
    underlay: IPv4Network
    outside: IPv4Network

    def check(self) -> None:
        """Raise LabError if two of them overlap."""
        named = [(what, getattr(self, what)) for what in ("pods", "services", "underlay", "outside")]
        for index, (what, network) in enumerate(named):
            for other_what, other in named[index + 1 :]:
                if network.overlaps(other):
                    raise LabError(
                        f"the networks of {what} ({network}) and {other_what} ({other}) overlap",
                        remedy="give other --pod-cidr, --service-cidr or --underlay-cidr",
                    )

    @property
    def router(self) -> IPv4Interface:
        """The fabric's address on the underlay: the nodes' default gateway."""
        return _host(self.underlay, 1)

    @property
    def control(self) -> IPv4Interface:
        """Where etcd and the API server listen for the nodes."""
        return _host(self.underlay, 2)

    @property
    def outside_router(self) -> IPv4Interface:
        """The fabric's address on the outside network."""
        return _host(self.outside, 1)

    @property
    def outside_host(self) -> IPv4Interface:
        """The host that stands for the rest of the world."""
        return _host(self.outside, 10)

    def node(self, index: int) -> IPv4Interface:
        """The underlay address of a node, counted from 0."""
        return _host(self.underlay, _FIRST_NODE + index)

    def external_host(self, index: int) -> IPv4Interface:
        """The underlay address of an external host, counted from 0: from the end, where no node is."""
        return _host(self.underlay, self.underlay.num_addresses - 2 - index)


def _host(network: IPv4Network, number: int) -> IPv4Interface:
    return IPv4Interface((network.network_address + number, network.prefixlen))


@dataclass(frozen=True, slots=True)
class Cluster:
    """Everything about one lab that is known before it starts.

    `bare` leaves agents and controllers out. `loopback_etcd` and `loopback_api` are ports on the host's 127.0.0.1.
    With `manifests` (a file) agents and controllers are what it says, and the API server and etcd speak TLS; service
    accounts' tokens then live `token_seconds`. `etcd_pod_port`: etcd too is what the manifests say, a pod of the first
    node's network that serves this port; the lab has none of its own.
    `portmap` is the CNI plugin's path when the machine has it, `kube_bin` the directory of a real kube-apiserver.
    """

    name: str
    directory: Path
    node_count: int
    mode: Mode
    networks: Networks
    host_bits: int
    loopback_etcd: int
    loopback_api: int
    controllers: int = 2
    bare: bool = False
    shim: Path | None = None
    portmap: Path | None = None
    kube_bin: Path | None = None
    external: tuple[ExternalHost, ...] = ()
    manifests: Path | None = None
    token_seconds: int = 3607
    etcd_pod_port: int | None = None

    def check(self) -> None:
        """Raise LabError for options that cannot work together."""
        check_name(self.name)
        self.networks.check()
        room = min(MAX_NODES, self._room)
        if not 1 <= self.node_count <= room:
            raise LabError(
                f"{self.node_count} nodes do not fit the underlay {self.networks.underlay}",
                remedy=f"use --nodes 1 to {max(room, 1)}, or a larger --underlay-cidr (a /24 holds {MAX_NODES})",
            )
        longest = self.directory / _LONGEST_SOCKET
        if len(bytes(longest)) > _UNIX_PATH_MAX:
            raise LabError(
                f"the state directory {self.directory} is too long for unix sockets below it",
                remedy=f"choose --state-dir and --name that are {len(bytes(longest)) - _UNIX_PATH_MAX} shorter in all",
            )
        try:
            NetworkConfig.from_json(self.network_config.to_json(), origin="the lab's options")
        except ConfigError as err:
            raise LabError(err.message, remedy=err.remedy) from err
        if self.network_config.host_subnets < self.node_count:
            raise LabError(
                f"{self.networks.pods} has room for {self.network_config.host_subnets} host subnets, not {self.node_count}",
                remedy="give a larger --pod-cidr or smaller --host-bits",
            )

    @property
    def _room(self) -> int:
        """Addresses of the underlay for nodes and external hosts."""
        return self.networks.underlay.num_addresses - _FIRST_NODE - 1

    def with_host(self, host: ExternalHost) -> "Cluster":
        """The same cluster with one external host more. Raises LabError if it cannot be."""
        check_name(host.name)
        if len(host.name) > _MAX_HOST_NAME:
            raise LabError(
                f"host name {host.name!r} has {len(host.name)} characters",
                remedy=f"use at most {_MAX_HOST_NAME}",
            )
        if host.name in (*PLACES, *(node.name for node in self.members)):
            raise LabError(f"lab {self.name} has {host.name!r} already", remedy="choose another name")
        if len(self.external) >= min(MAX_HOSTS, self._room - self.node_count):
            raise LabError(
                f"lab {self.name} has no room for another host than {len(self.external)}",
                remedy="start one with a larger --underlay-cidr, or use a host that is there",
            )
        return replace(self, external=(*self.external, host))

    @property
    def network_config(self) -> NetworkConfig:
        """What `init-config` writes to etcd for this lab."""
        return NetworkConfig(
            name=NETWORK_NAME,
            network=self.networks.pods,
            host_bits=self.host_bits,
            service_network=self.networks.services,
            mode=self.mode,
        )

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes node1, node2, … in order."""
        return tuple(
            self._member(f"node{index + 1}", self.networks.node(index)) for index in range(self.node_count)
        )

    @property
    def hosts(self) -> tuple[Node, ...]:
        """The external hosts in the order in which they were added: built like nodes, but Kubernetes knows none."""
        return tuple(
            self._member(host.name, self.networks.external_host(index))
            for index, host in enumerate(self.external)
        )

    @property
    def members(self) -> tuple[Node, ...]:
        """Nodes and external hosts: everything with a switch and an agent."""
        return (*self.nodes, *self.hosts)

    def _member(self, name: str, address: IPv4Interface) -> Node:
        return Node(
            name=name, address=address, directory=self.directory / "nodes" / name, netns=self.netns(name)
        )

    def node(self, name: str) -> Node:
        """The node or external host of this name. Raises LabError."""
        for node in self.members:
            if node.name == name:
                return node
        names = ", ".join(node.name for node in self.members)
        raise LabError(f"lab {self.name} has no node {name!r}", remedy=f"its nodes are {names}")

    def netns(self, name: str) -> Path:
        """The mount file of a namespace of this lab: fabric, control, outside, a node or a pod's sandbox."""
        return self.directory / "netns" / name

    def pod_netns(self, sandbox: str) -> Path:
        """The mount file of a pod's namespace."""
        return self.netns(f"pod-{sandbox[:16]}")

    @property
    def kubernetes_ip(self) -> IPv4Address:
        """The ClusterIP of the Service default/kubernetes."""
        return self.networks.services.network_address + 1

    @property
    def manifests_file(self) -> Path:
        """The manifests as they are applied in this lab."""
        return self.directory / "manifests.yaml"

    @property
    def etcd_endpoint(self) -> str:
        """Where nodes reach etcd."""
        if self.etcd_pod_port is not None:
            return f"https://{self.nodes[0].ip}:{self.etcd_pod_port}"
        return f"{'http' if self.manifests is None else 'https'}://{self.networks.control.ip}:{ETCD_PORT}"

    @property
    def loopback_etcd_endpoint(self) -> str:
        """Where the user's shell reaches etcd."""
        return f"{'http' if self.etcd_pod_port is None else 'https'}://127.0.0.1:{self.loopback_etcd}"

    @property
    def kubeconfig(self) -> Path:
        """What the user's shell uses to reach the API server."""
        return self.directory / "kubeconfig"

    @property
    def control_kubeconfig(self) -> Path:
        """What processes inside the lab use to reach the API server, over the underlay."""
        return self.directory / "control.kubeconfig"

    @property
    def etcd_process(self) -> str:
        """The name of etcd's process."""
        return "etcd" if self.etcd_pod_port is None else f"{self.nodes[0].name}/etcd"

    @property
    def cni_bin(self) -> Path:
        """Where the CNI executables of this lab are; the same for all nodes."""
        return self.directory / "cni-bin"

    @property
    def logs(self) -> Path:
        """One file for each process."""
        return self.directory / "log"

    @property
    def pods_dir(self) -> Path:
        """One JSON file for each running pod, UID.json."""
        return self.directory / "pods"


POD_CANDIDATES = ("10.128.0.0/14", "172.20.0.0/14", "10.64.0.0/14", "192.168.0.0/16")
SERVICE_CANDIDATES = ("10.96.0.0/16", "172.30.0.0/16", "10.32.0.0/16", "10.112.0.0/16")
UNDERLAY_CANDIDATES = ("100.64.10.0/24", "172.31.250.0/24", "10.200.250.0/24", "100.127.250.0/24")
OUTSIDE_CANDIDATES = ("198.51.100.0/24", "203.0.113.0/24", "192.0.2.0/24", "198.18.0.0/24")
"""Documentation networks (RFC 5737) and the benchmark network (RFC 2544)."""


def pick(what: str, candidates: Iterable[str], taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first candidate that overlaps nothing of `taken`. Raises LabError if every one does."""
    used = [network for network in taken if network.prefixlen > 0]
    tried = [IPv4Network(text) for text in candidates]
    for network in tried:
        if not any(network.overlaps(other) for other in used):
            return network
    names = ", ".join(map(str, tried))
    raise LabError(f"no {what} is free on this host (tried {names})", remedy="give one as an option")
