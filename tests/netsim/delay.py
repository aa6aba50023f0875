"""A switch that passes every Ethernet frame on after a delay: for kernels without netem. `delay.py MILLISECONDS PORT...`

It runs in the namespace that has the other ends of the links, with their offloading switched off (`offload.py`).
"""

from __future__ import annotations

import heapq
import select
import socket
import sys
import time

ALL_PROTOCOLS = 3  # ETH_P_ALL
FRAMES_AT_ONCE = 64
Waiting = tuple[float, int, int, bytes]  # due, number, port, frame


def open_port(name: str) -> socket.socket:
    """Return a socket that hears and sends every frame of an interface."""
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
    port.bind((name, 0))
    port.setblocking(False)
    port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    return port


def send_due(queue: list[Waiting], ports: list[socket.socket]) -> None:
    """Send what has waited long enough; a full port drops, as a switch does."""
    while queue and queue[0][0] <= time.monotonic():
        _, _, port, frame = heapq.heappop(queue)
        try:
            ports[port].send(frame)
        except OSError:
            continue


def hear(port: socket.socket) -> list[bytes]:
    """Return the frames that have come in on a port, a few at a time."""
    frames = []
    for _ in range(FRAMES_AT_ONCE):
        try:
            frame, origin = port.recvfrom(65_600)
        except BlockingIOError:
            break
        if origin[2] != socket.PACKET_OUTGOING:
            frames.append(frame)
    return frames


def main() -> None:
    """Pass frames on until the process is killed."""
    delay_s = float(sys.argv[1]) / 1000
    ports = [open_port(name) for name in sys.argv[2:]]
    queue: list[Waiting] = []
    number = 0
    while True:
        send_due(queue, ports)
        wait_s = max(0.0, queue[0][0] - time.monotonic()) if queue else 1.0
        for port in select.select(ports, [], [], wait_s)[0]:
            for frame in hear(port):
                for other, target in enumerate(ports):
                    if target is not port:
                        number += 1
                        heapq.heappush(queue, (time.monotonic() + delay_s, number, other, frame))


if __name__ == "__main__":
    main()
