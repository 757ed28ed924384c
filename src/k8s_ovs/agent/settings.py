"""What the operator can choose for an agent; the CLI fills it in from flags and the environment."""

from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from k8s_ovs.dataplane.bridge import BridgeSpec, Datapath


@dataclass(frozen=True, slots=True)
class CniSettings:
    """`socket`: where the executable finds us; `conf_dir`: where the runtime finds our conflist.

    `bin_dir`: where it finds plugins; what `portmap` there understands decides what the conflist asks for.
    """

    socket: Path = Path("/run/k8s-ovs/cni.sock")
    conf_dir: Path = Path("/etc/cni/net.d")
    portmap: bool = True
    bin_dir: Path = Path("/opt/cni/bin")


@dataclass(frozen=True, slots=True)
class SwitchSettings:
    """`rundir` holds OVS's db.sock and management sockets; `datapath` None is detected."""

    rundir: Path = Path("/run/openvswitch")
    bridge: str = "br0"
    datapath: Datapath | None = None

    @property
    def spec(self) -> BridgeSpec:
        """The bridge as the dataplane wants it."""
        return BridgeSpec(name=self.bridge, datapath=self.datapath)

    @property
    def management(self) -> str:
        """OpenFlow connection method of the bridge's own socket (ovs-ofctl(8))."""
        return f"unix:{self.rundir}/{self.bridge}.mgmt"

    def rundir_trouble(self) -> str:
        """Why only a restart reaches the switch again, else "": for the health check `ovs-rundir`.

        A container has `rundir` as a mount. Where Open vSwitch's service removes the folder when it stops and makes it
        anew (RuntimeDirectory= on RPM distributions), the mount is the former one for ever: nobody comes back into it.
        """
        try:
            removed = self.rundir.stat().st_nlink == 0
        except OSError:  # not there yet: the switch is waited for
            return ""
        return (
            f"{self.rundir} was removed, and this mount shows the former one: restart the agent"
            if removed
            else ""
        )


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """`mtu` in octets, None: the underlay's less 50; `resync_period` in seconds.

    `tenant_wait` is how many seconds an ADD waits for its Namespace's NetID.
    `node_ip` decides which host subnet is ours when several carry `hostname`.
    `external` is a host outside Kubernetes: no pods, no CNI; its subnet is an administrator's to give and to take back.
    """

    hostname: str
    cni: CniSettings = CniSettings()
    switch: SwitchSettings = SwitchSettings()
    node_ip: IPv4Address | None = None
    mtu: int | None = None
    resync_period: float = 60.0
    tenant_wait: float = 30.0
    external: bool = False
