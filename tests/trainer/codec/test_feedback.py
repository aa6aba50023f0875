"""The residuals of a sender: committed or as they were, saved and loaded, forgotten when nothing uses them."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from prime.trainer.codec.feedback import Feedback  # noqa: E402
from prime.trainer.codec.form import form  # noqa: E402
from prime.trainer.codec.tensors import decode_tensor, encode_tensor  # noqa: E402

CPU = torch.device("cpu")


def exchange(feedback: Feedback, x: torch.Tensor, key: str = "w") -> torch.Tensor:
    """Encode with the residual of that key; return what arrives."""
    encoded, arrived = (
        torch.empty(form("int4").encoded_size_bytes(x.numel()), dtype=torch.uint8),
        torch.empty(x.numel()),
    )
    encode_tensor("int4", x, encoded, feedback.draft(key, x.numel(), CPU))
    decode_tensor("int4", encoded, arrived)
    return arrived


def drawn(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(100).astype(np.float32))


@given(st.lists(st.booleans(), max_size=20))
def test_what_is_sent_is_what_arrives_of_the_committed_and_the_residual(outcomes: list[bool]) -> None:
    """Exchanges that were abandoned leave no trace, so the law of the sum holds over the others."""
    feedback = Feedback()
    sent, arrived = torch.zeros(100).double(), torch.zeros(100).double()
    for seed, ends_well in enumerate(outcomes):
        x = drawn(seed)
        decoded = exchange(feedback, x)
        if ends_well:
            feedback.commit()
            sent, arrived = sent + x, arrived + decoded
        else:
            feedback.abandon()
    kept = feedback.state_dict().get("rank0of1/w", torch.zeros(100))
    assert (sent - arrived - kept).abs().max() < 1e-5


def test_a_draft_that_nobody_settled_is_begun_anew() -> None:
    feedback = Feedback()
    exchange(feedback, drawn(1))
    feedback.commit()
    before = feedback.state_dict()["rank0of1/w"].clone()
    feedback.draft("w", 100, CPU).fill_(7)
    assert torch.equal(feedback.draft("w", 100, CPU), before)
    feedback.abandon()
    assert torch.equal(feedback.state_dict()["rank0of1/w"], before)


def test_no_memory_is_taken_after_two_steps() -> None:
    feedback = Feedback()
    places = []
    for step in range(6):
        places.append(feedback.draft("w", 100, CPU).data_ptr())
        feedback.abandon() if step == 3 else feedback.commit()
    assert len(set(places)) == 2


def test_another_length_starts_from_zero() -> None:
    feedback = Feedback()
    exchange(feedback, drawn(1))
    feedback.commit()
    assert not feedback.draft("w", 99, CPU).any()
    assert feedback.draft("w", 100, CPU).any()


def test_what_two_steps_did_not_use_is_forgotten() -> None:
    feedback = Feedback()
    for keys in (("a", "b"), ("a",), ()):
        for key in keys:
            exchange(feedback, drawn(1), key)
            feedback.commit()
        feedback.end_step()
    assert list(feedback.state_dict()) == ["rank0of1/a"]


def test_a_state_is_a_rank_s_own() -> None:
    feedback, other, wider = Feedback(1, 2), Feedback(1, 2), Feedback(1, 3)
    exchange(feedback, drawn(1))
    feedback.commit()
    for each in (other, wider):
        each.load_state_dict(feedback.state_dict())
    assert torch.equal(other.draft("w", 100, CPU), feedback.draft("w", 100, CPU))
    assert wider.state_dict() == {}
    other.draft("w", 100, CPU).zero_()
    assert feedback.state_dict()["rank1of2/w"].any()
