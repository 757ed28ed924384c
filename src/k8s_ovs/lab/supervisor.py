"""The daemon of a lab: builds it, keeps its processes running, and plays kubelet for its nodes.

Started by `lifecycle.up` as `python -m k8s_ovs.lab.supervisor DIRECTORY PROGRESS_FD`; ended by SIGTERM. It removes
nothing but processes: files and namespaces are `lifecycle.down`'s, which also works when this process was killed.
SIGHUP: external hosts have been added to lab.json (build them, and tell in state.json how that went), or a process that
was stopped may run again.
Progress lines go to PROGRESS_FD until the lab is ready; then it is closed.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from k8s_ovs.errors import KubeError, LabError
from k8s_ovs.lab import authority, buffers, commands, controlplane, fabric, labfile, ovsnode
from k8s_ovs.lab.cluster import API_PORT, ETCD_PORT, Cluster, Node
from k8s_ovs.lab.commands import Command
from k8s_ovs.lab.forward import Forwarder
from k8s_ovs.lab.kubelet import Kubelet
from k8s_ovs.lab.podapi import PodApi
from k8s_ovs.lab.processes import Supervised, log_tail
from k8s_ovs.lab.processid import ProcessId
from k8s_ovs.lab.state import LAB_FILE, READY, LabState, Phase, ProcessState
from k8s_ovs.lab.stopping import marker
from k8s_ovs.lab.wait import http_ok, until
from k8s_ovs.lab.workloads import etcdaccess, manifests, nodeview
from k8s_ovs.lab.workloads.container import Host
from k8s_ovs.lab.workloads.controllers import WorkloadControllers
from k8s_ovs.sources.kube.credentials import Credentials, KubeSettings, load_credentials

_START_DEADLINE = 60.0


class Supervisor:
    """One lab's processes and the order in which they start."""

    def __init__(self, cluster: Cluster, progress: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._progress = progress
        own = ProcessId.of(os.getpid())
        if own is None:
            raise LabError("cannot read /proc/self/stat", remedy="mount /proc")
        self._own = own
        self._phase = Phase.STARTING
        self._processes: dict[str, Supervised] = {}
        self._hosts: dict[str, str] = {}
        self._hosts_due = asyncio.Event()
        self._group = asyncio.TaskGroup()

    async def run(self) -> None:
        """Bring the lab up and keep it up until cancelled. Raises LabError if it does not come up."""
        self._write_state()
        async with self._group:
            await self._bring_up()
            self._phase = Phase.READY
            self._write_state()
            self._progress(READY)
            await self._add_hosts()

    def look(self) -> None:
        """There may be another external host in lab.json, or a process that is no longer stopped."""
        self._hosts_due.set()
        for process in self._processes.values():
            process.look()

    async def _add_hosts(self) -> None:
        """Build every external host that lab.json names and that has not been built. Without end."""
        while True:
            await self._hosts_due.wait()
            self._hosts_due.clear()
            cluster = labfile.from_json((self._cluster.directory / LAB_FILE).read_text())
            for host, known in zip(cluster.hosts, cluster.external, strict=True):
                if host.name in self._hosts:
                    continue
                try:
                    await self._add_host(host, kubernetes=known.kubernetes)
                    self._hosts[host.name] = ""
                except (LabError, OSError) as err:
                    # The rest of the lab goes on; whoever asked for the host reads why, and takes it out again.
                    self._hosts[host.name] = str(err)
                self._write_state()

    async def _add_host(self, host: Node, *, kubernetes: bool) -> None:
        await fabric.add(self._cluster, host)
        await self._switch(host)
        self._start(commands.podserver(self._cluster, host))
        if not self._cluster.bare:
            self._start(commands.external_agent(self._cluster, host, kubernetes=kubernetes))

    async def _bring_up(self) -> None:
        cluster = self._cluster
        self._progress(f"namespaces and wires: {cluster.node_count} nodes, control, outside")
        await fabric.build(cluster)
        secured = cluster.manifests is not None
        self._forward(cluster.loopback_api, API_PORT)
        controlplane.prepare(cluster)
        self._start_control_plane()
        host = self._pod_host() if secured else None
        kubelet = Kubelet(cluster, schedule=not controlplane.has_scheduler(cluster), host=host)
        if secured:
            for node in cluster.nodes:
                self._start(nodeview.command(cluster, node))
        async with asyncio.TaskGroup() as group:
            for node in cluster.nodes:
                group.create_task(self._switch(node), name=f"switch {node.name}")
            group.create_task(self._records(), name="network config")
            group.create_task(self._api(kubelet), name="await API")
        for node in cluster.nodes:
            self._start(commands.podserver(cluster, node))
        self._start(commands.outside_server(cluster))
        if cluster.bare:
            await self._until("the nodes to be registered", kubelet.registered)
            return
        if secured:
            await self._apply()
        else:
            self._progress("an agent on each node")
            for node in cluster.nodes:
                self._start(commands.agent(cluster, node))
        await self._until("all nodes to be Ready", kubelet.all_ready)
        if cluster.etcd_pod_port is not None:
            await self._until("the certificates of etcd's clients", lambda: etcdaccess.ready(cluster))

    def _start_control_plane(self) -> None:
        """The API and etcd, if that is no pod, and the way to both."""
        cluster = self._cluster
        if cluster.etcd_pod_port is not None:
            self._forward(cluster.loopback_etcd, cluster.etcd_pod_port, str(cluster.nodes[0].ip))
        else:
            self._forward(cluster.loopback_etcd, ETCD_PORT, "127.0.0.1" if cluster.manifests else "")
            self._start(commands.etcd(cluster))
        for command in controlplane.processes(cluster):
            self._start(command)
        etcd = "etcd, " if cluster.etcd_pod_port is None else ""
        self._progress(f"{etcd}the Kubernetes API, an Open vSwitch on each node")

    async def _records(self) -> None:
        """The network config, as soon as etcd answers; the manifests' etcd comes with them."""
        if self._cluster.etcd_pod_port is not None:
            return
        await self._until("etcd to answer", lambda: http_ok(self._cluster.loopback_etcd, "/health"))
        if not self._cluster.bare and self._cluster.manifests is None:
            await self._init_config()

    async def _api(self, kubelet: Kubelet) -> None:
        """Kubelets and controllers, as soon as the API answers."""
        await self._until("the Kubernetes API", lambda: controlplane.ready(self._cluster))
        self._group.create_task(kubelet.run(), name="kubelet")
        if self._cluster.manifests is not None:
            controllers = WorkloadControllers(self._admin())
            self._group.create_task(controllers.run(), name="workloads")
            if self._cluster.etcd_pod_port is not None:
                following = etcdaccess.follow(self._cluster, self._admin())
                self._group.create_task(following, name="etcd's client files")
        elif not self._cluster.bare:
            for index in range(1, self._cluster.controllers + 1):
                self._start(commands.controller(self._cluster, index))

    def _admin(self) -> Credentials:
        return load_credentials(KubeSettings(kubeconfig=self._cluster.kubeconfig))

    async def _apply(self) -> None:
        """What `kubectl apply` does, for an operator who has none."""
        self._progress("the manifests are applied")
        try:
            async with PodApi(self._admin()) as api:
                await manifests.apply(api, manifests.load(self._cluster.manifests_file))
        except KubeError as err:
            raise LabError(f"the manifests cannot be applied: {err}") from err

    def _pod_host(self) -> Host:
        """What the pods of the manifests need of us."""

        def track(process: Supervised) -> None:
            self._processes[process.command.name] = process
            self._write_state()

        def untrack(process: Supervised) -> None:
            if self._processes.get(process.command.name) is process:
                del self._processes[process.command.name]
            self._write_state()

        def view(node: str) -> int | None:
            running = self._processes[nodeview.name(node)].process_id
            return running.pid if running is not None else None

        return Host(
            track=track,
            untrack=untrack,
            changed=self._write_state,
            view=view,
            stopped=lambda name: marker(self._cluster.directory, name).exists(),
            service=(str(self._cluster.kubernetes_ip), "443"),
            authority=authority.of(self._cluster).ca,
        )

    def _forward(self, port: int, target: int, address: str = "") -> None:
        address = address or str(self._cluster.networks.control.ip)
        forwarder = Forwarder(port, self._cluster.netns("control"), (address, target))
        self._group.create_task(forwarder.run(), name=f"forward {port}")

    def _start(self, command: Command) -> Supervised:
        stopped = marker(self._cluster.directory, command.name).exists
        process = Supervised(command, on_change=self._write_state, stopped=stopped)
        self._processes[command.name] = process
        self._group.create_task(process.run(), name=command.name)
        return process

    async def _switch(self, node: Node) -> None:
        await ovsnode.create_database(node)
        self._start(commands.ovsdb(self._cluster, node))
        await self._until(f"{node.name}'s ovsdb-server", (node.ovs_rundir / "db.sock").exists)
        await ovsnode.configure(self._cluster, node)
        uplink = ovsnode.Uplink(self._cluster, node)
        self._group.create_task(uplink.run(), name=f"{node.name}/uplink")
        await uplink.listening.wait()
        process = self._start(commands.vswitchd(self._cluster, node))
        roomy = buffers.keep_roomy(lambda: process.process_id, uplink.stirred)
        self._group.create_task(roomy, name=f"{node.name}/buffers")
        await self._until(f"{node.name}'s switch to make its uplink", uplink.ready.is_set)

    async def _init_config(self) -> None:
        command = commands.init_config(self._cluster)
        with command.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command.full_argv, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        if await process.wait() != 0:
            raise LabError(f"`k8s-ovs init-config` refused the network config: {log_tail(command.log)}")

    async def _until(self, what: str, condition: Callable[[], bool | Awaitable[bool]]) -> None:
        """Wait for `condition`, or fail with what the processes that died have said last."""
        if not await until(condition, _START_DEADLINE):
            raise LabError(f"waited {_START_DEADLINE:.0f} s for {what}{self._complaints()}")

    def _complaints(self) -> str:
        parts = []
        for name, process in self._processes.items():
            if process.restarts > 0 or process.process_id is None:
                tail = log_tail(process.command.log)
                parts.append(
                    f"\n{name} ended {process.restarts} times (last status {process.last_exit}):\n{tail}"
                )
        if self._cluster.manifests is not None:
            parts.append(f"\npods of the manifests:\n{log_tail(self._cluster.logs / 'supervisor.log', 12)}")
        return "".join(parts)

    def _write_state(self) -> None:
        processes = {
            name: ProcessState(process.process_id, max(process.restarts, 0))
            for name, process in self._processes.items()
        }
        LabState(self._own, self._phase, processes, dict(self._hosts)).write(self._cluster.directory)


def _progress_to(descriptor: int) -> Callable[[str], None]:
    stream = os.fdopen(descriptor, "w", buffering=1)

    def progress(line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more: the lab goes on
            stream.write(line.replace("\n", "\x1f") + "\n")
            if line == READY:
                stream.close()

    return progress


async def _main(directory: Path, progress: Callable[[str], None]) -> None:
    cluster = labfile.from_json((directory / LAB_FILE).read_text())
    supervisor = Supervisor(cluster, progress)
    task = asyncio.create_task(supervisor.run(), name="supervisor")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    loop.add_signal_handler(signal.SIGHUP, supervisor.look)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    for error in group.exceptions:
        return _first_error(error) if isinstance(error, BaseExceptionGroup) else error
    return group


def main() -> None:
    """Entry point of the process."""
    directory, descriptor = Path(sys.argv[1]), int(sys.argv[2])
    progress = _progress_to(descriptor)
    # The default watcher of 3.11 starts a thread for each child.
    asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    try:
        asyncio.run(_main(directory, progress))
    except* (LabError, OSError) as group:
        error = _first_error(group)
        progress(f"error: {error}")
        sys.stderr.write(f"{error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
