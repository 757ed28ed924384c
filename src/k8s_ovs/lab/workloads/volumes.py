"""The volumes of a pod as directories and files of this machine: hostPath, claims, objects, emptyDir, downwardAPI.

Called by the pod worker. A node's own directories stand for the paths of a real node (`host_path`). Files made from
objects are replaced as kubelet replaces them: all at once, behind one link, so that a reader sees old or new and never half.
"""

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from k8s_ovs.errors import LabError
from k8s_ovs.lab.cluster import Cluster, Node
from k8s_ovs.lab.workloads.boxes import Mount
from k8s_ovs.lab.workloads.environment import Missing, Sources, field_value
from k8s_ovs.lab.workloads.spec import Container, PodSpec, Raw

ACCOUNT_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"
ACCOUNT_VOLUME = "kube-api-access"
NETNS_SEEN = Path("/run/netns")
PLUGINS_SEEN = Path("/opt/cni/bin")
"""Where a node's container runtime has the pods' namespaces and the CNI executables."""
Files = dict[str, tuple[bytes, int]]
"""Content and mode of each file by its path in the volume."""
_AS_THEY_ARE = ("/proc", "/sys", "/dev", "/usr", "/lib/modules", "/boot", "/etc/localtime")
_DIRECTORY = {"", "Directory", "DirectoryOrCreate"}


def host_path(cluster: Cluster, node: Node, path: str) -> Path:
    """Where a node of the lab keeps what a real node has at this path."""
    clean = os.path.normpath(path)
    if clean == "/var/run" or clean.startswith("/var/run/"):
        clean = clean.removeprefix("/var")
    own = {
        "/run/openvswitch": node.ovs_rundir,
        "/run/netns": cluster.directory / "netns",
        "/etc/cni/net.d": node.cni_conf_dir,
        "/run/k8s-ovs": node.directory / "run",
    }
    for known, place in own.items():
        if clean == known or clean.startswith(known + "/"):
            return place / clean.removeprefix(known).lstrip("/")
    if clean.startswith(_AS_THEY_ARE):
        return Path(clean)
    return node.directory / "root" / clean.lstrip("/")


def view(cluster: Cluster, node: Node) -> list[Mount]:
    """What the node itself, and so the container runtime and its CNI executables, see of these paths."""
    mounts = []
    for path in (
        "/run/openvswitch",
        "/run/netns",
        "/run/k8s-ovs",
        "/etc/cni/net.d",
        "/opt/cni/bin",
        "/etc/k8s-ovs",
    ):
        place = host_path(cluster, node, path)
        place.mkdir(parents=True, exist_ok=True)
        mounts.append(Mount(place, path, propagates=True))
    return mounts


