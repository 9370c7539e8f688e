"""Checks a volume that nobody repairs here: every block, every tree, every block's owner, every file.

Nothing is written, and nothing is trusted: what readers refuse is what this walks around and tells of.

kinds, report       what can be found, in words; what was found
reconcile           do two multisets agree, in memory that does not grow with them
space               which block belongs to whom, exactly once
blocks, tree        verified blocks; a walk through a tree that survives its damage
superblock, quorum, allocators, logs, srch
                    the structures of the servers
forest              the items of files: the volume's tree and the log trees of mounts as one
inodes, xattrs      the items of one inode after the other, and what they promise about others
check               all of it in order
"""
