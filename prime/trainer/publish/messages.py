"""What a node's own user orders of its models, over the control socket. Tags 0x368-0x36F.

A push or pull is a transfer: it is begun, goes on in the node, and is asked for as often as somebody wants to see it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from prime.trainer.publish.card import LICENCE_MAX, Count, ModelCard, Text
from prime.wire import Ask, Finite, Size, message, record

MODELS_PATH = "/node/models"
"""Where a node takes its user's orders about models."""

Path = Annotated[str, Size(1, 4096)]
Phase = Literal["reading", "publishing", "searching", "fetching", "checking", "done"]


@record
class TransferShown:
    """How far a push or a pull is. `here_bytes` of `size_bytes` are done, `kept_bytes` of them were here before.

    `publisher` is the peer whose name it is, empty for a content id; `content` is the content id as text, empty as long as it is not known; `sent` how much came from each provider.
    `holders` of `asked` peers hold the card of a model that was pushed.
    """

    number: int
    phase: Phase
    what: str
    file: str
    publisher: str
    content: str
    size_bytes: Count
    here_bytes: Count
    kept_bytes: Count
    sent: tuple[tuple[str, int], ...]
    card: ModelCard | None
    holders: int
    asked: int


@message(tag=0x368)
class PushModel(Ask[TransferShown]):
    """Let others fetch a safetensors file on this machine, under a name of this node's own."""

    file: Path
    name: Text
    run: Text = ""
    step: int = -1
    round: int = -1
    loss: Finite | None = None
    licence: Annotated[str, Size(0, LICENCE_MAX)] = ""


@message(tag=0x369)
class PullModel(Ask[TransferShown]):
    """Fetch the model that a name or a content id means into a file on this machine; one that is there only with `overwrite`."""

    what: Annotated[str, Size(1, 512)]
    file: Path
    overwrite: bool = False


@message(tag=0x36A)
class ShowTransfer(Ask[TransferShown]):
    """How far is it? One that failed answers with its error."""

    number: int


@message(tag=0x36B)
class StopTransfer(Ask[None]):
    """End a transfer; what is here of it is kept, and the next one goes on from there."""

    number: int


@record
class SharedModel:
    """A blob that this node lets others fetch: `name` is that of a model of its own, empty for one that it has fetched.

    `is_whole` is `False` for what is fetched only in part, or was found damaged or changed.
    """

    name: str
    content: str
    size_bytes: Count
    file: str
    is_whole: bool


@record
class ModelsShared:
    """What this node lets others fetch, the oldest first."""

    peer: str
    models: tuple[SharedModel, ...]


@message(tag=0x36C)
class ListShared(Ask[ModelsShared]):
    """Name what others can fetch from this node."""


@message(tag=0x36D)
class WithdrawModel(Ask[SharedModel]):
    """Let others fetch a model from this node no more, by its name or content id; its file stays where it is."""

    what: Annotated[str, Size(1, 512)]
