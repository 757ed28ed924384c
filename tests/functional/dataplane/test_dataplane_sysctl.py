"""Network settings in a container that is not privileged: /proc/sys is read-only there, and the host's is mounted elsewhere.

A mount namespace of its own plays the container.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from fakes.private_ovs import netns_path, network_namespace, run
from k8s_ovs.dataplane.sysctl import MOUNTED, USUAL, settings_root

pytestmark = pytest.mark.root

CONTAINER = """
mount --make-rprivate /
mount --bind /proc/sys/net "$1"
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
exec "$2" -c "$3" "$1"
"""
WRITE = """
import sys
from pathlib import Path
from k8s_ovs.dataplane.netns import call_in
from k8s_ovs.dataplane.sysctl import settings_root

def write(root, value):
    (root / "ipv4/conf/lo/arp_ignore").write_text(value)

try:
    write(Path("/proc/sys/net"), "1")
except OSError as error:
    print(error.strerror)
root = settings_root((Path(sys.argv[1]), Path("/proc/sys/net")))
write(root, "2")
call_in({pod!r}, lambda: write(root, "8"))
"""


def test_settings_of_host_and_pod_are_written_through_the_mount(tmp_path: Path) -> None:
    with network_namespace() as host, network_namespace() as pod:
        program = WRITE.format(pod=netns_path(pod))
        container = ["nsenter", f"--net={netns_path(host)}", "unshare", "--mount", "sh", "-euc", CONTAINER]
        said = run(*container, "sh", str(tmp_path), sys.executable, program)
        assert said.strip() == "Read-only file system"
        found = [read(netns) for netns in (host, pod)]
    assert found == ["2", "8"]


def read(netns: str) -> str:
    done = subprocess.run(
        ["nsenter", f"--net={netns_path(netns)}", "cat", "/proc/sys/net/ipv4/conf/lo/arp_ignore"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_usual_place_unless_something_is_mounted(tmp_path: Path) -> None:
    assert settings_root((tmp_path / "nothing", tmp_path)) == USUAL
    (tmp_path / "ipv4").mkdir()
    assert settings_root((tmp_path / "nothing", tmp_path, USUAL)) == tmp_path
    assert MOUNTED != USUAL
