"""Copies trees: every file under a temporary name that it exchanges for its own when it is complete."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import stat
from collections import OrderedDict
from dataclasses import dataclass
from typing import Self

from scoutfs.errors import ScoutfsError
from scoutfs.files.errors import OfflineError
from scoutfs.files.filesystem import READ_SIZE, Filesystem
from scoutfs.files.inode import BLOCK_SIZE, Inode
from scoutfs.tools.cp import attributes
from scoutfs.tools.cp.progress import Advance
from scoutfs.tools.cp.report import Report
from scoutfs.tools.reading.describe import type_name
from scoutfs.tools.reading.names import shown
from scoutfs.tools.reading.walk import Visited, join, walk

PARTIAL = b".partial"
"""Behind the name of a copy that lacks something."""

_TEMPORARY = b".scoutfs-cp.%d"
_LINKS_REMEMBERED = 50_000
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


class TargetError(ScoutfsError):
    """The target cannot take anything more."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to copy."""

    with_owner: bool = True
    partial: bool = False
    fsync: bool = False

    @classmethod
    def of(cls, args: argparse.Namespace) -> Self:
        """Return what the command line asks for."""
        return cls(with_owner=not args.no_owner, partial=args.partial, fsync=args.fsync)


@dataclass(frozen=True, slots=True)
class _Directory:
    """A directory of the target, open: `base` is a short path to it, `path` its real one."""

    fd: int
    path: bytes

    @classmethod
    def open(cls, path: bytes, real_path: bytes) -> Self:
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC), real_path)

    @property
    def base(self) -> bytes:
        return b"/proc/self/fd/%d" % self.fd

    def close(self) -> None:
        os.close(self.fd)


