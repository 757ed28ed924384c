"""CNI plugins as files: whether one runs here, and which versions of the specification it speaks.

For `install`, which puts them in their place, and for the agent, whose conflist must not ask for more than every plugin
of the chain knows. It changes nothing.
"""

import errno
import json
import platform
import subprocess
from pathlib import Path

from k8s_ovs.errors import ConfigError

DEADLINE = 10.0
"""Seconds that a plugin has for its answer to VERSION, which takes milliseconds."""
QUESTION = '{"cniVersion":"1.0.0"}'
_MACHINES = {
    3: "i386",
    20: "ppc",
    21: "ppc64le",
    22: "s390x",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
}
"""`e_machine` of an ELF header (elf.h), in the words of uname(1)."""


def supported_versions(plugin: Path) -> tuple[str, ...]:
    """What the plugin answers to VERSION (CNI specification 1.1, section 2), by running it.

    Raises ConfigError if it cannot be run here, or answers something else.
    """
    try:
        done = subprocess.run(
            [plugin],
            env={"CNI_COMMAND": "VERSION"},
            input=QUESTION.encode(),
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"no answer to VERSION within {DEADLINE:g} s"
        raise ConfigError(f"the CNI plugin {plugin}: {reason}", remedy="replace it") from None
    except OSError as err:
        raise _cannot_run(plugin, err) from err
    try:
        versions = json.loads(done.stdout)["supportedVersions"]
        if not isinstance(versions, list) or not all(isinstance(version, str) for version in versions):
            raise TypeError  # noqa: TRY301 - one message for every answer that is none
    except (ValueError, KeyError, TypeError) as err:
        said = (done.stderr or done.stdout).decode(errors="replace").strip() or "nothing"
        raise ConfigError(
            f"the CNI plugin {plugin} answered VERSION with exit status {done.returncode} and {said[:200]!r}",
            remedy="it is damaged or no CNI plugin: replace it",
        ) from err
    return tuple(versions)


def _cannot_run(plugin: Path, err: OSError) -> ConfigError:
    what = f"the CNI plugin {plugin} does not run here"
    if err.errno == errno.ENOEXEC:
        built = _machine(plugin)
        if built and built != platform.machine():
            return ConfigError(
                f"{what}: it is built for {built}, this host is {platform.machine()}",
                remedy="take the image or package of this host's architecture",
            )
        return ConfigError(f"{what}: {err.strerror}", remedy="it is damaged: replace it")
    if err.errno == errno.EACCES:
        return ConfigError(
            f"{what}: {err.strerror}",
            remedy="have it executable, on a file system that is not mounted noexec",
        )
    return ConfigError(f"{what}: {err.strerror}", remedy="see that it is there and can be executed")


def _machine(plugin: Path) -> str:
    """The architecture that an executable is built for; empty if it is no ELF file."""
    try:
        with plugin.open("rb") as file:
            head = file.read(20)
    except OSError:
        return ""
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return ""
    number = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    return _MACHINES.get(number, f"ELF machine {number}")
