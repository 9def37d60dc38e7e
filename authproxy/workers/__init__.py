"""Several processes that share the port, and the one that looks after them."""
