"""A whole cluster in one thread, every run from a seed."""
