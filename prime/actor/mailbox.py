"""A mailbox: how many messages may wait for an actor and what happens to the next one. Pure."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from prime.errors import ActorUsageError

Full = Literal["wait", "reject", "drop_oldest", "drop_newest"]
FULL_POLICIES: tuple[Full, ...] = ("wait", "reject", "drop_oldest", "drop_newest")


@attrs.frozen
class Mailbox:
    """Room for `capacity` messages; `full` says what a sender meets when there is none.

    `wait`: the sender waits (`tell`) or is refused (`tell_nowait`). `reject`: `MailboxFullError`.
    `drop_oldest`, `drop_newest`: one message becomes a dead letter. System messages (stop, `Down`) never count
    and are never dropped.
    """

    capacity: int = 1024
    full: Full = "wait"

    def __attrs_post_init__(self) -> None:
        if self.capacity < 1 or self.full not in FULL_POLICIES:
            raise ActorUsageError(
                f"impossible mailbox: {self}", hint=f"capacity >= 1 and full one of {', '.join(FULL_POLICIES)}"
            )


@attrs.define(slots=True, eq=False)
class Envelope:
    """A message in a mailbox that carries more than itself; a bare message needs none.

    `deadline` is on the system's clock: an ask whose deadline has passed is not run. `sender` is the far node, or
    an empty string for a local one.
    """

    message: Any
    slot: Any = None
    deadline: float | None = None
    sender: str = ""
