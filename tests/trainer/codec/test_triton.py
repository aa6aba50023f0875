"""The kernels for CUDA against the reference, bit by bit: on a GPU where there is one, and in Triton's interpreter.

The interpreter is chosen by an environment variable that Triton reads at its import, so there these tests run in a process
of their own. By hand: `TRITON_INTERPRET=1 pytest tests/trainer/codec/test_triton.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton", reason="Triton has wheels for Linux only: pip install triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
GOLDEN = Path(__file__).parents[3] / "spec" / "vectors" / "v1" / "codec.json"
DEVICE = "cpu" if INTERPRETED else "cuda"
# The interpreter computes in numpy, which warns of arithmetic with what is not finite: a device does not.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter's process")
def test_in_the_interpreter() -> None:
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9):
        pytest.skip(
            f"the interpreter of Triton {triton.__version__} rounds a fused operation twice; that of 3.9 does not"
        )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


if INTERPRETED or torch.cuda.is_available():
    import numpy as np
    from hypothesis import given, settings
    from hypothesis import strategies as st

    from prime.errors import LocalProtocolError
    from prime.trainer.codec import engine_triton
    from prime.trainer.codec.engine_numpy import NumpyEngine
    from prime.trainer.codec.engine_torch import TorchTensors
    from prime.trainer.codec.engine_triton import TritonTensors
    from prime.trainer.codec.form import FORMS, NON_FINITE, OVERFLOW, Form

    class There:
        """The kernels, for tensors of the CPU: there and back, and in place in the interpreter."""

        def encode(
            self,
            form: Form,
            x: torch.Tensor,
            encoded: torch.Tensor,
            residual: torch.Tensor | None,
            residual_out: torch.Tensor | None,
        ) -> torch.Tensor:
            to, left = there(encoded), there(residual_out)
            flags = TritonTensors().encode(form, there(x), to, there(residual), left)
            back(to, encoded), back(left, residual_out)
            return flags

        def decode(self, form: Form, encoded: torch.Tensor, into: torch.Tensor) -> None:
            to = there(into)
            TritonTensors().decode(form, there(encoded), to)
            back(to, into)

        def reduce(
            self,
            form: Form,
            rows: torch.Tensor,
            weights: torch.Tensor,
            encoded: torch.Tensor,
            residual: torch.Tensor | None,
            residual_out: torch.Tensor | None,
            elements: int,
        ) -> torch.Tensor:
            to, left = there(encoded), there(residual_out)
            flags = TritonTensors().reduce(form, there(rows), there(weights), to, there(residual), left, elements)
            back(to, encoded), back(left, residual_out)
            return flags

    def there(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(DEVICE)

    def back(tensor: torch.Tensor | None, to: torch.Tensor | None) -> None:
        if tensor is not None and tensor is not to:
            to.copy_(tensor)

    torch.set_num_threads(1)
    OURS, REFERENCE = There(), TorchTensors()
    every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
    BEHIND = 0x55

    def buffer(form: Form, elements: int, rows: int = 1) -> torch.Tensor:
        """A buffer of wire forms with a guard behind them: what is written there is found by `same`."""
        return torch.full((rows * form.encoded_size_bytes(elements) + 8,), BEHIND, dtype=torch.uint8)

    def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
        """Bit by bit: 0 is not -0."""
        return torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))

    def gradient(elements: int, seed: int = 0) -> torch.Tensor:
        """A tensor whose blocks are of very different size, some of them all zeros or too small for a scale."""
        generator = torch.Generator().manual_seed(seed)
        size = torch.randint(-46, 37, (-(-elements // 64),), generator=generator)
        size[torch.rand(size.shape, generator=generator) < 0.5] = 0
        scale = torch.pow(torch.tensor(10.0, dtype=torch.float64), size).repeat_interleave(64)[:elements]
        return (torch.randn(elements, generator=generator).double() * scale).float()

    def narrowed(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Convert, without bfloat16's subnormals: the interpreter widens those wrongly."""
        return torch.where(x.abs() < 2.0**-126, 0.0, x).to(dtype)

    def check_encoding(form: Form, x: torch.Tensor, residual: torch.Tensor | None) -> int:
        ours, theirs = buffer(form, x.numel()), buffer(form, x.numel())
        left, left_too = torch.full((x.numel() + 1,), 3.0), torch.full((x.numel() + 1,), 3.0)
        size = form.encoded_size_bytes(x.numel())
        flags = int(OURS.encode(form, x, ours[:size], residual, left[:-1]))
        assert flags == int(REFERENCE.encode(form, x, theirs[:size], residual, left_too[:-1]))
        if flags == 0:
            assert same(ours, theirs)
            assert same(left, left_too)
        return flags

    @every_form
    @pytest.mark.parametrize("elements", [1, 65, 257, 2048, 2049, 4500])
    def test_encodings_and_residuals_equal_the_references(form: Form, elements: int) -> None:
        x, residual = gradient(elements), gradient(elements, 1) / 50
        if form.name == "fp16":
            x, residual = x.clamp(-6e4, 6e4), residual.clamp(-5e3, 5e3)
        assert check_encoding(form, x, residual) == 0

    @every_form
    @settings(max_examples=settings.default.max_examples // 16)  # an interpreted kernel takes its time
    @given(st.lists(st.floats(width=32), min_size=1, max_size=300), st.sampled_from([torch.float32, torch.bfloat16]))
    def test_hostile_values_are_encoded_as_by_the_reference(
        form: Form, values: list[float], dtype: torch.dtype
    ) -> None:
        check_encoding(form, narrowed(torch.tensor(values), dtype), None)

    @every_form
    def test_ties_and_edges_of_a_code_go_as_by_the_reference(form: Form) -> None:
        scale = torch.tensor([1.0, 1.1754944e-38, 1.9999999, 0.3333333, 1e30 if form.name != "fp16" else 7.0])
        code_max = form.code_max or 127.0
        halves = torch.linspace(-code_max, code_max, int(4 * min(code_max, 127)) + 1)
        around = torch.cat([halves, halves.nextafter(torch.tensor(1e9)), halves.nextafter(torch.tensor(-1e9))])
        pad = torch.full((-around.numel() % form.block,), 0.25)
        grid = torch.cat([around, pad]).view(-1, form.block)
        grid[:, 0] = code_max  # so that the scale is the one wanted
        for each in scale:
            check_encoding(form, (grid * each).view(-1), None)

    @every_form
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_encoded_as_its_float32(form: Form, dtype: torch.dtype) -> None:
        check_encoding(form, narrowed(gradient(700).clamp(-6e4, 6e4), dtype), gradient(700, 1).clamp(-5e2, 5e2))

    @every_form
    @pytest.mark.parametrize("elements", [1, 65, 2049])
    def test_what_the_reference_encoded_is_decoded_to_the_same_bits_and_back(form: Form, elements: int) -> None:
        x = gradient(elements).clamp(-6e4, 6e4)
        encoded = buffer(form, elements)[:-8]
        vectors = NumpyEngine()
        assert vectors.encode(form, x.numpy(), encoded.numpy(), None, None) == 0
        ours, theirs = torch.zeros(elements), np.zeros(elements, np.float32)
        OURS.decode(form, encoded, ours)
        vectors.decode(form, encoded.numpy(), theirs)
        assert same(ours, torch.from_numpy(theirs))
        OURS.encode(form, x, encoded, None, None)
        vectors.decode(form, encoded.numpy(), theirs)
        assert same(ours, torch.from_numpy(theirs))

    def test_golden_bytes_are_written_and_read() -> None:
        golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
        assert len(golden) > 20
        for name, case in golden.items():
            form = FORMS.get(case["codec"])
            if form is None:  # a sparse form, which tensors of a device do not take
                continue
            x, wire, decoded = (
                torch.frombuffer(bytearray.fromhex(case[part]), dtype=dtype)
                for part, dtype in (("values", torch.float32), ("encoded", torch.uint8), ("decoded", torch.float32))
            )
            encoded, into = buffer(form, x.numel())[:-8], torch.zeros(x.numel())
            overflows = wire.numel() != encoded.numel()  # it travels as float32
            assert int(OURS.encode(form, x, encoded, None, None)) == (OVERFLOW if overflows else 0), name
            if overflows:
                continue
            assert same(encoded, wire), name
            OURS.decode(form, wire, into)
            assert same(into, decoded), name

    @every_form
    def test_a_decoded_vector_is_rounded_to_half_precision(form: Form) -> None:
        encoded, whole = buffer(form, 700)[:-8], torch.empty(700)
        OURS.encode(form, torch.randn(700, generator=torch.Generator().manual_seed(3)), encoded, None, None)
        OURS.decode(form, encoded, whole)
        half, brain = torch.empty(700, dtype=torch.float16), torch.empty(700, dtype=torch.bfloat16)
        OURS.decode(form, encoded, half)
        OURS.decode(form, encoded, brain)
        assert same(half, whole.half())
        if INTERPRETED:  # it cuts where a device rounds
            whole = (whole.view(torch.int32) & ~0xFFFF).view(torch.float32)
        assert same(brain, whole.bfloat16())

    @pytest.mark.parametrize("form", [FORMS["int8"], FORMS["int4"], FORMS["fp8"]], ids=lambda form: form.name)
    def test_every_byte_of_a_code_is_decoded_as_by_the_reference(form: Form) -> None:
        elements = 256 * 8 // form.bits
        encoded = buffer(form, elements)[:-8]
        encoded[:256] = torch.arange(256)
        encoded[256:].view(torch.float32)[:] = torch.tensor([1.5, 2.0**-126, 3e35])[: form.blocks(elements)].mean()
        if form.name == "fp8":
            encoded[[0x7F, 0xFF]] = 0  # its NaNs: no encoder writes them
        ours, theirs = torch.zeros(elements), torch.zeros(elements)
        OURS.decode(form, encoded, ours)
        REFERENCE.decode(form, encoded, theirs)
        assert same(ours, theirs)

    @every_form
    @pytest.mark.parametrize(("ranks", "elements"), [(1, 65), (2, 2049), (3, 700), (7, 129)])
    def test_a_reduction_equals_the_reference(form: Form, ranks: int, elements: int) -> None:
        size = form.encoded_size_bytes(elements)
        rows = buffer(form, elements, ranks)[:-8].view(ranks, size)
        for rank in range(ranks):
            REFERENCE.encode(form, gradient(elements, rank).clamp(-2e3, 2e3), rows[rank], None, None)
        weights = torch.rand(ranks, generator=torch.Generator().manual_seed(ranks))
        ours, theirs = buffer(form, elements), buffer(form, elements)
        left, left_too = gradient(elements, 9).clamp(-1, 1), gradient(elements, 9).clamp(-1, 1)
        assert int(OURS.reduce(form, rows, weights, ours[:size], left, left, elements)) == 0
        assert int(REFERENCE.reduce(form, rows, weights, theirs[:size], left_too, left_too, elements)) == 0
        assert same(ours, theirs)
        assert same(left, left_too)

    def test_what_a_rank_wrote_behind_its_end_is_not_added() -> None:
        form, weights = FORMS["int8"], torch.ones(2)
        rows = torch.stack([buffer(form, 3)[:-8] for _ in range(2)])
        for row in rows:
            REFERENCE.encode(form, torch.ones(3), row, None, None)
        clean, padded = buffer(form, 3)[:-8], buffer(form, 3)[:-8]
        OURS.reduce(form, rows, weights, clean, None, None, 3)
        rows[1, 3:256] = 99
        OURS.reduce(form, rows, weights, padded, None, None, 3)
        assert same(clean, padded)

    @every_form
    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("at", [0, 2100])
    def test_a_flag_tells_of_a_value_that_is_not_finite_and_no_scale_is_poisoned(
        form: Form, bad: float, at: int
    ) -> None:
        x = torch.ones(2101)
        x[at] = bad
        encoded = buffer(form, 2101)[:-8]
        assert int(OURS.encode(form, x, encoded, None, None)) == NON_FINITE
        if form.scale_bytes:
            assert bool(encoded[form.codes_bytes(2101) :].view(torch.float32).isfinite().all())

    def test_a_flag_tells_of_a_sum_that_is_not_finite() -> None:
        form = FORMS["int8"]
        rows = torch.stack([buffer(form, 300)[:-8] for _ in range(2)])
        for row in rows:
            REFERENCE.encode(form, torch.full((300,), 3e38), row, None, None)
        assert int(OURS.reduce(form, rows, torch.ones(2), buffer(form, 300)[:-8], None, None, 300)) == NON_FINITE

    @pytest.mark.parametrize(("value", "flags"), [(65519.9, 0), (65520.0, OVERFLOW), (-1e30, OVERFLOW)])
    def test_a_flag_tells_of_a_value_that_float16_does_not_hold(value: float, flags: int) -> None:
        assert check_encoding(FORMS["fp16"], torch.tensor([1.0, value, 2.0]), None) == flags

    def test_of_a_vector_that_is_not_finite_no_flag_tells_of_an_overflow() -> None:
        x = torch.ones(5000)
        x[4999], x[0] = float("nan"), 1e30
        assert check_encoding(FORMS["fp16"], x, None) == NON_FINITE

    def test_a_wire_form_at_an_odd_address_is_refused_before_a_kernel_starts(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine_triton, "_launch", pytest.fail)
        form, x = FORMS["int8"], torch.ones(256)
        askew = torch.zeros(form.encoded_size_bytes(256) + 4, dtype=torch.uint8)[1:-3]
        assert askew.data_ptr() % 4
        with pytest.raises(LocalProtocolError, match="behind a multiple of 4"):
            OURS.encode(form, x, askew, None, None)
        with pytest.raises(LocalProtocolError, match="behind a multiple of 4"):
            OURS.decode(form, askew, x)
        with pytest.raises(LocalProtocolError, match="behind a multiple of 4"):
            OURS.reduce(form, askew.view(1, -1), torch.ones(1), askew, None, None, 256)
