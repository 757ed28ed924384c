"""The command line from outside: exit codes, messages, help."""

import subprocess
import sys

import click
import pytest

from fakes.cli import CommandLine
from k8s_ovs import __version__
from k8s_ovs.cli import daemons
from k8s_ovs.cli.lazy import LazyGroup
from k8s_ovs.cli.main import COMMANDS, cli
from k8s_ovs.errors import EtcdUnavailable


@pytest.fixture
def k8s_ovs(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


def test_help_and_version(k8s_ovs: CommandLine) -> None:
    for flag in ("--help", "-h"):
        shown = k8s_ovs(flag)
        assert (shown.code, shown.err) == (0, "")
        assert "Without a command: agent and controller in one process." in shown.out
        for name in COMMANDS:
            assert f"  {name}" in shown.out
    assert k8s_ovs("--version").out == f"k8s-ovs, version {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(k8s_ovs: CommandLine, name: str) -> None:
    shown = k8s_ovs(name, "--help")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith(f"Usage: k8s-ovs {name}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-command"], "No such command 'no-such-command'"),
        (["agent", "--mtu=1"], "Invalid value for '--mtu': 1 is not in the range"),
        (
            ["agent", "--v=loud"],
            "log level 'loud' is unknown: use a number from 0 to 6, info, debug or trace",
        ),
        (["agent", "--node-ip=here"], "--node-ip: "),
        (["agent", "--etcd-endpoints="], "no etcd endpoint: give --etcd-endpoints"),
        (["--etcd-endpoints=unix:///x"], "etcd endpoint 'unix:///x' is no http:// or https:// address: give"),
        (["--etcd-keyfile=/key"], "a client certificate for etcd needs both files: give --etcd-certfile and"),
        (["--hostname=x", "agent"], "--hostname stands before the command agent"),
        (["init-config", "--from-json", "{"], "--from-json: not JSON"),
        (["init-config", "--mode", "flat"], "'flat' is not one of 'multitenant', 'subnet'"),
        (["drops", "--output=xml"], "'xml' is not one of 'table', 'json'"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_code_2(
    k8s_ovs: CommandLine, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.setattr(daemons, "run_daemon", lambda *_, **__: pytest.fail("it should not run"))
    ended = k8s_ovs(*arguments)
    assert ended.code == 2
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            EtcdUnavailable("etcd does not answer", remedy="start it"),
            1,
            "k8s-ovs: etcd does not answer: start it\n",
        ),
        (click.Abort(), 130, ""),
        (click.exceptions.Exit(7), 7, ""),
    ],
)
def test_how_errors_end(
    k8s_ovs: CommandLine, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, said: str
) -> None:
    def fail(_flags: object) -> None:
        raise error

    monkeypatch.setattr(daemons, "run_both", fail)
    ended = k8s_ovs()
    assert (ended.code, ended.err) == (code, said)


def test_a_flag_from_the_environment_may_stand_before_a_command(
    k8s_ovs: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K8S_OVS_HOSTNAME", "x")
    assert k8s_ovs("agent", "--help").code == 0


def test_a_group_imports_a_command_when_it_is_used() -> None:
    group = LazyGroup(commands_in={"drops": "drops:drops", "gone": "nowhere:gone"})
    context = click.Context(group)
    assert group.list_commands(context) == ["drops", "gone"]
    assert group.get_command(context, "other") is None
    command = group.get_command(context, "drops")
    assert command is not None
    assert command.name == "drops"
    with pytest.raises(ModuleNotFoundError):
        group.get_command(context, "gone")
    assert isinstance(cli, LazyGroup)


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        ("--version", {"aiohttp", "grpclib", "ovs", "prometheus_client", "k8s_ovs.lab", "k8s_ovs.agent.app"}),
        ("lab exec --help", {"asyncio", "aiohttp", "grpclib", "msgspec", "yaml", "k8s_ovs.lab.lifecycle"}),
        ("lab status --help", {"aiohttp", "prometheus_client", "ovs", "yaml", "k8s_ovs.lab.demo"}),
        ("tenant --help", {"aiohttp", "prometheus_client", "ovs", "msgspec", "yaml", "k8s_ovs.lab"}),
        ("drops --help", {"aiohttp", "grpclib", "prometheus_client", "ovs", "msgspec", "k8s_ovs.lab"}),
        ("subnet --help", {"aiohttp", "prometheus_client", "ovs", "msgspec", "yaml", "k8s_ovs.lab"}),
    ],
)
def test_a_command_imports_only_what_it_uses(arguments: str, heavy: set[str]) -> None:
    """Somebody waits for it at a terminal, and imports are most of its time."""
    script = """
import sys
from k8s_ovs.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(*sorted(sys.modules))
"""
    command = [sys.executable, "-c", script, *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "click" in loaded
    assert loaded & heavy == set()
