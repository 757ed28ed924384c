"""The Debian package and the RPM: built, judged by the distributions' own tools, installed into a clean root, removed."""

import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fakes.package_root import inside, listing, run
from k8s_ovs import __version__

TREE = Path(__file__).parents[3]
UNITS = ("k8s-ovs-agent.service", "k8s-ovs-controller.service")
SETTINGS = "etc/k8s-ovs/k8s-ovs.env"
EXECUTABLES = ("usr/sbin/k8s-ovs", "usr/bin/kubectl-ovs", "usr/lib/k8s-ovs/cni/k8s-ovs")

pytestmark = pytest.mark.timeout(600)  # the first build fetches what is vendored; others share the processors


@contextmanager
def _installed_deb(root: Path, deb: Path) -> Iterator[str]:
    """The package in `root`, with what dpkg said; purged at the end, whatever happens."""
    shutil.copy(deb, root / "tmp/package.deb")
    try:
        yield inside(root, "dpkg", "-i", "/tmp/package.deb").stdout
    finally:
        inside(root, "dpkg", "--purge", "k8s-ovs")
        (root / "tmp/package.deb").unlink()


def _assert_complete(root: Path, units: str) -> None:
    for name in EXECUTABLES:
        path = root / name
        assert path.stat().st_mode & 0o7777 == 0o755, name
    for unit in UNITS:
        assert (root / units / unit).stat().st_mode & 0o7777 == 0o644, unit
    settings = (root / SETTINGS).stat()
    assert (settings.st_mode & 0o7777, settings.st_uid, settings.st_gid) == (0o640, 0, 0)
    for path in (root / "usr/lib/k8s-ovs").rglob("*"):
        mode = path.lstat().st_mode
        assert stat.S_ISLNK(mode) or (not mode & 0o022 and mode & 0o044 == 0o044), path
        assert (path.lstat().st_uid, path.lstat().st_gid) == (0, 0), path


def _assert_runs(root: Path) -> None:
    for command in ("/usr/sbin/k8s-ovs", "/usr/bin/kubectl-ovs"):
        assert inside(root, command, "--version").stdout.split()[-1] == __version__
    # These import what the daemons need, compiled modules included.
    for half in ("agent", "controller"):
        assert "--etcd-endpoints" in inside(root, "/usr/sbin/k8s-ovs", half, "--help").stdout
    imports = "import sys; sys.path.insert(0, '/usr/lib/k8s-ovs/python'); from k8s_ovs.cli import agent_half, controller_half"
    inside(root, "/usr/bin/python3", "-IBSc", imports)


def _nothing_is_enabled(root: Path) -> bool:
    return not list((root / "etc/systemd").rglob("k8s-ovs*"))


def test_deb_installs_runs_and_leaves_nothing_when_purged(root: Path, deb: Path) -> None:
    before = listing(root)
    with _installed_deb(root, deb):
        _assert_complete(root, "lib/systemd/system")
        _assert_runs(root)
        assert _nothing_is_enabled(root), "an agent without settings must not start"
        compiled = listing(root)
        assert [
            path for path in compiled if path.endswith(".pyc") and "/k8s_ovs/cli/__pycache__/main." in path
        ]

        secret = root / "etc/k8s-ovs/etcd/client.key"
        secret.parent.mkdir()
        secret.write_text("an administrator's")
        said = inside(root, "dpkg", "--remove", "k8s-ovs").stdout
        assert "k8s-ovs uninstall" in said
        left = listing(root) - before
        assert left == {"etc/k8s-ovs", SETTINGS, "etc/k8s-ovs/etcd", "etc/k8s-ovs/etcd/client.key"}, left
    assert listing(root) == before


def test_deb_keeps_settings_and_units_state_over_an_upgrade(root: Path, deb: Path) -> None:
    with _installed_deb(root, deb):
        settings = root / SETTINGS
        settings.write_text("K8S_OVS_EXTERNAL=true\n")
        run("systemctl", f"--root={root}", "enable", UNITS[0])
        enabled = root / "etc/systemd/system/multi-user.target.wants" / UNITS[0]
        assert enabled.is_symlink()
        inside(root, "dpkg", "--force-confold", "-i", "/tmp/package.deb")
        assert settings.read_text() == "K8S_OVS_EXTERNAL=true\n"
        assert stat.S_IMODE(settings.stat().st_mode) == 0o640
        assert enabled.is_symlink()
        assert not (enabled.parent / UNITS[1]).exists()
        _assert_runs(root)


