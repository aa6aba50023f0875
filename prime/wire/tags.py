"""Who may use which tag: the one place that holds the ranges. `python -m prime.wire.cddl tags` prints them as a table.

Each room has its range and each group of messages its part of it, also where the room is not there yet: so no message has
to move when one comes. A tag below `PRIME_TAG_END` that is in no range is nobody's. Source: spec/protocols/versions.md 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

PRIME_TAG_END: Final = 0x1000
"""Tags from here on belong to the program that defines them."""


@attrs.frozen
class Group:
    """Tags `first` to `last`, both included, for the messages of one `room` about one thing."""

    name: str
    room: str
    first: int
    last: int
    holds: str


GROUPS: Final = (
    Group("session", "transport", 0x001, 0x03F, "join and leave of a node, relayed connections, reachability"),
    Group("streams", "actor", 0x040, 0x04F, "opening, batches, credit and leaving of a stream"),
    Group("processes", "process", 0x050, 0x05F, "between a process and the child that it started"),
    Group("operations", "observe", 0x080, 0x0FF, "status, metrics, logs, health, stop"),
    Group("training", "trainer", 0x100, 0x1FF, "the round, state and its transfer, the worker, the round's journal"),
    Group("checkpoints", "store", 0x200, 0x2FF, "save, load, list, delete, announce, vertices"),
    Group(
        "records", "dht", 0x300, 0x35F, "find, get, put, remove, provide, replicate, registers, manifests and chunks"
    ),
    Group("orders", "node", 0x360, 0x367, "what a node's own user wants of its part in the DHT"),
    Group(
        "publishing", "trainer", 0x368, 0x37F, "models that are pushed and pulled, and what is told of them meanwhile"
    ),
    Group("discovery", "dht", 0x380, 0x3FF, "announce, query, names: register and resolve"),
    Group("consensus", "consensus", 0x400, 0x4FF, "vertices, acks, certificates, queries, equivocation; raft's"),
    Group("governance", "coordinator", 0x500, 0x53F, "proposals, ballots, tallies, rules, the audit trail"),
    Group("tasks", "coordinator", 0x540, 0x57F, "submit, assign, accept, reject, update, result, cancel, validation"),
    Group("economy", "coordinator", 0x580, 0x5BF, "transfer, lock, stake, reward, evidence, slash, appeal"),
    Group("simulation", "sim", 0xE00, 0xEFF, "the programs of the simulator's scenarios"),
)
"""Every range, ascending. What a link itself says (HELLO to ACK) has kinds of its own and no tags: spec/link.cddl."""


def group_of(tag: int) -> Group | None:
    """Return the group whose range a tag is in, or `None`."""
    return next((group for group in GROUPS if group.first <= tag <= group.last), None)


def table(used: Iterable[int]) -> str:
    """Return the ranges as a table in Markdown, as spec/README.md shows them; `used` are the tags that messages have."""
    groups = {group_of(tag) for tag in used}
    rows = [
        f"| {group.name} | `{group.room}` | `{group.first:#05x}` to `{group.last:#05x}` | {group.holds} "
        f"| {'some' if group in groups else 'none'} |"
        for group in GROUPS
    ]
    return (
        "\n".join(["| group | room | tags | what it is about | in `wire.cddl` |", "|---|---|---|---|---|", *rows])
        + "\n"
    )
