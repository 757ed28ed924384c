"""The folder of Open vSwitch that was made anew behind a container's mount: only a restart helps."""

import os
from dataclasses import replace
from pathlib import Path

from fakes.agent import World
from k8s_ovs.agent.settings import SwitchSettings


def test_a_folder_that_is_there_or_not_yet_is_no_trouble(tmp_path: Path) -> None:
    assert SwitchSettings(rundir=tmp_path).rundir_trouble() == ""
    assert SwitchSettings(rundir=tmp_path / "later").rundir_trouble() == ""


def test_a_removed_folder_that_is_still_held_fails_the_liveness_check(tmp_path: Path) -> None:
    rundir = tmp_path / "openvswitch"
    rundir.mkdir()
    held = os.open(rundir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        world = World(tmp_path)
        # As with a mount, this path leads to the folder itself, whatever becomes of its name.
        world.settings = replace(world.settings, switch=SwitchSettings(rundir=Path(f"/proc/self/fd/{held}")))
        world.agent()
        assert world.health.liveness() == {"ovs-rundir": ""}
        rundir.rmdir()
        rundir.mkdir()
        assert "restart the agent" in world.health.liveness()["ovs-rundir"]
        assert "restart the agent" in world.health.readiness()["ovs-rundir"]
    finally:
        os.close(held)
