"""Facts become logs, and a node answers what it is doing: the status protocol.

This room sees facts and numbers, not domains: the node's composition root hands it what it reports.
"""
