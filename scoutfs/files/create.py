"""Creating inodes, with or without a name (spec 06 §2.3, §3.4)."""

from __future__ import annotations

import os
import stat

from format.acl import ACCESS_NAME, DEFAULT_NAME, build_acl
from format.block import FormatError
from format.inode import FIRST_READDIR_POS
from format.keys import FsType
from format.quota import QuotaOp
from format.symlink import SYMLINK_MAX_SIZE, split_target
from scoutfs.files.acl_inheritance import Inherited, inherit
from scoutfs.files.acl_writing import read_acl
from scoutfs.files.caller import Caller
from scoutfs.files.change import Change
from scoutfs.files.entries import add_entry, changed_directory, check_absent, check_directory
from scoutfs.files.errors import NameTooLong, NotFound, Refused
from scoutfs.files.inode import Inode
from scoutfs.files.items import fs_key
from scoutfs.files.quota_check import Attributes, check_quota
from scoutfs.files.xattr_writing import add_xattr

_TYPES = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK)


def create(
    change: Change, dir_ino: int, name: bytes, ino: int, mode: int, caller: Caller, *, umask: int = 0, device: int = 0
) -> Inode:
    """Create an inode of any type but a symbolic link, and its name; return it.

    `ino` is a number that never was in use.  `mode` has the type, `device` is what user space writes for a device
    node.  Raises Exists, NotFound, NotADirectory, NameTooLong, QuotaExceeded, NoSpace, Refused, and as `Change` does.
    """
    if stat.S_ISLNK(mode):
        raise Refused("a symbolic link needs a target")
    return _create(change, dir_ino, name, ino, mode, caller, umask=umask, device=device)


def symlink(change: Change, dir_ino: int, name: bytes, ino: int, target: bytes, caller: Caller) -> Inode:
    """Create a symbolic link; return its inode.  Raises as `create` does; a target too long is NameTooLong too."""
    if len(target) >= SYMLINK_MAX_SIZE:
        raise NameTooLong(f"a target of {len(target)} bytes, at most {SYMLINK_MAX_SIZE - 1} are possible")
    if not target:
        raise NotFound("a target without a byte")
    return _create(change, dir_ino, name, ino, stat.S_IFLNK | 0o777, caller, target=target)


def create_unlinked(change: Change, dir_ino: int, ino: int, mode: int, caller: Caller, *, umask: int = 0) -> Inode:
    """Create a regular file without a name, as O_TMPFILE does in a directory; return it.

    Until it is linked it is an orphan.  Raises as `create` does.
    """
    (directory,) = change.open(dir_ino, new=(ino,), data=True)
    check_directory(directory)
    inode, inherited = _new_inode(change, directory, ino, stat.S_IFREG | stat.S_IMODE(mode), caller, umask=umask)
    change.need_space()
    inode = _add(change, inode._replace(nlink=0), inherited)
    change.set_orphan(ino, orphan=True)
    change.set(directory)
    return inode


def write_target(change: Change, ino: int, target: bytes) -> None:
    """Store the target of a symbolic link.  Raises Refused for what is no target."""
    try:
        parts = split_target(target)
    except FormatError as error:
        raise Refused(str(error)) from error
    for number, part in enumerate(parts):
        change.create(fs_key(ino, FsType.SYMLINK, number), part)


def _create(
    change: Change,
    dir_ino: int,
    name: bytes,
    ino: int,
    mode: int,
    caller: Caller,
    *,
    umask: int = 0,
    device: int = 0,
    target: bytes | None = None,
) -> Inode:
    (directory,) = change.open(dir_ino, new=(ino,), data=stat.S_ISREG(mode))
    check_absent(change, directory, name)
    inode, inherited = _new_inode(change, directory, ino, mode, caller, umask=umask, device=device)
    change.need_space()
    if target is not None:
        inode = inode._replace(size=len(target) + 1)
        write_target(change, ino, target)
    inode = _add(change, inode, inherited)
    directory = add_entry(change, directory, name, ino, mode)
    directory = directory._replace(nlink=directory.nlink + inode.is_directory)
    change.set(changed_directory(change, directory))
    return inode


def _new_inode(
    change: Change, directory: Inode, ino: int, mode: int, caller: Caller, *, umask: int = 0, device: int = 0
) -> tuple[Inode, Inherited]:
    if stat.S_IFMT(mode) not in _TYPES:
        raise Refused(f"mode {mode:#o} has no file type")
    gid = caller.gid
    if directory.mode & stat.S_ISGID:
        gid = directory.gid
        if stat.S_ISDIR(mode):
            mode |= stat.S_ISGID
        elif mode & (stat.S_ISGID | stat.S_IXGRP) == stat.S_ISGID | stat.S_IXGRP and not caller.may_set_group_id(gid):
            mode &= ~stat.S_ISGID
    check_quota(change, QuotaOp.INODE, Attributes(directory.proj, caller.uid, gid))
    inherited = inherit(mode, umask, read_acl(change, directory.ino, DEFAULT_NAME))
    seq, now = change.transaction.seq, change.now
    inode = Inode(
        ino=ino,
        size=0,
        meta_seq=seq,
        data_seq=seq,
        data_version=0,
        online_blocks=0,
        offline_blocks=0,
        next_readdir_pos=FIRST_READDIR_POS,
        next_xattr_id=0,
        version=1,
        nlink=2 if stat.S_ISDIR(mode) else 1,
        uid=caller.uid,
        gid=gid,
        mode=inherited.mode,
        rdev=_kernel_device(device) if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0,
        flags=0,
        atime=now,
        ctime=now,
        mtime=now,
        crtime=now,
        proj=directory.proj,
    )
    return inode, inherited


def _add(change: Change, inode: Inode, inherited: Inherited) -> Inode:
    for name, acl in ((DEFAULT_NAME, inherited.default), (ACCESS_NAME, inherited.access)):
        if acl is not None:
            inode = add_xattr(change, inode, name, build_acl(acl))
    return change.add_inode(inode)


def _kernel_device(device: int) -> int:
    return os.major(device) << 20 | os.minor(device)
