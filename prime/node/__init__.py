"""The composition root: builds one node's supervision tree from its configuration; alone knows everything."""
