"""The metadata server that the elected member runs."""
