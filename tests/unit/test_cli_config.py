"""`k8s-ovs init-config` on a store in memory: what is written, what is only checked, what is refused."""

import json

import pytest

from fakes.cli import CommandLine, Ended, OpenStore
from fakes.store import FakeStore
from k8s_ovs.cli import config
from k8s_ovs.config import DEFAULT_PREFIX, EXAMPLE, NetworkConfig
from k8s_ovs.errors import EtcdUnavailable
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.records import config_key

DEFAULT = NetworkConfig.from_json(EXAMPLE)
KEY = config_key(DEFAULT_PREFIX)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> OpenStore:
    made = OpenStore()
    monkeypatch.setattr(config, "EtcdStore", made.open)
    return made


@pytest.fixture
def k8s_ovs(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


def in_etcd(store: OpenStore) -> NetworkConfig | None:
    raw = store.raw().get(KEY)
    return None if raw is None else NetworkConfig.from_json(raw)


def ok(ended: Ended, begin: str, wanted: NetworkConfig = DEFAULT) -> bool:
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(begin)
    return NetworkConfig.from_json(ended.out.removeprefix(begin)) == wanted


def test_the_default_is_written_once(k8s_ovs: CommandLine, store: OpenStore) -> None:
    assert ok(k8s_ovs("init-config"), "written: ")
    assert in_etcd(store) == DEFAULT
    revision = store.revision
    assert ok(k8s_ovs("init-config"), "in force: ")
    assert store.revision == revision


def test_flags_and_json_say_the_same(k8s_ovs: CommandLine, store: OpenStore) -> None:
    flags = (
        "--name=blue",
        "--pod-network=10.1.0.0/16",
        "--host-bits=8",
        "--service-network=10.2.0.0/16",
        "--mode=subnet",
    )
    ended = k8s_ovs("init-config", *flags, "--etcd-endpoints=http://e:1", "--network=blue")
    written = in_etcd(store)
    assert written is not None
    assert ok(ended, "written: ", written)
    assert json.loads(written.to_json()) == {
        "Name": "blue",
        "Network": "10.1.0.0/16",
        "HostSubnetLength": 8,
        "ServiceNetwork": "10.2.0.0/16",
        "PluginName": "k8s-ovs-subnet",
    }
    assert ok(k8s_ovs("init-config", f"--from-json={written.to_json()}"), "in force: ", written)
    assert ok(k8s_ovs("init-config", "--mode=subnet", "--host-bits=8"), "in force: ", written)
    assert ok(k8s_ovs("init-config"), "in force: ", written)


def test_the_store_is_opened_as_the_flags_say(k8s_ovs: CommandLine, store: OpenStore) -> None:
    k8s_ovs("init-config", "--etcd-endpoints=http://e:1", "--etcd-prefix=/p", "--network=blue")
    assert store.opened == (EtcdSettings(endpoints=("http://e:1",), prefix="/p"), "blue")
    k8s_ovs("init-config")
    assert store.opened is not None
    assert store.opened[1] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mode=subnet"], "mode k8s-ovs-multitenant, not k8s-ovs-subnet"),
        (["--pod-network=10.1.0.0/16"], "network 172.11.0.0/16, not 10.1.0.0/16"),
        (["--host-bits=9", "--name=blue"], "name k8ssdn, not blue, host bits 10, not 9"),
        (
            [f"--from-json={EXAMPLE.replace('10.96', '10.112')}"],
            "service network 10.96.0.0/12, not 10.112.0.0/12",
        ),
    ],
)
def test_another_config_in_force_is_an_error_and_stays(
    k8s_ovs: CommandLine, store: OpenStore, arguments: list[str], said: str
) -> None:
    k8s_ovs("init-config")
    ended = k8s_ovs("init-config", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert f"etcd holds another network config already ({said}): " in ended.err
    assert "it is left as it is" in ended.err
    assert in_etcd(store) == DEFAULT


def test_what_the_environment_names_counts_as_named(
    k8s_ovs: CommandLine, store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    k8s_ovs("init-config")
    monkeypatch.setenv("K8S_OVS_FROM_JSON", EXAMPLE.replace('"HostSubnetLength":10', '"HostSubnetLength":8'))
    ended = k8s_ovs("init-config")
    assert ended.code == 2
    assert "host bits 10, not 8" in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pod-network=10.96.0.0/16"], "overlap: choose pod and Service networks that share no address"),
        (["--host-bits=20"], "HostSubnetLength 20 does not fit into Network 172.11.0.0/16: use 2 to 16"),
        (["--pod-network=172.11.0.1/16"], "Network is '172.11.0.1/16'"),
        (["--from-json=[]"], "--from-json: not a JSON object"),
        (
            ["--node-ip=172.11.3.3"],
            "the wanted config: Network 172.11.0.0/16 contains the node address 172.11.3.3",
        ),
        (
            ["--node-ip=192.0.2.1,10.100.0.1"],
            "ServiceNetwork 10.96.0.0/12 contains the node address 10.100.0.1",
        ),
        (["--node-ip=node1"], "--node-ip: "),
    ],
)
def test_an_invalid_config_is_refused_and_not_written(
    k8s_ovs: CommandLine, store: OpenStore, arguments: list[str], said: str
) -> None:
    ended = k8s_ovs("init-config", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert store.raw() == {}


def test_a_node_inside_the_config_in_force_is_told(
    k8s_ovs: CommandLine, store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    k8s_ovs("init-config", "--pod-network=10.1.0.0/16")
    monkeypatch.setenv("K8S_OVS_NODE_IP", "10.1.2.3")
    ended = k8s_ovs("init-config")
    assert ended.code == 2
    assert "the network config in force: Network 10.1.0.0/16 contains the node address 10.1.2.3" in ended.err


def test_a_default_that_does_not_fit_here_is_no_matter_if_another_config_is_in_force(
    k8s_ovs: CommandLine, store: OpenStore
) -> None:
    k8s_ovs("init-config", "--pod-network=10.1.0.0/16")
    ended = k8s_ovs("init-config", "--node-ip=172.11.0.5")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("in force: ")


def test_an_invalid_config_in_etcd_is_told(k8s_ovs: CommandLine, store: OpenStore) -> None:
    store.put_raw(KEY, "{}")
    ended = k8s_ovs("init-config")
    assert ended.code == 2
    assert f"{KEY}: Name is None: give a non-empty name without '/'" in ended.err


def test_a_store_that_is_away_is_a_failure_not_a_wrong_setting(
    k8s_ovs: CommandLine, store: OpenStore
) -> None:
    store.outage = EtcdUnavailable("etcd: no endpoint answers", remedy="start it")
    ended = k8s_ovs("init-config")
    assert (ended.code, ended.err) == (1, "k8s-ovs: etcd: no endpoint answers: start it\n")


async def test_who_is_faster_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeStore()
    other = NetworkConfig.from_json(EXAMPLE.replace("k8ssdn", "theirs"))
    create = store.create_network_config

    async def late(wanted: NetworkConfig) -> bool:
        store.put_raw(KEY, other.to_json())
        return await create(wanted)

    monkeypatch.setattr(store, "create_network_config", late)
    assert await config.ensure_config(store, DEFAULT, []) == (other, False)
