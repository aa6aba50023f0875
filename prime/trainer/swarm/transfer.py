"""The transfer of a state to this node: whom to believe, whom to fetch from, carried out over the network.

What to believe is decided in `answers.py`, what to ask whom for in `fetch.py`; here are the tasks and the deadlines.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import trio

from prime.errors import NotFoundError, WorldError
from prime.trainer.round.messages import DescribeState, FetchStateChunk, FetchStatePage, StateManifest
from prime.trainer.swarm.answers import Agreed, Answers
from prime.trainer.swarm.donor import DONOR_PATH, Donor
from prime.trainer.swarm.fetch import Arrived, Command, Complete, DonorFound, Dropped, Failed, FetchPlan, Request
from prime.trainer.swarm.state import OuterState, check_manifest

if TYPE_CHECKING:
    from prime.actor import Ref, System

DONORS_MAX = 6
"""Donors fetched from in parallel; the others stand by."""
ASK_S = 10.0
PIECE_S = 30.0
"""How long a donor may take for one piece; meanwhile idle donors are asked for it too."""
POLL_S = 0.5
"""Between two looks at a member that does not hold the state yet."""
PATIENCE_S = 5.0
"""How long the silence of members counts against every state that others name."""
PROVIDERS_S = 10.0
"""How long it is looked for donors who are no members, beside what members send."""
PROVIDERS_MAX = 16
"""Such donors that are asked what they hold."""

Providers = Callable[[str], Awaitable[Sequence[str]]]
"""Who provides the state of a run, members or not: its full name in, peers out."""


async def nobody(run: str) -> Sequence[str]:  # noqa: ARG001 - a `Providers`
    """Return no provider: for a swarm whose members are all there is."""
    return ()


@attrs.frozen
class StateFetched:
    """A state came from other members; `donors` sent it."""

    round: int
    donors: tuple[str, ...]
    seconds: float


class StateFetch:
    """Fetches committed states of one run, of `elements` parameters and `slots` vectors beside them.

    What state is the right one members alone decide; its chunks come from `providers` too, as each is checked by its hash.
    It keeps the chunks that it has: `fetch` goes on with them after donors were lost, and takes those that the next
    state has in the same place. At most one state's bytes and a window for each donor are held.
    """

    def __init__(self, system: System, run: str, elements: int, slots: int, providers: Providers = nobody) -> None:
        self.system = system
        self.run = run
        self.elements = elements
        self.slots = slots
        self.providers = providers
        self._plan: FetchPlan | None = None

    async def fetch(self, peers: Sequence[str], round_min: int) -> tuple[OuterState, tuple[str, ...]]:
        """Return the state after `round_min`, or a later one, on which a majority of `peers` agrees, and who sent it.

        Raises `NotFoundError` when nobody has such a state, when they do not agree, or when all donors left: call again
        then.
        """
        attempt = _Attempt(self, round_min, self._plan)
        try:
            await attempt.run(peers)
        finally:
            self._plan = attempt.plan
        if attempt.plan is None or not attempt.plan.is_complete:
            raise attempt.failure()
        self._plan = None
        return attempt.plan.state(), attempt.plan.donors

    async def agreed(self, peers: Sequence[str], round_min: int) -> Agreed:
        """Return what state `fetch` would bring, and who holds it. Raises `NotFoundError` where they do not agree."""
        attempt = _Attempt(self, round_min, None)
        attempt.only_asks = True
        await attempt.run(peers)
        if attempt.agreed is None:
            raise attempt.failure()
        return attempt.agreed


class _Attempt:
    """One try: asks everyone what they hold until a majority agrees, and fetches that, both at the same time."""

    def __init__(self, order: StateFetch, round_min: int, earlier: FetchPlan | None) -> None:
        self._order = order
        self._round_min = round_min
        self.plan = earlier
        self.agreed: Agreed | None = None
        self.only_asks = False
        self._held: dict[str, tuple[StateManifest, ...]] = {}
        self._silent: set[str] = set()
        self._listening: set[str] = set()
        self._faults: list[str] = []
        self._ready: deque[str] = deque()
        self._known: set[str] = set()
        self._members: frozenset[str] = frozenset()
        self._looks_further = True
        self._patient = True
        self._patience = trio.CancelScope()

    async def run(self, peers: Sequence[str]) -> None:
        """Ask and fetch until the state is here, nobody is left to ask, or they do not agree in time."""
        self._silent = set(peers)
        self._members = frozenset(peers)
        self._listening = set(peers)
        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(self._listen, nursery, peer)
            nursery.start_soon(self._lose_patience, nursery)

    def failure(self) -> NotFoundError:
        """Say why there is no state."""
        run, round_min = self._order.run, self._round_min
        if self.agreed is not None and self.plan is not None:
            missing = self.plan.chunks - self.plan.here
            said = f"every donor left; {missing} of {self.plan.chunks} chunks of the state are missing"
            return NotFoundError(said, hint="it is tried again, with the chunks that are here")
        if Answers(self._held, 0).disagree(round_min):
            said = (
                f"the members name different states of run {run!r} after round {round_min}, none of them by a majority"
            )
            return NotFoundError(said, hint="the next round's decision names the right one; it is tried again")
        return NotFoundError(
            f"no peer has a state of run {run!r} from round {round_min} on "
            f"({'; '.join(self._faults) or 'nobody to ask'})",
            hint="it is tried again; every node of a run needs the same [train] section",
        )

    # ------------------------------------------------------------------------------------------- who holds what

    async def _listen(self, nursery: trio.Nursery, peer: str) -> None:
        """Ask a peer what it holds, until that helps, or it cannot be asked."""
        ref: Ref[DescribeState] = self._order.system.ref(peer, DONOR_PATH, Donor)
        while True:
            try:
                held = (await ref.ask(DescribeState(self._order.run), timeout=ASK_S)).states
                for manifest in held:
                    check_manifest(manifest, self._order.elements, self._order.slots)
            except WorldError as error:
                self._faults.append(f"{peer}: {error}")
                break
            self._held[peer] = held
            self._silent.discard(peer)
            if not held or any(manifest.round >= self._round_min for manifest in held):
                break
            self._look(nursery)
            await trio.sleep(POLL_S)
        self._silent.discard(peer)
        self._listening.discard(peer)
        self._look(nursery)
        if not self._listening:
            self._patience.cancel()

    async def _lose_patience(self, nursery: trio.Nursery) -> None:
        with self._patience:
            await trio.sleep(PATIENCE_S)
        self._patient = False
        self._look(nursery)
        if self.agreed is None:
            nursery.cancel_scope.cancel()

    def _look(self, nursery: trio.Nursery) -> None:
        """See whether they agree now, and who else holds what they agreed on."""
        answers = Answers(self._held, len(self._silent))
        if self.agreed is None:
            self.agreed = answers.agreed(self._round_min, patient=self._patient)
            if self.agreed is not None and self.only_asks:
                nursery.cancel_scope.cancel()
        if self.agreed is None or self.only_asks:
            return
        if self.plan is None or self.plan.manifest.state_hash != self.agreed.manifest.state_hash or not self._known:
            self.plan = FetchPlan(self.agreed.manifest, self.plan)
        holders = {p for p, held in self._held.items() if self.plan.manifest.state_hash in {m.state_hash for m in held}}
        self._ready.extend(sorted(holders - self._known))
        self._known |= holders
        self._employ(nursery)
        if self._looks_further:
            self._looks_further = False
            nursery.start_soon(self._look_further, nursery)

    async def _look_further(self, nursery: trio.Nursery) -> None:
        """Find donors who are no members: they are believed nothing but chunks."""
        found: Sequence[str] = ()
        with trio.move_on_after(PROVIDERS_S), contextlib.suppress(WorldError):
            found = await self._order.providers(self._order.run)
        others = [peer for peer in found if peer not in self._members and peer != self._order.system.peer]
        for peer in others[:PROVIDERS_MAX]:
            nursery.start_soon(self._try_donor, nursery, peer)

    async def _try_donor(self, nursery: trio.Nursery, peer: str) -> None:
        ref: Ref[DescribeState] = self._order.system.ref(peer, DONOR_PATH, Donor)
        try:
            held = (await ref.ask(DescribeState(self._order.run), timeout=ASK_S)).states
        except WorldError as error:
            self._faults.append(f"{peer}: {error}")
            return
        if self.plan is not None and self.plan.manifest.state_hash in {manifest.state_hash for manifest in held}:
            self._known.add(peer)
            self._ready.append(peer)
            self._employ(nursery)

    # ------------------------------------------------------------------------------------------------ the pieces

    def _employ(self, nursery: trio.Nursery) -> None:
        """Let further donors take part, as long as there are places."""
        while self.plan is not None and self._ready and len(self.plan.donors) < DONORS_MAX:
            self._carry_out(nursery, self.plan.step(DonorFound(self._ready.popleft())))

    def _carry_out(self, nursery: trio.Nursery, commands: list[Command]) -> None:
        """Do what the plan says; the nursery ends with the last chunk, or with the last request of the last donor."""
        for command in commands:
            match command:
                case Request():
                    nursery.start_soon(self._request, nursery, command)
                case Dropped(donor, reason):
                    self._faults.append(f"{donor}: {reason}")
                case Complete():
                    nursery.cancel_scope.cancel()  # a donor that hangs is not worth waiting for
                case _:
                    pass  # who is left to ask is asked by `_listen`

    async def _request(self, nursery: trio.Nursery, wish: Request) -> None:
        plan, started = self.plan, trio.current_time()
        assert plan is not None  # noqa: S101 - the plan that asked for it
        try:
            data = await self._ask(wish, plan.manifest.state_hash)
        except WorldError:
            outcome: Arrived | Failed = Failed(wish.donor, wish.piece)
        else:
            outcome = Arrived(wish.donor, wish.piece, data, trio.current_time() - started)
        self._carry_out(nursery, plan.step(outcome))
        self._employ(nursery)

    async def _ask(self, wish: Request, state_hash: bytes) -> bytes | memoryview:
        ref: Ref[Any] = self._order.system.ref(wish.donor, DONOR_PATH, Donor)
        run, number = self._order.run, wish.piece.number
        if wish.piece.is_page:
            page = await ref.ask(FetchStatePage(run, state_hash, number), timeout=PIECE_S)
            return bytes(page.hashes)
        chunk = await ref.ask(FetchStateChunk(run, state_hash, number), timeout=PIECE_S)
        return memoryview(chunk.data)
