"""The seam of tensors: what goes over it comes back, in every form and dtype, and what does not fit is refused."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from prime.errors import ConfigError, LocalProtocolError  # noqa: E402
from prime.trainer.codec.engine_torch import TorchTensors  # noqa: E402
from prime.trainer.codec.form import FORMS, NON_FINITE, OVERFLOW, form  # noqa: E402
from prime.trainer.codec.tensors import decode_tensor, encode_tensor, reduce_encoded, tensor_engine  # noqa: E402

every_form = pytest.mark.parametrize("name", FORMS)
REFERENCE = TorchTensors()


def gradient(elements: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(elements, generator=torch.Generator().manual_seed(seed))


def buffer(name: str, elements: int) -> torch.Tensor:
    return torch.empty(form(name).encoded_size_bytes(elements), dtype=torch.uint8)


@every_form
@pytest.mark.parametrize("elements", [0, 1, 63, 64, 65, 255, 256, 257, 1000])
def test_there_and_back_equals_the_reference(name: str, elements: int) -> None:
    x, residual = gradient(elements), gradient(elements, 1) / 50
    ours, theirs = buffer(name, elements), buffer(name, elements)
    left, left_too = torch.empty(elements), torch.empty(elements)
    assert int(encode_tensor(name, x, ours, residual, left)) == 0
    if elements:
        assert int(REFERENCE.encode(form(name), x, theirs, residual, left_too)) == 0
    assert torch.equal(ours, theirs)
    assert torch.equal(left, left_too)
    decoded = torch.empty(elements)
    decode_tensor(name, ours, decoded)
    assert torch.equal(decoded + left, x + residual)


@every_form
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_a_reduction_equals_the_reference(name: str, ranks: int) -> None:
    elements = 700
    rows = torch.stack([buffer(name, elements) for _ in range(ranks)])
    for rank in range(ranks):
        encode_tensor(name, gradient(elements, rank), rows[rank])
    weights = torch.full((ranks,), 1 / ranks)
    residual, out, expected = gradient(elements, 99) / 50, buffer(name, elements), buffer(name, elements)
    left, left_too = residual.clone(), residual.clone()
    assert int(reduce_encoded(name, rows, weights, out, elements, left)) == 0
    assert int(REFERENCE.reduce(form(name), rows, weights, expected, left_too, left_too, elements)) == 0
    assert torch.equal(out, expected)
    assert torch.equal(left, left_too)
    mean = sum(gradient(elements, rank) for rank in range(ranks)) / ranks + residual
    decoded = torch.empty(elements)
    decode_tensor(name, out, decoded)
    step = {"int8": 0.05, "int4": 1.0, "fp8": 0.5, "fp16": 0.005, "none": 1e-5}[name]
    assert (decoded - mean).abs().max() < step


@every_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_encoded_as_its_float32_and_decoded_rounded(name: str, dtype: torch.dtype) -> None:
    x = gradient(300).to(dtype)
    ours, theirs = buffer(name, 300), buffer(name, 300)
    encode_tensor(name, x, ours)
    encode_tensor(name, x.float(), theirs)
    assert torch.equal(ours, theirs)
    decoded, rounded = torch.empty(300), torch.empty(300, dtype=dtype)
    decode_tensor(name, ours, decoded)
    decode_tensor(name, ours, rounded)
    assert torch.equal(rounded, decoded.to(dtype))


@every_form
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 299])
def test_a_flag_tells_of_a_value_that_is_not_finite(name: str, bad: float, at: int) -> None:
    x = gradient(300)
    x[at] = bad
    assert int(encode_tensor(name, x, buffer(name, 300))) == NON_FINITE
    assert int(REFERENCE.encode(form(name), x, buffer(name, 300), None, None)) == NON_FINITE


@pytest.mark.parametrize(("value", "flag"), [(65519.9, 0), (65520.0, OVERFLOW), (-1e30, OVERFLOW)])
def test_a_flag_tells_of_a_value_that_float16_does_not_hold(value: float, flag: int) -> None:
    x = torch.tensor([1.0, value, 2.0])
    assert int(encode_tensor("fp16", x, buffer("fp16", 3))) == flag
    assert int(REFERENCE.encode(form("fp16"), x, buffer("fp16", 3), None, None)) == flag


def test_a_tensor_that_is_not_contiguous_is_read_but_not_written() -> None:
    x = gradient(600).view(20, 30).t()
    ours, theirs = buffer("int8", 600), buffer("int8", 600)
    encode_tensor("int8", x, ours)
    encode_tensor("int8", x.contiguous(), theirs)
    assert torch.equal(ours, theirs)
    with pytest.raises(LocalProtocolError, match="not contiguous"):
        decode_tensor("int8", ours, torch.empty(20, 30).t())


def test_what_does_not_fit_is_refused() -> None:
    x = gradient(300)
    with pytest.raises(ConfigError, match="no codec is called 'int7'"):
        encode_tensor("int7", x, buffer("int8", 300))
    with pytest.raises(LocalProtocolError, match="takes no torch.float64"):
        encode_tensor("int8", x.double(), buffer("int8", 300))
    with pytest.raises(
        LocalProtocolError, match=r"contiguous torch.uint8 tensor of 520 elements, got torch.uint8\[260\]"
    ):
        encode_tensor("int8", x, buffer("int8", 200))
    with pytest.raises(LocalProtocolError, match="begin at a multiple of 4 bytes"):
        encode_tensor("int8", x, torch.empty(521, dtype=torch.uint8)[1:])
    with pytest.raises(LocalProtocolError, match="a residual must be a contiguous torch.float32 tensor of 300"):
        encode_tensor("int8", x, buffer("int8", 300), torch.zeros(299))
    with pytest.raises(LocalProtocolError, match="the weights must be"):
        reduce_encoded("int8", torch.empty(3, 520, dtype=torch.uint8), torch.ones(6)[::2], buffer("int8", 300), 300)


def test_on_a_cpu_the_engine_of_vectors_works_in_the_tensors_own_memory() -> None:
    assert tensor_engine("cpu").name in ("numba", "numpy")
    into = torch.empty(256)
    address = into.data_ptr()
    out = buffer("int8", 256)
    encode_tensor("int8", torch.full((256,), 127.0), out)
    decode_tensor("int8", out, into)
    assert into.data_ptr() == address
    assert (into == 127).all()
