"""The rules of aggregation by name: how many liars each admits, and its coefficients from a Gram matrix (pure).

Two kinds. A rule by coordinate (`mean`, `median`, `trimmed-mean`) is carried out on the chunks themselves, by the owner of
each part. A rule by contribution (`krum`, `multi-krum`, `centred-clipping`) gives each one a coefficient, and all that it
needs to know is how the contributions lie to each other: the inner products of every two of them. The owners add those up
part by part, so nobody has to hold the whole of all contributions; what is carried out then is a weighted mean.

Legend: `n` candidates, `f` of them may be liars (`byzantine_max`), `x_i` the contribution of candidate i, `G` their Gram
matrix, `G_ij = <x_i, x_j>`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from prime.errors import ConfigError
from prime.trainer.metadata import AGGREGATIONS, TrainingConfig
from prime.trainer.robust.gates import capped, gated, median

Gram = Sequence[Sequence[float]]
"""The inner products of every two candidates' contributions, float64, in the order of the candidates."""

SCORE_MAX: Final = 1e6
"""The largest score: beyond it, how far off somebody is says nothing more."""


@attrs.frozen
class Rule:
    """How a round makes one vector of its contributions; equal on all members of a run.

    `byzantine_max` is f, the members that may be liars. `norm_gate` refuses contributions whose norm per token is above
    that multiple of the median; 0 refuses none. Raises `ConfigError` for a name that is none.
    """

    name: str = "mean"
    byzantine_max: int = 0
    norm_gate: float = 0.0

    def __attrs_post_init__(self) -> None:
        if self.name not in AGGREGATIONS:
            raise ConfigError(
                f"no rule of aggregation is called {self.name!r}", hint=f"choose one of {', '.join(AGGREGATIONS)}"
            )

    @property
    def measured(self) -> bool:
        """Whether a round has to know the Gram matrix: for coefficients, a gate, or the members' scores."""
        return self.name != "mean" or self.norm_gate > 0

    @property
    def candidates_min(self) -> int:
        """Return how many contributions it takes to bear f wrong ones, with certainty.

        Krum and multi-Krum: 2f + 3 (Blanchard et al. 2017, proposition 4.2). The others: 2f + 1, a majority that does
        not lie (Yin et al. 2018, theorems 1 and 4, for a fraction of liars below one half).
        """
        return candidates_min(self.name, self.byzantine_max)

    def candidates_needed(self, members: int) -> int:
        """Return how many of the members that were asked have to contribute.

        Whoever is missing, or sends what no codec writes, counts among the f: else f liars could stop every round by
        saying nothing. So f bounds the members of a round that lie and those that are missing, together.
        """
        return max(min(self.candidates_min, members - self.byzantine_max), 1)

    def fault(self, candidates: int, members: int) -> str:
        """Say why it cannot be carried out with so many candidates of so many members asked; empty: it can."""
        rule = f"{self.name} with byzantine_max {self.byzantine_max}"
        if members < self.candidates_min:
            return f"{rule} needs {self.candidates_min} members to contribute, {members} are asked"
        if candidates < self.candidates_needed(members):
            return (
                f"{rule} needs {self.candidates_needed(members)} contributions of {members} members, {candidates} came"
            )
        return ""

    @property
    def by_order(self) -> bool:
        """Whether it puts the values of each coordinate in order, instead of weighing them."""
        return self.name in ("median", "trimmed-mean")

    def trim(self, inputs: int) -> int:
        """Return how many of the values of a coordinate are left out at each end, of so many.

        Of the median: all but the one or two in the middle. Where members are missing, or failed the gate, the inputs
        are fewer, and so are the liars that are left among them: no more than a middle is ever asked for.
        """
        middle = max(inputs - 1, 0) // 2
        return {"median": middle, "trimmed-mean": min(self.byzantine_max, middle)}.get(self.name, 0)


MEAN: Final = Rule()
"""The weighted mean of everyone."""


@attrs.frozen
class Verdict:
    """What a rule makes of one contribution.

    `coefficient` is its weight in the mean that is carried out (by coordinate: 0 leaves it out). `score` says how far it
    lies from the others, 1 being as far as usual. `reason` says in words why it is left out, empty if it is not.
    """

    coefficient: float
    score: float
    reason: str = ""


