"""What a process in a container of the lab sees and may do, as in a real one: or a mistake in a manifest would not show."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.lab_cluster import cluster
from k8s_ovs.lab import namespaces
from k8s_ovs.lab.workloads import boxes
from k8s_ovs.lab.workloads.boxes import Box, Mount

pytestmark = pytest.mark.root

PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "ONLY": "this"}


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A lab's directory with what a box needs of it."""
    plugins = tmp_path / "cni-bin"
    plugins.mkdir()
    (plugins / "k8s-ovs").write_text("#!/bin/sh\n")
    (plugins / "k8s-ovs").chmod(0o755)
    return tmp_path


ROOT = Box((), PATH, (), "node1")


def run(lab: Path, script: str, *mounts: Mount, like: Box = ROOT) -> str:
    """What a shell says inside of a box, in a network namespace of its own."""
    box = replace(like, argv=("sh", "-c", script), mounts=mounts)
    argv = boxes.write(box, cluster(directory=lab), lab / "boxes", "one")
    done = subprocess.run(["unshare", "--net", *argv], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_it_sees_its_volumes_its_program_and_nothing_of_the_host(lab: Path) -> None:
    (lab / "data").mkdir()
    (lab / "data" / "file").write_text("content")
    seen = run(
        lab,
        "hostname; cat /deep/inside/file; ls -A /run /opt; command -v k8s-ovs; ls /usr/lib/k8s-ovs/cni; env; "
        "touch /deep/inside/x",
        Mount(lab / "data", "/deep/inside", read_only=True),
    )
    assert seen.splitlines()[0] == "node1"
    assert "content" in seen
    assert "/usr/sbin/k8s-ovs" in seen
    assert "/opt:\n\n/run:\n" in seen
    assert "cannot touch '/deep/inside/x': Read-only file system" in seen
    assert "ONLY=this" in seen
    assert "HOME=" not in seen
    assert not Path("/deep").exists()


def test_a_namespace_that_comes_later_is_seen_only_where_mounts_propagate(lab: Path) -> None:
    shared = lab / "netns"
    shared.mkdir()
    namespaces.share(shared)
    wait = 'until read -r line; do :; done; for d in /with /without; do stat -f -c "$d %T" $d/pod; done'
    mounts = (Mount(shared, "/with", propagates=True), Mount(shared, "/without"))
    box = Box(("sh", "-c", f"echo up; {wait}"), PATH, mounts, "node1")
    argv = boxes.write(box, cluster(directory=lab), lab / "boxes", "one")
    try:
        with subprocess.Popen(
            ["unshare", "--net", *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            namespaces.create(shared / "pod")
            seen, _ = process.communicate("go\n", timeout=20)
    finally:
        namespaces.remove(shared / "pod")
        namespaces.unmount(shared)
    with_, without = seen.splitlines()
    assert with_ == "/with nsfs"
    assert without.split()[0] == "/without"
    assert without != "/without nsfs"


NET_ADMIN = replace(ROOT, capabilities=frozenset({"NET_ADMIN"}))
SYSCTL = "echo 1 > /proc/sys/net/ipv4/ip_forward && echo written"


def test_without_privilege_settings_of_the_kernel_are_read_only(lab: Path) -> None:
    seen = run(lab, SYSCTL, like=NET_ADMIN)
    assert "Read-only file system" in seen
    assert "written" in run(lab, SYSCTL)
    elsewhere = SYSCTL.replace("/proc", "/host/proc")
    mount = Mount(Path("/proc/sys/net"), "/host/proc/sys/net")
    assert "written" in run(lab, elsewhere, mount, like=NET_ADMIN)


@pytest.mark.parametrize(
    ("capabilities", "up"), [(frozenset({"NET_ADMIN"}), True), (frozenset({"NET_RAW"}), False)]
)
def test_it_has_the_capabilities_that_it_is_given(lab: Path, capabilities: frozenset[str], up: bool) -> None:
    seen = run(lab, "ip link set lo up && echo is up", like=replace(ROOT, capabilities=capabilities))
    assert ("is up" in seen) is up
    assert ("Operation not permitted" in seen) is not up


def test_a_root_that_is_read_only_and_a_user_that_is_not_root(lab: Path) -> None:
    seen = run(
        lab,
        "id -u; id -g; touch /etc/x; touch /x",
        like=replace(ROOT, read_only_root=True, user=65532, group=65532),
    )
    assert seen.split()[:2] == ["65532", "65532"]
    assert seen.count("cannot touch") == 2
    assert "Read-only file system" in run(lab, "touch /etc/x", like=replace(ROOT, read_only_root=True))
    assert run(lab, "touch /etc/x && echo fine").strip() == "fine"
    assert not Path("/etc/x").exists()


@pytest.fixture(autouse=True)
def nothing_stays_mounted(tmp_path: Path) -> Iterator[None]:
    yield
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
