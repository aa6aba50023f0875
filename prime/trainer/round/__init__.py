"""The round between nodes, as a pure core: views, ballots, what members say, and what is decided. `swarm` carries it out.

Its way in is `Round.step(event, now)`; `spec/protocols/round.md` has the rules.

| file | what it holds |
|---|---|
| `round.py`, `commands.py` | the core: each event to who handles it; events and commands |
| `messages.py`, `records.py` | what members say and write down; journal records as bytes |
| `view.py`, `names.py` | views and the value that is decided; how runs are called |
| `desk.py`, `seat.py` | what a member keeps over all rounds, and in one round |
| `ballot.py`, `voting.py` | attempts to decide; what a member promises and votes for |
| `leading.py`, `leader.py`, `patience.py` | leading a ballot, what its leader knows, and how long it waits |
| `partition.py`, `scatter.py` | who owns which part; contributions on their way, and what is reduced |
| `outcome.py` | the decision: who is believed about it, and what comes after |
| `joining.py`, `roster.py` | coming, going and ending: what is asked, and who asked it |
| `liveness.py`, `rhythm.py`, `timing.py` | who lives, by its heartbeats; the clocks of a round |
| `validity.py`, `settings.py`, `terms.py` | what can be, of what others say; what all have alike; what leaders hold to |
| `journal.py`, `status.py` | what is read back from a journal; how the round stands, for people |
"""
