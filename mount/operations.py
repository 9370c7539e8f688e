"""What the kernel asks of the filesystem, told apart: control files from files of the volume, errors from answers."""

from __future__ import annotations

import errno
import functools
import inspect
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pyfuse3
import trio

from format.checksum import Buffer
from format.superblock import ROOT_INO
from mount import control
from mount.attributes import Statfs, statvfs_of
from mount.controlled import ControlDirectory, ControlFile, ControlHandlers
from mount.files import FileHandlers, Report
from mount.files_interface import Files, OpenedDirectory, OpenedFile
from mount.in_progress import InProgress, shown
from mount.interrupts import has_pending_signal
from mount.preparation import RootDirectory
from mount.reading import RootsSource, VolumeReader
from scoutfs.errors import ScoutfsError
from scoutfs.files.errors import FileError
from scoutfs.files.rename import Names
from scoutfs.storage.volume import Volume

Log = Callable[[int, str], None]
Handler = Callable[..., Awaitable[Any]]
_Opened = TypeVar("_Opened")

TEXTS_MAX = 200
"""Texts of damage that are logged; what comes after them is only counted."""


class Requests:
    """What became of requests: damage of the volume, and exceptions that handlers did not expect."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._unexpected: Counter[str] = Counter()
        self._damage: Counter[str] = Counter()

    def unexpected(self, request: str, error: Exception) -> None:
        """Count an exception, and log it with its request; the same one only the first time."""
        where = _place(error)
        name = f"{request.partition('(')[0]} {type(error).__name__}{where}"
        self._unexpected[name] += 1
        if self._unexpected[name] == 1:
            self._log(logging.ERROR, f"{request} failed with an internal error: {error!r}{where}")

    def damaged(self, request: str, error: ScoutfsError) -> None:
        """Count what could not be read, and log it with the request; the same only the first time."""
        text = str(error) if str(error) in self._damage or len(self._damage) < TEXTS_MAX else "more"
        self._damage[text] += 1
        if self._damage[text] == 1:
            self._log(logging.ERROR, f"{request} failed: {error}")

    def errors_text(self) -> str:
        """Return a line for each kind of unexpected exception: request, exception, place, how often; and for each
        damage: what it is, how often."""
        lines = [*sorted(self._unexpected.items()), *((f"damage: {text}:", n) for text, n in self._damage.items())]
        return "".join(f"{name} {count}\n" for name, count in lines)


_NEVER_WAITING = frozenset({"access", "flush", "forget", "release", "releasedir"})


def _guard(name: str, handler: Handler) -> Handler:
    """Make a handler that raises nothing but FUSEError: any other exception would end the whole mount.

    As long as it has not ended it is among the requests in progress.
    """
    parameters = list(inspect.signature(handler).parameters)
    has_caller, waits = parameters[-1] == "ctx", name not in _NEVER_WAITING

    @functools.wraps(handler)
    async def guarded(self: Operations, *arguments: Any) -> Any:
        try:
            if not waits:
                return await handler(self, *arguments)
            pid = arguments[-1].pid if has_caller else self._opener(arguments[0])
            with self.in_progress.request(name, arguments, pid):
                return await handler(self, *arguments)
        except pyfuse3.FUSEError:
            raise
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from error
        except ScoutfsError as error:
            if error.errno == errno.EIO and not isinstance(error, FileError):
                self.requests.damaged(shown(name, arguments), error)
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from error
        except Exception as error:
            self.requests.unexpected(shown(name, arguments), error)
            raise pyfuse3.FUSEError(errno.EIO) from error

    return guarded


def _guarded(cls: type[Operations]) -> type[Operations]:
    for name, handler in list(vars(cls).items()):
        if inspect.iscoroutinefunction(handler) and not name.startswith("_"):
            setattr(cls, name, _guard(name, handler))
    return cls


@_guarded
class Operations(pyfuse3.Operations):  # type: ignore[misc]
    """The handlers.

    `statfs` tells what is free, and may wait for a server, as requests for files may; those for control files never
    wait.  `root` is the root directory as it was before.  `owner` is (uid, gid) of everything below `.scoutfs`.  `acl`:
    access control lists count.  `connection_lost` tells requests that wait whether the kernel has ended the connection.
    """

    supports_dot_lookup = True

    def __init__(
        self,
        volume: Volume,
        root: RootDirectory,
        source: RootsSource,
        tree: control.ControlTree,
        statfs: Callable[[], Awaitable[Statfs]],
        log: Log,
        *,
        acl: bool = True,
        owner: tuple[int, int] = (0, 0),
        connection_lost: Callable[[], bool] = lambda: False,
        waiting_for: Callable[[], str] = str,
        files: Callable[[Report], Files] | None = None,
    ) -> None:
        super().__init__()
        # the kernel then asks for the lists, and goes by them
        self.enable_acl = acl
        self.requests = Requests(log)
        self._statfs, self._connection_lost = statfs, connection_lost
        self._control = ControlHandlers(tree, owner, root.inode.ctime)
        self.in_progress = InProgress(log, connection_lost=connection_lost, waiting_for=waiting_for)
        self._files: Files = (
            FileHandlers(VolumeReader(volume, source, log, self._give_up), root, log, self.requests.damaged, acl=acl)
            if files is None
            else files(self.requests.damaged)
        )
        self._open: dict[int, ControlFile | OpenedFile] = {}
        self._listed: dict[int, ControlDirectory | OpenedDirectory] = {}
        self._next_handle = 1
        self.greeted = trio.Event()
        """Set when the kernel has been told what it may ask for: before that it must not be told anything else."""

    def init(self) -> None:
        self.greeted.set()

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any = None) -> pyfuse3.EntryAttributes:
        if parent_inode >= control.FIRST_INO:
            return self._control.lookup(parent_inode, name)
        if name == control.NAME and parent_inode == ROOT_INO:
            return self._control.root()
        return await self._files.lookup(parent_inode, name, ctx)

    async def forget(self, inode_list: list[tuple[int, int]]) -> None:
        for inode, count in inode_list:
            if inode >= control.FIRST_INO:
                self._control.forget(inode, count)
            else:
                self._files.forget(inode, count)

    async def getattr(self, inode: int, ctx: Any = None) -> pyfuse3.EntryAttributes:
        if inode >= control.FIRST_INO:
            return self._control.getattr(inode)
        return await self._files.getattr(inode, ctx)

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any) -> pyfuse3.EntryAttributes:
        if inode >= control.FIRST_INO:
            return self._control.setattr(inode, fields)
        return await self._files.setattr(inode, attr, fields, ctx)

    async def readlink(self, inode: int, ctx: Any) -> bytes:
        if inode >= control.FIRST_INO:
            raise pyfuse3.FUSEError(errno.EINVAL)
        return await self._files.readlink(inode, ctx)

    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any) -> pyfuse3.EntryAttributes:
        _check_changeable(parent_inode, name)
        return await self._files.mknod(parent_inode, name, mode, rdev, ctx)

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        _check_changeable(parent_inode, name)
        return await self._files.mkdir(parent_inode, name, mode, ctx)

    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        _check_changeable(parent_inode, name)
        await self._files.unlink(parent_inode, name, ctx)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        _check_changeable(parent_inode, name)
        await self._files.rmdir(parent_inode, name, ctx)

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        _check_changeable(parent_inode, name)
        return await self._files.symlink(parent_inode, name, target, ctx)

    async def rename(
        self, parent_old: int, name_old: bytes, parent_new: int, name_new: bytes, flags: int, ctx: Any
    ) -> None:
        _check_changeable(parent_old, name_old)
        _check_changeable(parent_new, name_new)
        await self._files.rename(Names(parent_old, name_old, parent_new, name_new), flags, ctx)

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        _check_changeable(new_parent_inode, new_name)
        _check_changeable(inode)
        return await self._files.link(inode, new_parent_inode, new_name, ctx)

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        _check_changeable(parent_inode, name)
        file, info, entry = await self._files.create(parent_inode, name, mode, flags, ctx)
        info.fh = self._handle(file, self._open)
        return info, entry

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        if inode >= control.FIRST_INO:
            return pyfuse3.FileInfo(fh=self._handle(self._control.open(inode, flags), self._open), direct_io=True)
        file, info = await self._files.open(inode, flags, ctx)
        info.fh = self._handle(file, self._open)
        return info

    async def read(self, fh: int, off: int, size: int) -> Buffer:
        if fh in self._listed:
            raise pyfuse3.FUSEError(errno.EISDIR)
        return await self._open[fh].read(off, size)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._open[fh].write(off, buf)

    async def flush(self, fh: int) -> None:
        # everything was written when it was answered; the kernel, told so once, does not ask again at each close(2)
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def fsync(self, fh: int, datasync: bool) -> None:
        if not isinstance(self._open[fh], ControlFile):
            await self._files.sync()

    async def release(self, fh: int) -> None:
        file = self._open.pop(fh, None)
        if file is not None:
            file.close()

    async def opendir(self, inode: int, ctx: Any) -> int:
        if inode >= control.FIRST_INO:
            return self._handle(self._control.opendir(inode), self._listed)
        return self._handle(await self._files.opendir(inode, ctx), self._listed)

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        await self._listed[fh].readdir(start_id, token)

    async def releasedir(self, fh: int) -> None:
        self._listed.pop(fh, None)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        if not isinstance(self._listed[fh], ControlDirectory):
            await self._files.sync()

    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        return statvfs_of(await self._statfs())

    async def access(self, inode: int, mode: int, ctx: Any) -> bool:
        return True

    async def listxattr(self, inode: int, ctx: Any) -> list[bytes]:
        if inode >= control.FIRST_INO:
            return []
        return await self._files.listxattr(inode, ctx)

    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        if inode >= control.FIRST_INO:
            raise pyfuse3.FUSEError(errno.ENODATA)
        return await self._files.getxattr(inode, name, ctx)

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        _check_changeable(inode)
        await self._files.setxattr(inode, name, value, ctx)

    async def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        _check_changeable(inode)
        await self._files.removexattr(inode, name, ctx)

    def _give_up(self, pid: int) -> bool:
        """Whether nobody wants the answer for which the thread `pid` waits."""
        return self._connection_lost() or has_pending_signal(pid)

    def _handle(self, opened: _Opened, table: dict[int, _Opened]) -> int:
        handle = self._next_handle
        self._next_handle += 1
        table[handle] = opened
        return handle

    def _opener(self, fh: int) -> int:
        """Return the thread that opened a handle: requests for it do not tell who waits for them."""
        return getattr(self._open.get(fh) or self._listed.get(fh), "pid", 0)


def _check_changeable(ino: int, name: bytes = b"") -> None:
    """Refuse to change anything of the control directory."""
    if ino >= control.FIRST_INO or (name == control.NAME and ino == ROOT_INO):
        raise pyfuse3.FUSEError(errno.EPERM)


def _place(error: Exception) -> str:
    """Return where an exception was raised: file and line."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return "" if frame is None else f" at {os.path.basename(frame.tb_frame.f_code.co_filename)}:{frame.tb_lineno}"
