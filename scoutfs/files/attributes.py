"""Modes, owners and times of inodes (spec 06 §2.6)."""

from __future__ import annotations

import stat
from typing import NamedTuple

from scoutfs.files.acl_writing import change_mode
from scoutfs.files.caller import Caller, Capability
from scoutfs.files.change import Change
from scoutfs.files.entries import changed
from scoutfs.files.errors import NotPermitted, Unsupported
from scoutfs.files.inode import Inode


class NewAttributes(NamedTuple):
    """What is to be changed; None stays.  Times are nanoseconds since the epoch, `ctime` is always now."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime: int | None = None
    mtime: int | None = None


def set_attributes(change: Change, ino: int, new: NewAttributes, caller: Caller) -> Inode:
    """Change mode, owner, group and times; return the inode.

    A new owner or group takes S_ISUID and S_ISGID from all but directories, unless a mode is given too.  Whether the
    caller may change times has been looked at before.  Raises NotPermitted, also for a retained inode, Unsupported for
    the mode of a symbolic link, and as `Change` does.
    """
    (inode,) = change.open(ino)
    _check_owner(inode, new, caller)
    if inode.retention:
        raise NotPermitted(f"inode {ino} is retained")
    mode = new.mode
    if mode is None and (new.uid is not None or new.gid is not None) and not inode.is_directory:
        mode = without_privileges(inode, caller)
    inode = inode._replace(uid=inode.uid if new.uid is None else new.uid, gid=inode.gid if new.gid is None else new.gid)
    if mode is not None and (new.mode is not None or mode != inode.mode):
        if inode.is_symlink:
            raise Unsupported(f"inode {ino} is a symbolic link: its mode cannot change")
        if not caller.may_set_group_id(inode.gid):
            mode &= ~stat.S_ISGID
        inode = change_mode(change, inode, mode)
    inode = inode._replace(
        atime=inode.atime if new.atime is None else new.atime, mtime=inode.mtime if new.mtime is None else new.mtime
    )
    return change.set(changed(change, inode))


def without_privileges(inode: Inode, caller: Caller) -> int:
    """Return the mode of an inode without S_ISUID, and without the S_ISGID that lets others run it as its group."""
    mode = inode.mode & ~stat.S_ISUID
    if mode & stat.S_IXGRP or not caller.may_set_group_id(inode.gid):
        mode &= ~stat.S_ISGID
    return mode


def mode_after_writing(inode: Inode, caller: Caller) -> int:
    """Return the mode of a file whose contents the caller has changed."""
    return inode.mode if caller.capabilities & Capability.FSETID else without_privileges(inode, caller)


def _check_owner(inode: Inode, new: NewAttributes, caller: Caller) -> None:
    if new.mode is not None and not caller.owns(inode.uid):
        raise NotPermitted(f"inode {inode.ino} belongs to user {inode.uid}")
    if caller.capabilities & Capability.CHOWN:
        return
    owner = caller.uid == inode.uid
    if new.uid is not None and not (owner and new.uid == inode.uid):
        raise NotPermitted(f"user {caller.uid} may not give inode {inode.ino} away")
    if new.gid is not None and not (owner and (new.gid in caller.groups or new.gid == inode.gid)):
        raise NotPermitted(f"user {caller.uid} may not give inode {inode.ino} to group {new.gid}")
