"""Flags that several commands share; `settings` makes records from them.

Every flag can be given as an environment variable too: K8S_OVS_ and the flag's name in capitals. Imports nothing of the
daemons, so that every command starts fast.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from k8s_ovs.config import DEFAULT_PREFIX

F = TypeVar("F", bound=Callable[..., Any])
Options = dict[str, Any]
"""What click hands to a command: flag names to values."""

CONTEXT: dict[str, Any] = {"auto_envvar_prefix": "K8S_OVS", "help_option_names": ["-h", "--help"]}
"""For every command: without it, click would want K8S_OVS_AGENT_MTU where K8S_OVS_MTU is documented."""


def _path(*names: str, **kwargs: Any) -> Callable[[F], F]:
    return click.option(*names, type=click.Path(path_type=Path), show_default=True, **kwargs)


def _all(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


etcd_options: Callable[[F], F] = _all(
    click.option(
        "--etcd-endpoints",
        default="http://127.0.0.1:2379",
        show_default=True,
        help="URLs, separated by commas.",
    ),
    click.option(
        "--etcd-prefix", default=DEFAULT_PREFIX, show_default=True, help="Where the network's keys begin."
    ),
    _path("--etcd-cafile", help="CA that signed etcd's certificate (PEM)."),
    _path("--etcd-certfile", help="Client certificate for etcd (PEM)."),
    _path("--etcd-keyfile", help="Key of the client certificate (PEM)."),
    click.option("--etcd-username", default="", help="User of etcd's own authentication."),
    _path("--etcd-password-file", help="File with that user's password."),
    click.option("--network", default="", help="Look for the config at PREFIX/NETWORK/config first."),
)

log_options: Callable[[F], F] = _all(
    click.option(
        "--v",
        "verbosity",
        envvar="K8S_OVS_V",
        default="0",
        show_default=True,
        help="0 info, 4 debug, 6 libraries too.",
    ),
    click.option("--log-json", is_flag=True, help="One JSON object per line."),
    click.option(
        "--alsologtostderr", is_flag=True, help="Accepted for the seed's sake: logs go to stderr anyway."
    ),
)

kube_options: Callable[[F], F] = _all(
    _path(
        "--kubeconfig",
        help="Credentials for Kubernetes; else KUBECONFIG, KUBERNETES_MASTER or the Pod's own.",
    ),
)

daemon_options: Callable[[F], F] = _all(
    click.option("--hostname", default="", help="Name of this Node.  [default: the host's name]"),
    click.option(
        "--metrics-address",
        default="127.0.0.1:9640",
        show_default=True,
        help="For /healthz, /readyz, /metrics.",
    ),
)

switch_options: Callable[[F], F] = _all(
    click.option("--bridge", default="br0", show_default=True, help="Name of the bridge."),
    _path("--ovs-rundir", default="/run/openvswitch", help="Where Open vSwitch keeps its sockets."),
)

cni_place_options: Callable[[F], F] = _all(
    _path("--cni-socket", default="/run/k8s-ovs/cni.sock", help="Where the CNI executable finds the agent."),
    _path("--cni-conf-dir", default="/etc/cni/net.d", help="Where the container runtime looks for networks."),
)

cni_bin_option: Callable[[F], F] = _path(
    "--cni-bin-dir", default="/opt/cni/bin", help="Where the container runtime looks for CNI plugins."
)

agent_options: Callable[[F], F] = _all(
    switch_options,
    click.option("--node-ip", help="This host's address, if several host subnets carry its name."),
    click.option(
        "--mtu", type=click.IntRange(576, 65485), help="MTU of pods.  [default: the underlay's less 50]"
    ),
    click.option(
        "--datapath", type=click.Choice(["system", "netdev"]), help="Datapath of the bridge.  [detected]"
    ),
    cni_place_options,
    click.option(
        "--cni-portmap/--no-cni-portmap",
        default=True,
        show_default=True,
        help="Chain the standard portmap plugin.",
    ),
    cni_bin_option,
    click.option(
        "--resync-period",
        type=click.FloatRange(min=1),
        default=60.0,
        show_default=True,
        help="Seconds between comparisons with what the switch and the kernel really hold.",
    ),
    click.option(
        "--tenant-wait",
        type=click.FloatRange(min=0, max=90),
        default=30.0,
        show_default=True,
        help="Seconds that a new pod waits for its Namespace's NetID before the runtime is told to ask again.",
    ),
)

external_option: Callable[[F], F] = click.option(
    "--external",
    is_flag=True,
    help="A host outside Kubernetes (a load balancer): etcd is all it needs, and it serves no pods. "
    "It waits for `k8s-ovs subnet assign HOST IP`; with --kubeconfig it reaches ClusterIPs too.",
)
