"""`k8s-ovs lab up --from-manifests`: with a file, and without."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from fakes.lab_cluster import cluster
from k8s_ovs.cli import lab_basic
from k8s_ovs.lab import lifecycle
from k8s_ovs.lab.cluster import Cluster

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@pytest.mark.parametrize(
    ("arguments", "manifests"),
    [
        ((), None),
        (("--from-manifests",), DEPLOY / "k8s-ovs.yaml"),
        (("--from-manifests", "--bare"), DEPLOY / "k8s-ovs.yaml"),
        (("--from-manifests", "/some/file.yaml"), Path("/some/file.yaml")),
    ],
)
def test_which_manifests(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], manifests: Path | None
) -> None:
    chosen: list[lifecycle.Options] = []

    def up(options: lifecycle.Options, say: lifecycle.Say) -> Cluster:
        chosen.append(options)
        return cluster()

    monkeypatch.setattr(lifecycle, "up", up)
    monkeypatch.setattr(lab_basic, "stop_on_sigterm", lambda: None)
    done = CliRunner().invoke(lab_basic.up, [*arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert (chosen[0].manifests, chosen[0].token_seconds) == (manifests, 3607)
