"""Wrong settings and an etcd that refuses us, as the person who types the command meets them.

The real command line against a real etcd: exit 2 for what is configured wrongly, 1 for what failed, always with the
cause and the remedy on stderr and never with a traceback. An agent does not end for what may be mended behind its back.
"""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes.certificates import Certificates, Pair
from fakes.daemon import Daemon, launcher
from fakes.labs import CLI, eventually
from fakes.private_etcd import PrivateEtcd, free_port, private_etcd

pytestmark = [pytest.mark.etcd]

CONFIG = "/k8s.ovs.com/ovs/network/config"
GOOD = {
    "Name": "k8ssdn",
    "Network": "172.11.0.0/16",
    "HostSubnetLength": 10,
    "ServiceNetwork": "10.96.0.0/12",
    "PluginName": "k8s-ovs-multitenant",
}


def k8s_ovs(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command; whatever goes wrong, a person must be able to read what it says."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("K8S_OVS_")}
    done = subprocess.run(
        [CLI, *arguments], capture_output=True, text=True, check=False, timeout=60, env=environment
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def etcd() -> Iterator[PrivateEtcd]:
    with private_etcd() as etcd:
        yield etcd


@pytest.fixture
def empty(etcd: PrivateEtcd) -> PrivateEtcd:
    etcd.delete(CONFIG)
    return etcd


# -- a config that cannot be used --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "cause", "remedy"),
    [
        (
            {"Network": "10.96.0.0/14"},
            "10.96.0.0/14 and ServiceNetwork 10.96.0.0/12 overlap",
            "share no address",
        ),
        ({"Network": "172.11.0.0/33"}, "Network is '172.11.0.0/33'", "give an IPv4 CIDR"),
        ({"Network": "172.11.0.1/16"}, "has host bits set", "give an IPv4 CIDR"),
        ({"Network": "fd00::/64"}, "Network is 'fd00::/64'", "give an IPv4 CIDR"),
        ({"Network": None}, "Network is None", "give an IPv4 CIDR"),
        ({"Network": "0.0.0.0/0", "ServiceNetwork": "10.0.0.0/8"}, "is a /0", "use a /8 to a /30"),
        ({"HostSubnetLength": 17}, "HostSubnetLength 17 does not fit", "use 2 to 16 host bits"),
        ({"HostSubnetLength": 1}, "HostSubnetLength 1 does not fit", "use 2 to 16 host bits"),
        ({"HostSubnetLength": "10"}, "HostSubnetLength is '10'", "as a number"),
        ({"PluginName": "flannel"}, "PluginName is 'flannel'", "use k8s-ovs-subnet or k8s-ovs-multitenant"),
        ({"Name": ""}, "Name is ''", "non-empty name"),
        ({"Name": "a/b"}, "Name is 'a/b'", "without '/'"),
        ({"ServiceNetwork": "services"}, "ServiceNetwork is 'services'", "give an IPv4 CIDR"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_an_invalid_config_is_refused_and_not_written(
    empty: PrivateEtcd, change: dict[str, object], cause: str, remedy: str
) -> None:
    text = json.dumps(GOOD | change)
    done = k8s_ovs("init-config", f"--etcd-endpoints={empty.endpoint}", f"--from-json={text}")
    assert done.returncode == 2
    assert cause in done.stderr
    assert remedy in done.stderr
    assert empty.get(CONFIG) is None


@pytest.mark.parametrize("text", ["{", "[]", "null", '"x"'])
def test_a_config_that_is_no_json_object(empty: PrivateEtcd, text: str) -> None:
    done = k8s_ovs("init-config", f"--etcd-endpoints={empty.endpoint}", f"--from-json={text}")
    assert done.returncode == 2
    assert "--from-json: not" in done.stderr
    assert 'write an object like {"Name":"k8ssdn"' in done.stderr
    assert empty.get(CONFIG) is None


@pytest.mark.parametrize("node", ["172.11.3.4", "10.100.0.1"])
def test_networks_that_contain_a_node(empty: PrivateEtcd, node: str) -> None:
    done = k8s_ovs("init-config", f"--etcd-endpoints={empty.endpoint}", f"--node-ip=192.0.2.1,{node}")
    assert done.returncode == 2
    assert f"contains the node address {node}: choose networks that the nodes are not in" in done.stderr
    assert empty.get(CONFIG) is None


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--etcd-certfile=/x"], "needs both files: give --etcd-certfile and --etcd-keyfile"),
        (["--etcd-username=root"], "needs a name and a password"),
        (["--etcd-endpoints="], "no etcd endpoint: give --etcd-endpoints"),
        (["--etcd-endpoints=ftp://x"], "is no http:// or https:// address"),
        (["--node-ip=here"], "--node-ip"),
        (["--host-bits=ten"], "--host-bits"),
        (["--mode=flat"], "--mode"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_flags_that_cannot_be_used(options: list[str], cause: str) -> None:
    done = k8s_ovs("init-config", *options)
    assert done.returncode == 2
    assert cause in done.stderr


def test_an_invalid_config_in_etcd_is_named_by_its_key(empty: PrivateEtcd) -> None:
    empty.put(CONFIG, json.dumps(GOOD | {"HostSubnetLength": 20}))
    done = k8s_ovs("init-config", f"--etcd-endpoints={empty.endpoint}")
    assert done.returncode == 2
    assert f"etcd key {CONFIG}: HostSubnetLength 20 does not fit" in done.stderr


def test_a_config_in_force_is_kept_and_another_one_is_refused(empty: PrivateEtcd) -> None:
    first = k8s_ovs("init-config", f"--etcd-endpoints={empty.endpoint}", "--host-bits=9")
    assert first.returncode == 0
    assert first.stdout.startswith('written: {"Name": "k8ssdn"')
    for options, code, said in (
        ([], 0, "in force: "),
        (["--host-bits=9"], 0, "in force: "),
        (["--host-bits=8"], 2, "etcd holds another network config already"),
    ):
        done = k8s_ovs("init-config", f"--etcd-endpoints={empty.endpoint}", *options)
        assert done.returncode == code
        assert said in done.stdout + done.stderr
    stored = empty.get(CONFIG)
    assert stored is not None
    assert json.loads(stored)["HostSubnetLength"] == 9


# -- etcd that cannot be reached ---------------------------------------------------------------------------------------------


def test_init_config_without_etcd() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    done = k8s_ovs("init-config", f"--etcd-endpoints={endpoint}")
    assert done.returncode == 1
    assert f"etcd {endpoint}: connecting: " in done.stderr
    assert "check that etcd runs there" in done.stderr


def test_init_config_with_an_etcd_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        done = k8s_ovs("init-config", f"--etcd-endpoints={endpoint}")
        took = time.monotonic() - begun
    assert done.returncode == 1
    assert f"etcd {endpoint}: " in done.stderr
    assert "no answer within 3 s: check that etcd runs there and has a quorum" in done.stderr
    assert took < 15


def test_init_config_names_every_endpoint_that_it_tried() -> None:
    endpoints = [f"http://127.0.0.1:{free_port()}" for _ in range(3)]
    done = k8s_ovs("init-config", f"--etcd-endpoints={','.join(endpoints)}")
    assert done.returncode == 1
    assert "no etcd endpoint answers" in done.stderr
    assert all(endpoint in done.stderr for endpoint in endpoints)


def test_init_config_goes_on_to_an_endpoint_that_answers(empty: PrivateEtcd) -> None:
    endpoints = f"http://127.0.0.1:{free_port()},{empty.endpoint}"
    assert k8s_ovs("init-config", f"--etcd-endpoints={endpoints}").returncode == 0


# -- certificates ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Secured:
    """An etcd that wants certificates of `ours`; `theirs` is somebody else's CA, `here` a folder."""

    etcd: PrivateEtcd
    ours: Certificates
    theirs: Certificates
    here: Path

    def flags(self, ca: Path, pair: Pair | None) -> list[str]:
        own = [] if pair is None else [f"--etcd-certfile={pair.cert}", f"--etcd-keyfile={pair.key}"]
        return [f"--etcd-endpoints={self.etcd.endpoint}", f"--etcd-cafile={ca}", *own]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    ours, theirs = Certificates(folder, "ours"), Certificates(folder, "theirs")
    with private_etcd(tls=ours) as etcd:
        yield Secured(etcd, ours, theirs, folder)


@pytest.mark.parametrize(
    ("wrong", "cause", "remedy"),
    [
        ("ca", "its certificate is refused", "give the CA that signed it with --etcd-cafile"),
        ("client", "it refuses us with", "give a client certificate that its CA has signed"),
        ("no client", "it refuses us with no client certificate", "--etcd-certfile and --etcd-keyfile"),
        ("key", "are not a certificate and its unencrypted key", "give matching PEM files"),
        ("no file", "cannot read", "check the file given with --etcd-certfile"),
        ("ca no file", "cannot read", "check the file given with --etcd-cafile"),
        ("ca no pem", "holds no CA certificate", "give a PEM file with --etcd-cafile"),
        ("plain", "etcd http://127.0.0.1", "else use https://"),
    ],
)
def test_init_config_with_wrong_certificates(secured: Secured, wrong: str, cause: str, remedy: str) -> None:
    ours, theirs = secured.ours, secured.theirs
    good, missing = ours.anonymous, secured.here / "missing.pem"
    nonsense = secured.here / "nonsense.pem"
    nonsense.write_text("no certificate")
    flags = {
        "ca": secured.flags(theirs.ca, good),
        "client": secured.flags(ours.ca, theirs.anonymous),
        "no client": secured.flags(ours.ca, None),
        "key": secured.flags(ours.ca, Pair(good.cert, theirs.anonymous.key)),
        "no file": secured.flags(ours.ca, Pair(missing, missing)),
        "ca no file": secured.flags(missing, good),
        "ca no pem": secured.flags(nonsense, good),
        "plain": [f"--etcd-endpoints=http://127.0.0.1:{secured.etcd.port}"],
    }[wrong]
    done = k8s_ovs("init-config", *flags)
    assert done.returncode == 1
    assert cause in done.stderr
    assert remedy in done.stderr


def test_init_config_with_the_right_certificates(secured: Secured) -> None:
    done = k8s_ovs("init-config", *secured.flags(secured.ours.ca, secured.ours.anonymous))
    assert done.returncode == 0
    assert done.stdout.startswith("written: ")
    secured.etcd.delete(CONFIG)


def readyz(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as err:
        return err.code, err.read().decode()
    except OSError as err:
        return 0, str(err)


@pytest.mark.parametrize("half", ["agent", "controller"])
def test_a_daemon_with_a_wrong_certificate_stays_and_says_so(
    secured: Secured, tmp_path: Path, half: str
) -> None:
    """It is not ended by it, as the files may be exchanged any time; and it hears of it when they are."""
    pair = Pair(tmp_path / "own.crt", tmp_path / "own.key")
    install(pair, secured.theirs.anonymous)
    port = free_port()
    options = [*secured.flags(secured.ours.ca, pair), f"--metrics-address=127.0.0.1:{port}", "--hostname=n"]
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(NOBODY)
    options.append(f"--kubeconfig={kubeconfig}")
    if half == "agent":
        options += [
            f"--ovs-rundir={tmp_path}",
            f"--cni-socket={tmp_path}/cni.sock",
            f"--cni-conf-dir={tmp_path}/net.d",
        ]
    with launcher(tmp_path) as launch:
        daemon = launch("-m", "k8s_ovs.cli.main", half, *options)
        cause = f"it refuses us with {pair.cert}"
        await_readyz(daemon, port, cause)
        status, text = readyz(port)
        assert status == 503
        assert (
            "give a client certificate that its CA has signed with --etcd-certfile and --etcd-keyfile" in text
        )
        assert cause in daemon.log.read_text()

        install(pair, secured.ours.anonymous)
        await_readyz(daemon, port, "k8s-ovs init-config")
        assert not (tmp_path / "net.d").exists(), "no conflist before the node can serve"
        assert daemon.end(15) == 0
    assert "Traceback" not in daemon.log.read_text()


def install(pair: Pair, source: Pair) -> None:
    pair.key.write_bytes(source.key.read_bytes())
    pair.cert.write_bytes(source.cert.read_bytes())


def await_readyz(daemon: Daemon, port: int, words: str) -> None:
    def told() -> bool:
        assert daemon.running, daemon.log.read_text()
        return words in readyz(port)[1]

    eventually(told, f"/readyz to say {words!r}")


NOBODY = json.dumps(
    {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}],
        "current-context": "c",
    }
)
"""A kubeconfig of a cluster that is not there."""
