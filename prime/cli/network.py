"""What `prime doctor --network` says: how others reach a node here, why, and the next step. Pure: a view in, findings out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prime.cli.checks import Finding, ok
from prime.cli.words import many
from prime.node.probe import Contact, NetworkView
from prime.node.sight import DhtSight, parts
from prime.transport.multiaddr import LayeredPlace, TcpPlace, parse_address
from prime.transport.reachability import Reachability, Scope, scope_of_text

_JOIN: Final = "`prime node start --join ADDRESS`"
_WIDEN: Final = "listen where others can dial: `prime config set transport.listen /ip4/0.0.0.0/tcp/4001`"


def network_findings(view: NetworkView) -> Iterator[Finding]:
    """Yield what was found, from the machine outwards."""
    yield _listening(view)
    yield from (_contact(contact) for contact in view.contacts)
    if view.dht:
        yield _dht(view.dht)
    yield _reachability(view)


def _listening(view: NetworkView) -> Finding:
    text = ", ".join(_bare(address) for address in view.listening)
    if view.borrowed:
        text += " (a free port stood in for the configured one, which is taken)"
    if all(scope_of_text(address) is Scope.MACHINE for address in view.listening):
        return Finding("listening", "warn", f"{text}: nodes on this machine only", _WIDEN)
    return ok("listening", text)


def _contact(contact: Contact) -> Finding:
    if contact.peer:
        return ok("contact", f"{_bare(contact.address)} is {contact.peer}")
    return Finding("contact", "fail", contact.error, contact.hint or "check the address", exit_code=4)


def _dht(sights: tuple[DhtSight, ...]) -> Finding:
    """Say whether the contacts are in one DHT: in two, each finds half of what there is."""
    found = parts(sights)
    outside = [_bare(sight.address) for sight in sights if not sight.peers]
    if len(found) > 1:
        first, second = (_bare(part[0].address) for part in found[:2])
        text = f"{len(found)} separate DHTs: {first} and {second} know no peer in common"
        return Finding(
            "dht", "fail", text, f"start a node of the one with an address of the other: {_JOIN}", exit_code=4
        )
    if outside:
        text = f"{', '.join(outside)}: in no DHT, or did not answer for it in time"
        return Finding("dht", "warn", text, "see `prime dht stats` there; dht.enabled may be false, or its version old")
    peers = frozenset[str]().union(*(sight.peers for sight in sights))
    return ok("dht", f"one, as seen through {many(len(sights), 'contact')}: {many(len(peers), 'peer')} nearest to here")


def _reachability(view: NetworkView) -> Finding:
    text = f"{view.outcome.value}: {view.why}"
    match view.outcome:
        case Reachability.PUBLIC:
            return ok("reachability", text)
        case Reachability.RELAYED:
            return Finding("reachability", "ok", text, f"faster without the relay: {_opening(view)}")
        case Reachability.CLIENT_ONLY:
            return Finding(
                "reachability", "warn", text, f"{_opening(view)}; or name a relay: `prime node start --via ADDRESS`"
            )
        case _:
            return Finding("reachability", "warn", text, _asking(view))


def _asking(view: NetworkView) -> str:
    if not view.contacts:
        return "name a node that can dial back: `prime doctor --network --join ADDRESS`"
    if not any(contact.peer for contact in view.contacts):
        return "reach one of the contacts first"
    return "name a node of this version that is not behind a relay: older ones do not dial back"


def _opening(view: NetworkView) -> str:
    """Say how others could be let in, by what stands in the way."""
    if all(scope_of_text(address) is Scope.MACHINE for address in view.listening):
        return _WIDEN
    ports = ", ".join(dict.fromkeys(filter(None, map(_port, view.listening))))
    if _is_behind_router(view):
        seen = ", ".join(dict.fromkeys(filter(None, map(_host, view.seen))))
        return (
            f"peers see this machine as {seen}, the address of a router: let it pass TCP port {ports} on to this machine, "
            "by hand or with --upnp"
        )
    return f"let TCP port {ports} in through the firewall of this machine, or of its provider"


def _is_behind_router(view: NetworkView) -> bool:
    own = {_host(address) for address in view.listening}
    return bool(view.seen) and not any(_host(address) in own for address in view.seen)


def _host(address: str) -> str:
    place = parse_address(address).place
    return place.host if isinstance(place, TcpPlace | LayeredPlace) else ""


def _port(address: str) -> str:
    place = parse_address(address).place
    return str(place.port) if isinstance(place, TcpPlace | LayeredPlace) else ""


def _bare(address: str) -> str:
    return str(parse_address(address).place)