def write_atomically(folder: Path, files: Files, group: int | None = None) -> bool:
    """Make `folder` hold these files, exchanged behind the link `..data`. False if it held them already.

    With `group` (fsGroup) they are the group's too, who may read them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "..data"
    if data.exists() and _read(data) == {name: content for name, (content, _) in files.items()}:
        return False
    fresh = folder / f"..{secrets.token_hex(6)}"
    for name, (content, mode) in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=mode)
        path.write_bytes(content)
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(mode | (0o440 if group is not None else 0))
    fresh.mkdir(exist_ok=True)
    old = data.resolve() if data.exists() else None
    link = folder / "..data_tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    link.replace(data)
    tops = {name.partition("/")[0] for name in files}
    for top in tops:
        if not (folder / top).is_symlink():
            (folder / top).symlink_to(f"..data/{top}")
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in tops:
            entry.unlink()
    if old is not None:
        shutil.rmtree(old)
    return True


def _read(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@dataclass(frozen=True, slots=True)
class Volumes:
    """The volumes of one pod below `folder`; `claims` has the hostPath behind each PersistentVolumeClaim."""

    cluster: Cluster
    node: Node
    folder: Path
    spec: PodSpec
    claims: Mapping[str, Raw]

    def refresh(self, sources: Sources) -> None:
        """Make and renew what comes from objects. Raises Missing and LabError."""
        for name, volume in self.spec.volumes.items():
            files = _files(volume, sources)
            if files is not None:
                write_atomically(self.folder / name, files, self.spec.fs_group)
            elif "emptyDir" in volume:
                (self.folder / name).mkdir(parents=True, exist_ok=True)
                (self.folder / name).chmod(0o777)

    def write_account(self, token: str, authority: bytes, namespace: str) -> None:
        """What every pod gets of its service account."""
        files: Files = {
            "token": (token.encode(), 0o644),
            "ca.crt": (authority, 0o644),
            "namespace": (namespace.encode(), 0o644),
        }
        write_atomically(self.folder / ACCOUNT_VOLUME, files, self.spec.fs_group)

    def mounts(self, container: Container) -> list[Mount]:
        """Where the container sees them. Raises LabError for a hostPath that is not as its type says."""
        found = []
        for mount in container.mounts:
            source = self._source(self.spec.volumes[mount["name"]])
            if mount.get("subPath"):
                source = source / mount["subPath"]
            propagates = mount.get("mountPropagation") == "HostToContainer"
            found.append(Mount(source, mount["mountPath"], bool(mount.get("readOnly")), propagates))
        if self.spec.token and not any(mount.at == ACCOUNT_DIR for mount in found):
            found.append(Mount(self.folder / ACCOUNT_VOLUME, ACCOUNT_DIR, read_only=True))
        return found

    def _source(self, volume: Raw) -> Path:
        if "persistentVolumeClaim" in volume:
            volume = {"hostPath": self.claims[volume["persistentVolumeClaim"]["claimName"]]}
        if "hostPath" not in volume:
            return self.folder / str(volume["name"])
        raw = volume["hostPath"]
        place, kind = host_path(self.cluster, self.node, raw["path"]), raw.get("type") or ""
        if kind in ("DirectoryOrCreate", ""):
            place.mkdir(parents=True, exist_ok=True)
        elif kind == "FileOrCreate":
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch(exist_ok=True)
        elif kind not in ("Directory", "File", "Socket"):
            raise LabError(f"hostPath {raw['path']}: type {kind} is not known to the lab")
        fits = place.is_dir() if kind in _DIRECTORY else place.exists() and not place.is_dir()
        if not fits:
            raise Missing(f"hostPath type check failed: {raw['path']} is not a {kind.lower() or 'directory'}")
        return place


def _files(volume: Raw, sources: Sources) -> Files | None:
    """The files of a volume that is made from objects; None for the other kinds."""
    if "projected" in volume:
        projected = volume["projected"]
        files: Files = {}
        for part in projected.get("sources") or ():
            if "serviceAccountToken" in part:
                raise LabError("projected serviceAccountToken is not known to the lab")
            files |= _files({"name": volume["name"], **part}, sources) or {}
        return files
    if "downwardAPI" in volume:
        items = volume["downwardAPI"].get("items") or ()
        return {i["path"]: (field_value(i["fieldRef"]["fieldPath"], sources).encode(), 0o644) for i in items}
    for kind, name_field in (("configMap", "name"), ("secret", "secretName")):
        if kind in volume:
            return _object_files(
                kind, volume[kind], volume[kind].get(name_field) or volume[kind]["name"], sources
            )
    return None


def _object_files(kind: str, raw: Raw, name: str, sources: Sources) -> Files:
    values: Mapping[str, bytes] | None
    if kind == "secret":
        values = sources.secrets.get(name)
    else:
        texts = sources.config_maps.get(name)
        values = None if texts is None else {key: text.encode() for key, text in texts.items()}
    if values is None:
        if raw.get("optional"):
            return {}
        raise Missing(f'MountVolume.SetUp failed: {kind.lower()} "{name}" not found')
    mode = int(raw.get("defaultMode", 0o644))
    if not raw.get("items"):
        return {key: (value, mode) for key, value in values.items()}
    files: Files = {}
    for item in raw["items"]:
        if item["key"] in values:
            files[item["path"]] = (values[item["key"]], int(item.get("mode", mode)))
        elif not raw.get("optional"):
            raise Missing(f'{kind.lower()} "{name}": references non-existent key: {item["key"]}')
    return files
