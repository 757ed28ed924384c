"""Agent and controller with every kind of credential, all of which are exchanged under load; etcd is real.

A node of its own: a network namespace with a switch, an etcd (mutual TLS, users, tokens that live for a second), and an
API server with TLS that wants a token or a client certificate. The agent is a user of etcd with a password, the
controller one by the CommonName of its certificate; `k8s-ovs etcd-tls` makes the certificates. Both daemons run at
--v=6, and none of their secrets may be seen.
"""

import asyncio
import json
import re
import secrets
import ssl
import stat
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fakes.certificates import Certificates, KeptCertificates
from fakes.command_lines import CommandLines
from fakes.daemon import Daemon, Launcher, launcher
from fakes.labs import eventually
from fakes.private_etcd import PrivateEtcd
from fakes.private_kubeapi import KubeApi
from fakes.private_ovs import PrivateOvs, netns_path, private_ovs, run
from fakes.secret_volume import SecretVolume
from k8s_ovs.cli import etcd_tls_keep
from k8s_ovs.cli.etcd_tls_keep import Kept, Names, Terms, keep, write_files
from k8s_ovs.config import DEFAULT_PREFIX, NetworkConfig
from k8s_ovs.lab.namespaces import inside
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials

pytestmark = [pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd]

NODE, NODE_IP = "node1", "192.0.2.1"
CONFIG = NetworkConfig.from_json(
    '{"Name":"k8ssdn", "Network":"172.11.0.0/16", "HostSubnetLength":8, '
    '"ServiceNetwork":"10.96.0.0/16", "PluginName":"k8s-ovs-multitenant"}'
)
NAMES = Names(namespace="kube-system", secret="tls", ca_secret="ca", config_map="etcd")
TERMS = Terms(addresses=("127.0.0.1",))
METRICS = {"agent": 9640, "controller": 9641}


class SecureApi(KubeApi):
    """The API server with TLS; the test itself comes with a certificate."""

    def __init__(self, folder: Path, certificates: Certificates, token: Path) -> None:
        self.context = ssl.create_default_context(cafile=str(certificates.ca))
        self.context.load_cert_chain(certificates.anonymous.cert, certificates.anonymous.key)
        server, ca = certificates.server, str(certificates.ca)
        options = ["--tls-cert", str(server.cert), "--tls-key", str(server.key), "--client-ca", ca]
        super().__init__(folder, *options, "--token", str(token), scheme="https")

    def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, method=method, headers={"Content-Type": kind}
        )
        with urllib.request.urlopen(request, timeout=10, context=self.context) as answer:
            return json.load(answer)


class ServerFiles(KeptCertificates):
    """What etcd reads: the files of etcd-tls, and beside its CA the one of this test, which is nobody's user."""

    def __init__(self, folder: Path, admin: Certificates) -> None:
        super().__init__(folder)
        self.admin = admin
        self.anonymous = admin.anonymous
        self.ca = folder / "trusted.crt"

    def refresh(self) -> None:
        self.ca.write_bytes((self.folder / "ca.crt").read_bytes() + self.admin.ca.read_bytes())


