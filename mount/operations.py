"""What the kernel asks of the filesystem: the root directory, `.scoutfs` in it, and statfs.

At this stage a mount shows its root and nothing of what the volume holds below it.
"""

from __future__ import annotations

import errno
import functools
import inspect
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import pyfuse3

from mount import control
from mount.interrupts import has_pending_signal, interruptible
from mount.root import RootAttributes
from scoutfs.errors import ScoutfsError

ROOT_INO = 1
BLOCK_SIZE = 4096
NAME_MAX = 255

Log = Callable[[int, str], None]
Handler = Callable[..., Awaitable[Any]]


class Statfs(Protocol):
    """What the server tells of the space of the volume (spec 03 §5.4)."""

    @property
    def free_meta_blocks(self) -> int: ...
    @property
    def total_meta_blocks(self) -> int: ...
    @property
    def free_data_blocks(self) -> int: ...
    @property
    def total_data_blocks(self) -> int: ...
    @property
    def inode_count(self) -> int: ...


class Requests:
    """What became of requests: the exceptions that handlers did not expect."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._unexpected: Counter[str] = Counter()

    def unexpected(self, request: str, error: Exception) -> None:
        """Count an exception, and log it with its request; the same one only the first time."""
        where = _place(error)
        name = f"{request.partition('(')[0]} {type(error).__name__}{where}"
        self._unexpected[name] += 1
        if self._unexpected[name] == 1:
            self._log(logging.ERROR, f"{request} failed with an internal error: {error!r}{where}")

    def errors_text(self) -> str:
        """Return a line for each kind of unexpected exception: request, exception, place, how often."""
        return "".join(f"{name} {count}\n" for name, count in sorted(self._unexpected.items()))


def _guard(name: str, handler: Handler) -> Handler:
    """Make a handler that raises nothing but FUSEError: any other exception would end the whole mount."""

    @functools.wraps(handler)
    async def guarded(self: Operations, *arguments: Any) -> Any:
        try:
            return await handler(self, *arguments)
        except pyfuse3.FUSEError:
            raise
        except (OSError, ScoutfsError) as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from error
        except Exception as error:
            shown = ", ".join(repr(argument) for argument in arguments if isinstance(argument, int | bytes))
            self.requests.unexpected(f"{name}({shown})", error)
            raise pyfuse3.FUSEError(errno.EIO) from error

    return guarded


def _guarded(cls: type[Operations]) -> type[Operations]:
    for name, handler in list(vars(cls).items()):
        if inspect.iscoroutinefunction(handler) and not name.startswith("_"):
            setattr(cls, name, _guard(name, handler))
    return cls


@dataclass(slots=True)
class _OpenFile:
    node: control.File
    contents: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Listing:
    entries: list[tuple[bytes, int, pyfuse3.EntryAttributes]]


@_guarded
class Operations(pyfuse3.Operations):  # type: ignore[misc]
    """The handlers.  `statfs` asks the server, and may wait for one; nothing else here waits.

    `owner` is (uid, gid) of everything below `.scoutfs`.  `connection_lost` tells requests that wait whether the kernel
    has ended the connection.
    """

    supports_dot_lookup = True

    def __init__(
        self,
        root: RootAttributes,
        tree: control.ControlTree,
        statfs: Callable[[], Awaitable[Statfs]],
        log: Log,
        *,
        owner: tuple[int, int] = (0, 0),
        connection_lost: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self.requests = Requests(log)
        self._root, self._tree, self._statfs, self._log = root, tree, statfs, log
        self._owner, self._connection_lost = owner, connection_lost
        self._open: dict[int, _OpenFile | _Listing] = {}
        self._next_handle = 1
        self._told_read_only = False

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any = None) -> pyfuse3.EntryAttributes:
        if parent_inode >= control.FIRST_INO:
            return self._lookup_control(parent_inode, name)
        self._check_root(parent_inode)
        if name in (b".", b".."):
            return self._root_entry()
        if name == control.NAME:
            self._tree.remember(control.FIRST_INO)
            return self._control_entry(control.FIRST_INO)
        raise pyfuse3.FUSEError(errno.ENOENT)

    async def forget(self, inode_list: list[tuple[int, int]]) -> None:
        for inode, count in inode_list:
            if inode >= control.FIRST_INO:
                self._tree.forget(inode, count)

    async def getattr(self, inode: int, ctx: Any = None) -> pyfuse3.EntryAttributes:
        if inode >= control.FIRST_INO:
            return self._control_entry(inode)
        self._check_root(inode)
        return self._root_entry()

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any) -> pyfuse3.EntryAttributes:
        if inode < control.FIRST_INO:
            self._refuse_change()
        node = self._tree.node(inode)
        if fields.update_mode or fields.update_uid or fields.update_gid:
            raise pyfuse3.FUSEError(errno.EPERM)
        # what a shell does before it writes to a file: cutting it to nothing means nothing here
        if fields.update_size and (isinstance(node, control.Directory) or node.write is None):
            raise pyfuse3.FUSEError(errno.EACCES)
        return self._control_entry(inode)

    async def readlink(self, inode: int, ctx: Any) -> bytes:
        raise pyfuse3.FUSEError(errno.EINVAL)

    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any) -> NoReturn:
        self._refuse_entry(parent_inode)

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> NoReturn:
        self._refuse_entry(parent_inode)

    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> NoReturn:
        self._refuse_entry(parent_inode, name)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> NoReturn:
        self._refuse_entry(parent_inode, name)

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Any) -> NoReturn:
        self._refuse_entry(parent_inode)

    async def rename(
        self, parent_old: int, name_old: bytes, parent_new: int, name_new: bytes, flags: int, ctx: Any
    ) -> NoReturn:
        self._refuse_entry(max(parent_old, parent_new), name_old)

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any) -> NoReturn:
        self._refuse_entry(max(inode, new_parent_inode))

    async def create(self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any) -> NoReturn:
        self._refuse_entry(parent_inode)

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        node = self._tree.node(inode) if inode >= control.FIRST_INO else None
        if not isinstance(node, control.File):
            raise pyfuse3.FUSEError(errno.EISDIR)
        # root may open what its mode does not allow, so the mode alone does not protect files without a writer
        if flags & os.O_ACCMODE != os.O_RDONLY and node.write is None:
            raise pyfuse3.FUSEError(errno.EACCES)
        return pyfuse3.FileInfo(fh=self._handle(_OpenFile(node)), direct_io=True)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        file = self._file(fh)
        # made afresh for each reading from the start, and then not torn by changes under way
        if off == 0 or file.contents is None:
            file.contents = file.node.read()
        return file.contents[off : off + size]

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        file = self._file(fh)
        if file.node.write is None:
            raise pyfuse3.FUSEError(errno.EACCES)
        if len(buf) > control.WRITE_MAX:
            raise pyfuse3.FUSEError(errno.EINVAL)
        file.node.write(bytes(buf))
        return len(buf)

    async def flush(self, fh: int) -> None:
        return

    async def fsync(self, fh: int, datasync: bool) -> None:
        return

    async def release(self, fh: int) -> None:
        self._open.pop(fh, None)

    async def opendir(self, inode: int, ctx: Any) -> int:
        if inode >= control.FIRST_INO:
            return self._handle(_Listing(self._list_control(inode)))
        self._check_root(inode)
        root = self._root_entry()
        return self._handle(_Listing([(b".", ROOT_INO, root), (b"..", ROOT_INO, root)]))

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        listing = self._open[fh]
        if not isinstance(listing, _Listing):
            raise pyfuse3.FUSEError(errno.ENOTDIR)
        for next_id, (name, inode, entry) in enumerate(listing.entries[start_id:], start_id + 1):
            if not pyfuse3.readdir_reply(token, name, entry, next_id):
                break
            if name not in (b".", b".."):
                self._tree.remember(inode)

    async def releasedir(self, fh: int) -> None:
        self._open.pop(fh, None)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        return

    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        return _statvfs(await interruptible(ctx.pid, self._statfs, self._give_up))

    async def access(self, inode: int, mode: int, ctx: Any) -> bool:
        return True

    async def listxattr(self, inode: int, ctx: Any) -> list[bytes]:
        return []

    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        raise pyfuse3.FUSEError(errno.ENODATA)

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        self._refuse_entry(inode)

    async def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        raise pyfuse3.FUSEError(errno.ENODATA)

    def _give_up(self, pid: int) -> bool:
        """Whether nobody wants the answer for which the thread `pid` waits."""
        return self._connection_lost() or has_pending_signal(pid)

    def _check_root(self, inode: int) -> None:
        if inode != ROOT_INO:
            raise pyfuse3.FUSEError(errno.ESTALE)

    def _root_entry(self) -> pyfuse3.EntryAttributes:
        entry = _entry(ROOT_INO, self._root.mode, self._root.nlink, self._root.size)
        entry.st_uid, entry.st_gid = self._root.uid, self._root.gid
        entry.st_atime_ns, entry.st_mtime_ns = self._root.atime, self._root.mtime
        entry.st_ctime_ns = self._root.ctime
        return entry

    def _lookup_control(self, parent: int, name: bytes) -> pyfuse3.EntryAttributes:
        if name in (b".", b".."):
            inode = parent if name == b"." else self._tree.parent(parent)
            self._tree.remember(inode)
            return self._control_entry(inode)
        inode, node = self._tree.lookup(parent, name)
        return self._entry_of(inode, node)

    def _control_entry(self, inode: int) -> pyfuse3.EntryAttributes:
        return self._entry_of(inode, self._tree.node(inode))

    def _entry_of(self, inode: int, node: control.Node) -> pyfuse3.EntryAttributes:
        if isinstance(node, control.Directory):
            subdirectories = sum(isinstance(child, control.Directory) for child in node.entries().values())
            entry = _entry(inode, node.mode, 2 + subdirectories, 0)
        else:
            # as in sysfs: one page, whatever is in it
            entry = _entry(inode, node.mode, 1, BLOCK_SIZE)
        entry.st_uid, entry.st_gid = self._owner
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = self._root.ctime
        return entry

    def _list_control(self, inode: int) -> list[tuple[bytes, int, pyfuse3.EntryAttributes]]:
        parent = self._tree.parent(inode)
        own, above = self._control_entry(inode), self._control_entry(parent)
        entries = [(b".", inode, own), (b"..", parent, above)]
        entries += [(name, child, self._entry_of(child, node)) for name, child, node in self._tree.entries(inode)]
        return entries

    def _handle(self, opened: _OpenFile | _Listing) -> int:
        handle = self._next_handle
        self._next_handle += 1
        self._open[handle] = opened
        return handle

    def _file(self, fh: int) -> _OpenFile:
        file = self._open[fh]
        if not isinstance(file, _OpenFile):
            raise pyfuse3.FUSEError(errno.EBADF)
        return file

    def _refuse_entry(self, inode: int, name: bytes = b"") -> NoReturn:
        if inode >= control.FIRST_INO or name == control.NAME:
            raise pyfuse3.FUSEError(errno.EPERM)
        self._refuse_change()

    def _refuse_change(self) -> NoReturn:
        if not self._told_read_only:
            self._told_read_only = True
            self._log(logging.WARNING, "files and directories cannot be created or changed by this release (EROFS)")
        raise pyfuse3.FUSEError(errno.EROFS)


def _entry(inode: int, mode: int, nlink: int, size: int) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = inode
    entry.generation = 0
    # nothing is kept in the kernel's caches: what is shown may change at any time
    entry.entry_timeout = 0
    entry.attr_timeout = 0
    entry.st_mode, entry.st_nlink, entry.st_size = mode, nlink, size
    entry.st_blksize = BLOCK_SIZE
    entry.st_blocks = 0
    return entry


def _statvfs(answer: Statfs) -> pyfuse3.StatvfsData:
    """Return what statfs(2) shows: metadata counts as 16 blocks for each of its own (spec 01 §8.8)."""
    data = pyfuse3.StatvfsData()
    data.f_bsize = data.f_frsize = BLOCK_SIZE
    data.f_blocks = answer.total_meta_blocks * 16 + answer.total_data_blocks
    data.f_bfree = data.f_bavail = answer.free_meta_blocks * 16 + answer.free_data_blocks
    data.f_files = answer.total_meta_blocks * 32
    data.f_ffree = data.f_favail = max(0, data.f_files - answer.inode_count)
    data.f_namemax = NAME_MAX
    return data


def _place(error: Exception) -> str:
    """Return where an exception was raised: file and line."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return "" if frame is None else f" at {os.path.basename(frame.tb_frame.f_code.co_filename)}:{frame.tb_lineno}"
