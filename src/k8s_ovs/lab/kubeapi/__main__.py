"""The API server as a process: `python -m k8s_ovs.lab.kubeapi --listen 127.0.0.1:PORT --journal FILE …`.

Started and supervised by the lab. Writes one JSON line to stdout when it listens: {"listen":["127.0.0.1:41234"]}.
Ends on SIGTERM and SIGINT within a second.
"""

import argparse
import asyncio
import json
import logging
import signal
import sys
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError
from pathlib import Path

from k8s_ovs.errors import ConfigError, K8sOvsError
from k8s_ovs.lab.kubeapi.server import ApiServer
from k8s_ovs.lab.kubeapi.settings import DEFAULT_SERVICE_CIDR, Settings, TlsFiles


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDRESS:PORT")
    return host.strip("[]"), int(port)


def _network(text: str) -> IPv4Network:
    try:
        network = IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as err:
        raise argparse.ArgumentTypeError(f"{text!r} is no IPv4 network ({err})") from err
    if network.prefixlen > 28:
        raise argparse.ArgumentTypeError(f"{text} is too small for Services; use a /28 or larger")
    return network


def parse(arguments: list[str]) -> Settings:
    """The command line as settings. Exits with status 2 for what makes no sense; raises ConfigError."""
    parser = argparse.ArgumentParser(
        prog="python -m k8s_ovs.lab.kubeapi", description="Embedded Kubernetes API"
    )
    add = parser.add_argument
    add(
        "--listen", action="append", type=_address, default=[], metavar="ADDRESS:PORT", help="may be repeated"
    )
    add("--fd", action="append", type=int, default=[], metavar="N", help="a socket that listens already")
    add("--journal", type=Path, metavar="FILE", help="where state survives a restart")
    add("--service-cidr", type=_network, default=DEFAULT_SERVICE_CIDR, metavar="CIDR")
    add(
        "--token",
        type=Path,
        metavar="FILE",
        help="the bearer token that is let in; read again when it changes",
    )
    add(
        "--service-account-key",
        type=Path,
        metavar="FILE",
        help="service accounts have tokens, signed with this secret, and the rights that RBAC gives them",
    )
    add("--tls-cert", type=Path, metavar="FILE")
    add("--tls-key", type=Path, metavar="FILE")
    add("--client-ca", type=Path, metavar="FILE", help="clients need a certificate of this CA (or the token)")
    add(
        "--advertise",
        type=_address,
        metavar="ADDRESS:PORT",
        help="endpoint of the Service default/kubernetes",
    )
    add("--bookmark-interval", type=float, default=15.0, metavar="SECONDS")
    options = parser.parse_args(arguments)
    if bool(options.tls_cert) != bool(options.tls_key) or (options.client_ca and not options.tls_cert):
        raise ConfigError(
            "--tls-cert, --tls-key, --client-ca: incomplete",
            remedy="give certificate and key, then the client CA",
        )
    return Settings(
        listen=tuple(options.listen),
        fds=tuple(options.fd),
        journal=options.journal,
        service_cidr=options.service_cidr,
        token_file=options.token,
        account_key=options.service_account_key,
        tls=TlsFiles(options.tls_cert, options.tls_key, options.client_ca) if options.tls_cert else None,
        advertise=options.advertise,
        bookmark_interval=options.bookmark_interval,
    )


async def serve(settings: Settings) -> None:
    """Serve until a signal says to end."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with ApiServer(settings) as server:
        listening = [f"{host}:{port}" for host, port in server.addresses]
        sys.stdout.write(json.dumps({"listen": listening}) + "\n")
        sys.stdout.flush()
        await ended.wait()


def main() -> int:
    """Run; the exit status is 1 for what could not be started, with one line that says why."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(serve(parse(sys.argv[1:])))
    except K8sOvsError as err:
        sys.stderr.write(f"kubeapi: {err}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
