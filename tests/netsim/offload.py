"""Switches off what an interface leaves to hardware that is not there: `ethtool -K IF tx off tso off gso off gro off`.

Without ethtool, which is not on every machine. `offload.py INTERFACE`
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import sys

SIOCETHTOOL = 0x8946
SWITCHES = {"tx checksums": 0x17, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}


def main() -> None:
    """Switch each off; say which could not be."""
    control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for name, command in SWITCHES.items():
        value = array.array("B", struct.pack("II", command, 0))
        address, _ = value.buffer_info()
        try:
            fcntl.ioctl(control, SIOCETHTOOL, struct.pack("16sP", sys.argv[1].encode(), address) + bytes(8))
        except OSError as error:
            print(f"{sys.argv[1]}: {name}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
