"""Runs commands in a root of their own, as a container would: no container engine, nothing left behind.

Its /usr is the host's with layers on top, read-only; /etc, /tmp, /run and the rest are empty but for what is given. The
mounts and the network are in namespaces that end with the command.
"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SCRIPT = """
root=$1 layers=$2 binds=$3
shift 3
mount -t tmpfs -o mode=755 none "$root"
mkdir -p "$root/usr" "$root/etc/alternatives" "$root/proc" "$root/dev" "$root/run" "$root/tmp" "$root/var/lib"
ln -s /run "$root/var/run"
mount -t overlay -o "ro,lowerdir=$layers" none "$root/usr"
for name in bin sbin lib lib64; do ln -s "usr/$name" "$root/$name"; done
mount --bind /etc/alternatives "$root/etc/alternatives"
mount -t proc none "$root/proc"
for name in null urandom; do : >"$root/dev/$name"; mount --bind "/dev/$name" "$root/dev/$name"; done
echo root:x:0:0:root:/root:/bin/sh >"$root/etc/passwd"
echo root:x:0: >"$root/etc/group"
ip link set lo up
for bind in $binds; do
    mkdir -p "$root${bind#*=}"
    mount --bind "${bind%%=*}" "$root${bind#*=}"
done
mount -o remount,ro "$root"
mount -t tmpfs none "$root/tmp"
exec chroot "$root" "$@"
"""


@dataclass(frozen=True)
class CleanRoot:
    """`place` is an empty folder, `layers` are folders that are laid over /usr, the topmost first.

    `binds`: folders of the host, and where they are seen inside; paths without spaces.
    """

    place: Path
    layers: Sequence[Path]
    binds: Mapping[Path, str] = field(default_factory=dict)

    def argv(self, *command: str) -> list[str]:
        """What to execute on the host to have `command` executed inside; it is the same process."""
        layers = ":".join(str(layer) for layer in (*self.layers, "/usr"))
        binds = " ".join(f"{outside}={inside}" for outside, inside in self.binds.items())
        namespaces = ["unshare", "--mount", "--net", "--propagation", "private"]
        return [*namespaces, "sh", "-euc", _SCRIPT, "sh", str(self.place), layers, binds, *command]

    def __call__(
        self, *command: str, stdin: str = "", **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.argv(*command),
            env={"PATH": SEARCH, **environment},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
