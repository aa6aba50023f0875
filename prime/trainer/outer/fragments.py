"""Fragments: the vector of parameters cut into P pieces, one of which each round carries in turn (pure).

With one fragment a round carries everything, after every H inner steps. With P of them a round comes P times as often and
carries a P-th: the same bytes in all, spread evenly over the steps instead of in one burst.

Source: Douillard et al., "Streaming DiLoCo with overlapping communication", 2025 (arXiv 2501.18512), sections 2.2 and 2.3.
"""

from __future__ import annotations

import attrs

from prime.errors import ConfigError


@attrs.frozen
class Fragments:
    """A vector of `elements` parameters in `count` fragments (P).

    Raises `ConfigError` where there are more fragments than elements.
    """

    elements: int
    count: int = 1

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.count <= max(self.elements, 1):
            raise ConfigError(
                f"{self.elements} parameters make no {self.count} fragments",
                hint="train.fragments is at least 1 and at most the number of the model's parameters",
            )

    def of_round(self, round_: int) -> int:
        """Return which fragment a round carries, from 0: they take turns, whatever became of the rounds before."""
        return max(round_ - 1, 0) % self.count

    def cut(self, fragment: int) -> slice:
        """Return where a fragment lies in the vector: the sizes differ by one element at most."""
        return slice(self.elements * fragment // self.count, self.elements * (fragment + 1) // self.count)

    def cut_of(self, round_: int) -> slice:
        """Return where the fragment of a round lies in the vector."""
        return self.cut(self.of_round(round_))

    def elements_of(self, round_: int) -> int:
        """Return how many elements a round carries."""
        cut = self.cut_of(round_)
        return cut.stop - cut.start

    def steps_of(self, round_: int, inner_steps: int) -> int:
        """Return the inner steps between the contribution to the round before and the one to this: H/P, in whole steps.

        Over P rounds in a row they sum to H, `inner_steps`.
        """
        turn = self.of_round(round_)
        return inner_steps * (turn + 1) // self.count - inner_steps * turn // self.count
