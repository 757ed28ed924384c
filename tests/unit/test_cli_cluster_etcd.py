"""Where etcd is, out of what the manifests leave in the cluster: for `kubectl ovs status` with nothing but a kubeconfig."""

from pathlib import Path
from typing import Any

import pytest

from k8s_ovs.cli import cluster_etcd as module
from k8s_ovs.cli.cluster_etcd import cluster_etcd
from k8s_ovs.errors import KubeDenied, KubeNotFound
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.kube.credentials import KubeSettings
from k8s_ovs.sources.kube.objects import ConfigMap, ObjectMeta, Secret

META = ObjectMeta(name="k8s-ovs-etcd")
GIVEN = EtcdSettings()
KUBE = KubeSettings(kubeconfig=Path("kubeconfig"))
ENDPOINTS = ConfigMap(metadata=META, data={"K8S_OVS_ETCD_ENDPOINTS": "https://192.0.2.1:2379"})


def secret(**values: str) -> Secret:
    names = {"ca": "ca.crt", "cert": "client.crt", "key": "client.key"}
    return Secret(
        metadata=META,
        data={names[name]: value.encode() for name, value in values.items()},
    )


class Api:
    """What the API server has under the two names; an error is raised."""

    def __init__(self, config_map: Any, secret: Any = None) -> None:
        self.objects = {"k8s-ovs-etcd": config_map, "k8s-ovs-etcd-tls": secret}
        self.asked: list[str] = []

    async def __aenter__(self) -> "Api":
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def get(self, resource: Any, name: str, namespace: str) -> Any:
        assert namespace == "kube-system"
        self.asked.append(name)
        found = self.objects[name]
        if found is None:
            raise KubeNotFound(f"no {name}", status=404)
        if isinstance(found, Exception):
            raise found
        return found


def serve(monkeypatch: pytest.MonkeyPatch, api: Api) -> Api:
    monkeypatch.setattr(module, "load_credentials", lambda settings: settings)
    monkeypatch.setattr(module, "KubeClient", lambda credentials, timeout: api)
    return api


async def test_endpoints_and_certificates_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, Api(ENDPOINTS, secret(ca="CA", cert="CERT", key="KEY")))
    async with cluster_etcd(GIVEN, KUBE, wanted=True) as etcd:
        assert etcd.endpoints == ("https://192.0.2.1:2379",)
        assert etcd.cafile is not None
        assert etcd.certfile is not None
        assert etcd.keyfile is not None
        assert [path.read_text() for path in (etcd.cafile, etcd.certfile, etcd.keyfile)] == [
            "CA",
            "CERT",
            "KEY",
        ]
        assert etcd.keyfile.stat().st_mode & 0o077 == 0
        assert etcd.keyfile.parent.stat().st_mode & 0o077 == 0
    assert not etcd.keyfile.exists()


async def test_without_tls_no_secret_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ConfigMap(
        metadata=META, data={"K8S_OVS_ETCD_ENDPOINTS": "http://192.0.2.1:2379,http://192.0.2.2:2379"}
    )
    api = serve(monkeypatch, Api(plain))
    async with cluster_etcd(GIVEN, KUBE, wanted=True) as etcd:
        assert (len(etcd.endpoints), etcd.cafile) == (2, None)
    assert api.asked == ["k8s-ovs-etcd"]


@pytest.mark.parametrize(
    "api",
    [
        Api(None),
        Api(ConfigMap(metadata=META)),
        Api(KubeDenied("may not", status=403)),
        Api(ENDPOINTS, None),
    ],
)
async def test_what_cannot_be_had_changes_nothing(monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    serve(monkeypatch, api)
    async with cluster_etcd(GIVEN, KUBE, wanted=True) as etcd:
        assert etcd == GIVEN


async def test_what_is_given_counts_and_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    api = serve(monkeypatch, Api(ENDPOINTS))
    async with cluster_etcd(GIVEN, KUBE, wanted=False) as etcd:
        assert etcd == GIVEN
    async with cluster_etcd(GIVEN, KubeSettings(), wanted=True) as etcd:
        assert etcd == GIVEN
    assert api.asked == []
