"""The public test kit: it stands beside the house, and no room imports it."""