class Copier:
    """Copies from `files`; problems are told to `report`, and do not stop it."""

    def __init__(self, files: Filesystem, settings: Settings, report: Report, advance: Advance) -> None:
        self._files, self._settings, self._report, self._advance = files, settings, report, advance
        self._links: OrderedDict[int, bytes] = OrderedDict()
        """Where files with several links were copied to."""
        self._source = self._target = b""

    def copy(self, inode: Inode, source: bytes, directory: bytes, name: bytes) -> None:
        """Copy what is at `source`, with all below it, into a directory of this host as `name`, or as the directory.

        Raises TargetError, and ScoutfsError if the directory cannot be made or opened.
        """
        self._source, self._target = source.strip(b"/"), join(directory, name) if name else directory
        try:
            os.makedirs(directory, exist_ok=True)
            top = _Directory.open(directory.rstrip(b"/") + b"/.", directory)
        except OSError as error:
            self._check(error)
            raise ScoutfsError(f"{os.fsdecode(error.filename)}: {error.strerror}", error.errno or 0) from error
        try:
            self._copy_tree(inode, source, top, name)
        finally:
            top.close()

    def _copy_tree(self, start: Inode, source: bytes, top: _Directory, name: bytes) -> None:
        open_directories: list[_Directory | None] = [top]

        def report(path: bytes, error: ScoutfsError) -> None:
            self._report.add(path, "read", error)

        def descend(visited: Visited) -> bool:
            return open_directories[-1] is not None

        try:
            for visited in walk(self._files, start, source, report, descend=descend, leaving=True):
                name_there = visited.name if visited.depth else name
                if visited.leaving:
                    self._leave(open_directories.pop(), visited)
                    continue
                parent = open_directories[-1]
                assert parent is not None
                if visited.inode.is_directory:
                    open_directories.append(self._enter(parent, name_there, visited))
                else:
                    self._copy_file(parent, name_there, visited)
        finally:
            for directory in open_directories[1:]:
                if directory is not None:
                    directory.close()

    def _enter(self, parent: _Directory, name: bytes, visited: Visited) -> _Directory | None:
        """Make a directory that only we can use for now; return None if that fails."""
        path = join(parent.base, name or b".")
        try:
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                _make_writable(path)
            return _Directory.open(path, join(parent.path, name) if name else parent.path)
        except OSError as error:
            self._check(error)
            self._report.add(visited.path, "create", error)
            return None

    def _leave(self, directory: _Directory | None, visited: Visited) -> None:
        if directory is None:
            return
        try:
            # With a slash at its end, the path leads to the directory even if its mode lets nobody search in it.
            self._apply(visited, directory.base + b"/")
        finally:
            directory.close()
        self._advance(1, 0)

    def _apply(self, visited: Visited, path: bytes) -> None:
        settings, report = self._settings, self._report
        try:
            attributes.apply(self._files, visited.inode, visited.path, path, report, with_owner=settings.with_owner)
            attributes.apply_times(visited.inode, visited.path, path, report)
        except OSError as error:
            self._check(error)
            report.add(visited.path, "attributes", error)

    def _copy_file(self, parent: _Directory, name: bytes, visited: Visited) -> None:
        inode = visited.inode
        path = join(parent.base, name)
        size = 0
        try:
            there = self._is_there(path, inode)
            if inode.nlink > 1 and self._linked(parent, name, visited, there=there):
                self._report.copied += not there
                self._report.kept += there
            elif there:
                self._apply(visited, path)
                self._report.kept += 1
            elif self._created(parent, name, visited):
                self._report.copied += 1
                size = inode.online_blocks * BLOCK_SIZE
            else:
                return
            if inode.nlink > 1:
                self._remember(inode.ino, join(parent.path, name))
        except OSError as error:
            self._check(error)
            self._report.add(visited.path, "create", error)
        except ScoutfsError as error:
            self._report.add(visited.path, "read", error)
        finally:
            self._advance(1, size)

    def _is_there(self, path: bytes, inode: Inode) -> bool:
        """Whether the copy was made before: what is there is of the same type, size and time, or node, or target."""
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return False
        if stat.S_IFMT(found.st_mode) != stat.S_IFMT(inode.mode):
            return False
        if inode.is_regular:
            return (found.st_size, found.st_mtime_ns) == (inode.size, inode.mtime)
        if inode.is_symlink:
            return os.readlink(path) == self._files.readlink(inode.ino)
        return found.st_rdev == inode.device_number

    def _linked(self, parent: _Directory, name: bytes, visited: Visited, *, there: bool) -> bool:
        """Make the copy a link to an earlier copy of the same inode, if there is one."""
        known = self._links.get(visited.inode.ino)
        path = join(parent.base, name)
        if known is None:
            known = None if there else self._earlier_copy(visited)
        if known is None:
            return False
        if there and os.path.samestat(os.lstat(known), os.lstat(path)):
            return True
        temporary = join(parent.base, _TEMPORARY % visited.inode.ino)
        _remove(temporary)
        try:
            os.link(known, temporary, follow_symlinks=False)
        except OSError as error:
            self._check(error)
            self._report.add(visited.path, "link", error)
            return False
        os.rename(temporary, path)
        return True

    def _earlier_copy(self, visited: Visited) -> bytes | None:
        """Look for a copy of the inode that an earlier run made, or this one too long ago to remember."""
        for path, _ in self._files.paths(visited.inode.ino):
            if self._source and not path.startswith(self._source + b"/"):
                continue
            candidate = join(self._target, path[len(self._source) :].lstrip(b"/"))
            with contextlib.suppress(OSError):
                if self._is_there(candidate, visited.inode):
                    return candidate
        return None

    def _remember(self, ino: int, path: bytes) -> None:
        self._links.setdefault(ino, path)
        self._links.move_to_end(ino)
        if len(self._links) > _LINKS_REMEMBERED:
            self._links.popitem(last=False)

    def _created(self, parent: _Directory, name: bytes, visited: Visited) -> bool:
        """Make the copy; return False if nothing was made, which is reported."""
        inode = visited.inode
        temporary = join(parent.base, _TEMPORARY % inode.ino)
        _remove(temporary)
        try:
            complete = self._make(temporary, visited)
            if not complete and not self._settings.partial:
                _remove(temporary)
                return False
            self._apply(visited, temporary)
            os.rename(temporary, join(parent.base, name if complete else name + PARTIAL))
        except BaseException:
            _remove(temporary)
            raise
        return complete

    def _make(self, temporary: bytes, visited: Visited) -> bool:
        """Make the file itself; return False if contents are missing, which is reported."""
        inode = visited.inode
        if inode.is_regular:
            return self._contents(temporary, visited)
        if inode.is_symlink:
            os.symlink(self._files.readlink(inode.ino), temporary)
        elif stat.S_IFMT(inode.mode) in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK):
            os.mknod(temporary, stat.S_IFMT(inode.mode) | 0o600, inode.device_number)
        else:
            raise ScoutfsError(f"mode {inode.mode:#o}: {type_name(inode)} type")
        return True

    def _contents(self, temporary: bytes, visited: Visited) -> bool:
        """Write the contents; return False if something is missing, which is reported."""
        inode = visited.inode
        complete = True
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            for start, length in self._files.data_segments(inode.ino):
                for offset in range(start, start + length, READ_SIZE):
                    size = min(READ_SIZE, start + length - offset)
                    complete = self._piece(fd, visited, offset, size) and complete
                    if not complete and not self._settings.partial:
                        return False
            os.ftruncate(fd, inode.size)
            if self._settings.fsync:
                os.fsync(fd)
        finally:
            os.close(fd)
        return complete

    def _piece(self, fd: int, visited: Visited, offset: int, size: int) -> bool:
        """Copy a piece; what cannot be read of it is reported, once for a piece that is offline."""
        try:
            _write(fd, self._files.read(visited.inode.ino, offset, size), offset)
            return True
        except OfflineError as error:
            self._report.add(visited.path, "offline", error)
        except ScoutfsError as error:
            self._report.add(visited.path, "contents", error)
        if self._settings.partial and size > BLOCK_SIZE:
            for block in range(offset, offset + size, BLOCK_SIZE):
                with contextlib.suppress(ScoutfsError):
                    rest = min(BLOCK_SIZE, offset + size - block)
                    _write(fd, self._files.read(visited.inode.ino, block, rest), block)
        return False

    def _check(self, error: OSError) -> None:
        """Raise TargetError if nothing more can be written."""
        if error.errno in _FULL:
            raise TargetError(f"{shown(self._target)}: {error.strerror}", error.errno) from error


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _remove(path: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _make_writable(directory: bytes) -> None:
    """Let us write into a directory of an earlier run, which has its final mode already."""
    found = os.lstat(directory)
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and found.st_mode & 0o700 != 0o700:
        os.chmod(directory, stat.S_IMODE(found.st_mode) | 0o700)
