"""The agent and the switch of the host on which `k8s-ovs status` runs, if it is one of ours.

Called by `cli.status`. It asks the agent's own endpoint and reads counters of the switch; it changes nothing.
"""

import asyncio
from http.client import HTTPConnection, HTTPException

from k8s_ovs.agent.dropcounts import read_drops
from k8s_ovs.agent.health import named
from k8s_ovs.agent.settings import SwitchSettings
from k8s_ovs.cli.status_facts import ThisNode
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.errors import DataplaneError
from k8s_ovs.flows.names import MAGIC, MAGIC_SHIFT
from k8s_ovs.runtime.address import parse_address

SECONDS = 5.0
OURS = MAGIC << MAGIC_SHIFT, 0xFFFF << MAGIC_SHIFT
"""Cookie and mask of every flow of ours."""


async def read_here(metrics_address: str, switch: SwitchSettings) -> ThisNode | None:
    """What they say; None if there is neither an agent nor a bridge. Raises ConfigError for a malformed address."""
    there = (switch.rundir / f"{switch.bridge}.mgmt").exists()
    error = ""
    checks: dict[str, str] = {}
    notes: dict[str, str] = {}
    metrics: dict[str, float] = {}
    try:
        ready = await asyncio.to_thread(fetch, metrics_address, "/readyz")
        checks, notes = parse_readyz(ready)
        metrics = parse_metrics(await asyncio.to_thread(fetch, metrics_address, "/metrics"))
    except (OSError, HTTPException) as err:
        if not there:
            return None
        error = f"{metrics_address}: {err}"
    flows, drops, switch_error = 0, {}, ""
    try:
        table = OfctlFlowTable(switch.management)
        flows = len(await table.dump(*OURS))
        drops = {name: packets for name, packets in named(await read_drops(table)).items() if packets}
    except DataplaneError as err:
        switch_error = str(err)
    ports = int(metrics.get("k8s_ovs_pods", 0))
    return ThisNode(error, checks, notes, metrics, switch_error, ports, flows, drops)


def fetch(address: str, path: str, *, method: str = "GET", body: str = "") -> str:
    """What a daemon's endpoint answers, whatever its status. Raises OSError, HTTPException, ConfigError."""
    host, port = parse_address(address)
    connection = HTTPConnection(host or "127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request(method, path, body=body or None)
        return connection.getresponse().read().decode(errors="replace")
    finally:
        connection.close()


def parse_readyz(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """The checks with their reasons ("" if they pass), and the notes."""
    checks: dict[str, str] = {}
    notes: dict[str, str] = {}
    for line in text.splitlines():
        name, _, said = line[4:].partition(": ")
        if line.startswith("[+] "):
            checks[name] = ""
        elif line.startswith("[-] "):
            checks[name] = said
        elif line.startswith("[!] "):
            notes[name] = said
    return checks, notes


def parse_metrics(text: str) -> dict[str, float]:
    """Values by name with labels, as Prometheus' text format has them."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name and not line.startswith("#"):
            found[name] = float(value)
    return found
