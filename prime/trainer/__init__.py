"""Training: the round between nodes, the inner and the outer loop, the codecs.

Importing this room loads neither torch nor numba.
"""
