"""Golden bytes of the proofs of identity: `spec/vectors/v1/handshake.json`, for other implementations and against change.

To add one, declare it in `written` and run `python tests/transport/test_handshake_vectors.py >
spec/vectors/v1/handshake.json`; the file's difference must then hold added lines only.
"""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from prime.transport import tls, unix
from prime.transport.identity import KeyPair
from prime.transport.peer import public_key_of

COMMITTED = Path(__file__).parents[2] / "spec" / "vectors" / "v1" / "handshake.json"
DIALLER, ACCEPTOR = bytes(range(32)), bytes(range(32, 64))
NONCES = bytes([0xD1]) * 32, bytes([0xAC]) * 32
CERTIFICATE_KEY = 0x1234


def _peer(seed: bytes) -> dict[str, str]:
    key = KeyPair.from_seed(seed)
    return {"seed": seed.hex(), "public_key": key.public_bytes.hex(), "peer": key.peer}


def _unix() -> dict[str, str]:
    dialler, acceptor = KeyPair.from_seed(DIALLER), KeyPair.from_seed(ACCEPTOR)
    ours, theirs = unix.MAGIC + dialler.public_bytes + NONCES[0], unix.MAGIC + acceptor.public_bytes + NONCES[1]
    return {
        "dialler_hello": ours.hex(),
        "acceptor_hello": theirs.hex(),
        "acceptor_signature": acceptor.sign(unix._statement(b"listener", ours, theirs)).hex(),
        "dialler_signature": dialler.sign(unix._statement(b"dialler", ours, theirs)).hex(),
    }


def _tls() -> dict[str, str]:
    private = ec.derive_private_key(CERTIFICATE_KEY, ec.SECP256R1())
    return {
        "seed": DIALLER.hex(),
        "certificate_public_key": tls._spki(private.public_key()).hex(),
        "extension": tls._signed_key(KeyPair.from_seed(DIALLER), private).hex(),
    }


def written() -> dict[str, dict[str, str]]:
    return {"dialler": _peer(DIALLER), "acceptor": _peer(ACCEPTOR), "unix": _unix(), "tls": _tls()}


def _committed() -> dict[str, dict[str, str]]:
    vectors: dict[str, dict[str, str]] = json.loads(COMMITTED.read_text(encoding="utf-8"))
    return vectors


def test_the_proofs_are_the_golden_ones() -> None:
    assert written() == _committed()


def test_a_peer_id_gives_its_key_back() -> None:
    for name in ("dialler", "acceptor"):
        vector = _committed()[name]
        assert public_key_of(vector["peer"]).hex() == vector["public_key"]


def test_the_golden_proofs_are_believed() -> None:
    vectors = _committed()
    hellos = [bytes.fromhex(vectors["unix"][f"{side}_hello"]) for side in ("dialler", "acceptor")]
    for side, role, hello in (("dialler", b"dialler", hellos[0]), ("acceptor", b"listener", hellos[1])):
        signature = bytes.fromhex(vectors["unix"][f"{side}_signature"])
        assert unix._check_proof(hello, signature, unix._statement(role, *hellos)) == vectors[side]["peer"]
    proof = {name: bytes.fromhex(text) for name, text in vectors["tls"].items()}
    found = tls._peer_of_signed_key(proof["extension"], proof["certificate_public_key"])
    assert found == vectors["dialler"]["peer"]


if __name__ == "__main__":
    print(json.dumps(written(), indent=1))
