"""Run a credential plugin of a kubeconfig (ExecCredential, client.authentication.k8s.io/v1).

Used by credentials.py. What the plugin prints is secret: it appears in no message; what it writes to stderr does.
Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins.
"""

import asyncio
import base64
import json
import shutil
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from k8s_ovs.errors import KubeDenied
from k8s_ovs.sources.kube.kubeconfig import Profile

GROUP = "client.authentication.k8s.io"
VERSIONS = frozenset({f"{GROUP}/v1", f"{GROUP}/v1beta1"})
PLUGIN_TIMEOUT = 60.0
"""Seconds; cloud plugins ask their cloud, which can take a while."""


class PluginStatus(msgspec.Struct, frozen=True, rename="camel"):
    """What a plugin hands over: a token, a client certificate, or both; until when (an aware datetime, None: no limit)."""

    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None

    def __repr__(self) -> str:
        return f"PluginStatus(expiration_timestamp={self.expiration_timestamp})"


class _ExecCredential(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    status: PluginStatus | None = None


async def run_plugin(profile: Profile, environ: Mapping[str, str]) -> PluginStatus:
    """Run the plugin of `profile` once. Raises KubeDenied if it fails, or hands over nothing."""
    spec = profile.exec
    if spec is None:
        return PluginStatus()
    what = f"{profile.origin}: credential plugin {spec.command}"
    remedy = spec.install_hint.strip() or "run the plugin by hand and see what it says"
    if spec.api_version not in VERSIONS:
        raise KubeDenied(
            f"{what}: apiVersion {spec.api_version!r}", remedy=f"use {GROUP}/v1 in the kubeconfig"
        )
    program = _program(spec.command, profile.directory, environ)
    if program is None:
        raise KubeDenied(f"{what}: no such program", remedy=remedy)
    extra = {entry.name: entry.value for entry in spec.env or ()}
    info = {"KUBERNETES_EXEC_INFO": json.dumps(_exec_info(profile, spec.api_version))}
    try:
        output = await _output([program, *(spec.args or ())], {**environ, **extra, **info})
    except (OSError, TimeoutError, _Failed) as err:
        reason = str(err) or f"no answer within {PLUGIN_TIMEOUT:.0f} s"
        raise KubeDenied(f"{what}: {reason}", remedy=remedy) from err
    return _read(output, what, spec.api_version, remedy)


class _Failed(Exception):
    """The plugin ended with another exit status than 0."""


def _program(command: str, directory: Path, environ: Mapping[str, str]) -> str | None:
    """A command with a slash is relative to the kubeconfig's folder; any other is looked up in PATH."""
    if "/" in command:
        command = str(directory / command)
    return shutil.which(command, path=environ.get("PATH"))


def _exec_info(profile: Profile, api_version: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"interactive": False}
    if profile.exec and profile.exec.provide_cluster_info:
        cluster: dict[str, Any] = {"server": profile.server, "insecure-skip-tls-verify": profile.insecure}
        if profile.tls_server_name:
            cluster["tls-server-name"] = profile.tls_server_name
        if profile.ca is not None:
            pem = profile.ca if isinstance(profile.ca, bytes) else profile.ca.read_bytes()
            cluster["certificate-authority-data"] = base64.b64encode(pem).decode()
        spec["cluster"] = cluster
    return {"apiVersion": api_version, "kind": "ExecCredential", "spec": spec}


async def _output(command: list[str], environ: Mapping[str, str]) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, env=environ, stdin=asyncio.subprocess.DEVNULL, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(PLUGIN_TIMEOUT):
            stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = stderr.decode(errors="replace").strip()[-300:]
        raise _Failed(f"exit status {process.returncode}" + (f": {said}" if said else ""))
    return stdout


def _read(output: bytes, what: str, api_version: str, remedy: str) -> PluginStatus:
    try:
        credential = msgspec.json.decode(output, type=_ExecCredential)
    except msgspec.MsgspecError as err:
        raise KubeDenied(f"{what}: its output is no ExecCredential ({err})", remedy=remedy) from err
    status = credential.status
    if credential.kind != "ExecCredential" or credential.api_version != api_version:
        raise KubeDenied(f"{what}: it answered in {credential.api_version} {credential.kind}", remedy=remedy)
    if status is None or not (status.token or status.client_certificate_data):
        raise KubeDenied(f"{what}: it gave neither a token nor a certificate", remedy=remedy)
    return status
