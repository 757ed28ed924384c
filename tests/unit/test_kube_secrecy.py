"""What is secret about the Kubernetes API's credentials is in no error, log or representation."""

import base64
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from k8s_ovs.errors import ConfigError
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials
from k8s_ovs.sources.kube.exec_plugin import PluginStatus
from k8s_ovs.sources.kube.kubeconfig import read_kubeconfig
from k8s_ovs.sources.kube.objects import ObjectMeta, Secret


def kubeconfig(path: Path, user: Mapping[str, Any], cluster: Mapping[str, Any]) -> Path:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://h:1", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    "content",
    [
        "users:\n- name: a\n  user:\n    token: 's3cret\n",
        'users:\n- name: a\n  user:\n    password: "s3cret\\q"\n',
        "a: 1\ntoken: s3cret: x\n",
        "password: !s3cret 1\n",
        "password: *s3cret\n",
        "password: @s3cret\n",
        "users: [{name: a, user: {token: [s3cret]}}]",
    ],
)
def test_a_broken_kubeconfig_is_not_quoted(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"no YAML \(line \d\)|Expected `str`") as info:
        read_kubeconfig(path)
    logging.getLogger("x").error("failed", exc_info=info.value)
    assert "s3cret" not in str(info.value) + caplog.text


@pytest.mark.parametrize("text", ["http://u:s3cret@h:1", "u:s3cret@h", "https://u:s3cret/x@h"])
def test_a_password_in_an_address_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="user or password") as info:
        load_credentials(KubeSettings(environ={"KUBERNETES_MASTER": text}))
    assert "s3cret" not in str(info.value)
    bad = kubeconfig(tmp_path / "config", {}, {"proxy-url": text.replace("http", "ftp")})
    with pytest.raises(ConfigError, match="proxy-url is no address") as info:
        read_kubeconfig(bad)
    assert "s3cret" not in str(info.value)


async def test_records_of_credentials_show_no_secret(tmp_path: Path) -> None:
    key = base64.b64encode(b"s3cret").decode()
    plugin = {"command": "x", "apiVersion": "v1", "env": [{"name": "A", "value": "s3cret"}]}
    user = {"token": "s3cret", "password": "s3cret", "client-key-data": key, "exec": plugin}
    path = kubeconfig(
        tmp_path / "config", {**user, "client-certificate-data": key}, {"proxy-url": "http://u:s3cret@p:1"}
    )
    profile = read_kubeconfig(path)
    assert "s3cret" not in repr(replace(profile, cert=None))
    assert "s3cret" not in repr(PluginStatus(token="s3cret", client_key_data="s3cret"))
    assert "s3cret" not in repr(Secret(metadata=ObjectMeta(name="n"), data={"k": b"s3cret"}))
