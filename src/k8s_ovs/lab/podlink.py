"""The kubelet's side of a node's pod server: tell it what to serve, and tell it again when it was restarted."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from k8s_ovs.errors import LabError

_RETRY = 0.05


class PodServerLink:
    """What one node's pod server shall serve, kept in force."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wanted: dict[str, dict[str, Any]] = {}

    async def run(self) -> None:
        """Say everything again each time the server (re)starts, until cancelled."""
        while True:
            with contextlib.suppress(OSError):  # it is not there yet, or was killed
                reader, writer = await asyncio.open_unix_connection(str(self._path))
                try:
                    for request in list(self._wanted.values()):
                        with contextlib.suppress(LabError):  # the pod's worker has seen and told that error
                            await self._call(request)
                    await reader.read()  # it says nothing here: this ends when the server does
                finally:
                    writer.close()
            await asyncio.sleep(_RETRY)

    async def serve(self, key: str, name: str, netns: Path | None, ports: Sequence[int]) -> None:
        """Serve `ports` in the namespace (None: the node's own). Raises LabError, with a port that is taken, say."""
        request = {
            "op": "serve",
            "key": key,
            "name": name,
            "netns": "" if netns is None else str(netns),
            "ports": list(ports),
        }
        self._wanted[key] = request
        await self._call(request)

    async def stop(self, key: str) -> None:
        """Serve nothing more for `key`."""
        self._wanted.pop(key, None)
        await self._call({"op": "stop", "key": key})

    async def _call(self, request: dict[str, Any]) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._path))
            try:
                writer.write(json.dumps(request).encode() + b"\n")
                answer = await reader.readline()
            finally:
                writer.close()
        except OSError:
            return  # the server is being restarted: `run` tells it
        error = json.loads(answer or b"{}").get("error")
        if error:
            raise LabError(f"the pod's server cannot be started: {error}")
