"""Messages and their bytes: `@message`, `@record`, `Ask`, codecs, limits, frames and the CDDL of all of it.

A message is a frozen attrs class behind a stable integer tag. `to_plain` and `from_plain` convert between instances and
positional arrays, `dumps` and `loads` between those and deterministic CBOR, `prime.wire.frame` between headers with
payloads and a byte stream. Everything here is pure: no I/O, no clock.
"""

from prime.wire.cbor import dumps, loads
from prime.wire.codec import register_field
from prime.wire.kinds import Finite, Payload, Range, Size
from prime.wire.limits import Limits
from prime.wire.message import (
    Ask,
    Asked,
    decode_value,
    encode_value,
    from_plain,
    is_message,
    message,
    message_for,
    messages,
    open_signed,
    record,
    reply_type,
    signed,
    signed_bytes,
    tag_of,
    to_plain,
)
from prime.wire.signed import Signed, register_scheme

__all__ = [
    "Ask",
    "Asked",
    "Finite",
    "Limits",
    "Payload",
    "Range",
    "Signed",
    "Size",
    "decode_value",
    "dumps",
    "encode_value",
    "from_plain",
    "is_message",
    "loads",
    "message",
    "message_for",
    "messages",
    "open_signed",
    "record",
    "register_field",
    "register_scheme",
    "reply_type",
    "signed",
    "signed_bytes",
    "tag_of",
    "to_plain",
]
