"""Where a daemon's HTTP endpoint is: for the daemon that opens it and for commands that ask it."""

from k8s_ovs.errors import ConfigError


def parse_address(text: str) -> tuple[str | None, int]:
    """Split "host:port", "[v6]:port" or ":port" (all addresses: None). Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (
        not colon
        or not port.isascii()
        or not port.isdigit()
        or int(port) > 65535
        or (":" in host and bare is host)
    ):
        raise ConfigError(
            f"address {text!r} is not host:port", remedy="give one like 127.0.0.1:9640, or empty for none"
        )
    return bare or None, int(port)