def rule_of(config: TrainingConfig) -> Rule:
    """Return the rule of a run. Raises `ConfigError` where its rounds could begin with too few members for it."""
    rule = Rule(config.aggregation, config.byzantine_max, config.norm_gate)
    if rule.name == "mean" and rule.byzantine_max:
        raise ConfigError(
            f"train.byzantine_max is {rule.byzantine_max}, but a mean follows a single liar anywhere",
            hint="set train.aggregation to median, trimmed-mean, krum, multi-krum or centred-clipping",
        )
    asked = math.ceil(config.participation * config.nodes_min)
    if fault := rule.fault(asked, asked):
        raise ConfigError(
            f"train.nodes_min is {config.nodes_min}, and {fault}: rounds of so few decide nothing",
            hint="raise train.nodes_min (or train.participation), or lower train.byzantine_max",
        )
    return rule


def candidates_min(name: str, byzantine_max: int) -> int:
    """Return the fewest candidates with which the rule of that name holds against so many liars. See `Rule`."""
    if name == "mean":
        return 1
    return 2 * byzantine_max + (3 if name in ("krum", "multi-krum") else 1)


def byzantine_admitted(name: str, candidates: int) -> int:
    """Return the most liars among so many candidates that the rule of that name admits: 3 of 9 for Krum, 4 for the median."""
    if name == "mean":
        return 0
    return max((candidates - (3 if name in ("krum", "multi-krum") else 1)) // 2, 0)


def coefficients(rule: Rule, gram: Gram, weights: Sequence[float]) -> tuple[Verdict, ...]:
    """Return the verdict on each candidate, in order, from the Gram matrix of their contributions and their weights.

    The gates come first, and who fails one is counted among the f. All arithmetic is float64, in a fixed order: the same
    arguments give the same bits. The coefficients of a rule by contribution add up to 1; those of a mean are the weights
    as they count. If the gates leave nobody, every coefficient is 0.
    """
    reasons = gated([_norm(gram, i) for i in range(len(gram))], weights, rule.norm_gate)
    kept = [i for i, reason in enumerate(reasons) if not reason]
    scores = _scores(gram, kept)
    inner = [[gram[i][j] for j in kept] for i in kept]
    found = _JUDGES[rule.name](inner, capped([weights[i] for i in kept]), rule.byzantine_max) if kept else []
    chosen = dict(zip(kept, found, strict=True))
    return tuple(
        Verdict(chosen.get(i, 0.0), scores[i], reasons[i] or ("" if chosen[i] else f"not chosen by {rule.name}"))
        for i in range(len(gram))
    )


def _norm(gram: Gram, i: int) -> float:
    square = gram[i][i]
    return math.sqrt(square) if square >= 0 and math.isfinite(square) else math.inf


# ------------------------------------------------------------------------------------------------ by contribution


def krum(gram: Gram, weights: Sequence[float], f: int) -> list[float]:  # noqa: ARG001 - its sender's word on its weight is none
    """Return 1 for the contribution that lies closest to its neighbours, 0 for all others.

    Source: Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant Gradient
    Descent", NeurIPS 2017, section 4: the score of i is the sum of the squared distances to its n - f - 2 closest
    others. Of equal scores the first candidate's wins.
    """
    return _closest(gram, f, 1)


def multi_krum(gram: Gram, weights: Sequence[float], f: int) -> list[float]:  # noqa: ARG001 - as above
    """Return 1/m for each of the m contributions with the lowest scores, m = n - f - 2.

    Source: Blanchard et al. 2017, section 4 ("multi-Krum"); the choice of m is the largest for which it is proven, El
    Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in Byzantium", ICML 2018, lemma 1.
    """
    n = len(gram)
    return _closest(gram, f, max(n - _admitted(n, f) - 2, 1))


def _admitted(n: int, f: int) -> int:
    """Return the liars to count with among those that the gates left, at most as many as Krum admits."""
    return min(f, max((n - 3) // 2, 0))


def _closest(gram: Gram, f: int, chosen: int) -> list[float]:
    n = len(gram)
    neighbours = max(n - _admitted(n, f) - 2, 1)
    scores = [math.fsum(sorted(_squared_distances(gram, i))[:neighbours]) for i in range(n)]
    best = sorted(range(n), key=lambda i: (scores[i], i))[:chosen]
    return [1 / chosen if i in best else 0.0 for i in range(n)]


def _squared_distances(gram: Gram, i: int) -> list[float]:
    """Return the squared distance of i from each other candidate."""
    return [_squared_distance(gram, i, j) for j in range(len(gram)) if j != i]


def _squared_distance(gram: Gram, i: int, j: int) -> float:
    return max(gram[i][i] - 2 * gram[i][j] + gram[j][j], 0.0)


def centred_clipping(gram: Gram, weights: Sequence[float], f: int) -> list[float]:  # noqa: ARG001 - as above
    """Return the coefficients of a centre that nobody has pulled by more than 1/n of a radius.

    Source: Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", ICML 2021, section 4, one
    iteration, as there::

        v <- v + 1/n sum_i (x_i - v) min(1, tau / |x_i - v|)

    There v starts from the aggregate before; here, where only inner products are known, from the mean of the n - f
    contributions that are closest to the one whose median distance from the others is the smallest. tau is the median
    distance from v: with a majority that does not lie it is no more than an honest distance, and nobody has to guess it.
    Further iterations would let the liars pull on: f of n then come to rest at f / (n - 2f) radii. v is a combination of
    the contributions, v = sum_i c_i x_i, so distances follow from G and c alone.
    """
    n = len(gram)
    start = min(range(n), key=lambda i: (_isolation(gram, i, range(n)), i))
    near = sorted(range(n), key=lambda i: (i != start, _squared_distance(gram, start, i), i))[
        : n - min(f, (n - 1) // 2)
    ]
    centre = [(i in near) / len(near) for i in range(n)]
    distances = _distances_from(gram, centre)
    radius = median(distances)
    pulls = [min(1.0, radius / d) / n if d else 1 / n for d in distances]
    stay = 1 - math.fsum(pulls)
    return [stay * c + pull for c, pull in zip(centre, pulls, strict=True)]


def _distances_from(gram: Gram, centre: Sequence[float]) -> list[float]:
    """Return the distance of each candidate from the combination `centre`: `|x_i|^2 - 2 <x_i, v> + |v|^2`."""
    inner = [_dot(row, centre) for row in gram]
    square = _dot(inner, centre)
    return [math.sqrt(max(gram[i][i] - 2 * inner[i] + square, 0.0)) for i in range(len(gram))]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


# -------------------------------------------------------------------------------------------------- by coordinate


def _weighted(gram: Gram, weights: Sequence[float], f: int) -> list[float]:  # noqa: ARG001 - one signature for all
    return list(weights)


def _alike(gram: Gram, weights: Sequence[float], f: int) -> list[float]:  # noqa: ARG001 - as above
    """Return 1 for everyone: by coordinate each member has one voice, as its weight is only its own word.

    Source: Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
    Rates", ICML 2018, definitions 1 (coordinate-wise median) and 2 (coordinate-wise trimmed mean).
    """
    return [1.0] * len(gram)


_JUDGES: Final[dict[str, Callable[[Gram, Sequence[float], int], list[float]]]] = {
    "mean": _weighted,
    "median": _alike,
    "trimmed-mean": _alike,
    "krum": krum,
    "multi-krum": multi_krum,
    "centred-clipping": centred_clipping,
}


# --------------------------------------------------------------------------------------------------------- scores


def _scores(gram: Gram, kept: Sequence[int]) -> list[float]:
    """Return each candidate's median distance from those that the gates left, by the median of theirs: 1 is usual.

    The same for every rule: with a majority that does not lie, whoever is far from it has a high score.
    """
    usual = median([_isolation(gram, i, kept) for i in kept]) if kept else 0.0
    return [_times(_isolation(gram, i, kept), usual) for i in range(len(gram))]


def _isolation(gram: Gram, i: int, among: Sequence[int]) -> float:
    """Return the median distance of candidate i from the others of `among`."""
    squares = [gram[i][i] - 2 * gram[i][j] + gram[j][j] for j in among if j != i]
    return median([math.sqrt(max(s, 0.0)) if math.isfinite(s) else math.inf for s in squares]) if squares else 0.0


def _times(value: float, usual: float) -> float:
    if usual > 0:
        return min(value / usual, SCORE_MAX)
    return SCORE_MAX if value > 0 else 1.0
