"""Training in a system: `open_trainer`, which a node and a user's own program both use.

It spawns `/state` (the donor of committed state, which outlives a failing trainer) and `/train` (aggregator and
trainer, one_for_all: the two share what a round needs, so they restart together).
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from prime.actor import Mailbox, Ref, Restart, Supervisor, System
from prime.actor.contract import Journal
from prime.actor.groups import one_error
from prime.config import Config, TrainConfig, derive
from prime.errors import (
    ActorUsageError,
    ConfigError,
    DataError,
    MailboxFullError,
    NotFoundError,
    RefusedError,
    UnreachableError,
    WorldError,
)
from prime.node.contacts import DIAL_DEADLINE_S, Contacts, dial_silent, find_contacts
from prime.node.ending import drop_wish, is_wished, keep_wish
from prime.node.links import links_of
from prime.node.succession import JOURNAL, FoundSuccessor, settled_run
from prime.store.journal import FileJournal, MemoryJournal
from prime.trainer.codec import Vector
from prime.trainer.metadata import TrainingConfig
from prime.trainer.robust.rules import rule_of
from prime.trainer.round.names import lineage
from prime.trainer.round.records import is_untrained, run_of
from prime.trainer.round.terms import Terms
from prime.trainer.round.timing import Timing
from prime.trainer.round.validity import fit_addresses
from prime.trainer.round.view import Member
from prime.trainer.runs.messages import PartFinding, RoundAudit
from prime.trainer.swarm.aggregator import AGGREGATOR_PATH, Aggregator
from prime.trainer.swarm.audit import audit
from prime.trainer.swarm.donor import Donor
from prime.trainer.swarm.float32 import Float32
from prime.trainer.swarm.membership import SwarmPlan
from prime.trainer.swarm.plans import EndSwarm, FurtherContacts, Outcome, StateSaved, ViewEntered
from prime.trainer.swarm.progress import Progress
from prime.trainer.swarm.saved import STATES_FOLDER, StateFolder
from prime.trainer.swarm.state import CHUNK_SIZE_BYTES, ChunkedState, OuterState
from prime.trainer.swarm.tally import Spent
from prime.trainer.swarm.trainer import TRAINER_PATH, Drain, RunDone, SwarmTrainer
from prime.trainer.swarm.transfer import Providers, nobody

_PHASES = {"encode": "encode", "gathering": "send", "reducing": "reduce", "voting": "vote", "stalled": "stalled"}
"""What a round's time went into, by its phases: contributions are sent while they are gathered."""

RATE_MIN_BYTES_S = 1 << 20
"""What a link is taken to carry at least: a joiner waits no longer than half a second for a chunk."""

CONTACTS_MAX = 64
"""Peers that are asked to let this node into a run."""

_BUSY = Mailbox(4096)
"""An aggregator hears chunks, votes and the trainer; link credit bounds the far ones, this bounds the sum."""


@attrs.frozen
class StateDamaged:
    """A saved state cannot be used: an older one, or another member's, is taken."""

    text: str


@attrs.frozen
class StateUnsaved:
    """The state after `round` could not be put on the disk: if every member loses its power now, it is lost."""

    round: int
    text: str
    hint: str


@attrs.frozen
class WishUnsaved:
    """The wish for the end of the run could not be put on the disk: if this node ends before it is decided, it is lost."""

    text: str
    hint: str


