"""Setting what setattr(2) does not know: versions, sizes of archived files, retention, projects (spec 06 §6.1, §10)."""

from __future__ import annotations

from typing import NamedTuple

from format.extent import ExtentFlag
from format.inode import InodeFlag
from scoutfs.files.caller import Caller, Capability
from scoutfs.files.change import Change
from scoutfs.files.data import DataExtent
from scoutfs.files.errors import NotPermitted, Refused, Unsupported
from scoutfs.files.extents_writing import extent_at, insert_extent
from scoutfs.files.inode import BLOCK_SIZE, Inode
from scoutfs.files.writing import SIZE_MAX


class NewAttrX(NamedTuple):
    """What is to be changed; None stays.  Times are nanoseconds since the epoch.

    With `size_offline` the whole file, of the `size` that is given, is in the archive.
    """

    data_version: int | None = None
    ctime: int | None = None
    crtime: int | None = None
    size: int | None = None
    retention: bool | None = None
    project_id: int | None = None
    size_offline: bool = False


NOTHING = NewAttrX()


def set_attr_x(change: Change, ino: int, new: NewAttrX, caller: Caller) -> Inode:
    """Change attributes, all of them or none; return the inode.

    A version of the contents, and a size, can only be given to a regular file that never had contents.  Raises
    NotPermitted, also for a retained inode unless retention ends; Unsupported for retention and project on volumes of
    format version 1; Refused, NoSpace, and as `Change` does.
    """
    if not caller.capabilities & Capability.SYS_ADMIN:
        raise NotPermitted("these attributes are for administrators")
    (inode,) = change.open(ino)
    if new == NOTHING:
        return inode
    if change.fmt_vers < 2 and (new.retention is not None or new.project_id is not None):
        raise Unsupported("volumes of format version 1 have neither retention nor projects")
    _check(inode, new)
    if inode.retention and new.retention is not False:
        raise NotPermitted(f"inode {ino} is retained")
    change.need_space()
    if new.size_offline and new.size is not None:
        inode = _take_offline(change, inode, -(-new.size // BLOCK_SIZE))
    flags = inode.flags
    if new.retention is not None:
        flags = flags & ~int(InodeFlag.RETENTION) | (InodeFlag.RETENTION if new.retention else 0)
    return change.set(
        inode._replace(
            data_version=_given(new.data_version, inode.data_version),
            ctime=_given(new.ctime, inode.ctime),
            crtime=_given(new.crtime, inode.crtime),
            size=_given(new.size, inode.size),
            proj=_given(new.project_id, inode.proj),
            flags=flags,
        )
    )


def _given(new: int | None, old: int) -> int:
    return old if new is None else new


def _check(inode: Inode, new: NewAttrX) -> None:
    regular = new.data_version is not None or new.size is not None or new.retention is not None
    if regular and not inode.is_regular:
        raise Refused(f"inode {inode.ino} is no regular file")
    if (new.data_version is not None or new.size is not None) and inode.data_version:
        raise Refused(f"inode {inode.ino} has contents of version {inode.data_version}")
    if new.data_version == 0:
        raise Refused("version 0 is that of files which never had contents")
    if new.size is not None and not 0 <= new.size <= SIZE_MAX:
        raise Refused(f"inode {inode.ino} cannot have {new.size} bytes")
    if new.size and new.data_version is None:
        raise Refused("a size needs a version of the contents")
    if new.size_offline and not new.size:
        raise Refused("contents in the archive need a size")


def _take_offline(change: Change, inode: Inode, blocks: int) -> Inode:
    if inode.online_blocks or inode.offline_blocks or extent_at(change, inode.ino, 0) is not None:
        raise Refused(f"inode {inode.ino} has blocks")
    return insert_extent(change, inode, DataExtent(0, blocks, 0, ExtentFlag.OFFLINE))
