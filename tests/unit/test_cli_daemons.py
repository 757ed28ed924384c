"""`k8s-ovs`, `agent` and `controller`: which halves run, on what settings. The halves themselves are stubs."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from fakes.cli import CommandLine
from k8s_ovs.agent.app import AgentServices
from k8s_ovs.agent.settings import AgentSettings
from k8s_ovs.cli import agent_half, controller_half, daemons
from k8s_ovs.cli.settings import DaemonSettings
from k8s_ovs.cli.settings import daemon_from as real_daemon_from
from k8s_ovs.controller.app import ControllerServices, ControllerSettings
from k8s_ovs.errors import DataplaneError
from k8s_ovs.runtime.notify import Notifier
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.kube.credentials import KubeSettings, credentials_given

KUBE_VARIABLES = ("KUBECONFIG", "KUBERNETES_MASTER", "KUBERNETES_SERVICE_HOST", "HOME", "NOTIFY_SOCKET")


@dataclass
class Stubs:
    """What ran. `agent_fails` ends the agent's half by an error."""

    agents: list[tuple[AgentSettings, AgentServices]] = field(default_factory=list)
    controllers: list[tuple[ControllerSettings, ControllerServices]] = field(default_factory=list)
    settings: list[DaemonSettings] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    agent_fails: Exception | None = None


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> Stubs:
    made = Stubs()
    both = asyncio.Event()

    class StubAgent:
        def __init__(self, settings: AgentSettings, services: AgentServices) -> None:
            made.agents.append((settings, services))

        async def run(self) -> None:
            if made.agent_fails is not None:
                raise made.agent_fails

    async def controller(settings: ControllerSettings, services: ControllerServices) -> None:
        made.controllers.append((settings, services))
        if made.agent_fails is not None:
            try:
                await both.wait()
            except asyncio.CancelledError:
                made.cancelled.append("controller")
                raise

    def daemon_from(flags: dict[str, Any]) -> DaemonSettings:
        made.settings.append(real_daemon_from(flags))
        return made.settings[-1]

    for variable in KUBE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("K8S_OVS_METRICS_ADDRESS", "127.0.0.1:0")
    monkeypatch.setattr(agent_half, "Agent", StubAgent)
    monkeypatch.setattr(controller_half, "run_controller", controller)
    monkeypatch.setattr(daemons, "daemon_from", daemon_from)
    return made


