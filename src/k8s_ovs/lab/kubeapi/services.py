"""Cluster IPs: each Service gets one from the Service CIDR and keeps it.

Called by the registry when a Service is written. Which addresses are in use is read from the store: there is no second
record that could disagree.
"""

from ipaddress import AddressValueError, IPv4Address, IPv4Network

from k8s_ovs.lab.kubeapi.answers import ApiError, Problem, invalid
from k8s_ovs.lab.kubeapi.resources import SERVICES, Object, meta
from k8s_ovs.lab.kubeapi.store import Store


class ClusterIps:
    """The addresses of a Service CIDR. The first is for default/kubernetes; network and broadcast are never given."""

    def __init__(self, store: Store, cidr: IPv4Network) -> None:
        self.cidr = cidr
        self._store = store
        self._next = 2

    @property
    def first(self) -> IPv4Address:
        """The address of default/kubernetes."""
        return self.cidr[1]

    def assign(self, service: Object, old: Object | None) -> None:
        """Set clusterIP and what belongs to it in a Service about to be written. Raises ApiError 422."""
        spec = service["spec"]
        before = (old or {}).get("spec", {})
        if spec["type"] == "ExternalName":
            for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                spec.pop(name, None)
            return
        kept = before.get("clusterIP", "") if before.get("type") != "ExternalName" else ""
        asked = spec.get("clusterIP") or (spec.get("clusterIPs") or [""])[0]
        if kept and asked and asked != kept:
            raise _refused(service, asked, "may not change once set", "spec.clusterIPs[0]")
        address = kept or asked or self._free(service)
        if address != "None" and not kept:
            self._check(service, address)
        spec["clusterIP"] = address
        spec["clusterIPs"] = [address]
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")

    def _used(self) -> set[str]:
        return {entry.obj["spec"].get("clusterIP", "") for entry in self._store.entries(SERVICES)}

    def _check(self, service: Object, address: str) -> None:
        try:
            value = IPv4Address(address)
        except AddressValueError:
            raise _refused(service, address, "must be empty, 'None', or a valid IP address") from None
        if value not in self.cidr:
            raise _refused(
                service,
                address,
                f"failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. "
                f"The range of valid IPs is {self.cidr}",
            )
        if address in self._used():
            raise _refused(
                service, address, f"failed to allocate IP {address}: provided IP is already allocated"
            )

    def _free(self, service: Object) -> str:
        used = self._used()
        span = self.cidr.num_addresses - 3  # without network, default/kubernetes and broadcast
        for step in range(span):
            number = 2 + (self._next - 2 + step) % span
            if str(self.cidr[number]) not in used:
                self._next = number + 1
                return str(self.cidr[number])
        raise ApiError(
            500,
            "InternalError",
            f'Internal error occurred: failed to allocate a serviceIP for "{meta(service).get("name")}": '
            f"range {self.cidr} is full",
        )


def _refused(service: Object, address: str, why: str, path: str = "spec.clusterIPs") -> ApiError:
    value = [address] if path == "spec.clusterIPs" else address
    return invalid("Service", "", meta(service).get("name", ""), [Problem.invalid(path, value, why)])
