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
| `aggregator.py` | the actor: what comes goes to the core, and the core's commands are carried out, in their order |
| `membership.py`, `watches.py` | how a node comes into a run; whose aggregator it watches |
| `rounds.py`, `stock.py` | of which rounds bytes are held, and the bytes of one |
| `contribution.py`, `carry.py` | what this node contributes, and what is owed to the next round |
| `intake.py`, `reduction.py`, `gather.py` | what comes in; what an owner makes of its part; the decided vector |
| `supply.py`, `streams.py`, `dispatch.py`, `meter.py` | what goes out, to whom; to one peer, in which order; how fast this node can send |
| `outcomes.py` | what the trainer hears of a round |
| `recorder.py`, `spooler.py` | the journal of the rounds; bytes that lie beside it before a vote |
| `offers.py`, `evidence.py`, `audit.py` | what contributors sign, what is shown of it, and whether an owner reduced what that gives |
| `parts.py`, `work.py` | the vector in parts and chunks; numeric work beside the event loop |
| `numbers.py`, `float32.py`, `buffers.py` | what a vector is: the contract, training's own, and memory that is used again |

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
