"""Robust aggregation: what is made of the members' contributions when some of them may be wrong, on purpose or not.

| file | what it holds |
|---|---|
| `rules.py` | the rules by name, how many liars each admits, and its coefficients from a Gram matrix; pure, without numpy |
| `gram.py` | a Gram matrix under way: entries of its upper triangle, added in one order; pure, without numpy |
| `gates.py` | what a contribution must pass before any rule: its norm per token, the cap on its weight; pure, without numpy |
| `network.py` | a sorting network for a few rows: which pairs are put in order, one after the other; pure |
| `chunks.py` | the rules that work coordinate by coordinate, and partial Gram matrices, on encoded chunks |
| `lanes.py` | how an inner product is added up; pure |
| `loops.py` | the loops of `chunks.py` that numba compiles |

Source of the split: a rule that weighs whole contributions needs no more of them than their inner products, which the
owners of the parts add up, each for its own part.
"""
