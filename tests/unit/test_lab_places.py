from pathlib import Path

import pytest

from k8s_ovs.lab import places


def test_the_path_leads_to_the_fetched_kubectl_once_there_is_one(tmp_path: Path) -> None:
    fetched = tmp_path / "build" / "bin"
    assert fetched not in places.program_directories(tmp_path)
    fetched.mkdir(parents=True)
    (fetched / "kubectl").touch()
    assert places.program_directories(tmp_path)[-1] == fetched


def test_the_command_to_call_works_without_the_path_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Path(places.program()).is_absolute()
    installed = tmp_path / "k8s-ovs"
    installed.touch(mode=0o755)
    assert places.program() == "k8s-ovs"