class Training:
    """One node's part in a run, as `open_trainer` gives it."""

    def __init__(
        self,
        system: System,
        config: TrainingConfig,
        plan: SwarmPlan,
        journal: Journal,
        folder: Path | None,
        providers: Providers = nobody,
    ) -> None:
        self._system = system
        self._providers = providers
        self._config = config
        self._plan = plan
        self._journal = journal
        self._state: OuterState | None = None
        self._folder = folder
        self._saved = None if folder is None else StateFolder(folder / STATES_FOLDER)
        self._ending = False
        self._unsaved: ChunkedState | None = None
        self._saved_hash = b""
        self._news = trio.Event()
        self._done = trio.Event()
        self._left = trio.Event()
        self._dialling = trio.CancelScope()
        self._trainer: Ref[Any] | None = None
        self.progress = Progress(config.rounds, config.inner_steps)
        self.spent = Spent()
        self._began_at = trio.current_time()
        self._float32_before = 0
        self._sent_before = _sent(system)
        self.aggregator: Aggregator | None = None
        """The living incarnation, for its `status()` and counters; never call its handlers."""

    @property
    def parameters(self) -> Vector | None:
        """Return the shared parameters after the last decided round (float32[D]); `None` before there are any."""
        return self._state.theta if self._state is not None else None

    @property
    def run(self) -> str:
        """Return the full name of the run: of the one that was asked for, or of its successor."""
        return self._plan.run

    @property
    def round(self) -> int:
        """Return the last decided round whose state this node holds."""
        return self.progress.round

    @property
    def float32_bytes(self) -> int:
        """Return what the exchanges so far would have been at 4 bytes an element."""
        return self._float32_before + (self.aggregator.float32_bytes if self.aggregator is not None else 0)

    def sent_bytes(self, tags: range) -> int:
        """Return the bytes of messages with these tags that this node sent since it takes part."""
        sent = _sent(self._system)
        return sum(sent.get(tag, 0) - self._sent_before.get(tag, 0) for tag in tags)

    def spent_s(self) -> dict[str, float]:
        """Return the seconds so far by what they went into; a round goes on beside the training, so some count twice."""
        phases = {_PHASES[name]: seconds for name, seconds in self.spent.seconds.items() if name in _PHASES}
        return {"start": self.progress.start_s, "compute": self.progress.compute_s, **phases}

    def succession(self) -> FoundSuccessor:
        """Return what it takes to go on without the other members. Raises `RefusedError` where the run can go on with them."""
        if self.aggregator is None:
            raise RefusedError("the training has not begun here", hint="ask again in a moment")
        return FoundSuccessor(*self.aggregator.succession())

    @property
    def elapsed_s(self) -> float:
        """Return how long this node has taken part."""
        return trio.current_time() - self._began_at

    async def done(self) -> None:
        """Wait until the run has reached its last round here."""
        await self._done.wait()

    async def leave(self, within_s: float) -> bool:
        """Finish the round in hand and leave the run, as far as `within_s` allows; True when it has left."""
        if self._trainer is None:
            return False
        with trio.move_on_after(within_s):
            await self._trainer.tell(Drain())
            await self._left.wait()
        return self._left.is_set()

    async def end(self) -> None:
        """Ask that the run end for all its members, with the next round that they decide with contributions.

        The wish stays until they have, over this node's own restarts too.
        """
        self._ending = True
        self._say_ending()
        if self._folder is not None and not self._done.is_set():
            try:
                await trio.to_thread.run_sync(keep_wish, self._folder, self.run)
            except WorldError as error:
                self._system.emit(WishUnsaved(str(error), error.hint))

    async def forget_wish(self) -> None:
        """Remove a wish for the end once the run has ended: a later run of that name shall not (called by `open_trainer`)."""
        await self._done.wait()
        if self._folder is not None:
            await trio.to_thread.run_sync(drop_wish, self._folder)

    def _say_ending(self) -> None:
        ref = self._system.whereis(AGGREGATOR_PATH)
        if self._ending and ref is not None:
            with contextlib.suppress(MailboxFullError):  # it waits for its disk: the next view says it again
                ref.tell_nowait(EndSwarm())

    async def audit(self) -> RoundAudit:
        """Recompute the last decided round from what its owners show: who reduced something else is named.

        Takes the bytes of all contributions. Raises `NotFoundError` where no round with contributions is kept here.
        """
        case = self.aggregator.audit_case() if self.aggregator is not None else None
        if case is None:
            raise NotFoundError(
                "no decided round with contributions is kept here", hint="the last one is, until the next is decided"
            )
        findings = await audit(self._system, case)
        shown = tuple(PartFinding(each.part, each.peer, each.judgement, each.reason) for each in findings)
        return RoundAudit(case.run, case.value.round, case.rule.name, shown)

    async def spawn(self, states: Supervisor, sup: Supervisor) -> None:
        """Start donor, aggregator and trainer (called by `open_trainer`)."""
        donor = await states.spawn(lambda: Donor(self._rest_s), "donor")
        if self._folder is not None:
            self._ending = await trio.to_thread.run_sync(is_wished, self._folder, self.run)
        aggregator = await sup.spawn(self._new_aggregator, "aggregator", mailbox=_BUSY)
        records = self._journal.records()
        founder = self._plan.found and is_untrained(records)
        if self._saved is not None and not founder and run_of(records):
            await self._find_state(self._saved)

        def new_trainer() -> SwarmTrainer:
            return SwarmTrainer(
                self._config,
                self._plan.run,
                aggregator,
                donor,
                self.progress,
                founder=founder,
                held=lambda: self._state,
                keep=self._keep,
                on_left=self._left.set,
                saves=self._saved is not None,
                providers=self._providers,
            )

        self._trainer = await sup.spawn(new_trainer, "trainer")

    async def find_more(self, addresses: Sequence[str]) -> None:
        """Dial contacts that did not answer yet, until this node is in a view (called by `open_trainer`)."""
        with self._dialling:
            await dial_silent(self._system, addresses, self.ask_too)

    async def ask_too(self, peers: tuple[str, ...]) -> int:
        """Ask these peers, too, to let this node into the run; return how many were not known before."""
        further = tuple(peer for peer in peers if peer not in self._plan.contacts)[
            : CONTACTS_MAX - len(self._plan.contacts)
        ]
        self._plan = attrs.evolve(self._plan, contacts=(*self._plan.contacts, *further))
        ref = self._system.whereis(AGGREGATOR_PATH)
        if ref is not None and further:
            await ref.tell(FurtherContacts(further))
        return len(further)

    def observe(self, fact: Any) -> None:
        """Notice the end of the run among the system's facts."""
        if isinstance(fact, RunDone):
            self._done.set()

    def _new_aggregator(self) -> Aggregator:
        self._float32_before = self.float32_bytes
        self.aggregator = Aggregator(self._plan, self._journal, self._report, Float32.of(self._config), self.spent)
        return self.aggregator

    def _report(self, outcome: Outcome) -> None:
        """Hand an outcome to whatever trainer lives now: through its path, as it starts after the aggregator."""
        if isinstance(outcome, ViewEntered):
            self._dialling.cancel()
            self._say_ending()
        ref = self._system.whereis(TRAINER_PATH)
        if ref is not None:
            ref.tell_nowait(outcome)

    # ------------------------------------------------------------------------------------------------- the state

    def _rest_s(self) -> float:
        """Return how long to rest after a chunk for a joiner: while a round's bytes go out they get two thirds of the link."""
        if self.aggregator is None or not self.aggregator.is_sending:
            return 0.0
        return 2 * CHUNK_SIZE_BYTES / max(self.aggregator.rate_bytes_s, RATE_MIN_BYTES_S)

    async def _find_state(self, saved: StateFolder) -> None:
        """Go on from the state on the disk, which is the last decided round's or the one before."""
        found = await saved.find(self._plan.run)
        for fault in found.faults:
            self._system.emit(StateDamaged(fault))
        self._state, self._saved_hash = found.state, found.state_hash

    def _keep(self, state: OuterState, cut: ChunkedState) -> None:
        """Keep the last committed state beside the actors, so that a restarted trainer goes on from it; save it."""
        self._state = state
        if self._saved is None:
            return
        if cut.manifest.state_hash == self._saved_hash:  # an aborted round: it is the same state
            self._say_saved(self._saved_hash)
            return
        self._unsaved = cut
        self._news.set()

    async def save_states(self) -> None:
        """Put the newest state on the disk, again and again (called by `open_trainer`)."""
        while self._saved is not None:
            await self.save_last()
            self._news = trio.Event()
            await self._news.wait()

    async def save_last(self) -> None:
        """Put the newest state on the disk, if it is not there yet. A disk that refuses is told of and waited for no more."""
        while self._unsaved is not None and self._saved is not None:
            cut, self._unsaved = self._unsaved, None
            try:
                await self._saved.save(cut)
            except WorldError as error:
                self._system.emit(StateUnsaved(cut.manifest.round, str(error), error.hint))
            else:
                self._saved_hash = cut.manifest.state_hash
            self._say_saved(cut.manifest.state_hash)

    def _say_saved(self, state_hash: bytes) -> None:
        ref = self._system.whereis(TRAINER_PATH)
        if ref is not None:
            ref.tell_nowait(StateSaved(state_hash))


