"""NAT for traffic that leaves the cluster network: `IptablesFirewall` implements `bridge.Firewall` with iptables.

For the agent at start and at each resync, and for uninstalling. Our rules live in four chains of our own, into which
one jump each leads; rules of others are never read, moved or changed. It works in the network namespace that the
process runs in. See iptables(8), iptables-restore(8).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from k8s_ovs.dataplane import process
from k8s_ovs.dataplane.bridge import LINK_PREFIX
from k8s_ovs.errors import FirewallError

DEADLINE = 20.0
WAIT_FOR_LOCK = "5"
"""Seconds to wait for the lock of the older iptables."""
MISSING = 1
"""iptables' exit status for a chain or rule that does not exist."""
VXLAN_PORT = 4789
REMEDY = "run the agent as root, with CAP_NET_ADMIN, and see that the kernel has what this iptables needs"


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of ours: its table, the built-in chain that jumps to it, and its rules (without `-A NAME`)."""

    table: str
    name: str
    parent: str
    rules: tuple[str, ...] = ()

    @property
    def jump(self) -> str:
        """The rule of the parent that leads here."""
        return f"{self.parent} -j {self.name}"


NAT = Chain("nat", "K8S-OVS-POSTROUTING", "POSTROUTING")
FORWARD = Chain("filter", "K8S-OVS-FORWARD", "FORWARD")
INPUT = Chain("filter", "K8S-OVS-INPUT", "INPUT")
PODS = Chain("raw", "K8S-OVS-PREROUTING", "PREROUTING")


def wanted_chains(network: IPv4Network, gateway: str) -> list[Chain]:
    """The chains with their rules, spelled as `iptables -S` prints them.

    What a pod sends out of the cluster network leaves with the node's address; what leaves through the gateway is for
    a pod (of a Service, say) and stays as it is. VXLAN out of the gateway is dropped: the bridge lets none of it
    through, but the host's own DNAT (a node port, say) may turn something else into it.

    A pod's veth belongs to the switch. The userspace datapath reads it through a packet socket, and so the kernel sees
    each packet as well: a pod that addresses the veth's own MAC would have it routed past the bridge. The last chain
    drops the kernel's copies (OVS, Documentation/intro/install/userspace.rst, "Firewall Rules"). With the kernel
    datapath nothing gets there.
    """
    outward = f"-s {network} ! -d {network} ! -o {gateway} -j MASQUERADE --random-fully"
    smuggled = f"-i {gateway} -p udp -m udp --dport {VXLAN_PORT} -j DROP"
    forward = (smuggled, f"-i {gateway} -j ACCEPT", f"-o {gateway} -j ACCEPT")
    arriving = (smuggled, f"-p udp -m udp --dport {VXLAN_PORT} -j ACCEPT", f"-i {gateway} -j ACCEPT")
    return [
        Chain(NAT.table, NAT.name, NAT.parent, (outward,)),
        Chain(FORWARD.table, FORWARD.name, FORWARD.parent, forward),
        Chain(INPUT.table, INPUT.name, INPUT.parent, arriving),
        Chain(PODS.table, PODS.name, PODS.parent, (f"-i {LINK_PREFIX}+ -j DROP",)),
    ]


class IptablesFirewall:
    """See `bridge.Firewall`. `netns` is the file of the namespace to work in; None: the process's own."""

    def __init__(self, *, netns: str | None = None) -> None:
        self._prefix = ("nsenter", f"--net={netns}") if netns is not None else ()

    async def ensure(self, network: IPv4Network, gateway: str) -> bool:
        """See `bridge.Firewall`. A chain that is not complete is written anew, in one step with its table."""
        chains = wanted_chains(network, gateway)
        script = [line for chain in chains for line in await self._repair(chain)]
        await self._restore(script, f"NAT rules for {network}")
        return bool(script)

    async def remove(self) -> None:
        """See `bridge.Firewall`."""
        script = [line for chain in (NAT, FORWARD, INPUT, PODS) for line in await self._removal(chain)]
        await self._restore(script, "removal of the NAT rules")

    async def _repair(self, chain: Chain) -> list[str]:
        """The lines that make `chain` complete; none if it is."""
        rules, jumps = await self._rules(chain.table, chain.name), await self._jumps(chain)
        lines: list[str] = []
        if rules is None or not await self._complete(chain, rules):
            lines += [f":{chain.name} - [0:0]", *(f"-A {chain.name} {rule}" for rule in chain.rules)]
        if jumps == 0:
            lines.append(f"-I {chain.parent} 1 -j {chain.name}")
        lines += [f"-D {chain.jump}"] * (jumps - 1)
        return [f"*{chain.table}", *lines, "COMMIT"] if lines else []

    async def _complete(self, chain: Chain, rules: list[str]) -> bool:
        """Whether `rules` are those of `chain`.

        By their text; or by asking for each, since versions of iptables differ in how they print the same rule.
        """
        if rules == [f"-A {chain.name} {rule}" for rule in chain.rules]:
            return True
        if len(rules) != len(chain.rules):
            return False
        for rule in chain.rules:
            done = await self._run(
                ("iptables", "-w", WAIT_FOR_LOCK, "-t", chain.table, "-C", chain.name, *rule.split())
            )
            if done.status != 0:
                return False
        return True

    async def _removal(self, chain: Chain) -> list[str]:
        lines = [f"-D {chain.jump}"] * await self._jumps(chain)
        if await self._rules(chain.table, chain.name) is not None:
            lines += [f"-F {chain.name}", f"-X {chain.name}"]
        return [f"*{chain.table}", *lines, "COMMIT"] if lines else []

    async def _jumps(self, chain: Chain) -> int:
        rules = await self._rules(chain.table, chain.parent) or []
        return rules.count(f"-A {chain.jump}")

    async def _rules(self, table: str, chain: str) -> list[str] | None:
        """The rules of a chain as `iptables -S` prints them; None if there is no such chain."""
        done = await self._run(("iptables", "-w", WAIT_FOR_LOCK, "-t", table, "-S", chain))
        if done.status == MISSING:
            return None
        if done.status != 0:
            raise FirewallError(f"chain {chain} of table {table}: {_reason(done)}", remedy=REMEDY)
        return [line for line in done.stdout.splitlines() if line.startswith("-A ")]

    async def _restore(self, script: Sequence[str], what: str) -> None:
        if not script:
            return
        argv = ("iptables-restore", "--noflush", "-w", WAIT_FOR_LOCK)
        done = await self._run(argv, "".join(f"{line}\n" for line in script))
        if done.status != 0:
            raise FirewallError(f"{what}: iptables-restore: {_reason(done)}", remedy=REMEDY)

    async def _run(self, argv: Sequence[str], stdin: str = "") -> process.Finished:
        try:
            return await process.run((*self._prefix, *argv), stdin, DEADLINE)
        except TimeoutError:
            message = f"{' '.join(argv)}: not done within {DEADLINE:g} s"
            raise FirewallError(message, remedy="see which program holds the iptables lock") from None
        except OSError as error:
            message = f"{argv[0]}: {error.strerror}"
            raise FirewallError(message, remedy="install the package iptables") from error


def _reason(done: process.Finished) -> str:
    return done.stderr.strip().replace("\n", "; ") or f"exit status {done.status}"