@dataclass
class World:
    """Everything that runs, and every secret that there has been."""

    folder: Path
    switch: PrivateOvs
    start: Launcher
    certificates: Certificates
    api: SecureApi
    etcd: PrivateEtcd
    files: ServerFiles
    server_token: Path
    volume: SecretVolume
    """etcd's certificates, as both daemons have them."""
    token: SecretVolume
    controller_identity: SecretVolume
    secrets: set[str] = field(default_factory=set)
    daemons: dict[str, Daemon] = field(default_factory=dict)

    def keep(self, terms: Terms, *, starting: bool) -> Kept:
        async def keeping() -> Kept:
            settings = KubeSettings(kubeconfig=self.folder / "controller.conf")
            async with KubeClient(load_credentials(settings)) as client:
                return await keep(client, NAMES, terms, starting=starting)

        return asyncio.run(keeping())

    def remember(self, content: dict[str, bytes]) -> None:
        for name, data in content.items():
            if name.endswith(".key"):
                self.secrets.update(line for line in data.decode().splitlines() if "-----" not in line)

    def deliver(self, kept: Kept) -> None:
        """As the kubelet brings a changed Secret to the daemons."""
        self.remember(kept.content)
        self.volume.put(**{name: kept.content[name] for name in ("ca.crt", "client.crt", "client.key")})

    def get(self, daemon: str, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{METRICS[daemon]}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def ready(self, daemon: str) -> bool:
        try:
            return self.get(daemon, "/readyz").endswith("ok\n")
        except OSError:
            return False

    def log(self, daemon: str) -> str:
        return self.daemons[daemon].log.read_text()

    def hosts(self) -> set[str]:
        """The remote hosts that the switch knows."""
        flows = self.switch.ofctl("dump-flows", self.switch.mgmt())
        return set(re.findall(r"(198\.51\.100\.\d+)", flows))


def remote(number: int) -> str:
    return f"198.51.100.{number + 1}"


def add_node(api: SecureApi, name: str, address: str) -> None:
    status = {"addresses": [{"type": "InternalIP", "address": address}]}
    api.call("POST", "/api/v1/nodes", {"metadata": {"name": name}, "status": status})


class Load(threading.Thread):
    """Nodes come as fast as it goes, and every third leaves again: each is news to controller, etcd and agent."""

    def __init__(self, api: SecureApi) -> None:
        super().__init__(name="load")
        self.api = api
        self.made = 0
        self.there: set[str] = set()
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.wait(0.1) and self.made < 240:
            number = self.made
            add_node(self.api, f"far{number}", remote(number))
            self.there.add(remote(number))
            if number % 3 == 2:
                self.api.call("DELETE", f"/api/v1/nodes/far{number - 1}")
                self.there.discard(remote(number - 1))
            self.made += 1

    def more(self, number: int = 4) -> None:
        """Return when there was that much more of it."""
        goal = self.made + number
        eventually(lambda: self.made >= goal or not self.is_alive(), "more load")
        assert self.is_alive(), "the load has ended too early"


def kubeconfig(path: Path, url: str, ca: Path, user: dict[str, str]) -> None:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority": str(ca)}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(json.dumps(config))


@contextmanager
def world(folder: Path, switch: PrivateOvs) -> Iterator[World]:
    """Servers and files, the daemons not yet started."""
    with ExitStack() as stack:
        for name in ("api", "certificates", "etcd"):
            (folder / name).mkdir()
        certificates = Certificates(folder / "certificates")
        token = f"kube-{secrets.token_hex(12)}"
        server_token = folder / "server-token"
        server_token.write_text(token)
        api = SecureApi(folder / "api", certificates, server_token)
        stack.callback(api.close)
        identity = certificates.issue("controller", common_name="controller")
        identities = SecretVolume(
            folder / "identity",
            **{"tls.crt": identity.cert.read_bytes(), "tls.key": identity.key.read_bytes()},
        )
        files = ServerFiles(folder / "server", certificates)
        start = stack.enter_context(launcher(folder))
        tokens = SecretVolume(folder / "token", token=token.encode())
        mine = tokens.folder / "token", identities.folder / "tls.crt", identities.folder / "tls.key"
        kubeconfig(folder / "agent.conf", api.url, certificates.ca, {"tokenFile": str(mine[0])})
        user = {"client-certificate": str(mine[1]), "client-key": str(mine[2])}
        kubeconfig(folder / "controller.conf", api.url, certificates.ca, user)
        first = _first_certificates(folder, files)
        public = {name: first[name] for name in ("ca.crt", "client.crt", "client.key")}
        options = ("--auth-token-ttl", "1", "--bcrypt-cost", "4", "--log-level", "info")
        etcd = PrivateEtcd(folder / "etcd", tls=files, options=options)
        stack.callback(etcd.kill)
        made = World(
            folder, switch, start, certificates, api, etcd, files, server_token,
            SecretVolume(folder / "volume", **public), tokens, identities, {token},
        )  # fmt: skip
        made.remember(first)
        made.remember({"tls.key": identity.key.read_bytes()})
        yield made


def _first_certificates(folder: Path, files: ServerFiles) -> dict[str, bytes]:
    """By the command, with a CA that ends so soon that the next run makes another one."""
    options = ["--secret", "tls", "--ca-secret", "ca", "--config-map", "etcd", "--address", "127.0.0.1"]
    options += ["--ca-days", "400", "--dir", str(files.folder), "--v", "6"]
    options += ["--kubeconfig", str(folder / "controller.conf")]
    with launcher(folder / "certificates") as start:
        done = start("-m", "k8s_ovs", "etcd-tls", *options)
        assert done.process.wait(30) == 0, done.log.read_text()
    files.refresh()
    names = ("ca.crt", "server.crt", "server.key", "client.crt", "client.key")
    return {name: (files.folder / name).read_bytes() for name in names}


def daemons(world: World, password: Path) -> None:
    """Start agent and controller."""
    etcd, volume = world.etcd, world.volume.folder
    shared = ["--etcd-endpoints", etcd.endpoint, "--etcd-cafile", str(volume / "ca.crt"), "--v", "6"]
    shared += ["--etcd-certfile", str(volume / "client.crt"), "--etcd-keyfile", str(volume / "client.key")]
    own = {
        "controller": ["--hostname", "controller1", "--kubeconfig", str(world.folder / "controller.conf")],
        "agent": [
            *("--hostname", NODE, "--kubeconfig", str(world.folder / "agent.conf"), "--datapath", "netdev"),
            *("--etcd-username", "agent", "--etcd-password-file", str(password)),
            *("--ovs-rundir", str(world.switch.rundir), "--cni-conf-dir", str(world.folder / "net.d")),
            *("--cni-socket", str(world.folder / "run" / "cni.sock")),
        ],
    }
    for name, flags in own.items():
        where = f"127.0.0.1:{METRICS[name]}"
        arguments = ["-m", "k8s_ovs", name, *flags, *shared, "--metrics-address", where]
        world.daemons[name] = world.start(*arguments, **world.switch.env)


@pytest.mark.timeout(300)
def test_everything_is_exchanged_under_load_and_nothing_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_tls_keep, "SETTLE_SECONDS", 0.0)
    with private_ovs() as switch:
        for command in ("link add u0 type veth peer name u1", f"addr add {NODE_IP}/24 dev u0"):
            run("ip", "-n", switch.netns, *command.split())
        for link in ("u0", "u1"):
            run("ip", "-n", switch.netns, "link", "set", link, "up")

        def body() -> None:
            with world(tmp_path, switch) as made:
                _exchange_everything(made)

        inside(Path(netns_path(switch.netns)), body)


