"""The composition root: builds one node's supervision tree from its configuration; alone knows everything.

| file | what it holds |
|---|---|
| `system.py` | `open_system`: a runtime, an identity and a transport wired together |
| `run.py`, `control.py` | a node from its configuration; the control socket's side of it |
| `client.py`, `describe.py` | how a command asks a running node; what the node answers about itself |
| `contacts.py`, `links.py`, `neighbourhood.py` | finding others: by address, by the links there are, on the local network |
| `link.py`, `probe.py` | measuring a link; who can be dialled and dial back |
| `training.py` | `open_trainer`: one run's actors, in a node or in a user's program |
| `hosting.py`, `runs.py` | taking part in runs, one after the other; the actor that hears of them |
| `notices.py`, `hosted.py` | what is told of runs; one run's part here, from its begin to its end |
| `run_record.py`, `run_files.py` | by what a node goes on in its run; what a run leaves in its folder |
| `succession.py`, `ending.py` | a run's successor; the wish for its end |
| `swarm.py`, `demo.py` | nodes as processes on this machine; the demo |
| `dht.py`, `orders.py`, `messages.py` | its part in the DHT; what its user orders of it |
| `dht_client.py`, `sight.py` | such an order without a node; whether nodes are in one DHT |
| `finding.py`, `models.py` | runs and models found in the DHT |
| `waiting.py` | waiting for one of several events |
"""
