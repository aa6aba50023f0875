"""A relay: an actor that takes each mailbox entry whole, to hand it on. Routers and process actors are built on it."""

from __future__ import annotations

from typing import Any, TypeVar

from prime.actor.actor import Actor

M_contra = TypeVar("M_contra", contravariant=True)


class Relay(Actor[M_contra]):
    """Hears every message itself, whatever its class, instead of through `@on`.

    Supervision, mailbox, watch and stop are those of any actor. The messages it hands on are another's to handle.
    """

    async def relay(self, entry: Any) -> None:
        """Take one entry: a bare message, or an `Envelope` whose slot and deadline are the relay's from now on.

        A failure here fails the actor. Slots that were not handed on must be answered, at the latest in `stopping`.
        """
        raise NotImplementedError