def _exchange_everything(world: World) -> None:
    etcd, api = world.etcd, world.api
    password = world.folder / "password"
    first, second = (f"word-{secrets.token_hex(12)}" for _ in range(2))
    world.secrets |= {first, second}
    password.write_text(first)
    etcd.start()
    etcd.put(f"{DEFAULT_PREFIX}/config", CONFIG.to_json())
    etcd.enable_auth(first, DEFAULT_PREFIX + "/", "agent", "k8s-ovs")
    add_node(api, NODE, NODE_IP)
    daemons(world, password)
    load, lines = Load(api), CommandLines()
    lines.start()
    try:
        eventually(lambda: all(map(world.ready, METRICS)), "agent and controller to be ready", seconds=60)
        load.start()
        load.more()
        _exchange_for_kubernetes(world, load)
        with moved(world, "agent"):
            etcd.call("auth/user/changepw", {"name": "agent", "password": second})
            password.write_text(second)
        load.more()
        _exchange_the_ca(world, load)
    finally:
        load.enough.set()
        lines.enough.set()
        lines.join()
        if load.is_alive():
            load.join()
    eventually(lambda: world.hosts() == load.there, f"flows of {len(load.there)} hosts, no more", seconds=60)
    assert all(daemon.running for daemon in world.daemons.values())
    _nothing_is_seen(world, lines.seen)
    _modes(world)


