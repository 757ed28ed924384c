"""Execute CNI plugins as a container runtime does: the chain of a conflist, with environment, stdin and prevResult.

Called by the kubelet. Follows the CNI specification 1.1, section 3 ("Execution of Network Configurations"); it knows
nothing of k8s-ovs, so that what works here works below containerd and CRI-O.
"""

import asyncio
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k8s_ovs.errors import LabError

log = logging.getLogger(__name__)

Conf = dict[str, Any]
IFNAME = "eth0"
NEWEST_VERSION = "1.1.0"
"""Of those that a list offers, the newest is taken that the runtime knows (section 1, `cniVersions`)."""
_OPTIONAL = frozenset({"portmap"})
"""Plugins that are left out of the chain when the machine lacks them."""
_SUFFIXES = frozenset({".conf", ".conflist", ".json"})


class CniFailure(LabError):
    """A plugin's answer was an error (or none); `code` is the CNI error code, 0 without an answer."""

    def __init__(self, plugin: str, code: int, message: str) -> None:
        super().__init__(f'plugin type="{plugin}" failed (code {code}): {message}')
        self.code = code


@dataclass(frozen=True, slots=True)
class SandboxArgs:
    """What the runtime tells the plugins about a pod; `ports` are its host ports in the form of `portMappings`."""

    sandbox: str
    netns: Path
    namespace: str
    name: str
    uid: str
    ports: Sequence[Mapping[str, object]] = ()

    def environment(self, command: str, path: Path) -> dict[str, str]:
        """The CNI_* variables."""
        pod = {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": self.namespace,
            "K8S_POD_NAME": self.name,
            "K8S_POD_INFRA_CONTAINER_ID": self.sandbox,
            "K8S_POD_UID": self.uid,
        }
        return {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.sandbox,
            "CNI_NETNS": str(self.netns),
            "CNI_IFNAME": IFNAME,
            "CNI_ARGS": ";".join(f"{name}={value}" for name, value in pod.items()),
            "CNI_PATH": str(path),
        }


def load_conflist(directory: Path) -> Conf | None:
    """The first configuration in the directory, in the order of file names, as a list; None if there is none."""
    try:
        files = sorted(entry for entry in directory.iterdir() if entry.suffix in _SUFFIXES)
        text = files[0].read_text() if files else ""
    except OSError:
        return None
    if not text:
        return None
    conf: Conf = json.loads(text)
    if "plugins" in conf:
        known = [version for version in conf.get("cniVersions", ()) if version <= NEWEST_VERSION]
        return {**conf, "cniVersion": max([*known, conf["cniVersion"]])}
    return {"cniVersion": conf.get("cniVersion", "0.3.1"), "name": conf.get("name", ""), "plugins": [conf]}


def plugin_conf(conflist: Conf, plugin: Conf, args: SandboxArgs, previous: Conf | None) -> Conf:
    """What one plugin of the chain gets on stdin: its part, with name, version, runtimeConfig and prevResult."""
    conf = {**plugin, "name": conflist["name"], "cniVersion": conflist["cniVersion"]}
    capabilities = conf.pop("capabilities", None) or {}
    if capabilities.get("portMappings") and args.ports:
        conf["runtimeConfig"] = {"portMappings": list(args.ports)}
    if previous is not None:
        conf["prevResult"] = previous
    return conf


class Chain:
    """The plugins of one node: `netns` is the node's, `path` the directory of the executables."""

    def __init__(self, netns: Path, path: Path, *, timeout: float = 120.0) -> None:
        self._netns = netns
        self._path = path
        self._timeout = timeout

    async def add(self, conflist: Conf, args: SandboxArgs) -> Conf:
        """ADD through the whole chain; returns the last result. Raises CniFailure."""
        result: Conf | None = None
        for plugin in self._plugins(conflist):
            conf = plugin_conf(conflist, plugin, args, result)
            answer = await self._execute("ADD", plugin["type"], conf, args)
            result = json.loads(answer) if answer else result
        return result or {}

    async def delete(self, conflist: Conf, args: SandboxArgs, result: Conf | None) -> None:
        """DEL through the chain backwards, with the result of ADD. Raises CniFailure."""
        for plugin in reversed(self._plugins(conflist)):
            await self._execute("DEL", plugin["type"], plugin_conf(conflist, plugin, args, result), args)

    def _plugins(self, conflist: Conf) -> list[Conf]:
        present = []
        for plugin in conflist["plugins"]:
            kind = plugin["type"]
            if kind in _OPTIONAL and not (self._path / kind).exists():
                log.debug("this machine has no CNI plugin %s: the chain goes on without it", kind)
                continue
            present.append(plugin)
        return present

    async def _execute(self, command: str, kind: str, conf: Conf, args: SandboxArgs) -> str:
        executable = self._path / kind
        if not executable.exists():
            raise CniFailure(kind, 0, f"failed to find plugin in path [{self._path}]")
        process = await asyncio.create_subprocess_exec(
            "nsenter",
            f"--net={self._netns}",
            "--",
            str(executable),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", ""), **args.environment(command, self._path)},
        )
        try:
            async with asyncio.timeout(self._timeout):
                out, err = await process.communicate(json.dumps(conf).encode())
        except TimeoutError as timeout:
            process.kill()
            await process.wait()
            raise CniFailure(kind, 0, f"no answer to {command} within {self._timeout:.0f} s") from timeout
        if process.returncode != 0:
            raise _failure(kind, out, err, process.returncode)
        return out.decode()


def _failure(kind: str, out: bytes, err: bytes, status: int | None) -> CniFailure:
    try:
        answer = json.loads(out)
        details = f": {answer['details']}" if answer.get("details") else ""
        return CniFailure(kind, int(answer["code"]), f"{answer['msg']}{details}")
    except (ValueError, KeyError, TypeError, AttributeError):
        said = (err or out).decode(errors="replace").strip()
        return CniFailure(kind, 0, f"exit status {status}, no CNI error on stdout: {said}")


def address_of(result: Conf) -> str:
    """The first IPv4 address of a result, without its prefix length. Raises LabError."""
    for entry in result.get("ips") or ():
        address = str(entry.get("address", "")).partition("/")[0]
        if address and ":" not in address:
            return address
    raise LabError(f"the CNI result names no IPv4 address: {json.dumps(result)}")