@pytest.fixture
def k8s_ovs(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://192.0.2.20:8080"}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""

SEED = [
    "--etcd-endpoints=https://192.0.2.10:2379,https://192.0.2.11:2379",
    "--etcd-prefix=/k8s.ovs.com/ovs/network",
    "--hostname=Node-1",
    "--etcd-cafile=/etc/etcd/ca.pem",
    "--etcd-certfile=/etc/etcd/cert.pem",
    "--etcd-keyfile=/etc/etcd/key.pem",
    "--v=5",
    "--alsologtostderr",
    "--network=k8ssdn",
]


def test_the_seeds_command_line_runs_both_halves(
    k8s_ovs: CommandLine, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_MASTER", "192.0.2.20:8080")
    ended = k8s_ovs(*SEED)
    assert ended.code == 0, ended.err
    [(agent, services)], [(controller, shared)] = stubs.agents, stubs.controllers
    assert agent.hostname == controller.hostname == "node-1"
    assert services.store is shared.store
    assert services.kube is not None
    assert services.kube is shared.kube
    assert services.health is shared.health
    [settings] = stubs.settings
    assert settings.network == "k8ssdn"
    assert settings.etcd == EtcdSettings(
        endpoints=("https://192.0.2.10:2379", "https://192.0.2.11:2379"),
        prefix="/k8s.ovs.com/ovs/network",
        cafile=Path("/etc/etcd/ca.pem"),
        certfile=Path("/etc/etcd/cert.pem"),
        keyfile=Path("/etc/etcd/key.pem"),
    )


@pytest.mark.parametrize(("command", "halves"), [("agent", (1, 0)), ("controller", (0, 1))])
def test_a_command_runs_its_half_with_the_environments_settings(
    k8s_ovs: CommandLine,
    stubs: Stubs,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    halves: tuple[int, int],
) -> None:
    monkeypatch.setenv("KUBERNETES_MASTER", "192.0.2.20:8080")
    monkeypatch.setenv("K8S_OVS_HOSTNAME", "node7")
    monkeypatch.setenv("K8S_OVS_NODE_IP", "192.0.2.7")
    monkeypatch.setenv("K8S_OVS_V", "6")
    monkeypatch.setenv("K8S_OVS_LOG_JSON", "1")
    ended = k8s_ovs(command)
    assert ended.code == 0, ended.err
    assert (len(stubs.agents), len(stubs.controllers)) == halves
    assert all(line.startswith("{") for line in ended.err.splitlines())
    for agent, _ in stubs.agents:
        assert (agent.hostname, agent.node_ip) == ("node7", IPv4Address("192.0.2.7"))


def test_a_half_that_fails_ends_the_other(
    k8s_ovs: CommandLine, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_MASTER", "192.0.2.20:8080")
    stubs.agent_fails = DataplaneError("the kernel refused", remedy="ask it again")
    ended = k8s_ovs()
    assert ended.code == 1
    assert "ended by the kernel refused: ask it again" in ended.err
    assert stubs.cancelled == ["controller"]


def test_an_agent_outside_kubernetes_needs_no_credentials(k8s_ovs: CommandLine, stubs: Stubs) -> None:
    ended = k8s_ovs("agent")
    assert ended.code == 0, ended.err
    assert "no Kubernetes credentials" in ended.err
    [(_, services)] = stubs.agents
    assert services.kube is None


def test_an_external_host_uses_only_the_credentials_that_it_is_given(
    k8s_ovs: CommandLine, stubs: Stubs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBERNETES_MASTER", "192.0.2.20:8080")
    assert k8s_ovs("agent", "--external").code == 0
    config = tmp_path / "kubeconfig"
    config.write_text(KUBECONFIG)
    assert k8s_ovs("agent", "--external", f"--kubeconfig={config}").code == 0
    assert [settings.external for settings, _ in stubs.agents] == [True, True]
    assert [services.kube is not None for _, services in stubs.agents] == [False, True]


def test_a_controller_does(k8s_ovs: CommandLine, stubs: Stubs) -> None:
    for arguments in (("controller",), ()):
        ended = k8s_ovs(*arguments)
        assert ended.code == 2
        assert "no Kubernetes API server given: " in ended.err
        assert "give --kubeconfig FILE" in ended.err
    assert not stubs.agents
    assert not stubs.controllers


def test_credentials_that_were_given_have_to_be_good(
    k8s_ovs: CommandLine, stubs: Stubs, tmp_path: Path
) -> None:
    ended = k8s_ovs("agent", f"--kubeconfig={tmp_path / 'none'}")
    assert ended.code == 2
    assert f"{tmp_path / 'none'}" in ended.err
    assert not stubs.agents


def test_where_credentials_may_come_from(tmp_path: Path) -> None:
    assert not credentials_given(KubeSettings(environ={"HOME": str(tmp_path), "KUBECONFIG": ""}))
    assert credentials_given(KubeSettings(kubeconfig=tmp_path))
    for variable in ("KUBECONFIG", "KUBERNETES_MASTER", "KUBERNETES_SERVICE_HOST"):
        assert credentials_given(KubeSettings(environ={variable: "x"}))
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").touch()
    assert credentials_given(KubeSettings(environ={"HOME": str(tmp_path)}))


def test_an_address_that_cannot_be_served_is_a_wrong_setting(k8s_ovs: CommandLine, stubs: Stubs) -> None:
    ended = k8s_ovs("agent", "--metrics-address=nonsense")
    assert (ended.code, stubs.agents) == (2, [])
    assert "address 'nonsense' is not host:port: give one like 127.0.0.1:9640" in ended.err


def test_readiness_is_told_to_the_service_manager(
    k8s_ovs: CommandLine, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def run_daemon(main: Any, *, notifier: Notifier) -> int:
        monkeypatch.setattr(notifier, "ready", told.append)
        work: Coroutine[Any, Any, None] = main()
        asyncio.run(work)
        stubs.agents[0][1].on_ready()
        return 0

    monkeypatch.setattr(daemons, "run_daemon", run_daemon)
    assert k8s_ovs("agent").code == 0
    assert told == ["serving"]


def test_a_controller_is_up_once_its_services_are(
    k8s_ovs: CommandLine, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit of Type=notify waits for it, and no agent is there to tell."""
    told: list[str] = []
    monkeypatch.setattr(Notifier, "ready", lambda _, status: told.append(status))
    monkeypatch.setenv("KUBERNETES_MASTER", "192.0.2.20:8080")
    assert k8s_ovs("controller").code == 0
    assert told == ["running; /readyz tells whether it leads or stands by"]
    assert k8s_ovs().code == 0
    assert len(told) == 1, "with both halves, the agent tells"
