"""The gang: the ranks of one run under one supervisor, in generations.

| file | what it holds |
|---|---|
| `gang.py` | who has which rank, who is lost, what comes next (pure) |
| `trouble.py` | an error that a rank met, as the gang hears of it (pure) |
| `messages.py` | what the gang and its ranks say to each other |
| `ranks.py` | the actor that owns the rank processes and carries the gang's commands out |
| `worker.py` | the actor in each rank process: its life signs, and torch beside it |
| `training.py` | what a rank does in torch's thread, from meeting the others to the last checkpoint |
| `brake.py`, `outbox.py` | where its two threads meet: at the agreed end, and with what there is to say |
| `result.py` | what came of a run (pure) |
| `trainer.py` | `Trainer`, for programs |
| `lock.py` | one trainer in a run's folder |
| `launch.py` | which of several hosts this one is, by torchrun's or Slurm's variables (pure) |
| `gathering.py` | how the hosts of a run find and prove each other |
| `follower.py` | a host that is not the first: it starts the processes that the first one's gang wants there |
| `hosts.py` | where members live: here, or on another host |
| `interfaces.py` | which network interface leads to another host |
"""
