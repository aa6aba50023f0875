"""Actors in processes of their own: one actor in each child process, behind the same ref.

| file | what it holds |
|---|---|
| `host.py` | the parent's side: an ordinary actor of its supervisor, whose incarnation is a child process |
| `launch.py`, `entry.py` | a child that is started, waited for and killed so that it outlives nobody |
| `child.py` | the child's side: a system in which the one actor lives |
| `names.py` | how an actor and its arguments are named to another process |
| `messages.py`, `window.py` | what both say to each other, and what is in flight between them (pure) |
| `network.py`, `output.py`, `limits.py` | refs across the pair, what the child prints, what the pair allows |
"""
