"""The store under every fault of a disk, with crashes and long stalls: `journals`, and `accounts` of actors that persist.

A clerk outside of the world keeps book of what was acknowledged, and of what was asked for and not answered. What a
node then finds on its disk must be the first and perhaps some of the second, whole, in order. Only a bit that changed
by itself excuses damage, and only a disk that was lost an empty one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import trio

from prime.actor import Persistent, Ref, Restart, applies, on
from prime.actor.persistent import decoded
from prime.errors import CorruptedError, PrimeError, RestartLimitError, ViolationError, WorldError
from prime.sim.disk import Disk
from prime.sim.event_store import JournalEventStore
from prime.sim.plan import DISK, Kind
from prime.sim.run import scenario
from prime.sim.world import Node, World
from prime.store import FileJournal
from prime.wire import Ask, message

KINDS: frozenset[Kind] = DISK | frozenset[Kind]({"crash", "pause"})
AGAIN_S = 20.0
"""How long after the storm until each store must have taken something new."""
JOURNAL_BYTES_MAX = 30_000
"""When a journal is written anew with its last records."""
ONE = 1
"""How many wrong bits the store must notice wherever they are: two in the last record look like a torn append."""


class Excuse:
    """What happened to one file of a disk since the clerk looked: the disk was lost, or bits changed by themselves.

    A damaged file is thrown away. A crash may bring it back until a new one in its place has come to the disk.
    """

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._path = str(path)
        self._serial = disk.serial
        self._flips = 0
        self._is_used_up = False

    def is_other_disk(self) -> bool:
        """Tell whether the disk was replaced; it is noted as seen."""
        is_other, self._serial = self._disk.serial != self._serial, self._disk.serial
        if is_other:
            self._flips, self._is_used_up = 0, False
        return is_other

    @property
    def flips(self) -> int:
        """How many bits of the file changed."""
        return self._all() - self._flips

    def use(self, error: CorruptedError) -> None:
        """Take damage for what bits did that changed; raises `ViolationError` where none has."""
        if not self.is_other_disk() and not self.flips:
            raise ViolationError(str(error), name="damage has a cause") from error
        self._is_used_up = True

    def forgive(self) -> None:
        """Count from here, if there is a new file in the place of a damaged one."""
        if self._is_used_up:
            self._flips, self._is_used_up = self._all(), False

    def _all(self) -> int:
        return sum(flip.path == self._path for flip in self._disk.flips)


class JournalBook:
    """What the journal of one node may hold: what is `sure`, or one of what is in `doubt`."""

    def __init__(self, node: Node) -> None:
        self.path = Path("/journals/rounds")
        self.node = node
        self.excuse = Excuse(node.disk, self.path)
        self.taken = 0
        self._sure: list[bytes] = []
        self._doubt: list[list[bytes]] = []

    @property
    def sure(self) -> list[bytes]:
        """What was acknowledged, or found."""
        return list(self._sure)

    def asks(self, records: list[bytes]) -> None:
        """Note that these may be there from now on."""
        self._doubt.append(records)

    def took(self, records: list[bytes]) -> None:
        """Note that these were acknowledged."""
        if self.excuse.is_other_disk():  # it was acknowledged by the one before
            self._sure, self._doubt = [], []
        else:
            self._sure, self._doubt = records, []
            self.taken += 1

    def finds(self, found: list[bytes]) -> None:
        """Check what was read, and take it for what is there: a life that read it may act on it."""
        if self.excuse.is_other_disk():
            self._sure, self._doubt = [], []
        self.excuse.forgive()
        if found not in (self._sure, *self._doubt) and self.excuse.flips <= ONE:
            sizes = [[len(record) for record in records] for records in (found, self._sure, *self._doubt)]
            raise ViolationError(
                f"a journal of {self.node.name} holds {sizes[0]}, acknowledged was {sizes[1]}, in doubt {sizes[2:]}",
                name="a journal holds what it acknowledged",
            )
        self._sure = found

    def settles(self) -> None:
        """Note that a new life has begun with what was found."""
        self._doubt = []

    def loses(self, error: CorruptedError) -> None:
        """Begin anew where there is an excuse for damage."""
        self.excuse.use(error)
        self._sure, self._doubt = [], []


@scenario(nodes=2, kinds=KINDS, storm_s=20.0, quiet_s=60.0)
async def journals(world: World) -> None:
    """Append to a journal on each node, write it anew, read it, and open it again and again."""
    books = {node.name: JournalBook(node) for node in world.nodes}

    async def main(node: Node) -> None:
        while True:
            await _keep(node, books[node.name], node.random("journal"))
            await trio.sleep(0.05)

    world.start(main)
    await world.storm()
    before = {name: book.taken for name, book in books.items()}
    for name, book in books.items():
        await world.eventually(
            f"the journal of {name} takes records again",
            lambda name=name, book=book: book.taken > before[name] + 3,  # type: ignore[misc]
            AGAIN_S,
        )


async def _keep(node: Node, book: JournalBook, random: Random) -> None:
    """Open the journal and use it for a while; a damaged one is thrown away."""
    files = node.disk.files()
    try:
        journal = await FileJournal.open(book.path, files)
        book.finds(journal.records())
        book.settles()
        for _ in range(random.randint(1, 30)):
            await _use(node, journal, book, random)
            await trio.sleep(random.choice((0.0, 0.0, 0.01, 0.1)))
        journal.close()
    except CorruptedError as error:
        node.note("is damaged", str(book.path))
        book.loses(error)
        _discard(node, book.path)
    except WorldError as error:
        node.note("is refused", str(book.path), why=str(error))


async def _use(node: Node, journal: FileJournal, book: JournalBook, random: Random) -> None:
    """Append a record or write all anew, then read it back; a failure must leave the one or the other."""
    records = [*book.sure, _record(random)]
    is_new = journal.size_bytes > JOURNAL_BYTES_MAX or random.random() < 0.1
    records = records[-random.randint(0, 3) :] if is_new else records
    book.asks(records)
    try:
        await (journal.replace(records) if is_new else journal.append(records[-1]))
    except CorruptedError:
        raise
    except WorldError as error:
        node.note("fails", str(book.path), why=str(error))
    else:
        node.note("takes", str(book.path), records=len(records))
        book.took(records)
    book.finds(journal.records())


def _record(random: Random) -> bytes:
    size = random.choice((0, 1, random.randint(0, 60), random.randint(0, 60), random.randint(0, 3000)))
    return bytes(size) if random.random() < 0.3 else random.randbytes(size)


def _discard(node: Node, path: Path) -> None:
    """Throw a damaged file away, if the disk lets it."""
    try:
        node.disk.files().remove(path)
    except OSError as error:
        node.note("is refused", str(path), why=str(error))


# --------------------------------------------------------------------------------------------- actors that persist


@message(tag=0xE20)
class Enter(Ask[int]):
    """Write a number into the account; the answer is how many it has."""

    number: int


@message(tag=0xE21)
class Entries(Ask[tuple[int, ...]]):
    """Ask for all that is in the account."""


@message(tag=0xE22)
class Entered:
    """A number was written."""

    number: int


@message(tag=0xE23)
class Page:
    """All that is in the account, as a snapshot."""

    numbers: tuple[int, ...]


class Account(Persistent[Enter | Entries, Entered]):
    """Numbers in the order in which they came."""

    def __init__(self, store: JournalEventStore) -> None:
        super().__init__(store, "account", snapshot_every=5, events_kept=3)
        self._numbers: list[int] = []

    @on(Enter)
    async def enter(self, m: Enter) -> int:
        """Write it, and say so once it is on the disk."""
        await self.persist(Entered(m.number))
        return self.sequence

    @on(Entries)
    def entries(self, m: Entries) -> tuple[int, ...]:  # noqa: ARG002 - it asks for nothing special
        """Say what is there."""
        return tuple(self._numbers)

    @applies(Entered)
    def entered(self, event: Entered) -> None:
        """Take a number."""
        self._numbers.append(event.number)

    def snapshot(self) -> Page:
        """See `Persistent.snapshot`."""
        return Page(tuple(self._numbers))

    def restore(self, snapshot: Page) -> None:
        """See `Persistent.restore`."""
        self._numbers = list(snapshot.numbers)


class AccountBook:
    """What the account of one node may hold: every number that was acknowledged, and any of those without an answer."""

    def __init__(self, node: Node) -> None:
        self.path = Path("/events")
        self.node = node
        self.excuse = Excuse(node.disk, self.path)
        self.taken = 0
        self.asked = 0
        self._first = 1
        self._acknowledged: list[int] = []
        self._seen: tuple[int, ...] = ()

    def next(self) -> int:
        """Return the number that is asked for next."""
        if self.excuse.is_other_disk():
            self._begin()
        self.asked += 1
        return self.asked

    def took(self, number: int, count: int) -> None:
        """Note that a number is there, as the last of so many."""
        if self.excuse.is_other_disk():
            self._begin()
        else:
            self.excuse.forgive()
            self._acknowledged.append(number)
            self._must(count >= len(self._acknowledged), f"{number} is number {count}")
            self.taken += 1

    def finds(self, numbers: Sequence[int]) -> None:
        """Check what the account says that it holds."""
        if self.excuse.is_other_disk():
            self._begin()
        self.excuse.forgive()
        if self.excuse.flips > ONE:
            return
        rest = iter(numbers)
        self._must(all(number in rest for number in self._acknowledged), f"it holds {numbers}")
        self._must(len(set(numbers)) == len(numbers), f"one is twice in {numbers}")
        self._must(all(self._first <= number <= self.asked for number in numbers), f"nobody asked for all of {numbers}")
        self._must(tuple(numbers[: len(self._seen)]) == self._seen, f"it held {self._seen}, and now {numbers}")
        self._seen = tuple(numbers)

    def loses(self, error: CorruptedError) -> None:
        """Begin anew where there is an excuse for damage."""
        self.excuse.use(error)
        self._begin()

    def _begin(self) -> None:
        self._first = self.asked + 1
        self._acknowledged, self._seen = [], ()

    def _must(self, is_so: bool, text: str) -> None:  # noqa: FBT001 - what must be
        if not is_so:
            raise ViolationError(
                f"the account of {self.node.name}: {text}; acknowledged was {self._acknowledged}",
                name="an account holds what it acknowledged",
            )


@scenario(nodes=2, kinds=KINDS, storm_s=20.0, quiet_s=60.0)
async def accounts(world: World) -> None:
    """Tell an actor on each node what to persist, with snapshots; its supervisor starts it again and again."""
    ledgers = {node.name: AccountBook(node) for node in world.nodes}

    async def main(node: Node) -> None:
        while True:
            await _serve(node, ledgers[node.name], node.random("account"))
            await trio.sleep(0.05)

    world.start(main)
    await world.storm()
    before = {name: ledger.taken for name, ledger in ledgers.items()}
    for name, ledger in ledgers.items():
        await world.eventually(
            f"the account of {name} takes numbers again",
            lambda name=name, ledger=ledger: ledger.taken > before[name] + 3,  # type: ignore[misc]
            AGAIN_S,
        )


async def _serve(node: Node, ledger: AccountBook, random: Random) -> None:
    """Run the account until its store is damaged; a damaged one is thrown away."""
    restart = Restart(max=1000, within=60.0, backoff=(0.01, 0.5), hopeless=(CorruptedError,))
    store = node.disk.event_store()
    try:
        async with node.system() as system, system.supervisor("app", restart=restart) as sup:
            account = await sup.spawn(lambda: Account(store), "account")
            while True:
                await _visit(node, account, store, ledger, random)
                await trio.sleep(random.choice((0.0, 0.02, 0.3)))
    except CorruptedError as error:
        node.note("is damaged", str(ledger.path))
        ledger.loses(error)
        _discard(node, ledger.path)
    except RestartLimitError as error:
        node.note("gives up", str(ledger.path), why=str(error))


async def _visit(
    node: Node, account: Ref[Enter | Entries], store: JournalEventStore, ledger: AccountBook, random: Random
) -> None:
    """Write a number, then read all; what the store has must make the same, or what comes behind it."""
    number = ledger.next()
    try:
        count = await account.ask(Enter(number), timeout=random.choice((0.1, 2.0)))
        ledger.took(number, count)
        node.note("takes", str(ledger.path), number=number)
        if random.random() < 0.3:
            numbers = await account.ask(Entries(), timeout=2.0)
            stored = await _folded(store)
            if stored[: len(numbers)] != numbers:
                raise ViolationError(f"{numbers} is no fold of {stored}", name="the state is the fold of the events")
            ledger.finds(numbers)
    except ViolationError:
        raise
    except PrimeError as error:  # damage too: the actor meets it when it persists next, and that ends it
        node.note("fails", str(ledger.path), why=type(error).__name__)


async def _folded(store: JournalEventStore) -> tuple[int, ...]:
    """Return what the snapshot and the events behind it in the store come to."""
    saved = await store.snapshot("account")
    numbers: list[int] = [] if saved is None else list(decoded(saved.body).numbers)
    while page := await store.events("account", len(numbers)):
        numbers += [decoded(body).number for body in page]
    return tuple(numbers)
