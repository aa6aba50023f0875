"""Keys, key files, peer ids and what a node says of itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import ConfigError, DecodeError
from prime.transport.identity import KeyPair, NodeIdentity
from prime.transport.peer import parse_peer, peer_from_public_key, public_key_of, verify
from prime.wire import decode_value, encode_value

KEY = KeyPair.from_seed(bytes(range(32)))
AS_ROOT = os.geteuid() == 0
EIGHTH_ORDER = (
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
)


@given(st.binary(min_size=32, max_size=32))
def test_peer_id_holds_the_public_key(public: bytes) -> None:
    peer = peer_from_public_key(public)
    assert peer.startswith("12D3KooW")
    assert public_key_of(peer) == public
    assert parse_peer(str(peer)) == peer


def test_peer_id_is_libp2ps() -> None:
    ed = pytest.importorskip("libp2p.crypto.ed25519")
    ids = pytest.importorskip("libp2p.peer.id")
    theirs = ids.ID.from_pubkey(ed.create_new_key_pair(KEY.private_bytes()).public_key)
    assert str(theirs) == KEY.peer == "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"


@given(st.text(max_size=60))
def test_other_text_is_no_peer_id(text: str) -> None:
    with pytest.raises(ConfigError, match="no peer id"):
        parse_peer(text)


@given(st.integers(0, 51), st.sampled_from("0OIl1zA"))
def test_a_changed_character_is_another_peer_or_none(at: int, character: str) -> None:
    text = KEY.peer[:at] + character + KEY.peer[at + 1 :]
    try:
        assert (parse_peer(text) == KEY.peer) == (text == KEY.peer)
        assert peer_from_public_key(public_key_of(text)) == text  # one spelling for each key
    except ConfigError:
        assert text != KEY.peer


def test_signatures() -> None:
    signature = KEY.sign(b"data")
    assert verify(KEY.peer, b"data", signature)
    assert not verify(KEY.peer, b"Data", signature)
    assert not verify(KEY.peer, b"data", signature[:-1])
    assert not verify(KeyPair.generate().peer, b"data", signature)


FIELD = 2**255 - 19


@pytest.mark.parametrize("sign_bit", [0, 1 << 255], ids=["plus", "minus"])
@pytest.mark.parametrize("y", [0, 1, FIELD - 1, FIELD, FIELD + 1, *EIGHTH_ORDER], ids=hex)
def test_what_anybody_can_sign_is_signed_by_nobody(y: int, sign_bit: int) -> None:
    """Keys of small order: `S` is 0 and `R` one of eight points, whatever the data."""
    peer = peer_from_public_key((y | sign_bit).to_bytes(32, "little"))
    for r in (0, 1, FIELD - 1, *EIGHTH_ORDER):
        for bit in (0, 1 << 255):
            forged = (r | bit).to_bytes(32, "little") + bytes(32)
            assert not any(verify(peer, b"%d" % n, forged) for n in range(8))


def test_text_form_hides_the_secret() -> None:
    assert repr(KEY) == f"KeyPair({KEY.peer})"
    assert not hasattr(KEY, "__dict__")


def test_created_file_is_private_whole_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "node.key"
    key = KeyPair.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert KeyPair.load_or_create(path).peer == KeyPair.load(path).peer == key.peer
    assert list(path.parent.iterdir()) == [path], "no draft is left"


def test_creators_at_once_get_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "node.key"
    real_link, other = os.link, KeyPair.generate()

    def other_is_first(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", real_link)
        path.write_bytes(pem(ed25519.Ed25519PrivateKey.from_private_bytes(other.private_bytes())))
        path.chmod(0o600)
        real_link(source, target)

    monkeypatch.setattr(os, "link", other_is_first)
    assert KeyPair.load_or_create(path).peer == other.peer
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o777])
def test_a_file_that_others_may_touch_is_refused_with_its_fix(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "node.key"
    KeyPair.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="node.key") as caught:
        KeyPair.load_or_create(path)
    assert caught.value.hint == f"Run: chmod 600 {path}"


@pytest.mark.skipif(AS_ROOT, reason="root reads everything")
def test_an_unreadable_file_is_refused_with_its_fix(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    KeyPair.load_or_create(path)
    path.chmod(0o000)
    with pytest.raises(ConfigError, match="node.key") as caught:
        KeyPair.load_or_create(path)
    assert f"chmod 600 {path}" in caught.value.hint


def test_a_refused_open_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "node.key"
    KeyPair.load_or_create(path)

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigError, match=r"node.key cannot be read: Permission denied") as caught:
        KeyPair.load(path)
    assert f"chmod 600 {path}" in caught.value.hint


def pem(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a key",
        os.urandom(100),
        b"x" * 10_000,
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(ed25519.Ed25519PrivateKey.generate(), b"password"),
    ],
    ids=["empty", "text", "binary", "long", "another kind", "encrypted"],
)
def test_wrong_content_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "node.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="node.key holds no Ed25519 private key"):
        KeyPair.load_or_create(path)
    assert path.read_bytes() == content


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name in ("folder", "fifo", "dangling"):
        with pytest.raises(ConfigError, match=name):
            KeyPair.load_or_create(tmp_path / name)
    with pytest.raises(ConfigError, match="missing"):
        KeyPair.load(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be created"):
        KeyPair.load_or_create(tmp_path / "file" / "node.key")


IDENTITY = NodeIdentity(KEY.peer, ("/ip4/10.0.0.1/tcp/4001",), ("trainer",), "0.1.0", ("resume",))


def test_identity_has_a_wire_form() -> None:
    assert decode_value(NodeIdentity, encode_value(NodeIdentity, IDENTITY, []), []) == IDENTITY


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peer", "12D3KooW"),
        ("addresses", ("here",)),
        ("addresses", (f"/ip4/10.0.0.1/tcp/1/p2p/{KeyPair.generate().peer}",)),
        ("roles", ("Trainer!",)),
        ("features", ("x" * 33,)),
        ("version", "new"),
    ],
)
def test_identity_is_validated_here_and_from_the_wire(field: str, value: object) -> None:
    fields = ("peer", "addresses", "roles", "version", "features")
    values = {name: getattr(IDENTITY, name) for name in fields} | {field: value}
    with pytest.raises(ConfigError):
        NodeIdentity(**values)
    with pytest.raises(DecodeError):
        decode_value(NodeIdentity, [list(v) if isinstance(v, tuple) else v for v in values.values()], [])
