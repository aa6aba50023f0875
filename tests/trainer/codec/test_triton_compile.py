"""What the kernels compile to, without a device: Triton brings the assembler of CUDA along.

A device is needed to time them. That they assemble for each generation, that no rounding is lost to the compiler and
that memory is touched in wide words is seen in what comes out.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton", reason="Triton has wheels for Linux only: pip install triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver  # noqa: E402

from prime.trainer.codec import engine_triton  # noqa: E402
from prime.trainer.codec.engine_triton import TritonTensors  # noqa: E402
from prime.trainer.codec.form import FORMS  # noqa: E402

KERNELS = ("encode", "reduce", "decode")
A_THREAD = engine_triton._TILE // (32 * engine_triton._WARPS)
"""Elements of a thread."""
TILES = 2
"""Each kernel has its code twice: for whole tiles and, with masks, for the last one."""

DEFAULT = [("int8", kernel, 80) for kernel in KERNELS] + [
    ("fp8", "encode", 80),  # which has no instructions for float8
    ("int8", "encode", 90),
    ("int8", "reduce", 90),
]
REST = [
    (form, kernel, generation)
    for form in FORMS
    for kernel in KERNELS
    for generation in (80, 89, 90, 100)
    if (form, kernel, generation) not in DEFAULT
]
each_kernel = pytest.mark.parametrize(
    ("form", "kernel", "generation"), DEFAULT + [pytest.param(*each, marks=pytest.mark.nightly) for each in REST]
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


class Absent:
    """A driver of a device that is not there: it tells the generation, for which Triton then compiles."""

    def __init__(self, generation: int) -> None:
        self._generation = generation
        self._target = GPUTarget("cuda", generation, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 1000 + self._generation  # what is compiled is kept by device

    def get_current_stream(self, _device: int) -> int:
        return 0


def compiled(form: str, kernel: str, generation: int, dtype: torch.dtype = torch.float32, elements: int = 5000) -> Any:
    """Compile what the engine would launch for these tensors (their memory begins at multiples of 16 bytes, as on a GPU)."""
    launches: list[Any] = []

    def compile_only(function: Any, tensors: Any, numbers: Any, constants: Any) -> None:
        options = {"num_warps": engine_triton._WARPS, **engine_triton._EXACT}
        launches.append(function.run(*tensors, *numbers, grid=(1,), warmup=True, **constants, **options))

    chosen = FORMS[form]
    x, residual = torch.zeros(elements, dtype=dtype), torch.zeros(elements)
    rows = torch.zeros(2, chosen.encoded_size_bytes(elements), dtype=torch.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "_active", Absent(generation))
        patch.setattr(engine_triton, "_launch", compile_only)
        if kernel == "encode":
            TritonTensors().encode(chosen, x, rows[0], residual, residual)
        elif kernel == "reduce":
            TritonTensors().reduce(chosen, rows, torch.ones(2), rows[0].clone(), residual, residual, elements)
        else:
            TritonTensors().decode(chosen, rows[0], x)
    return launches[0]


def instructions(ptx: str) -> Counter[str]:
    return Counter(re.findall(r"^\s*(?:@!?%p\d+ )?([a-z]+(?:\.[\w:]+)*)", ptx, re.MULTILINE))


def count(found: Counter[str], pattern: str) -> int:
    return sum(times for name, times in found.items() if re.fullmatch(pattern, name))


@each_kernel
def test_a_kernel_assembles_rounds_as_written_and_moves_wide_words(
    form: str, kernel: str, generation: int, tmp_path: Path
) -> None:
    code = compiled(form, kernel, generation)
    found = instructions(code.asm["ptx"])
    blocks = bool(FORMS[form].scale_bytes)

    # Only the fused operations that the source asks for: four a quotient (Blackwell does two in one instruction).
    fused = count(found, r"fma\.rn\.f32") + 2 * count(found, r"fma\.rn\.f32x2")
    assert count(found, r"fma\..*") == count(found, r"fma\.rn\.f32(x2)?")
    assert fused == (TILES * A_THREAD * 4 if blocks and kernel != "decode" else 0)
    # Each division is IEEE 754's: of a scale and of a reciprocal, once a block and thread.
    assert count(found, r"div\.rn\.f32") == count(found, r"(div|rcp)\..*")
    assert count(found, r"div\.rn\.f32") == (TILES * 2 if blocks and kernel != "decode" else 0)
    assert not count(found, r".*\.ftz(\..*)?")  # subnormals are kept

    # The whole tile's float32 go 16 bytes at a time, and no code goes alone.
    wide = A_THREAD // 4
    loads = {"encode": 2 * wide, "reduce": wide, "decode": 0}[kernel]  # x and the residual; the residual
    assert count(found, r"ld\.global\.v4\.[bf]32") >= loads
    assert count(found, r"st\.global\.v4\.[bf]32") >= wide  # the residual, or the vector
    if blocks:
        assert not count(found, r"(ld|st)\.global(\.v\d)?\.[bsu]8")

    # It fits: nothing of a block form is spilled, and four programs share a multiprocessor.
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(code.asm["cubin"])
    usage = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", cubin],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert re.search(r"STACK:0 .*LOCAL:0 " if blocks else r"LOCAL:0 ", usage)
    registers = re.search(r"REG:(\d+)", usage)
    assert registers is not None
    assert int(registers[1]) * 32 * engine_triton._WARPS * 4 <= 65_536


def test_a_vector_is_rounded_to_bfloat16_half_to_even() -> None:
    """The interpreter cuts instead, so this is seen only here."""
    found = instructions(compiled("int8", "decode", 90, torch.bfloat16).asm["ptx"])
    assert count(found, r"cvt\.rn\.bf16(x2)?\.f32") > 0
    assert not count(found, r"cvt\.r[zmp]\.bf16.*")


def test_sums_and_products_would_be_fused_if_the_launch_did_not_forbid_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_triton, "_EXACT", {"enable_fp_fusion": True})
    found = instructions(compiled("int8", "reduce", 80).asm["ptx"])
    assert count(found, r"fma\..*") > TILES * A_THREAD * 4


def test_a_vector_of_more_than_2_to_the_31_elements_has_places_of_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is passed for its length is a number alone; the tensors are small, and nothing is launched."""
    monkeypatch.setattr(driver, "_active", Absent(90))
    small = torch.zeros(512, dtype=torch.uint8)
    constants = engine_triton._tile(FORMS["int8"]) | engine_triton._EXACT
    code = engine_triton.decode_kernel.run(
        small, small.view(torch.float32), 2**33, grid=(1,), warmup=True, num_warps=4, **constants
    )
    assert re.search(r"elements.*: i64", code.asm["ttir"])


def test_a_launch_is_on_the_current_stream_of_the_tensors_device_and_keeps_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a device would see of a launch, with doubles for all of it."""
    seen: list[Any] = []

    class Tensor:
        device = torch.device("cuda", 1)

        def __init__(self, name: str) -> None:
            self.name = name

        def record_stream(self, stream: str) -> None:
            seen.append((self.name, stream))

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *arguments, **options: seen.append((grid, len(arguments), options))

    @contextlib.contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        seen.append(chosen)
        yield
        seen.append("left")

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the current stream")
    engine_triton._launch(Kernel(), (Tensor("x"), Tensor("encoded")), (5000,), {"FORM": "int8"})  # type: ignore[arg-type]
    options = {"FORM": "int8", "num_warps": engine_triton._WARPS, "enable_fp_fusion": False}
    kept = [("x", "the current stream"), ("encoded", "the current stream")]
    assert seen == [torch.device("cuda", 1), ((3,), 3, options), *kept, "left"]
