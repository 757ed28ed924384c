"""A Secret as a pod sees it, for tests of what follows its changes."""

from pathlib import Path


class SecretVolume:
    """A folder as the kubelet keeps it for a Secret: each version in a folder of its own, `..data` a link to it."""

    def __init__(self, folder: Path, **content: bytes) -> None:
        folder.mkdir()
        self.folder = folder
        self._version = 0
        self.put(**content)
        for name in content:
            (folder / name).symlink_to(f"..data/{name}")

    def put(self, **content: bytes) -> None:
        """The next version, all of it at once."""
        self._version += 1
        version = self.folder / f"..version{self._version}"
        version.mkdir()
        for name, data in content.items():
            (version / name).write_bytes(data)
        link = self.folder / "..new"
        link.symlink_to(version.name)
        link.rename(self.folder / "..data")
