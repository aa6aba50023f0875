"""The status actor: answers `GetStatus` from what the runtime and the node's own sources say."""

from __future__ import annotations

from collections.abc import Callable

from prime.actor import Actor, SupervisorInfo, on
from prime.errors import RefusedError
from prime.observe.messages import ActorStatus, GetStatus, NodeStatus, StopNode, SupervisorStatus


class StatusActor(Actor[GetStatus | StopNode]):
    """Knows nothing itself: `describe(rounds_after)` makes the status, `stop()` ends the node.

    It answers this node's own user only: a local sender, or one whose messages the control socket brought in under
    this node's own id.
    """

    def __init__(self, describe: Callable[[int], NodeStatus], stop: Callable[[], None]) -> None:
        self._describe = describe
        self._stop = stop

    @on(GetStatus)
    def get_status(self, m: GetStatus) -> NodeStatus:
        """Answer with the node's status now."""
        self._check_sender()
        return self._describe(m.rounds_after)

    @on(StopNode)
    def stop_node(self, _: StopNode) -> None:
        """Stop the node in order."""
        self._check_sender()
        self._stop()

    def _check_sender(self) -> None:
        if self.ctx.sender not in (None, self.ctx.system.peer):
            raise RefusedError(
                "a node answers these questions only on its own machine",
                hint="run the command there, as the user that runs the node",
            )


def supervisor_status(info: SupervisorInfo) -> SupervisorStatus:
    """Give one supervisor of `System.tree()` its wire form."""
    children = tuple(
        ActorStatus(
            path=child.path,
            actor=child.actor,
            state=child.state,
            age_s=round(child.age_s, 3),
            restarts=child.restarts,
            mailbox=child.mailbox,
            handled=child.handled,
            last_failure=child.last_failure,
            oldest_s=round(child.oldest_s, 3),
            rate_per_s=round(child.rate_per_s, 3),
            p50_s=child.p50_s,
            p99_s=child.p99_s,
            dropped=child.dropped,
            waits_for=child.waits_for,
            process=child.process,
        )
        for child in info.children
    )
    return SupervisorStatus(info.path, info.strategy, info.state, children, info.restarts_left)
