"""What the soak has made of a lab, as far as it is certain: pods, tenants, Services, nodes, external hosts.

For `fakes.soaking`; `expected` is what `fakes.reality` compares the records with. Pure.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from fakes.reality import GLOBAL, Expected, ExpectedPod, ExpectedService
from fakes.reality_records import ObjectName

LIMITS = {"ingress": "kubernetes.io/ingress-bandwidth", "egress": "kubernetes.io/egress-bandwidth"}


@dataclass
class SoakPod:
    """A pod: its node, the label that Services select it by, and its limits in Mbit/s."""

    node: str
    app: str
    limits: dict[str, int] = field(default_factory=dict)

    @property
    def annotations(self) -> dict[str, str | None]:
        """As the API has the limits; None where there is none, for a merge patch."""
        return {key: f"{self.limits[name]}M" if name in self.limits else None for name, key in LIMITS.items()}


@dataclass
class SoakService:
    """A Service: the pods that it selects, its ports (name, protocol, number) and its affinity in seconds."""

    app: str
    ports: tuple[tuple[str, str, int], ...]
    affinity: int | None = None


@dataclass
class Tenancy:
    """A request that has been written and not answered yet."""

    namespace: str
    action: str
    other: str = ""


@dataclass
class Model:
    """Everything that the soak knows to exist. `fixed` Namespaces are those that nobody touches."""

    nodes: Mapping[str, IPv4Address]
    pods: dict[ObjectName, SoakPod] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    services: dict[ObjectName, SoakService] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    hosts: dict[str, IPv4Address] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    asked: Tenancy | None = None
    fixed: set[str] = field(default_factory=set)
    _number: int = 0

    def number(self) -> int:
        """One that has not been given before."""
        self._number += 1
        return self._number

    def movable(self) -> list[str]:
        """Namespaces that may be changed now: nobody has asked for anything about them."""
        busy = {self.asked.namespace, self.asked.other} if self.asked is not None else set()
        return sorted(self.groups.keys() - self.fixed - busy)

    def pods_of(self, *namespaces: str) -> Iterator[ObjectName]:
        """The pods in these Namespaces."""
        return (key for key in sorted(self.pods) if key[0] in namespaces)

    def answered(self) -> None:
        """What has been asked for has been done."""
        asked, self.asked = self.asked, None
        assert asked is not None
        match asked.action:
            case "join":
                self.groups[asked.namespace] = self.groups[asked.other]
            case "global":
                self.groups[asked.namespace] = GLOBAL
            case "isolate":
                own = self.groups[asked.namespace]
                if own == GLOBAL or list(self.groups.values()).count(own) > 1:
                    self.groups[asked.namespace] = f"alone-{self.number()}"

    def remove_namespace(self, name: str) -> None:
        """With everything in it."""
        del self.groups[name]
        for key in list(self.pods_of(name)):
            del self.pods[key]
        for key in [key for key in self.services if key[0] == name]:
            del self.services[key]

    def expected(self) -> Expected:
        """What the records have to say."""
        pods = {
            key: ExpectedPod(pod.node, *(self._bits(pod, name) for name in LIMITS))
            for key, pod in self.pods.items()
        }
        services = {
            key: ExpectedService(frozenset(service.ports), service.affinity, self._behind(key[0], service))
            for key, service in self.services.items()
        }
        nodes = frozenset(self.nodes.keys() - self.away)
        return Expected(
            pods, dict(self.groups), services, nodes, frozenset(self.hosts.keys() - self.released)
        )

    def _bits(self, pod: SoakPod, name: str) -> int | None:
        return pod.limits[name] * 1_000_000 if name in pod.limits else None

    def _behind(self, namespace: str, service: SoakService) -> frozenset[str]:
        return frozenset(
            name for space, name in self.pods_of(namespace) if self.pods[space, name].app == service.app
        )
