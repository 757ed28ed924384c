"""A pod's steady traffic, run inside its network with `lab exec … python3 echo_stream.py ADDRESS PORT`; standard library only.

Sends a numbered datagram every 5 ms to an echo server, from one socket, until stdin ends. Prints "flowing" when the first
answer is there; at the end waits for what is still on its way and prints one JSON object: {"sent", "lost", "longest"},
the last being the longest time without an answer, in seconds.
"""

import json
import select
import socket
import sys
import time

PERIOD = 0.005
PATIENCE = 2.0


def main(address: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.connect((address, port))
        wire.setblocking(False)
        missing: set[int] = set()
        first = -1  # until the first answer, packets may wait for the neighbour's MAC
        number, heard, longest = 0, 0.0, 0.0
        end = 0.0
        while not end or (missing and time.monotonic() < end):
            if not end:
                number += 1
                missing.add(number)
                wire.send(str(number).encode())
            ready = select.select([wire] if end else [wire, sys.stdin], [], [], PERIOD)[0]
            if wire in ready:
                now = time.monotonic()
                try:
                    while True:
                        answer = int(wire.recv(64))
                        missing.discard(answer)
                        if first < 0:
                            first = answer
                            print("flowing", flush=True)
                        longest = max(longest, now - heard if heard else 0.0)
                        heard = now
                except BlockingIOError:
                    pass
            if sys.stdin in ready:
                end = time.monotonic() + PATIENCE
        lost = sum(1 for each in missing if each > first)
        print(json.dumps({"sent": number - first, "lost": lost, "longest": longest}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
