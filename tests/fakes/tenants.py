"""Tenants in a FakeStore, and a controller that follows a script: one line of it each time that somebody looks.

For the command line's tests. A line is a dict of keys (below the network's root) to JSON; None deletes the key.
"""

import json
from collections.abc import Mapping, Sequence

from fakes.cli import OpenStore
from k8s_ovs.config import EXAMPLE, NetworkConfig
from k8s_ovs.sources.store import Change, Snapshot

Line = Mapping[str, object]

NODES = {"node1": "192.0.2.1", "node2": "192.0.2.2", "node3": "192.0.2.3"}


class TenantStore(OpenStore):
    """Namespaces red (10), blue (11), green (12) and kube-system (0), three nodes, of which node3 has no agent."""

    def __init__(self, config: str = EXAMPLE) -> None:
        super().__init__(NetworkConfig.from_json(config))
        self.script: list[Line] = []
        for number, (host, ip) in enumerate(NODES.items()):
            subnet = {"Host": host, "HostIP": ip, "Subnet": f"172.11.{4 * number}.0/22", "Assign": False}
            self.play({f"subnets/{ip}": subnet})
        for name, net_id in {"red": 10, "blue": 11, "green": 12, "kube-system": 0}.items():
            self.play({**tenant(name, net_id), **record(name, net_id)})
        for host in ("node1", "node2"):
            self.report(host, {})

    def play(self, line: Line) -> None:
        """Write this line."""
        root = self.keys.root
        for key, value in line.items():
            if value is None:
                self.delete_raw(root + key)
            else:
                self.put_raw(root + key, value if isinstance(value, str) else json.dumps(value))

    def report(self, host: str, applied: Mapping[str, str]) -> None:
        """The agent of `host` says what it has applied."""
        value = {"Host": host, "HostIP": NODES[host], "Applied": dict(applied)}
        name = self.keys.name
        self.put_raw(f"{self.prefix}/agents/{name}/{NODES[host]}", json.dumps(value))

    def read(self, key: str) -> dict[str, object]:
        """The JSON of a key below the network's root."""
        value: dict[str, object] = json.loads(self.raw()[self.keys.root + key])
        return value

    async def snapshot(self) -> Snapshot:
        found = await super().snapshot()
        if self.script and self.commits:
            self.play(self.script.pop(0))
        return found

    @property
    def requests(self) -> Sequence[Change]:
        """What the command has written."""
        return self.commits


def record(name: str, net_id: int | None, action: str = "", other: str = "", **extra: object) -> Line:
    """A net namespace."""
    numbered = {} if net_id is None else {"NetID": net_id}
    return {
        f"netnamespaces/{name}": {"NetName": name, **numbered, "Action": action, "Namespace": other, **extra}
    }


def tenant(name: str, net_id: int, **change: object) -> Line:
    """An entry of the controller's ledger."""
    return {f"tenants/{name}": {"Namespace": name, "NetID": net_id, **({"Change": change} if change else {})}}
