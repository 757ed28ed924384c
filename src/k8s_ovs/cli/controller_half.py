"""The controller, made from flags. Loaded by `cli.daemons` when it is run."""

from collections.abc import Callable, Coroutine
from typing import Any

from k8s_ovs.cli.options import Options
from k8s_ovs.cli.services import Services
from k8s_ovs.controller.app import ControllerServices, ControllerSettings, run_controller


def prepare(_: Options, hostname: str) -> Callable[[Services], Coroutine[Any, Any, None]]:
    """A controller that waits for its services."""

    async def run(services: Services) -> None:
        own = ControllerServices(services.store, services.kube, services.health, services.registry)
        await run_controller(ControllerSettings(hostname=hostname), own)

    return run
