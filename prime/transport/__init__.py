"""How bytes and messages cross machines: one contract, one file per transport, the same peer id everywhere.

`Memory`, `Unix`, `Tcp` and `Libp2p` are what a user passes to `open_system`; `contract` says what each of them
promises. Nothing here imports libp2p until a `Libp2p` transport is opened.
"""

from __future__ import annotations
