"""Orders about runs that cannot be right are refused in words, and the actor that takes them stays."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from prime.errors import RefusedError, UsageError
from prime.node.runs import RunsActor
from prime.node.system import open_system
from prime.trainer.runs.messages import AuditRun, EndRun, LeaveRun, ListRuns, RecoverRun, RunsKnown


def refusing(*_: object) -> Any:
    raise UsageError("two runs fit", hint="name one of them in full")


async def refusing_later(*_: object) -> Any:
    refusing()


@pytest.mark.parametrize(
    "order", [LeaveRun("x"), EndRun("x"), RecoverRun("x"), AuditRun("x")], ids=lambda m: type(m).__name__
)
async def test_an_order_that_cannot_be_right_is_refused_and_crashes_nothing(order: Any) -> None:
    host: Any = SimpleNamespace(
        leave=refusing,
        end=refusing_later,
        recover=refusing,
        audit=refusing_later,
        known=lambda: RunsKnown("", "", ()),
    )
    async with open_system() as system, system.supervisor("node") as supervisor:
        runs = await supervisor.spawn(lambda: RunsActor(host), "runs")
        with pytest.raises(RefusedError, match="two runs fit") as raised:
            await runs.ask(order, timeout=5)
        assert raised.value.hint == "name one of them in full"
        assert (await runs.ask(ListRuns(), timeout=5)).runs == ()
