"""A root with nothing in it but a few Debian packages of this machine and what they depend on, to install packages into.

For the packages' tests: `dpkg` and `rpm` install there with real dependencies, in the time that copying takes and without a
network. Nothing of it is linked with the machine's own files.
"""

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

DPKG = Path("/var/lib/dpkg")
NOT_NEEDED = (
    "/usr/share/doc/",
    "/usr/share/man/",
    "/usr/share/locale/",
    "/usr/share/i18n/",
    "/usr/share/zoneinfo/",
)
"""Files that no program needs: a third of the bytes."""
ACCOUNTS = {"passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n"}
VOLATILE = ("var/lib/dpkg/", "var/log/", "var/cache/", "var/lib/systemd/deb-systemd-helper")
"""Bookkeeping of the package managers, which they never remove."""
OWN_CACHE = re.compile(r"^(usr/lib/python3|usr/share/python3|tmp/|root/).*")
"""What Python compiles of itself, and temporary files."""


def make(root: Path, packages: Iterable[str]) -> Path:
    """Fill the empty directory `root` with `packages`, all essential ones, and their dependencies."""
    known = _installed()
    wanted = _closure(known, [*packages, *(name for name, entry in known.items() if "Essential" in entry)])
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if (Path("/") / name).is_symlink():
            target = (Path("/") / name).readlink()
            (root / target).mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(target)
    for name in ("dev", "etc", "proc", "tmp", "root", "var/lib/dpkg/updates", "var/lib/dpkg/info", "var/log"):
        (root / name).mkdir(parents=True, exist_ok=True)
    os.mknod(root / "dev/null", 0o20666, os.makedev(1, 3))
    files = [path for name in sorted(wanted) for path in _files(name, known[name])]
    _copy(root, [*files, str(DPKG / "info/format")])
    _alternatives(root)
    status = "\n\n".join(known[name]["all"] for name in sorted(wanted))
    (root / "var/lib/dpkg/status").write_text(f"{status}\n")
    for name, text in ACCOUNTS.items():
        (root / "etc" / name).write_text(text)
    run("ldconfig", "-r", str(root))
    return root


def run(*command: str, check: bool = True, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    """A command with its output, both streams in one."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    # No setting of the test run may reach what is installed.
    environment = {"PATH": path, "LC_ALL": "C", "HOME": os.environ.get("HOME", "/root")}
    done = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert not check or done.returncode == 0, f"{command}: exit status {done.returncode}\n{done.stdout}"
    return done


def inside(root: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command with `root` as its root, and mounts of its own."""
    return run("unshare", "-m", "chroot", str(root), *command, check=check)


def listing(root: Path) -> set[str]:
    """What is in the root, but for the package managers' own files."""
    found = (str(path.relative_to(root)) for path in root.rglob("*"))
    return {path for path in found if not path.startswith(VOLATILE) and not OWN_CACHE.match(path)}


def names(text: str) -> list[str]:
    """The names in a list of packages as a Depends field has it, without versions and architectures."""
    return [part.split("(")[0].strip().split(":")[0] for part in text.split(",") if part.strip()]


def _installed() -> dict[str, dict[str, str]]:
    """Name to fields, of what is installed; under `all` the whole paragraph. What a package provides is its name too."""
    known: dict[str, dict[str, str]] = {}
    for paragraph in (DPKG / "status").read_text().split("\n\n"):
        lines = [line for line in paragraph.splitlines() if line[:1].strip() and ": " in line]
        fields = dict(line.split(": ", 1) for line in lines)
        if fields.get("Status") == "install ok installed":
            known[fields["Package"]] = fields | {"all": paragraph.strip("\n")}
    return known


def _closure(known: Mapping[str, Mapping[str, str]], wanted: Iterable[str]) -> set[str]:
    provided = {
        virtual: name for name, entry in known.items() for virtual in names(entry.get("Provides", ""))
    }
    todo, done = list(wanted), set[str]()
    while todo:
        name = todo.pop()
        name = name if name in known else provided[name]
        if name in done:
            continue
        done.add(name)
        for field in ("Pre-Depends", "Depends"):
            for group in known[name].get(field, "").split(","):
                choices = [
                    choice for choice in names(group.replace("|", ",")) if choice in {*known, *provided}
                ]
                todo += choices[:1]
    return done


def _files(name: str, entry: Mapping[str, str]) -> list[str]:
    """Everything that a package has on the disk, and dpkg's own records of it."""
    info = DPKG / "info"
    qualified = f"{name}:{entry['Architecture']}"
    stem = qualified if (info / f"{qualified}.list").exists() else name
    own = (info / f"{stem}.list").read_text().splitlines()
    records = [str(path) for path in info.glob(f"{stem}.*")]
    return [path for path in own if not path.startswith(NOT_NEEDED)] + records


def _copy(root: Path, paths: Iterable[str]) -> None:
    """Files, links and directories, with owners and modes, to the same places below `root`."""
    there = [path for path in dict.fromkeys(paths) if os.path.lexists(path) and path not in ("/.", "/")]
    links = {
        f"/{name}"
        for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
        if (root / name).is_symlink()
    }
    listed = "\0".join(path.lstrip("/") for path in there if path not in links)
    packed = subprocess.run(
        ["tar", "-C", "/", "--null", "--no-recursion", "-T", "-", "-c"],
        input=listed.encode(),
        capture_output=True,
        check=True,
        timeout=400,
    )
    unpack = ["tar", "-C", str(root), "--keep-directory-symlink", "-x"]
    subprocess.run(unpack, input=packed.stdout, check=True, timeout=400)


def _alternatives(root: Path) -> None:
    """The commands that are links through /etc/alternatives, as far as they lead to something here."""
    for folder in ("usr/bin", "usr/sbin"):
        for link in (Path("/") / folder).iterdir():
            if not link.is_symlink() or link.readlink().parent != Path("/etc/alternatives"):
                continue
            choice = link.readlink()
            if choice.is_symlink() and (root / choice.readlink().relative_to("/")).exists():
                (root / "etc/alternatives").mkdir(exist_ok=True)
                (root / choice.relative_to("/")).symlink_to(choice.readlink())
                (root / folder / link.name).symlink_to(choice)
