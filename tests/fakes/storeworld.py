"""A store and a way to write behind its back: what the contract tests of Store run in, whatever the store is."""

from collections.abc import Callable
from dataclasses import dataclass

from k8s_ovs.config import EXAMPLE, NetworkConfig
from k8s_ovs.sources.records import Keys
from k8s_ovs.sources.store import Store

CONFIG = NetworkConfig.from_json(EXAMPLE)


@dataclass
class World:
    """A store without anything in it, and a way to write behind its back."""

    store: Store
    prefix: str
    put: Callable[[str, str], object]
    delete: Callable[[str], object]

    @property
    def keys(self) -> Keys:
        return Keys(self.prefix, CONFIG.name)

    def configured(self) -> "World":
        self.put(f"{self.prefix}/config", CONFIG.to_json())
        return self
