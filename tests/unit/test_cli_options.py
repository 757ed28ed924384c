"""Flags, environment and defaults, as the user gives them, and the records of settings that come of them."""

from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import click
import pytest

from k8s_ovs.agent.settings import AgentSettings, CniSettings, SwitchSettings
from k8s_ovs.cli import options
from k8s_ovs.cli.agent_settings import agent_from
from k8s_ovs.cli.etcd_settings import addresses_from, etcd_from
from k8s_ovs.cli.main import COMMANDS, cli
from k8s_ovs.cli.options import Options
from k8s_ovs.cli.settings import daemon_from
from k8s_ovs.config import DEFAULT_PREFIX
from k8s_ovs.errors import ConfigError
from k8s_ovs.sources.etcd.settings import EtcdSettings


@click.command(context_settings=options.CONTEXT)
@options.etcd_options
@options.kube_options
@options.daemon_options
@options.agent_options
@options.log_options
def everything(**flags: object) -> Options:
    return flags


def parse(*arguments: str) -> Options:
    parsed: Options = everything.main(arguments, standalone_mode=False)
    return parsed


def test_without_flags_the_documented_defaults_hold() -> None:
    given = parse()
    assert agent_from(given, "node1") == AgentSettings(hostname="node1")
    assert agent_from(given, "node1").cni == CniSettings(
        Path("/run/k8s-ovs/cni.sock"), Path("/etc/cni/net.d")
    )
    assert agent_from(given, "node1").switch == SwitchSettings(Path("/run/openvswitch"), "br0", None)
    assert etcd_from(given) == EtcdSettings(("http://127.0.0.1:2379",), DEFAULT_PREFIX)
    daemon = daemon_from(given)
    assert daemon.metrics_address == "127.0.0.1:9640"
    assert daemon.network is None
    assert daemon.hostname == daemon.hostname.lower() != ""
    assert daemon.kube.kubeconfig is None


AGENT = {
    "--bridge": "br7",
    "--ovs-rundir": "/run/ovs7",
    "--node-ip": "192.0.2.7",
    "--mtu": "8950",
    "--datapath": "netdev",
    "--cni-socket": "/run/x.sock",
    "--cni-conf-dir": "/etc/x",
    "--cni-bin-dir": "/opt/x",
    "--resync-period": "7.5",
    "--tenant-wait": "3",
}
ETCD = {
    "--etcd-endpoints": "https://a:1, https://b:2,",
    "--etcd-prefix": "/p",
    "--etcd-cafile": "/ca",
    "--etcd-certfile": "/cert",
    "--etcd-keyfile": "/key",
    "--etcd-username": "root",
    "--etcd-password-file": "/password",
}
DAEMON = {
    "--network": "blue",
    "--kubeconfig": "/kc",
    "--hostname": "Node-A",
    "--metrics-address": ":1",
    "--v": "6",
}


def expect(given: Options) -> None:
    assert agent_from(given, "n") == AgentSettings(
        hostname="n",
        cni=CniSettings(Path("/run/x.sock"), Path("/etc/x"), portmap=False, bin_dir=Path("/opt/x")),
        switch=SwitchSettings(Path("/run/ovs7"), "br7", "netdev"),
        node_ip=IPv4Address("192.0.2.7"),
        mtu=8950,
        resync_period=7.5,
        tenant_wait=3.0,
    )
    assert etcd_from(given) == EtcdSettings(
        endpoints=("https://a:1", "https://b:2"),
        prefix="/p",
        cafile=Path("/ca"),
        certfile=Path("/cert"),
        keyfile=Path("/key"),
        username="root",
        password_file=Path("/password"),
    )
    daemon = daemon_from(given)
    assert (daemon.network, daemon.hostname, daemon.metrics_address) == ("blue", "node-a", ":1")
    assert daemon.kube.kubeconfig == Path("/kc")
    assert (given["verbosity"], given["log_json"], given["alsologtostderr"]) == ("6", True, True)


def test_every_flag_arrives() -> None:
    pairs = [f"{flag}={value}" for flag, value in (AGENT | ETCD | DAEMON).items()]
    expect(parse(*pairs, "--no-cni-portmap", "--log-json", "--alsologtostderr"))


