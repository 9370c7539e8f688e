"""Setting access control lists, and modes that change with them (spec 06 §4.7)."""

from __future__ import annotations

import stat

from format.acl import ACCESS_NAME, DEFAULT_NAME, NO_ID, AclTag, build_acl, parse_acl
from format.block import BlockError
from scoutfs.files.acl_inheritance import BASE_ENTRIES, Acl, permissions, with_permissions
from scoutfs.files.caller import Caller
from scoutfs.files.change import Change
from scoutfs.files.entries import changed
from scoutfs.files.errors import DamagedItem, Exists, NoAttribute, NotPermitted, Refused, Unsupported
from scoutfs.files.inode import Inode
from scoutfs.files.xattr import find_xattr, locate_xattr
from scoutfs.files.xattr_writing import add_xattr, delete_xattr, remove_xattr, replace_xattr, set_xattr

ACL_NAMES = (ACCESS_NAME, DEFAULT_NAME)
_EMPTY_SIZE = 4
"""Bytes of a list without entries: a version."""


def set_attribute(
    change: Change, ino: int, name: bytes, value: bytes, caller: Caller, *, create: bool = False, replace: bool = False
) -> None:
    """Set an attribute of any name, access control lists too.  Raises as `set_xattr` and `set_acl` do."""
    if name not in ACL_NAMES:
        set_xattr(change, ino, name, value, caller, create=create, replace=replace)
        return
    if create or replace:
        change.open(ino)
        found = find_xattr(change, ino, name)
        if found is None and replace:
            raise NoAttribute(f"inode {ino} has no attribute {name!r}")
        if found is not None and create:
            raise Exists(f"inode {ino} has the attribute {name!r}")
    set_acl(change, ino, name, value, caller)


def remove_attribute(change: Change, ino: int, name: bytes, caller: Caller) -> None:
    """Remove an attribute of any name; a list that is not there may be removed.  Raises as `remove_xattr` does."""
    if name in ACL_NAMES:
        set_acl(change, ino, name, None, caller)
    else:
        remove_xattr(change, ino, name, caller)


def set_acl(change: Change, ino: int, name: bytes, value: bytes | None, caller: Caller) -> None:
    """Set the access or the default list of an inode to what an attribute holds, or remove it.

    The mode goes with the access list; one that says no more than a mode is not stored.  Raises Unsupported for a
    symbolic link, NotPermitted, Refused for what is no list, NoSpace, and as `Change` does.
    """
    (inode,) = change.open(ino)
    if inode.is_symlink:
        raise Unsupported(f"inode {ino} is a symbolic link: it has no access control lists")
    if not caller.owns(inode.uid):
        raise NotPermitted(f"inode {ino} belongs to user {inode.uid}")
    acl = None if value is None or len(value) == _EMPTY_SIZE else _parsed(value)
    if name == DEFAULT_NAME and not inode.is_directory:
        if acl is None:
            return
        raise Refused(f"inode {ino} is no directory: it has no default access control list")
    change.need_space()
    if name == ACCESS_NAME and acl is not None:
        mode = inode.mode & ~0o777 | permissions(acl)
        if not caller.may_set_group_id(inode.gid):
            mode &= ~stat.S_ISGID
        inode = inode._replace(mode=mode)
        acl = acl if len(acl) > BASE_ENTRIES else None
    change.set(changed(change, _stored(change, inode, name, acl)))


def change_mode(change: Change, inode: Inode, mode: int) -> Inode:
    """Return an inode with other permission bits, its access list changed with them.  Raises as `Change` does."""
    acl = read_acl(change, inode.ino, ACCESS_NAME)
    if acl is not None:
        inode = _stored(change, inode, ACCESS_NAME, with_permissions(acl, mode))
    return inode._replace(mode=stat.S_IFMT(inode.mode) | stat.S_IMODE(mode))


def read_acl(change: Change, ino: int, name: bytes) -> Acl | None:
    """Return an access control list of an inode, None if it has none.  Raises DamagedItem, and as `Change` does."""
    value = find_xattr(change, ino, name)
    try:
        return None if value is None else parse_acl(value, f"inode {ino}")
    except BlockError as error:
        raise DamagedItem(f"{change.blocks.device.path}: {error}") from error


def _parsed(value: bytes) -> Acl:
    try:
        acl = parse_acl(value, "attribute")
    except BlockError as error:
        raise Refused(str(error)) from error
    named = (AclTag.USER, AclTag.GROUP)
    return tuple(entry if entry.tag in named else entry._replace(id=NO_ID) for entry in acl)


def _stored(change: Change, inode: Inode, name: bytes, acl: Acl | None) -> Inode:
    found = locate_xattr(change, inode.ino, name)
    if acl is None:
        if found is not None:
            delete_xattr(change, inode.ino, name, found)
        return inode
    value = build_acl(acl)
    if found is None:
        return add_xattr(change, inode, name, value)
    replace_xattr(change, inode, name, value, found)
    return inode
