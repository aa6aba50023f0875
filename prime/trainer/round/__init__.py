"""The round between nodes, as a pure core: views, ballots, what members say, and what is decided. `swarm` carries it out."""
