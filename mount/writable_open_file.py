"""Open files of a writable mount: reading and writing their contents under locks."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable

import trio

from format.checksum import Buffer
from format.keys import FsType
from mount.open_file import ZEROS, AnswerBuffers
from mount.operating import Operating, Performing
from mount.volume_client import Held
from scoutfs.errors import ScoutfsError
from scoutfs.files.allocation import Preallocation
from scoutfs.files.caller import ROOT
from scoutfs.files.errors import OfflineError
from scoutfs.files.extent_map import ExtentMap, Piece, read_map
from scoutfs.files.inode import BLOCK_SIZE, Inode, decode_inode
from scoutfs.files.items import Items, fs_key
from scoutfs.files.writing import write


class WritableOpenFile:
    """An open regular file.

    `pid` is the thread that opened it; readings and writings do not tell who waits for them.  With `direct_io` the
    kernel passes each of them on as it is, and keeps nothing: so it is for appending, where only the lock tells the
    end of the file; for contents that may be in the archive, since a reading of whole pages would wait for parts that
    nobody asked for; and for writing without reading, where the kernel would ask for an attribute before each write.
    """

    def __init__(
        self,
        operating: Operating,
        buffers: AnswerBuffers,
        inode: Inode,
        flags: int,
        pid: int,
        preallocation: Callable[[], Preallocation],
    ) -> None:
        self.ino, self.pid = inode.ino, pid
        self._operating, self._buffers, self._preallocation = operating, buffers, preallocation
        access = flags & os.O_ACCMODE
        self._appends = bool(flags & os.O_APPEND)
        self._syncs = bool(flags & os.O_DSYNC)
        self.direct_io = self._appends or access == os.O_WRONLY or inode.offline_blocks > 0
        self._maps = access == os.O_RDWR and not self.direct_io
        self.keep_cache = operating.cache.opened(self.ino, writes=self._maps) and not flags & os.O_TRUNC
        self._value: bytes | None = None
        self._inode, self._map = inode, ExtentMap(inode.ino, 1, 0, ())

    def close(self) -> None:
        """Note that nobody uses the file any more."""
        self._operating.cache.closed(self.ino, writes=self._maps)

    async def read(self, offset: int, size: int) -> Buffer:
        """Return up to `size` bytes from `offset` on, fewer only at the end of the file; holes are zeros.

        They are good until the next call of this method of any file.

        What is in the archive is waited for, as in the original (spec 06 §5.8): until it is staged, or the thread that
        opened the file is interrupted.
        """
        told = False
        first, end = offset // BLOCK_SIZE * BLOCK_SIZE, -(-(offset + size) // BLOCK_SIZE) * BLOCK_SIZE
        cache = self._operating.cache
        while True:
            try:
                if self.direct_io:
                    async with cache.reading(self.ino) as held:
                        answer, buffer = await self._read(held, offset, size)
                else:
                    async with cache.page_lock(self.ino, first, end) as held:
                        answer, buffer = await self._read(held, offset, size)
                        cache.known(self.ino).add_pages(first, end)
            except OfflineError as error:
                told = await self._operating.wait_for_staging(error, told=told)
                continue
            if buffer is not None:
                self._buffers.hand_out(buffer)
            return answer

    async def write(self, offset: int, data: bytes) -> int:
        """Write bytes, at the end if the file was opened for that; return how many, fewer only after a failure."""
        if not data:
            return 0
        if self.direct_io:
            done = await self._write(self._operating.client, offset, data)
        else:
            start = offset // BLOCK_SIZE * BLOCK_SIZE
            end = -(-(offset + len(data)) // BLOCK_SIZE) * BLOCK_SIZE
            done = await self._operating.cache.write_pages(
                self.ino, start, end, lambda through: self._write(through, offset, data)
            )
            self._operating.cache.known(self.ino).add_pages(start, end)
        if self._syncs:
            await self._operating.client.sync()
        return done

    async def _write(self, through: Performing, offset: int, data: bytes) -> int:
        rest = memoryview(data)
        at = None if self._appends else offset
        while rest:
            try:
                # the kernel has taken set-id bits away where that is due
                written = await self._operating.perform_through(
                    through, write, self.ino, at, rest, ROOT, self._preallocation()
                )
            except (ScoutfsError, OSError, trio.Cancelled):
                if len(rest) < len(data):
                    break
                raise
            rest = rest[written.length :]
            at = written.offset + written.length
        return len(data) - len(rest)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _read(self, held: Held, offset: int, size: int) -> tuple[Buffer, mmap.mmap | None]:
        """Return the bytes, and the memory that they are in if that has to be handed out."""
        pieces, length = await held.ask(self._pieces, offset, size)
        if not length:
            return b"", None
        if len(pieces) == 1 and not pieces[0].blkno and length <= len(ZEROS):
            return ZEROS[:length], None
        total = sum(piece.length for piece in pieces) * BLOCK_SIZE
        buffer = self._buffers.take(total)
        contents = memoryview(buffer)[:total]
        await held.read_blocks(pieces, contents)
        skipped = offset % BLOCK_SIZE
        return contents[skipped : skipped + length], buffer

    def _pieces(self, items: Items, offset: int, size: int) -> tuple[list[Piece], int]:
        """Return where the bytes are, from the start of their first block on, and how many of them the file has.

        What is known of the extents is true as long as the item of the inode has not changed: whatever moves data
        changes a field of it.
        """
        value = items.lookup(fs_key(self.ino, FsType.INODE))
        if value is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        client = self._operating.client
        if value != self._value:
            self._inode, self._value = decode_inode(self.ino, value, client.fmt_vers), value
            self._map = ExtentMap(self.ino, 1, 0, ())
        stop = min(offset + size, self._inode.size)
        if stop <= offset:
            return [], 0
        first, last = offset // BLOCK_SIZE, (stop - 1) // BLOCK_SIZE
        if not self._map.covers(first, last):
            self._map = read_map(items, self.ino, client.total_data_blocks, first, last)
        return self._map.pieces(first, last), stop - offset