def _sent(system: System) -> dict[int, int]:
    links = links_of(system)
    return dict(links.sent_bytes) if links is not None else {}


@contextlib.asynccontextmanager
async def open_trainer(
    system: System,
    config: TrainingConfig,
    *,
    run: str = "main",
    contacts: Sequence[str] = (),
    folder: Path | None = None,
    timing: Timing | None = None,
    client: bool = False,
    founds: bool = True,
    providers: Providers = nobody,
) -> AsyncIterator[Training]:
    """Take part in a training run for the length of the block; leaving it ends the worker and all actors at once.

    `contacts` are members of the run, each a multiaddr (dialled here, for up to half a minute) or the id of a peer
    that the system has a link to; none founds the run, which starts once `config.nodes_min` nodes are there, unless it is
    another's (not `founds`). `folder`
    holds the journal of what this node promised and the last committed states; without one a node that is started again
    is a new member, and a run whose nodes all end is lost, so give one wherever `key` is a file. Where it is of a
    successor of `run` (`prime train recover`), that one goes on. A `client` contributes and votes, and owns no part of the
    vector; so does a node without an address that others could dial. To leave in order, `await training.leave(...)` before
    the end of the block. `providers` finds who serves the run's state without being a member, for those who fetch it.

    Raises `UnreachableError` (contacts, but for a node that is a member already) and `WrongPeerError`, `ActorUsageError` (no transport), `CorruptedError`
    (journal), `ConfigError` and `DataError` (the model and the data, which only the worker sees), and
    `RestartLimitError` when the trainer fails again and again: its text holds the last failure.
    """
    if system.network is None:
        raise ActorUsageError("a system without a network cannot train", hint="open_system(transport=prime.Tcp(...))")
    terms = terms_of(config)
    named, run = run, run if folder is None else await settled_run(folder, run)
    fit = fit_addresses(system.addresses)
    rate_bytes_s = 0 if client or not fit else None
    member = Member(system.peer, fit, 1.0, secrets.randbits(48) + 1, rate_bytes_s)
    waits = timing if timing is not None else _usual_timing(config)
    async with _open_journal(folder) as journal, system.supervisor("state") as states, _train(system) as sup:
        is_member = bool(run_of(journal.records()))
        if not contacts and not is_member:
            _check_founds(run, founds=founds, is_successor=run != named or lineage(run)[1] > 0)
        found = await _find_contacts(system, contacts, is_member=is_member)
        plan = SwarmPlan(run, member, founds and not contacts, found.peers, config.nodes_min, waits, terms)
        training = Training(system, config, plan, journal, folder, providers)
        unsubscribe = system.subscribe(training.observe)
        try:
            async with one_error(), trio.open_nursery() as nursery:
                await training.spawn(states, sup)
                nursery.start_soon(training.find_more, found.silent)
                nursery.start_soon(training.save_states)
                nursery.start_soon(training.forget_wish)
                yield training
                with trio.CancelScope(shield=True):  # a disk's calls end by themselves
                    await training.save_last()
                nursery.cancel_scope.cancel()
        finally:
            unsubscribe()


