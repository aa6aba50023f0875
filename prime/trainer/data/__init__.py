"""Data to train on: which samples there are, and which of them a rank sees at which step.

`contract` says what a dataset is; `order` which samples a step takes and which of them are a rank's. The other files
make datasets of what users have. Importing this folder loads none of them.
"""
