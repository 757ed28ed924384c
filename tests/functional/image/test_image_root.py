"""What the Dockerfile makes, made without a container engine: its own lines, into a clean root, and run there."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fakes.clean_root import SEARCH, CleanRoot
from fakes.dockerfile import copy_context, ignored, parse
from fakes.labs import eventually
from k8s_ovs import __version__
from k8s_ovs.cni.protocol import SUPPORTED_VERSIONS

pytestmark = pytest.mark.root

TREE = Path(__file__).parents[3]
STAGES = parse((TREE / "Dockerfile").read_text())
IGNORE = (TREE / ".dockerignore").read_text()
STANDARD = ("portmap", "loopback")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root that the product's stage copies: the builder's lines, but for apt-get, in a copy of the context."""
    work = tmp_path_factory.mktemp("image")
    builder = STAGES["builder"]
    plugins = work / "plugins"
    plugins.mkdir()
    for name in STANDARD:  # what the builder copies from Debian's containernetworking-plugins
        (plugins / name).write_text('#!/bin/sh\necho \'{"supportedVersions":["0.4.0","1.0.0"]}\'\n')
        (plugins / name).chmod(0o755)
    workdir = builder.all("WORKDIR")[-1]
    copy_context(builder, TREE, IGNORE, work, workdir)
    places = {"/out": str(work / "out"), "/plugins": str(plugins)}
    for argv in builder.runs():
        if argv[0] in ("apt-get", "rm"):
            continue
        moved = [places.get(word, word) for word in argv]
        done = subprocess.run(
            moved, cwd=work / workdir.lstrip("/"), capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stderr
    return work / "out"


@pytest.fixture
def root(image: Path, tmp_path: Path) -> CleanRoot:
    """A container of the image k8s-ovs; /host is a folder of its host."""
    (tmp_path / "root").mkdir()
    (tmp_path / "host" / "opt").mkdir(parents=True)
    return CleanRoot(tmp_path / "root", [image / "usr"], {tmp_path / "host": "/host"})


@pytest.mark.timeout(500)
def test_the_image_has_what_it_should_and_nothing_of_where_it_was_made(image: Path) -> None:
    assert sorted(str(path.relative_to(image)) for path in image.glob("usr/*/*")) == [
        "usr/bin/kubectl-ovs",
        "usr/lib/k8s-ovs",
        "usr/sbin/k8s-ovs",
    ]
    ours = image / "usr/lib/k8s-ovs"
    assert sorted(path.name for path in ours.iterdir()) == ["bin", "cni", "python"]
    assert sorted(path.name for path in (ours / "cni").iterdir()) == ["k8s-ovs", "loopback", "portmap"]
    for other in ("pytest", "mypy", "uv", "pip", "hatchling", "setuptools", "bin"):
        assert not (ours / "python" / other).exists(), "only what runs"
    here = str(image.parent).encode()
    assert [path for path in ours.rglob("*") if path.is_file() and here in path.read_bytes()] == []
    assert [path for path in ours.rglob("*") if path.stat().st_mode & 0o022 and not path.is_symlink()] == []


def test_the_commands_run_in_a_clean_root(root: CleanRoot) -> None:
    assert root("k8s-ovs", "--version").stdout == f"k8s-ovs, version {__version__}\n"
    for argv, said in (
        (("k8s-ovs", "agent", "--help"), "Run this node's half"),
        (("kubectl-ovs", "--help"), "A pod network on Open vSwitch"),
        (("k8s-ovs", "controller", "--help"), "Run the elected half"),
        (("k8s-ovs", "install-cni", "--help"), "Install the CNI executable"),
    ):
        done = root(*argv)
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout


def test_everything_that_runs_in_the_cluster_can_be_imported(root: CleanRoot) -> None:
    """A dependency that only the tests' environment has would be found out by the first user."""
    script = (
        "import runpy, sys, importlib\n"
        "sys.path.insert(0, '/usr/lib/k8s-ovs/python')\n"
        "from k8s_ovs.cli.main import COMMANDS\n"
        "for place in (*COMMANDS.values(), 'agent_half:', 'controller_half:'):\n"
        "    importlib.import_module('k8s_ovs.cli.' + place.partition(':')[0])\n"
        "print(sorted({m.__file__ for m in list(sys.modules.values()) if getattr(m, '__file__', None)\n"
        "    and not m.__file__.startswith(('/usr/lib/k8s-ovs/', '/usr/lib/python3'))}))\n"
    )
    done = root("/usr/bin/python3", "-IBS", "-c", script)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_neither_environment_nor_system_decide_what_is_imported(root: CleanRoot, tmp_path: Path) -> None:
    decoy = tmp_path / "host" / "click"
    decoy.mkdir()
    (decoy / "__init__.py").write_text("raise SystemExit('decoy')")
    done = root("sh", "-c", "cd /host && k8s-ovs --version", PYTHONPATH="/host", PYTHONHOME="/host")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_cni_executable_answers_version(root: CleanRoot) -> None:
    done = root("/usr/lib/k8s-ovs/cni/k8s-ovs", stdin='{"cniVersion":"1.0.0"}', CNI_COMMAND="VERSION")
    assert json.loads(done.stdout) == {
        "cniVersion": "1.0.0",
        "supportedVersions": list(SUPPORTED_VERSIONS),
    }


def test_the_init_container_installs_the_plugins_on_its_host(root: CleanRoot, tmp_path: Path) -> None:
    folder = tmp_path / "host/opt/cni/bin"
    done = root("k8s-ovs", "install-cni", "--cni-bin-dir=/host/opt/cni/bin")
    assert done.returncode == 2
    assert "mount or make the folder" in done.stderr
    folder.mkdir(parents=True)
    done = root("k8s-ovs", "install-cni", "--cni-bin-dir=/host/opt/cni/bin")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == ["k8s-ovs", "loopback", "portmap"]
    answer = subprocess.run(
        [folder / "k8s-ovs"], env={"CNI_COMMAND": "VERSION"}, input=b"{}", capture_output=True, check=True
    )
    assert b"1.1.0" in answer.stdout, "static: it runs on the host, which has nothing of the image"


@pytest.mark.parametrize("name", ["k8s-ovs", "openvswitch", "etcd"])
def test_every_entry_point_is_there(name: str, image: Path, tmp_path: Path) -> None:
    stage = STAGES[name]
    copy_context(stage, TREE, IGNORE, tmp_path / "layer", "/")
    layers = [tmp_path / "layer/usr"] if (tmp_path / "layer/usr").exists() else []
    (tmp_path / "root").mkdir()
    inside = CleanRoot(tmp_path / "root", [*layers, image / "usr"])
    [program] = stage.entrypoint()
    assert inside("test", "-x", program).returncode == 0


def test_of_the_standard_plugins_the_two_are_copied() -> None:
    [(_, sources, _)] = [copy for copy in STAGES["builder"].copies() if copy[0] == "plugins"]
    assert sorted(sources) == ["/usr/lib/cni/loopback", "/usr/lib/cni/portmap"]
    assert STAGES["plugins"].packages() == {"containernetworking-plugins"}


def test_every_copy_takes_what_is_there() -> None:
    for stage in STAGES.values():
        for origin, sources, _ in stage.copies():
            assert origin in ("", *STAGES)
            for source in sources if not origin else ():
                assert (TREE / source).exists()
                assert not ignored(IGNORE, source)
    assert ignored(IGNORE, "build/bin/kubectl")
    assert ignored(IGNORE, ".venv/bin/python")
    assert ignored(IGNORE, "src/k8s_ovs/__pycache__/config.pyc")


PROGRAMS = {
    "k8s-ovs": ["ovs-ofctl", "iptables", "iptables-restore", "openssl", "nsenter"],
    "openvswitch": ["ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovsdb-tool", "modprobe"],
    "etcd": ["etcd", "etcdctl"],
}
"""What the images call; each comes from a package that the Dockerfile names, or from the base (util-linux)."""


def test_the_packages_have_the_programs_that_are_called() -> None:
    places = {
        (name, program): paths_of(program) for name, programs in PROGRAMS.items() for program in programs
    }
    owners = owners_of({path for paths in places.values() for path in paths})
    for (name, program), paths in places.items():
        named = STAGES[name].packages() | STAGES["k8s-ovs"].packages() | {"util-linux"}
        found = {owners[path] for path in paths if path in owners}
        assert found & named, f"{program} is in {found}, which the Dockerfile does not install for {name}"


def paths_of(program: str) -> set[str]:
    """The names that a program may have in a package: /bin is /usr/bin, and some are links to alternatives."""
    found = shutil.which(program, path=SEARCH)
    assert found, f"{program}: not here, see tools/install-packages.sh"
    real = str(Path(found).resolve())
    return {found, real, found.removeprefix("/usr"), real.removeprefix("/usr")}


def owners_of(paths: set[str]) -> dict[str, str]:
    """The Debian package that each of the files comes from; those of none are left out."""
    done = subprocess.run(["dpkg", "-S", *paths], capture_output=True, text=True, check=False)
    lines = [line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line]
    return {path: package.partition(":")[0] for package, path in lines}


@contextmanager
def started(inside: CleanRoot, *argv: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(inside.argv(*argv), env={"PATH": "/usr/sbin:/usr/bin"})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_open_vswitch_runs_in_two_containers(tmp_path: Path) -> None:
    copy_context(STAGES["openvswitch"], TREE, IGNORE, tmp_path / "layer", "/")
    run, etc = tmp_path / "run", tmp_path / "etc"
    for folder in (run, etc, tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
    binds = {run: "/run/openvswitch", etc: "/etc/openvswitch"}
    first, second = (CleanRoot(tmp_path / name, [tmp_path / "layer/usr"], binds) for name in ("a", "b"))
    [program] = STAGES["openvswitch"].entrypoint()

    def system_id() -> str:
        argv = ["ovs-vsctl", f"--db=unix:{run}/db.sock", "--timeout=5", "--if-exists", "get"]
        done = subprocess.run(
            [*argv, "Open_vSwitch", ".", "external_ids:system-id"],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()

    seen = set()
    for _ in range(2):  # the second time on what is there
        with started(first, program, "ovsdb-server"), started(second, program, "ovs-vswitchd") as switch:
            eventually((run / f"ovs-vswitchd.{switch.pid}.ctl").exists, "ovs-vswitchd to run")
            eventually(lambda: system_id() != "", "its identity")
            seen.add(system_id())
    assert len(seen) == 1
    assert not (etc / "conf.db.new").exists()
    assert first(program).returncode == 2
