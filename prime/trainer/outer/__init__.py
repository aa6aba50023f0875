"""The outer loop: what a decided round does to the shared parameters, and what of them a round carries.

| file | what it holds |
|---|---|
| `optimisers.py` | the outer optimisers: Nesterov, SGD, averaging, Adam; pure |
| `numba_loops.py` | their loops as numba compiles them: one pass over memory, the same bits |
| `fragments.py` | the vector cut into fragments, and which of them a round carries; pure |
| `pace.py` | when a member contributes, and how far it trains on meanwhile; pure |

Everything here is arithmetic on flat float32 vectors: equal inputs give equal bits on every member.
"""
