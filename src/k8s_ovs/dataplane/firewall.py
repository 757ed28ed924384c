"""The host's rules for the pod network: `IptablesFirewall` implements `bridge.Firewall` with iptables.

For the agent at start and at each resync, and for uninstalling. Our rules live in four chains of our own, into which
one jump each leads; rules of others are never read, moved or changed. It works in the network namespace that the
process runs in. See iptables(8), iptables-restore(8).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from k8s_ovs.dataplane import process
from k8s_ovs.dataplane.bridge import LINK_PREFIX, FirewallSpec
from k8s_ovs.dataplane.findings import Finding, Kind, found
from k8s_ovs.errors import FirewallError
from k8s_ovs.model.types import HAIRPIN_IP

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
CHAINS = (NAT, FORWARD, INPUT, PODS)

TCP_RESET = "-p tcp -j REJECT --reject-with tcp-reset"
UNREACHABLE = "-j REJECT --reject-with icmp-port-unreachable"
"""A refusal as kube-proxy gives it: TCP gets a reset, everything else (UDP, SCTP) an ICMP error, at once."""


def wanted_chains(spec: FirewallSpec) -> list[Chain]:
    """The chains with their rules, spelled as `iptables -S` prints them, in the order in which a packet meets them."""
    rules = {
        NAT: _nat(spec),
        FORWARD: _forward(spec),
        INPUT: _input(spec),
        PODS: _pods(),
    }
    return [replace(chain, rules=rules[chain]) for chain in CHAINS]


def _nat(spec: FirewallSpec) -> tuple[str, ...]:
    """What pods send out of the cluster network leaves with the node's address.

    So does what the host sends to itself or to others through a Service: the bridge has given it HAIRPIN_IP, so that the
    answers come back to the bridge. What leaves through the gateway is for a pod and stays as it is.
    """
    return (
        f"-s {spec.network} ! -d {spec.network} ! -o {spec.gateway} -j MASQUERADE --random-fully",
        f"-s {HAIRPIN_IP}/32 ! -o {spec.gateway} -j MASQUERADE --random-fully",
    )


def _forward(spec: FirewallSpec) -> tuple[str, ...]:
    """What passes through the host.

    VXLAN out of the gateway is dropped: the bridge lets none of it through, but the host's own DNAT (a node port, say)
    may turn something else into it.

    A packet that comes out of the gateway was translated by the host (kube-proxy, portmap) and goes back into it again
    would be a pod's on its way to another pod, of which the bridge could not say any more whose it is once the host has
    put its own address in: refused. Pods reach node ports in the bridge instead.
    """
    back = f"-i {spec.gateway} -o {spec.gateway}"
    translated = f"{back} -m conntrack --ctstate DNAT"
    return (
        _smuggled(spec),
        *_no_endpoint(spec),
        f"{back} -p tcp -m conntrack --ctstate DNAT -j REJECT --reject-with tcp-reset",
        f"{translated} {UNREACHABLE}",
        f"-i {spec.gateway} -j ACCEPT",
        f"-o {spec.gateway} -j ACCEPT",
    )


def _input(spec: FirewallSpec) -> tuple[str, ...]:
    """What the host takes in: VXLAN for the switch, and what pods send to the node."""
    vxlan = f"-p udp -m udp --dport {VXLAN_PORT} -j ACCEPT"
    return (_smuggled(spec), vxlan, *_no_endpoint(spec), f"-i {spec.gateway} -j ACCEPT")


def _pods() -> tuple[str, ...]:
    """A pod's veth belongs to the switch.

    The userspace datapath reads it through a packet socket, and so the kernel sees each packet as well: a pod that
    addresses the veth's own MAC would have it routed past the bridge. Here the kernel's copies are dropped (OVS,
    Documentation/intro/install/userspace.rst, "Firewall Rules"). With the kernel datapath nothing gets there.
    """
    return (f"-i {LINK_PREFIX}+ -j DROP",)


def _smuggled(spec: FirewallSpec) -> str:
    return f"-i {spec.gateway} -p udp -m udp --dport {VXLAN_PORT} -j DROP"


def _no_endpoint(spec: FirewallSpec) -> tuple[str, ...]:
    """A Service's address out of the gateway: the bridge sends it here when no endpoint is there to take it.

    The refusals are not limited in rate by a rule, so that each connection gets its own.
    """
    service = f"-d {spec.service_network} -i {spec.gateway}"
    return (f"{service} {TCP_RESET}", f"{service} {UNREACHABLE}")


@dataclass(frozen=True, slots=True)
class _Repair:
    """Lines for iptables-restore that make a chain complete, and what was wrong with it."""

    lines: list[str]
    fault: str


class IptablesFirewall:
    """See `bridge.Firewall`. `netns` is the file of the namespace to work in; None: the process's own."""

    def __init__(self, *, netns: str | None = None) -> None:
        self._prefix = ("nsenter", f"--net={netns}") if netns is not None else ()

    async def ensure(self, spec: FirewallSpec) -> tuple[Finding, ...]:
        """See `bridge.Firewall`. A chain that is not complete is written anew, in one step with its table."""
        faults: list[str] = []
        script: list[str] = []
        for chain in wanted_chains(spec):
            if repair := await self._repair(chain):
                script += repair.lines
                faults.append(f"chain {chain.name} of table {chain.table}: {repair.fault}")
        await self._restore(script, f"NAT rules for {spec.network}")
        return found(Kind.FIREWALL, faults)

    async def remove(self) -> bool:
        """See `bridge.Firewall`."""
        script = [line for chain in CHAINS for line in await self._removal(chain)]
        await self._restore(script, "removal of the NAT rules")
        return bool(script)

    async def _repair(self, chain: Chain) -> _Repair | None:
        """What makes `chain` complete; None if it is."""
        rules, jumps = await self._rules(chain.table, chain.name), await self._jumps(chain)
        lines: list[str] = []
        faults: list[str] = []
        if rules is None or not await self._complete(chain, rules):
            lines += [f":{chain.name} - [0:0]", *(f"-A {chain.name} {rule}" for rule in chain.rules)]
            faults.append("was missing" if rules is None else _difference(chain, rules))
        if jumps == 0:
            lines.append(f"-I {chain.parent} 1 -j {chain.name}")
        lines += [f"-D {chain.jump}"] * (jumps - 1)
        if jumps != 1:
            faults.append(f"{jumps or 'no'} jumps led to it from {chain.parent}")
        if not lines:
            return None
        return _Repair([f"*{chain.table}", *lines, "COMMIT"], ", ".join(faults))

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


def _difference(chain: Chain, rules: Sequence[str]) -> str:
    """What is wrong with the rules of a chain that is there, counted; iptables may spell a rule in its own way."""
    if not rules:
        return "was empty"
    if len(rules) != len(chain.rules):
        return f"had {len(rules)} rules, not {len(chain.rules)}"
    return "had other rules"
