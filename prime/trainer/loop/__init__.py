"""Inside one rank: the model is built and sharded, and steps are made.

| file | what it holds |
|---|---|
| `place.py` | where a rank stands in its group, and what a step reports; pure |
| `schedule.py` | the learning rate of a step; pure |
| `seeds.py` | what a step draws from; pure |
| `scale.py` | the loss scale of float16; pure |
| `blocks.py` | which modules of a model are its repeated blocks; pure |
| `building.py` | a model and its loss, of what the user's function returns |
| `optimisers.py` | optimisers by name |
| `inner.py` | one step: forward, backward, the norm, the update |
| `units.py` | which modules are sharded and recomputed by themselves |
| `hooks.py` | how DDP reduces without a codec of Prime's |
| `sharding.py` | how the model lies on the ranks: single, ddp, fsdp |
| `learner.py` | a job in one rank |
| `wrap.py` | a plain loop of the user's own, on several ranks |
"""
