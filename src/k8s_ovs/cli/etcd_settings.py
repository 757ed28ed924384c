"""What every command needs that talks to etcd, made from the flags of `options`.

Apart from the daemons' settings: somebody waits at a terminal, and those import half the agent and the Kubernetes client.
"""

from ipaddress import AddressValueError, IPv4Address

from k8s_ovs.cli.options import Options
from k8s_ovs.errors import ConfigError
from k8s_ovs.sources.etcd.settings import EtcdSettings


def etcd_from(options: Options) -> EtcdSettings:
    """Where etcd is. Raises ConfigError for endpoints or files that cannot be used."""
    return EtcdSettings(
        endpoints=tuple(part.strip() for part in options["etcd_endpoints"].split(",") if part.strip()),
        prefix=options["etcd_prefix"],
        cafile=options["etcd_cafile"],
        certfile=options["etcd_certfile"],
        keyfile=options["etcd_keyfile"],
        username=options["etcd_username"],
        password_file=options["etcd_password_file"],
    )


def addresses_from(text: str, what: str) -> list[IPv4Address]:
    """IPv4 addresses separated by commas. Raises ConfigError."""
    try:
        return [IPv4Address(part.strip()) for part in text.split(",") if part.strip()]
    except AddressValueError as err:
        raise ConfigError(f"{what}: {err}", remedy="give IPv4 addresses separated by commas") from err
