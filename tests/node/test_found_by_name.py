"""A run is found by its name through a node that takes part in none: real processes, one address known."""

from __future__ import annotations

from pathlib import Path

from prime.testing.nodes import NodeProcess, until, write_text

TASK = Path(__file__).parent / "tiny_task.py"


def test_a_newcomer_that_knows_a_node_of_the_dht_alone_is_let_into_the_run_of_its_name(tmp_path: Path) -> None:
    settings = {"train.data": write_text(tmp_path / "text.txt"), "train.model": f"{TASK}:quick", "train.nodes_min": 2}
    founder, newcomer = (NodeProcess(tmp_path, name, settings) for name in ("founder", "newcomer"))
    between = NodeProcess(tmp_path, "between", {"node.roles": "dht"})
    try:
        founder.start()
        founder.ready()
        between.start(founder.address)
        between.ready()
        newcomer.start(between.address)
        newcomer.ready()
        ends = [node.until_run(lambda run: run.phase == "done", "the end of its run") for node in (founder, newcomer)]
        assert {tuple(sorted(member.peer for member in run.members)) for run in ends} == {
            tuple(sorted((founder.peer, newcomer.peer)))
        }
        assert ends[0].state_hash == ends[1].state_hash
        until(lambda: knows_both(between), 20, "the node between has both in its table")
    finally:
        for node in (founder, between, newcomer):
            node.close()


def knows_both(node: NodeProcess) -> bool:
    status = node.status()
    return status is not None and status.run is None and status.dht is not None and status.dht.contacts == 2
