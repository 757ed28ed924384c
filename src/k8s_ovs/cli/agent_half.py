"""The agent, made from flags. Loaded by `cli.daemons` when it is run."""

from collections.abc import Callable, Coroutine
from typing import Any

from k8s_ovs.agent.app import Agent, AgentServices
from k8s_ovs.cli.agent_settings import agent_from
from k8s_ovs.cli.options import Options
from k8s_ovs.cli.services import Services


def prepare(flags: Options, hostname: str) -> Callable[[Services], Coroutine[Any, Any, None]]:
    """An agent that waits for its services. Raises ConfigError."""
    settings = agent_from(flags, hostname)

    async def run(services: Services) -> None:
        own = AgentServices(
            services.store, services.kube, services.health, services.registry, services.on_ready
        )
        await Agent(settings, own).run()

    return run
