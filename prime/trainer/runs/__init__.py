"""Runs that nodes tell each other of: what a swarm trains, who takes part, and who cannot and why.

| file | what it holds |
|---|---|
| `messages.py` | a run as nodes describe it, and what a node is asked about its runs |
| `board.py` | the runs that a node knows, and which of them it takes part in; pure |
| `members.py` | what follows from where a run's members stand; pure |
| `acceptance.py` | which runs of others a node takes part in; pure |
| `submission.py` | a job.toml as the settings of a swarm's run; pure |

The board is carried out in `prime.node.notices`; `prime.node.hosting` takes part in what it takes.
"""