def _exchange_for_kubernetes(world: World, load: Load) -> None:
    """The agent's token expires before it has the next one; the controller gets another certificate."""
    token = f"kube-{secrets.token_hex(12)}"
    world.secrets.add(token)
    world.server_token.write_text(token)
    world.api.fault(action="close-watches")
    outage = "k8s_ovs_kube_outage 1.0"
    eventually(lambda: outage in world.get("agent", "/metrics"), "the agent to be refused")
    world.token.put(token=token.encode())
    eventually(lambda: outage not in world.get("agent", "/metrics"), "the agent to have its new token")
    identity = world.certificates.issue("controller2", common_name="controller2")
    world.remember({"tls.key": identity.key.read_bytes()})
    content = {"tls.crt": identity.cert.read_bytes(), "tls.key": identity.key.read_bytes()}
    world.controller_identity.put(**content)
    load.more()


def _exchange_the_ca(world: World, load: Load) -> None:
    """In the order that `etcd-tls` keeps: publish, sign at the server's next start; clients follow when they follow."""
    published = world.keep(TERMS, starting=False)
    assert any("next CA" in change for change in published.changes)
    write_files(world.files.folder, published.content)
    world.files.refresh()
    with moved(world, *METRICS):
        world.deliver(published)
    load.more()
    signed = world.keep(TERMS, starting=True)
    write_files(world.files.folder, signed.content)
    world.files.refresh()
    world.etcd.kill()
    world.etcd.start()
    load.more()
    with moved(world, *METRICS):
        world.deliver(signed)
    load.more()
    assert published.content["client.crt"] != signed.content["client.crt"]


@contextmanager
def moved(world: World, *names: str) -> Iterator[None]:
    """Daemons notice what is exchanged in the block, without an outage or a restart."""

    def count(name: str) -> int:
        return world.log(name).count("a new connection with the new credentials")

    before = {name: count(name) for name in names}
    yield
    for name in names:
        eventually(lambda name=name: count(name) > before[name], f"{name} to use what is new")


def _nothing_is_seen(world: World, lines: set[bytes]) -> None:
    tokens = set(re.findall(r'"token":"([A-Za-z]+\.\d+)"', (world.etcd.folder / "e0.log").read_text()))
    assert len(tokens) > 3, "etcd's tokens have expired again and again"
    events = json.dumps(world.api.call("GET", "/api/v1/events"))
    shown = {
        **{f"log of {name}": world.log(name) for name in METRICS},
        **{
            f"{path} of {name}": world.get(name, path) for name in METRICS for path in ("/metrics", "/readyz")
        },
        "ps": b"\n".join(lines).decode(errors="replace"),
        "Events": events,
        "log of etcd-tls": (world.folder / "certificates" / "daemon0.log").read_text(),
    }
    assert " DEBUG " in shown["log of agent"]
    assert "ovs-ofctl" in shown["ps"]
    assert len(world.secrets) > 12
    for where, text in shown.items():
        found = [secret for secret in world.secrets | tokens if secret in text]
        assert not found, f"{len(found)} secrets in {where}"


def _modes(world: World) -> None:
    """Sockets are root's; health and metrics are heard on loopback only."""
    socket = world.folder / "run" / "cni.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    pids = [str(daemon.process.pid) for daemon in world.daemons.values()]
    listening = [line for line in run("ss", "-ltnpH").splitlines() if _owned(line, pids)]
    assert len(listening) == 2
    assert all(line.split()[3].startswith("127.0.0.1:") for line in listening)


def _owned(line: str, pids: Sequence[str]) -> bool:
    return any(f"pid={pid}," in line for pid in pids)
