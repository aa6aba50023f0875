"""Training between nodes: the round that ends identical for everyone, the outer step, and the actors around them."""
