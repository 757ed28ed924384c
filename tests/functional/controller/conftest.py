"""A real etcd, the embedded Kubernetes API, and controllers as processes: private to each test, ended by pid."""

from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from fakes.daemon import Launcher, launcher
from fakes.private_etcd import PrivateEtcd, private_etcd
from k8s_ovs.config import DEFAULT_PREFIX, Mode, NetworkConfig
from k8s_ovs.lab.kubeapi.server import ApiServer
from k8s_ovs.lab.kubeapi.settings import Settings
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials

CONFIG = NetworkConfig(
    "k8ssdn", IPv4Network("172.20.0.0/16"), 7, IPv4Network("10.96.0.0/12"), Mode.MULTITENANT
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.etcd)


@pytest.fixture
def etcd() -> Iterator[PrivateEtcd]:
    """A server with a network config."""
    with private_etcd() as server:
        server.put(f"{DEFAULT_PREFIX}/config", CONFIG.to_json())
        yield server


@pytest.fixture
async def store(etcd: PrivateEtcd) -> AsyncIterator[EtcdStore]:
    async with EtcdStore(EtcdSettings((etcd.endpoint,))) as opened:
        await opened.network_config()
        yield opened


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer(Settings(listen=(("127.0.0.1", 0),))) as server:
        yield server


@pytest.fixture
async def kube(api: ApiServer) -> AsyncIterator[KubeClient]:
    async with KubeClient(load_credentials(KubeSettings(environ={"KUBERNETES_MASTER": api.url}))) as client:
        yield client


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launcher]:
    """Starts controllers as processes."""
    with launcher(tmp_path) as starting:
        yield starting
