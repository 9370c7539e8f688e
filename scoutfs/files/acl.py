"""Who may do what with a file: mode and access control list (acl(5), spec 06 §4.7)."""

from __future__ import annotations

import stat
from collections.abc import Collection, Sequence
from enum import IntFlag

from format.acl import AclEntry, AclTag
from scoutfs.files.inode import Inode


class Access(IntFlag):
    """What somebody wants to do."""

    EXECUTE = 1
    WRITE = 2
    READ = 4


def may_access(
    inode: Inode, want: int, uid: int, groups: Collection[int], acl: Sequence[AclEntry] | None = None
) -> bool:
    """Return whether user `uid` in `groups` (the effective one included) may do all of `want` with `inode`.

    `acl` is its access control list, if it has one.  User 0 may read and write everything, and execute what anybody
    may execute, or any directory.
    """
    if uid == 0:
        return not want & Access.EXECUTE or inode.is_directory or bool(stat.S_IMODE(inode.mode) & 0o111)
    if acl is None:
        return want & ~_mode_permissions(inode, uid, groups) == 0
    return _acl_allows(acl, inode, want, uid, groups)


def _mode_permissions(inode: Inode, uid: int, groups: Collection[int]) -> int:
    if uid == inode.uid:
        return inode.mode >> 6 & 7
    return (inode.mode >> 3 if inode.gid in groups else inode.mode) & 7


def _acl_allows(acl: Sequence[AclEntry], inode: Inode, want: int, uid: int, groups: Collection[int]) -> bool:
    """The first class that somebody belongs to decides; of groups, any of his that allows all of it."""
    mask = next((entry.perm for entry in acl if entry.tag == AclTag.MASK), 7)
    for entry in acl:
        if entry.tag == AclTag.USER_OBJ and uid == inode.uid:
            return want & ~entry.perm == 0
        if entry.tag == AclTag.USER and uid == entry.id:
            return want & ~(entry.perm & mask) == 0
    matching = [
        entry.perm & mask
        for entry in acl
        if (entry.tag == AclTag.GROUP_OBJ and inode.gid in groups) or (entry.tag == AclTag.GROUP and entry.id in groups)
    ]
    if matching:
        return any(want & ~perm == 0 for perm in matching)
    return any(want & ~entry.perm == 0 for entry in acl if entry.tag == AclTag.OTHER)
