"""Tries many ways at once, run in a pod's network with `lab exec … python3 reach_client.py VERB ADDRESS VERB ADDRESS …`.

Standard library only. A verb is `ping` (the program), `tcp` (a connection to port 80 is accepted) or `udp` (a datagram to
port 80 comes back). Prints a JSON list of true and false, in order.
"""

import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

PORT = 80
PATIENCE = 2.0
"""Seconds until a way counts as closed."""
RESEND = 0.2


def ping(address: str) -> bool:
    command = ["ping", "-q", "-c", "2", "-i", str(RESEND), "-W", "1", address]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def tcp(address: str) -> bool:
    try:
        socket.create_connection((address, PORT), PATIENCE).close()
    except OSError:
        return False
    return True


def udp(address: str) -> bool:
    end = time.monotonic() + PATIENCE
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.connect((address, PORT))
        wire.settimeout(RESEND)
        while time.monotonic() < end:
            try:
                wire.send(b"hello")
                return wire.recv(64) == b"hello"
            except TimeoutError:
                continue
            except OSError:
                return False  # refused
    return False


def main(*words: str) -> None:
    ways = list(zip(words[::2], words[1::2], strict=True))
    with ThreadPoolExecutor(len(ways)) as pool:
        found = list(pool.map(lambda way: VERBS[way[0]](way[1]), ways))
    print(json.dumps(found), flush=True)


VERBS = {"ping": ping, "tcp": tcp, "udp": udp}

if __name__ == "__main__":
    main(*sys.argv[1:])
