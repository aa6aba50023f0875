"""Runs that nodes tell each other of: what a swarm trains, who takes part, and who cannot and why.

| file | what it holds |
|---|---|
| `messages.py` | a run as nodes describe it, and what a node is asked about its runs |
| `board.py` | the runs that a node knows, and which of them it takes part in; pure |
| `acceptance.py` | which runs of others a node takes part in; pure |
| `submission.py` | a job.toml as the settings of a swarm's run; pure |

The actor and the training itself are in `prime.node.runs`.
"""