def _check_founds(run: str, *, founds: bool, is_successor: bool) -> None:
    """Raise where a node that is no member yet, and knows none, shall not found the run."""
    if is_successor:
        raise ConfigError(f"{run} is joined through a member, and none is named", hint="--join its address")
    if not founds:
        raise UnreachableError(
            f"no member of {run} says an address at which it can be reached, and there is a link to none",
            hint="let a node that others can reach take part in it: the rest find each other through that",
        )


async def _find_contacts(system: System, contacts: Sequence[str], *, is_member: bool) -> Contacts:
    """Dial the contacts until one answers; a node that is a member goes on without, as all others may be gone for good."""
    try:
        return await find_contacts(system, contacts, 0.0 if is_member else DIAL_DEADLINE_S)
    except UnreachableError:
        if not is_member:
            raise
        return Contacts((), tuple(dict.fromkeys(contacts)))


def _train(system: System) -> contextlib.AbstractAsyncContextManager[Supervisor]:
    # A model or data that cannot be used cannot be used by the next worker either: the user has to hear of it.
    restart = Restart(max=3, within=120, backoff=(0.5, 10), hopeless=(ConfigError, DataError))
    return system.supervisor("train", strategy="one_for_all", restart=restart)


def _usual_timing(config: TrainingConfig) -> Timing:
    return timing_of(Config(train=TrainConfig(round_deadline_s=config.round_deadline_s)))


@contextlib.asynccontextmanager
async def _open_journal(folder: Path | None) -> AsyncIterator[Journal]:
    if folder is None:
        yield MemoryJournal()
        return
    journal = await FileJournal.open(folder / JOURNAL)
    with contextlib.closing(journal):
        yield journal


# ------------------------------------------------------------------------------------- from a node's configuration


def training_config(config: Config) -> TrainingConfig:
    """Return the [train] section as the trainer takes it; keys that both have are equal by name."""
    names = {field.name for field in attrs.fields(TrainingConfig)}  # type: ignore[arg-type]  # a @record is an attrs class
    return TrainingConfig(**{k: v for k, v in attrs.asdict(config.train).items() if k in names})


def terms_of(config: TrainingConfig) -> Terms:
    """Return what the leaders of a run's rounds hold to."""
    return Terms(
        rule=rule_of(config),
        participation=config.participation,
        rounds=config.rounds,
        contributors_final_min=config.contributors_final_min,
    )


def timing_of(config: Config) -> Timing:
    """Derive every wait of a round from the round's deadline and the link's."""
    waits = derive(config)
    return Timing(
        suspect_s=config.transport.dead_after_s,
        seal_s=waits.seal_deadline_s,
        reduce_s=waits.reduce_deadline_s,
        deadline_s=config.train.round_deadline_s,
        join_ttl_s=max(config.transport.dead_after_s, 5.0),
    )
