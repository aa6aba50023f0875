"""The whole tree of Prime's exceptions, named by whose fault it is.

::

    PrimeError                      carries `hint` (the next step) and `exit_code` (what the command line returns)
    ├── PrimeInternalError          our bug: please report it
    ├── UsageError                  your misuse: the call was wrong
    │   ├── MessageError            a message class that cannot be (tag collision, a field with no wire form)
    │   ├── ActorUsageError         a path already taken, a ref used outside its system
    │   │   └── AskCycleError       asking oneself, directly or through others
    │   ├── WrongBackendError       started under asyncio: Prime runs on Trio
    │   ├── MissingExtraError       the feature needs an extra that is not installed
    │   ├── ConfigError             a configuration value, key or file that cannot be used
    │   ├── DeterminismError        simulated code reached for a thread, a socket, a clock or chance outside its world
    │   └── DataError               training data that is missing, empty or not text
    ├── ViolationError              something that must hold in a simulated world did not: the program's fault
    ├── LocalProtocolError          this side tried to send what the protocol does not allow
    └── WorldError                  the world's fault: retrying later or elsewhere can help
        ├── RemoteProtocolError     the other side sent what the protocol does not allow
        │   └── DecodeError         bytes that are no message: unknown tag, oversize, truncated, trailing bytes
        ├── UnreachableError        nobody answers at that address
        │   └── AddressInUseError   the address to listen on is taken
        ├── RefusedError            the other side said no
        │   ├── WrongPeerError      the machine at that address has another identity
        │   └── MailboxFullError    a mailbox with `full="reject"` had no room
        ├── NotFoundError           nothing has that name
        │   └── NoSuchActorError    no actor at that path (never was, or is dead)
        ├── DeadlineError           the deadline passed first
        ├── LinkLostError           the link broke while an answer was awaited
        ├── ActorCrashedError       the actor that should have answered failed; the cause is in the text
        ├── RestartLimitError       a supervisor gave up: too many restarts in its window
        ├── ConflictError           another writer was there first
        ├── CorruptedError          stored bytes do not match their checksum, or mean nothing to this program
        └── RunFailedError          a training run ended without its result
            └── NonFiniteError      a gradient that is not a number, or infinite: training diverged
"""

from __future__ import annotations


class PrimeError(Exception):
    """The root: every error that Prime raises on purpose.

    `hint` says what to do next, in one sentence; the command line prints it under the message.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class PrimeInternalError(PrimeError):
    """A promise that Prime makes to itself was broken: our bug, never yours."""


class UsageError(PrimeError):
    """The call cannot be right, whatever the world does."""

    exit_code = 2


class MessageError(UsageError):
    """A message class that cannot be: tag collision, tag out of range, a field type with no wire form."""


class ActorUsageError(UsageError):
    """An actor API used against its contract: asking oneself, spawning at a taken path, a closed system."""


class AskCycleError(ActorUsageError):
    """An ask, or a wait for room, that could never end: its target waits for the asker. The text has the path."""


class WrongBackendError(UsageError):
    """Prime was started under another event loop than Trio's."""


class MissingExtraError(UsageError):
    """The feature needs an optional dependency that is not installed."""


class ConfigError(UsageError):
    """A configuration key, value or file that cannot be used; the text names where it came from."""

    exit_code = 3


class DeterminismError(UsageError):
    """Simulated code reached out of its world: a thread, socket, file, clock or chance that no seed gives again.

    `call` is what was called, `place` the file, line and function of the caller, `where` the node and the actor.
    """

    def __init__(self, message: str, *, hint: str = "", call: str = "", place: str = "", where: str = "") -> None:
        super().__init__(message, hint=hint)
        self.call = call
        self.place = place
        self.where = where


class DataError(UsageError):
    """Training data that is missing, empty, too short or not text."""


class ViolationError(PrimeError, AssertionError):
    """Something that must hold in a simulated world did not. `name` says what (by default the text up to a colon)."""

    def __init__(self, message: str, *, name: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.name = name or message.partition(": ")[0]


class LocalProtocolError(PrimeError):
    """This side tried to send what the protocol does not allow, e.g. a message over the size limit."""

    exit_code = 2


class WorldError(PrimeError):
    """Nothing was wrong with the call: the world did not cooperate."""

    exit_code = 8


class RemoteProtocolError(WorldError):
    """The other side broke the protocol; its link is closed."""

    exit_code = 5


class DecodeError(RemoteProtocolError):
    """Bytes that are no message: unknown tag, oversize, truncated, trailing bytes, wrong shape."""


class SignatureError(DecodeError):
    """A signed message whose signature is missing, false, of an unknown scheme, or of another message."""


class UnreachableError(WorldError):
    """Nobody answers at that address, or no address is known for that peer."""

    exit_code = 4


class AddressInUseError(UnreachableError):
    """The address to listen on is taken by another program."""


class RefusedError(WorldError):
    """The other side answered, and said no."""

    exit_code = 5


class WrongPeerError(RefusedError):
    """The machine at that address proved another identity than the one asked for."""


class ReplayError(RefusedError):
    """A signed message that was taken before, is too old, comes from the future, or is for another node."""


class MailboxFullError(RefusedError):
    """A mailbox whose policy is `reject` had no room."""


class NotFoundError(WorldError):
    """Nothing has that name."""

    exit_code = 6


class NoSuchActorError(NotFoundError):
    """No actor lives at that path: it never did, or it is dead."""


class DeadlineError(WorldError):
    """The deadline passed before the answer came; the text names what was awaited and for how long."""

    exit_code = 7


class LinkLostError(WorldError):
    """The link to the other node broke while something was in flight."""

    exit_code = 4


class ActorCrashedError(WorldError):
    """The actor failed while it handled the message; its traceback is text in `remote_traceback`.

    `last_message` and `causes` are what a death notice in the other process said, where there was one.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        remote_traceback: str = "",
        last_message: str = "",
        causes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, hint=hint)
        self.remote_traceback = remote_traceback
        self.last_message = last_message
        self.causes = causes


class RestartLimitError(WorldError):
    """A supervisor gave up because its children failed more often than its restart intensity allows."""


class ConflictError(WorldError):
    """Another writer was there first: what this one knew of the stored state is out of date.

    `found` is what is there instead, where that is known.
    """

    def __init__(self, message: str, *, hint: str = "", found: object = None) -> None:
        super().__init__(message, hint=hint)
        self.found = found


class CorruptedError(WorldError):
    """Stored bytes do not match their checksum, or are no message that this program knows."""


class RunFailedError(WorldError):
    """A training run ended without its result."""


class NonFiniteError(RunFailedError):
    """A gradient that no codec can send: it has a NaN or an infinity, or overflows the codec. All ranks raise it alike.

    `parameter` is its name, `rank` the rank that found it.
    """

    def __init__(self, message: str, *, hint: str = "", parameter: str = "", rank: int = -1) -> None:
        super().__init__(message, hint=hint)
        self.parameter = parameter
        self.rank = rank
