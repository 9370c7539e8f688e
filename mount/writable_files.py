"""Changing the files of a volume: what the kernel asks for, as operations under locks."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any

import pyfuse3

from format.superblock import ROOT_INO
from mount import control
from mount.callers import creator, known_caller
from mount.kernel_cache import KernelCache
from mount.open_file import AnswerBuffers
from mount.operating import Operating
from mount.preparation import RootDirectory
from mount.shared_files import Report, Seen, SharedFiles
from mount.volume_client import VolumeClient
from mount.writable_open_file import WritableOpenFile
from scoutfs.files.acl_writing import remove_attribute as remove
from scoutfs.files.acl_writing import set_attribute
from scoutfs.files.allocation import Preallocation
from scoutfs.files.attributes import NewAttributes, set_attributes
from scoutfs.files.caller import ROOT, Caller
from scoutfs.files.create import create, symlink
from scoutfs.files.errors import Exists, IsADirectory, NotPermitted, WrongType
from scoutfs.files.inode import Inode
from scoutfs.files.linking import link, rmdir, unlink
from scoutfs.files.rename import Names


class WritableFiles(SharedFiles):
    """All requests for files.  They raise ScoutfsError or OSError.

    The kernel checks permissions, also those to change attributes, and takes set-id bits away where that is due.
    """

    def __init__(
        self,
        client: VolumeClient,
        cache: KernelCache,
        root: RootDirectory,
        report: Report,
        log: Callable[[int, str], None],
        *,
        acl: bool,
        preallocation: Callable[[], Preallocation] = Preallocation,
    ) -> None:
        super().__init__(client, cache, root, report, acl=acl)
        self._operating = Operating(client, cache, log)
        self._preallocation = preallocation
        self._buffers = AnswerBuffers()

    async def setattr(self, ino: int, attr: Any, fields: Any, ctx: Any) -> pyfuse3.EntryAttributes:
        if fields.update_size:
            await self._operating.truncate(ino, attr.st_size, known_caller(ctx) if ctx.uid else ROOT)
        new = NewAttributes(
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            atime=attr.st_atime_ns if fields.update_atime else None,
            # a new size brings a new time with it
            mtime=attr.st_mtime_ns if fields.update_mtime and not fields.update_size else None,
        )
        if new != NewAttributes():
            inode = await self._operating.perform(set_attributes, ino, new, ROOT)
            return self._attributes(Seen(inode, self._client.generation(ino)))
        return await self.getattr(ino, ctx)

    async def mknod(self, dir_ino: int, name: bytes, mode: int, device: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._created(dir_ino, await self._create(dir_ino, name, mode, creator(ctx), device=device))

    async def mkdir(self, dir_ino: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        mode = stat.S_IFDIR | stat.S_IMODE(mode)
        return self._created(dir_ino, await self._create(dir_ino, name, mode, creator(ctx)))

    async def symlink(self, dir_ino: int, name: bytes, target: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        ino = await self._client.new_ino(directory=False)
        return self._created(dir_ino, await self._operating.perform(symlink, dir_ino, name, ino, target, creator(ctx)))

    async def link(self, ino: int, dir_ino: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._created(dir_ino, await self._operating.perform(link, ino, dir_ino, name))

    async def unlink(self, dir_ino: int, name: bytes, ctx: Any) -> None:
        self._unlinked(await self._operating.perform(unlink, dir_ino, name))

    async def rmdir(self, dir_ino: int, name: bytes, ctx: Any) -> None:
        self._unlinked(await self._operating.perform(rmdir, dir_ino, name))

    async def rename(self, names: Names, flags: int, ctx: Any) -> None:
        replaced = await self.ino_of(names.new_dir, names.new_name)
        await self._client.rename(names, flags)
        if replaced is not None:
            self._cache.lost_a_name(replaced)

    async def setxattr(self, ino: int, name: bytes, value: bytes, ctx: Any) -> None:
        await self._operating.perform(set_attribute, ino, name, value, known_caller(ctx))

    async def removexattr(self, ino: int, name: bytes, ctx: Any) -> None:
        await self._operating.perform(remove, ino, name, known_caller(ctx))

    async def create(
        self, dir_ino: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[WritableOpenFile, pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """Create a regular file, or find it, and open it; the handle of the information is left open."""
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        try:
            inode = await self._create(dir_ino, name, mode, creator(ctx))
            entry = self._created(dir_ino, inode)
        except Exists:
            # another mount was faster
            if flags & os.O_EXCL:
                raise
            entry = await self.lookup(dir_ino, name, ctx)
            try:
                file, info = await self.open(entry.st_ino, flags, ctx)
            except BaseException:
                self._cache.forget(entry.st_ino, 1)
                raise
            return file, info, entry
        file, info = self._opened(inode, flags, ctx)
        return file, info, entry

    async def open(self, ino: int, flags: int, ctx: Any) -> tuple[WritableOpenFile, pyfuse3.FileInfo]:
        """Open a regular file; the handle of the information is left open."""
        if flags & os.O_TRUNC:
            await self._operating.truncate(ino, 0, known_caller(ctx) if ctx.uid else ROOT)
        inode = (await self.look(ino)).inode
        if not inode.is_regular:
            raise IsADirectory(f"inode {ino} is a directory") if inode.is_directory else WrongType("no regular file")
        return self._opened(inode, flags, ctx)

    async def sync(self) -> None:
        """Have everything that was done before on the devices."""
        await self._client.sync()

    def _opened(self, inode: Inode, flags: int, ctx: Any) -> tuple[WritableOpenFile, pyfuse3.FileInfo]:
        file = WritableOpenFile(self._operating, self._buffers, inode, flags, ctx.pid, self._preallocation)
        return file, pyfuse3.FileInfo(direct_io=file.direct_io, keep_cache=file.keep_cache)

    async def _create(self, dir_ino: int, name: bytes, mode: int, caller: Caller, *, device: int = 0) -> Inode:
        if dir_ino == ROOT_INO and name == control.NAME:
            raise NotPermitted("this name is that of the control directory")
        ino = await self._client.new_ino(directory=stat.S_ISDIR(mode))
        # the kernel has applied the umask
        return await self._operating.perform(create, dir_ino, name, ino, mode, caller, umask=0, device=device)

    def _created(self, dir_ino: int, inode: Inode) -> pyfuse3.EntryAttributes:
        """Return the answer for a new name."""
        generation = self._client.generation(inode.ino)
        name_timeout = self._cache.name_timeout(dir_ino, self._client.generation(dir_ino))
        return self._named(Seen(inode, generation), name_timeout)

    def _unlinked(self, inode: Inode) -> None:
        if not inode.nlink:
            self._cache.lost_a_name(inode.ino)