def test_every_environment_variable_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    values = (
        AGENT | ETCD | DAEMON | {"--cni-portmap": "false", "--log-json": "1", "--alsologtostderr": "true"}
    )
    for flag, value in values.items():
        monkeypatch.setenv("K8S_OVS_" + flag.removeprefix("--").replace("-", "_").upper(), value)
    expect(parse())


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K8S_OVS_MTU", "9000")
    monkeypatch.setenv("K8S_OVS_HOSTNAME", "from-environment")
    given = parse("--mtu", "1400")
    assert agent_from(given, "n") == replace(AgentSettings(hostname="n"), mtu=1400)
    assert daemon_from(given).hostname == "from-environment"


GROUPS = {
    "tenant": ("list", "show", "join", "isolate", "global"),
    "subnet": ("list", "assign", "release"),
}


@pytest.mark.parametrize(
    "words",
    [
        (),
        *((name,) for name in COMMANDS if name != "lab"),
        *((group, name) for group, names in GROUPS.items() for name in names),
    ],
)
def test_the_variable_of_every_flag_is_its_name(words: tuple[str, ...]) -> None:
    command: click.Command | None = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None
    assert command.context_settings["auto_envvar_prefix"] == "K8S_OVS"
    for option in command.params:
        if isinstance(option, click.Argument):
            continue
        assert isinstance(option, click.Option)
        names = [name.removeprefix("--") for name in option.opts if name.startswith("--")]
        variables = ["K8S_OVS_" + name.replace("-", "_").upper() for name in names]
        assert (option.envvar or f"K8S_OVS_{(option.name or '').upper()}") in variables


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mtu=70"], "70 is not in the range 576<=x<=65485"),
        (["--mtu=big"], "'big' is not a valid integer range"),
        (["--datapath=dpdk"], "'dpdk' is not one of 'system', 'netdev'"),
        (["--resync-period=0"], "0.0 is not in the range x>=1"),
        (["--tenant-wait=91"], "91.0 is not in the range 0<=x<=90"),
        (["--no-such-flag"], "No such option '--no-such-flag'"),
    ],
)
def test_values_that_click_refuses(arguments: list[str], said: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        parse(*arguments)
    assert said in refused.value.format_message()
    assert refused.value.exit_code == 2


def test_addresses_are_checked() -> None:
    assert addresses_from(" 192.0.2.1, 192.0.2.2,", "--node-ip") == [
        IPv4Address("192.0.2.1"),
        IPv4Address("192.0.2.2"),
    ]
    assert addresses_from("", "--node-ip") == []
    with pytest.raises(ConfigError, match=r"^--node-ip: .*'2001:db8::1'.*: give IPv4 addresses separated"):
        addresses_from("192.0.2.1,2001:db8::1", "--node-ip")
    with pytest.raises(ConfigError, match=r"^--node-ip: .*'192.0.2.256'.*: give one IPv4 address"):
        agent_from(parse("--node-ip=192.0.2.256"), "n")


def test_etcd_settings_that_cannot_work_are_refused() -> None:
    for arguments, remedy in (
        (["--etcd-endpoints=,"], "give --etcd-endpoints"),
        (["--etcd-endpoints=ftp://x"], "give endpoints like"),
        (["--etcd-certfile=/c"], "give --etcd-certfile and --etcd-keyfile"),
        (["--etcd-username=root"], "give --etcd-username and --etcd-password-file"),
    ):
        with pytest.raises(ConfigError) as refused:
            daemon_from(parse(*arguments))
        assert refused.value.remedy.startswith(remedy)


def test_an_external_host_is_a_flag_of_the_agent_alone() -> None:
    @click.command(context_settings=options.CONTEXT)
    @options.agent_options
    @options.external_option
    def external(**flags: object) -> Options:
        return flags

    given: Options = external.main(["--external"], standalone_mode=False)
    assert agent_from(given, "lb") == AgentSettings(hostname="lb", external=True)
    assert not agent_from(parse(), "n").external
    for name in ("", "controller", "uninstall"):
        command = cli.get_command(click.Context(cli), name) if name else cli
        assert command is not None
        assert "external" not in {option.name for option in command.params}


def test_uninstall_asks_only_for_what_it_needs() -> None:
    command = cli.get_command(click.Context(cli), "uninstall")
    assert command is not None
    assert {option.name for option in command.params} == {
        "bridge",
        "ovs_rundir",
        "cni_socket",
        "cni_conf_dir",
        "cni_bin_dir",
    }
