"""Access control lists and modes, each made of the other (spec 06 §4.7)."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import NamedTuple

from format.acl import AclEntry, AclTag

BASE_ENTRIES = 3
"""Entries of a list that says nothing that a mode does not."""
Acl = tuple[AclEntry, ...]


class Inherited(NamedTuple):
    """What a new inode gets: its mode, and the lists to be stored, None for none."""

    mode: int
    access: Acl | None
    default: Acl | None


def inherit(mode: int, umask: int, parent_default: Acl | None) -> Inherited:
    """Return what an inode made with `mode` gets in a directory with this default list.

    With a list the umask does not count.  Symbolic links have neither.
    """
    if stat.S_ISLNK(mode):
        return Inherited(mode, None, None)
    if parent_default is None:
        return Inherited(mode & ~umask, None, None)
    bits = permissions(parent_default) & mode
    access = with_permissions(parent_default, bits)
    default = parent_default if stat.S_ISDIR(mode) else None
    return Inherited(mode & ~0o777 | bits, access if len(access) > BASE_ENTRIES else None, default)


def permissions(acl: Sequence[AclEntry]) -> int:
    """Return the permission bits of the mode that go with a list."""
    perms = {entry.tag: entry.perm for entry in acl}
    group = perms.get(AclTag.MASK, perms[AclTag.GROUP_OBJ])
    return perms[AclTag.USER_OBJ] << 6 | group << 3 | perms[AclTag.OTHER]


def with_permissions(acl: Sequence[AclEntry], mode: int) -> Acl:
    """Return a list whose permissions are those of a mode."""
    group = AclTag.MASK if any(entry.tag == AclTag.MASK for entry in acl) else AclTag.GROUP_OBJ
    shifts = {AclTag.USER_OBJ: 6, group: 3, AclTag.OTHER: 0}
    return tuple(entry._replace(perm=mode >> shifts[entry.tag] & 7) if entry.tag in shifts else entry for entry in acl)
