"""What the bytes of a ScoutFS volume and of its protocols mean.

Pure: nothing here does I/O, reads a clock or logs.  Every structure is declared once with `construct`, under the name
that the specification gives it, and every module names the section that it implements.  All integers on disk and on
the wire are little-endian and unsigned unless a docstring says otherwise.

checksum, hashes, keys      functions and orders that all else is built on
block                       sizes, types, header, references; how a block is sealed and verified; the errors
superblock, quorum          the small blocks
btree, alloc, srch, logs    the large blocks and the roots that lead to them; `btree_check` for checkers and tests
inode, dirent, xattr, symlink, extent, quota, clients
                            values of items; `parts` cuts those that are longer than an item
message, net, payloads      datagrams of the election, messages of the server
timespec, bitmap            small shared forms

Bytes from a disk or a socket raise nothing but `block.FormatError` and the classes under it.
"""
