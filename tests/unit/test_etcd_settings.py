from dataclasses import replace
from pathlib import Path

import pytest

from k8s_ovs.errors import ConfigError, EtcdDenied
from k8s_ovs.sources.etcd.settings import Endpoint, EtcdSettings, split_endpoints


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("http://192.0.2.1:2379", Endpoint("192.0.2.1", 2379, tls=False)),
        ("https://etcd.example:4001/", Endpoint("etcd.example", 4001, tls=True)),
        ("http://etcd", Endpoint("etcd", 2379, tls=False)),
        ("etcd:1234", Endpoint("etcd", 1234, tls=False)),
        ("https://[2001:db8::1]:2379", Endpoint("2001:db8::1", 2379, tls=True)),
    ],
)
def test_endpoints(text: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(text) == endpoint
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://etcd:2379",
        "http://",
        "http://etcd:port",
        "http://etcd:99999",
        "http://e/x",
        "[::",
    ],
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ConfigError, match="give endpoints like") as info:
        EtcdSettings((text,))
    assert repr(text) in info.value.message


@pytest.mark.parametrize("text", ["http://root:s3cret@e", "root:s3cret@e:2379", "https://u:s3cret/p@e"])
def test_a_password_in_an_endpoint_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError, match="--etcd-password-file") as info:
        EtcdSettings((text,))
    assert "s3cret" not in str(info.value)


def test_without_a_scheme_certificates_mean_tls() -> None:
    assert EtcdSettings(("e:1", "http://f:1"), cafile=Path("ca")).parsed() == (
        Endpoint("e", 1, tls=True),
        Endpoint("f", 1, tls=False),
    )


def test_the_flags_list() -> None:
    assert split_endpoints(" http://a:1, http://b:2,") == ("http://a:1", "http://b:2")


def test_combinations_that_cannot_work() -> None:
    good = EtcdSettings()
    with pytest.raises(ConfigError, match="give --etcd-endpoints"):
        replace(good, endpoints=())
    for nowhere in ("", "/", " "):
        with pytest.raises(ConfigError, match="give --etcd-prefix like"):
            replace(good, prefix=nowhere)
    for half in ({"certfile": Path("c")}, {"keyfile": Path("k")}):
        with pytest.raises(ConfigError, match="give --etcd-certfile and --etcd-keyfile"):
            EtcdSettings(**half)
    with pytest.raises(ConfigError, match="give --etcd-username and --etcd-password-file"):
        replace(good, username="net")
    with pytest.raises(ConfigError, match="give --etcd-username and --etcd-password-file"):
        replace(good, password_file=Path("p"))


def test_a_password_is_the_file_without_its_line_end(tmp_path: Path) -> None:
    path = tmp_path / "password"
    settings = EtcdSettings(username="net", password_file=path)
    with pytest.raises(EtcdDenied, match=r"cannot read .*password .No such file"):
        settings.password()
    path.write_text(" with spaces \n")
    assert settings.password() == " with spaces "
    path.write_text("changed")
    assert settings.password() == "changed"
