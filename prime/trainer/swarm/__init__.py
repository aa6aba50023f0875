"""Training between nodes: the actors that carry the round out, and the state that it makes.

Three actors live on a node: the aggregator carries out what the round's core (`prime.trainer.round`) decides, the trainer makes
inner and outer steps, the donor serves the state. What they decide is in files without an event loop beside them.

| the trainer | |
|---|---|
| `trainer.py` | the actor: drives the worker, does what comes next, applies what was decided |
| `agenda.py` | what a member does next: catch up, contribute, make steps, rest or leave; pure |
| `local.py` | this node's replica: its worker, its steps against what is shared, what is measured |
| `held.py` | the state that is held, and what a decided round makes of it; pure |
| `catch_up.py` | bringing the state that was missed, and the rounds since |
| `plans.py` | what trainer and aggregator say to each other |

| the aggregator | |
|---|---|
| `aggregator.py` | the actor: carries the core's commands out, and holds the bytes |
| `stock.py`, `intake.py`, `streams.py` | the bytes of a round: what is held, what comes in, what goes out |
| `dispatch.py`, `meter.py` | what goes to one peer, in which order, and how fast this node can send |
| `parts.py`, `carry.py` | the vector in parts and chunks; what is owed to the next round; pure |
| `numbers.py`, `float32.py`, `buffers.py` | what a vector is: the contract, training's own, and memory that is used again |
| `work.py`, `spooler.py` | numeric work beside the event loop; bytes that go to the journal before a vote |
| `audit.py` | whether an owner reduced what the signed contributions give |

| the state of the run | |
|---|---|
| `state.py` | parameters and slots, their hash, and their chunks; pure |
| `donor.py` | the actor that serves the state to others |
| `transfer.py`, `answers.py`, `fetch.py` | a state on its way here: the tasks, which one to believe, what to ask whom for |
| `saved.py` | the states on this node's disk |

| what people see | |
|---|---|
| `progress.py`, `tally.py` | how far the run is, and the round; pure |
| `forecast.py`, `report.py` | how long a round will take, and what came of the run; pure |
"""
