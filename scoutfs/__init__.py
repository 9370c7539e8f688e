"""The filesystem without FUSE: volumes, elections, servers, clients, tools.

Imports go one way: `mount` -> `scoutfs` -> `format`.  Each room says in its `__init__` what it is for.
"""
