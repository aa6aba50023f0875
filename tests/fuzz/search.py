"""Search for bytes that break a target: `python tests/fuzz/search.py TARGET SECONDS`; without arguments it lists them.

Atheris steers by the branches of Prime that the bytes take. What it has tried with profit lies in `build/fuzz/TARGET`, and
is where the next search goes on. Bytes that break the target are printed as the line to add to `CASES` in `targets.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "fuzz"
OPTIONS = ("-max_len=4096", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1")

sys.path.insert(0, str(ROOT))
with atheris.instrument_imports(include=["prime"]):
    from tests.fuzz.targets import TARGETS


def search(name: str, seconds: int) -> None:
    """Search one target for so long; ends the process, with a status other than 0 if something was found."""
    target, corpus = TARGETS[name], FOLDER / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)

    def watched(data: bytes) -> None:
        try:
            target(data)
        except BaseException:
            print(f'    ("{name}", bytes.fromhex("{data.hex()}")),', flush=True)
            raise

    artifacts = f"-artifact_prefix={FOLDER}/{name}-"
    atheris.Setup(["search", *OPTIONS, artifacts, f"-max_total_time={seconds}", str(corpus)], watched)
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) == 3:
        search(sys.argv[1], int(sys.argv[2]))
    elif len(sys.argv) == 1:
        print(*TARGETS)
    else:
        sys.exit(__doc__)
