"""What the bytes of a ScoutFS volume and of its protocols mean.

Pure: nothing here does I/O, reads a clock or logs.  Every structure is declared once with `construct`, under the name
that the specification gives it, and every module names the section that it implements.  All integers on disk and on
the wire are little-endian and unsigned unless a docstring says otherwise.
"""
