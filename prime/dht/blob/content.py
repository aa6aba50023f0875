"""Content ids as people write them, and where in the space of keys their providers are found. Pure.

The text is a CIDv1 (multiformats): `b`, then base32 in lower case, without padding, of version 1, the codec `dag-cbor`
(the manifest is such a block) and the multihash of its SHA-256. So other tools of the CID family can read and show it, and
the key is the one that `/ipfs/kad/1.0.0` uses: the SHA-256 of the multihash.
"""

from __future__ import annotations

import base64
from typing import Final

from prime.dht.key import Key, key_of
from prime.errors import UsageError
from prime.store.manifest import HASH_BYTES, ContentId

_MULTIHASH: Final = b"\x12\x20"  # sha2-256, 32 bytes
_HEAD: Final = b"\x01\x71" + _MULTIHASH  # version 1, dag-cbor
TEXT_LENGTH: Final = 59
_HINT: Final = "a content id of Prime begins with bafyrei and has 59 letters; `prime model push` prints it"


def text_of(content: ContentId) -> str:
    """Return the text of a content id."""
    return "b" + base64.b32encode(_HEAD + content).decode().lower().rstrip("=")


def content_of(text: str) -> ContentId:
    """Return the content id that a text names. Raises `UsageError`."""
    if len(text) != TEXT_LENGTH or text[:1] not in "bB":
        raise UsageError(f"{text[:80]!r} is no content id", hint=_HINT)
    try:
        data = base64.b32decode(text[1:].upper() + "=" * (-len(text[1:]) % 8))
    except ValueError as error:
        raise UsageError(f"{text!r} is no content id: it is not base32", hint=_HINT) from error
    content = ContentId(data[len(_HEAD) :])
    if data[: len(_HEAD)] != _HEAD or len(content) != HASH_BYTES or text_of(content) != text.lower():
        raise UsageError(f"{text!r} is the id of something else than a blob of Prime", hint=_HINT)
    return content


def is_content(text: str) -> bool:
    """Tell whether a text is a content id."""
    try:
        content_of(text)
    except UsageError:
        return False
    return True


def key_of_content(content: ContentId) -> Key:
    """Return the key under which the providers of a blob are found."""
    return key_of(_MULTIHASH + content)