def test_deb_refuses_another_python(deb: Path) -> None:
    """The compiled modules are for one minor version: dpkg has to know."""
    depends = run("dpkg-deb", "-f", str(deb), "Depends").stdout
    minor = int(run("/usr/bin/python3", "-IBc", "import sys; print(sys.version_info.minor)").stdout)
    assert f"python3 (>= 3.{minor}~), python3 (<< 3.{minor + 1})" in depends
    assert run("dpkg-deb", "-f", str(deb), "Architecture").stdout != "all\n"


def test_lintian_finds_no_error(deb: Path) -> None:
    printed = run("lintian", "--allow-root", "--fail-on", "none", str(deb)).stdout
    assert not re.findall("^E: .*", printed, re.MULTILINE), printed
    assert "mismatched-override" not in printed


def test_rpm_installs_runs_and_leaves_nothing_when_erased(root: Path, rpm: Path) -> None:
    (root / "usr/share/licenses").mkdir(exist_ok=True)  # the package `filesystem` has it
    before = listing(root)
    database = root / "var/lib/rpm"
    base = ("unshare", "-m", "rpm", "--root", str(root), "--dbpath", "/var/lib/rpm")
    database.mkdir(parents=True)
    shutil.copy(rpm, root / "tmp/package.rpm")
    try:
        # What it depends on is there as Debian packages, of which rpm knows nothing.
        run(*base, "--nodeps", "--install", str(root / "tmp/package.rpm"))
        _assert_complete(root, "usr/lib/systemd/system")
        _assert_runs(root)
        assert _nothing_is_enabled(root)
        assert SETTINGS in run(*base, "--query", "--configfiles", "k8s-ovs").stdout
        assert run(*base, "--verify", "--nodeps", "k8s-ovs").stdout == ""
        said = run(*base, "--erase", "k8s-ovs").stdout
        assert "k8s-ovs uninstall" in said
    finally:
        run(*base, "--erase", "--noscripts", "k8s-ovs", check=False)
        (root / "tmp/package.rpm").unlink()
        shutil.rmtree(database)
    assert listing(root) == before


def test_rpm_needs_its_python_and_offers_nothing_else(rpm: Path) -> None:
    requires = run("rpm", "-qp", "--requires", str(rpm)).stdout.splitlines()
    minor = run("/usr/bin/python3", "-IBc", "import sys; print(sys.version_info.minor)").stdout.strip()
    assert f"/usr/bin/python3.{minor}" in requires
    assert {"iptables", "openvswitch"} <= set(requires)
    assert not [name for name in requires if name in ("/usr/bin/env", "/usr/bin/python")]
    provides = run("rpm", "-qp", "--provides", str(rpm)).stdout
    assert all(line.startswith(("k8s-ovs", "config(k8s-ovs)")) for line in provides.splitlines()), provides


def test_rpmlint_finds_no_error(rpm: Path) -> None:
    folder = TREE / "packaging/rpm"
    lint = (
        "rpmlint",
        "--rpmlintrc",
        str(folder / "k8s-ovs.rpmlintrc"),
        str(rpm),
        str(folder / "k8s-ovs.spec"),
    )
    printed = run(*lint, check=False).stdout
    assert not re.findall(r"^.*: E: .*", printed, re.MULTILINE), printed
    assert " 0 errors" in printed, printed


def test_units_verify(root: Path, deb: Path) -> None:
    """systemd itself reads them, from a root in which the package is installed."""
    with _installed_deb(root, deb):
        for unit in UNITS:
            done = run("systemd-analyze", "verify", "--man=no", f"--root={root}", unit, check=False)
            lines = [line for line in done.stdout.splitlines() if "k8s-ovs" in line]
            assert not lines, done.stdout
            assert done.returncode == 0, done.stdout
