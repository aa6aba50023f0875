"""How long a round will take over links as they were measured. Pure.

Of a vector of which the contribution is S_s bytes encoded and the sum S_g, each of n members with equal links sends
(S_s + S_g) (n - 1) / n: its contribution to the other parts' owners, and its own reduced part to everyone. It receives as
much. To that come the exchanges that follow one another: holding, seal, reduction, proposal, vote, commit.
Source: Rabenseifner, "Optimization of Collective Reduction Operations", 2004 (reduce-scatter and all-gather).
"""

from __future__ import annotations

import attrs

from prime.errors import UsageError
from prime.trainer.codec.form import INT8, NONE, Form, form
from prime.trainer.codec.sparse import SUMS, TOPK, SparseForm, gather_form, gather_name

EXCHANGES = 4
"""Times there and back that a round needs beside its bytes."""


@attrs.frozen
class Forecast:
    """What a round is expected to take: bytes that a member sends, seconds, and the same for float32 as it is.

    `narrow` says which way decides: up or down; or rtt, where the bytes take less than the exchanges.
    """

    parameters: int
    members: int
    codec: str
    gather_codec: str
    sent_bytes: int
    seconds: float
    float32_bytes: int
    float32_seconds: float
    narrow: str


def forecast(
    parameters: int,
    members: int,
    codec: str,
    gather_codec: str,
    *,
    up_bytes_s: float,
    down_bytes_s: float,
    rtt_s: float,
) -> Forecast:
    """Return how long a round of `members` takes whose links are all as this one.

    Raises `ConfigError` for a codec that is none, `UsageError` for a link that carries nothing.
    """
    if members < 2 or parameters < 1:
        raise UsageError("a round has two members at least, and a model a parameter", hint="raise the number")
    if min(up_bytes_s, down_bytes_s) <= 0:
        raise UsageError("the link carries nothing", hint="measure it for longer (--seconds)")
    scattered, gathered = (each.encoded_size_bytes(parameters) for each in forms(codec, gather_codec, members))
    exact = 2 * NONE.encoded_size_bytes(parameters)
    sent, float32 = (round(total * (members - 1) / members) for total in (scattered + gathered, exact))
    narrow_bytes_s, waits_s = min(up_bytes_s, down_bytes_s), EXCHANGES * rtt_s
    which = "up" if up_bytes_s <= down_bytes_s else "down"
    return Forecast(
        parameters=parameters,
        members=members,
        codec=codec,
        gather_codec=gather_codec,
        sent_bytes=sent,
        seconds=sent / narrow_bytes_s + waits_s,
        float32_bytes=float32,
        float32_seconds=float32 / narrow_bytes_s + waits_s,
        narrow="rtt" if waits_s > sent / narrow_bytes_s else which,
    )


def forms(codec: str, gather_codec: str, members: int) -> tuple[Form | SparseForm, Form | SparseForm]:
    """Return the wire forms of contributions and of their sum, as `train.codec` and `train.gather_codec` name them.

    Raises `ConfigError` for a name that is none.
    """
    scattered = TOPK if codec == TOPK.name else form(codec)
    name = gather_name(codec, gather_codec)
    if name == SUMS:
        return scattered, gather_form(members) or INT8
    return scattered, form(name)
