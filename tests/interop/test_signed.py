"""The golden bytes of signed messages, verified by another implementation of Ed25519: that of Node.js."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.interop

COMMITTED = Path(__file__).parents[2] / "spec" / "vectors" / "v1" / "signed.json"
VERIFIER = """
const crypto = require('crypto'), vectors = JSON.parse(require('fs').readFileSync(process.argv[1]));
const alphabet = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz';
for (const [name, vector] of Object.entries(vectors)) {
  let id = 0n;
  for (const letter of vector.signer) id = id * 58n + BigInt(alphabet.indexOf(letter));
  const der = Buffer.from('302a300506032b6570032100' + id.toString(16).slice(-64), 'hex');  // the id ends in the key
  const key = crypto.createPublicKey({ key: der, format: 'der', type: 'spki' });
  const data = Buffer.from(vector.signed, 'hex'), signature = Buffer.from(vector.signature, 'hex');
  const holds = crypto.verify(null, data, key, signature);
  data[30] ^= 1;
  console.log(name, holds, crypto.verify(null, data, key, signature));
}
"""


def test_another_implementation_takes_the_golden_bytes() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    done = subprocess.run(
        [node, "-e", VERIFIER, str(COMMITTED)], capture_output=True, text=True, timeout=60, check=True
    )
    lines = [f"{name} true false" for name in json.loads(COMMITTED.read_text(encoding="utf-8"))]
    assert len(lines) > 3
    assert done.stdout.splitlines() == lines
