"""Open files of the volume: reading their contents."""

from __future__ import annotations

import errno
import logging
import mmap
import os
from collections.abc import Callable

import trio

from format.checksum import Buffer
from mount.reading import VolumeReader
from scoutfs.files.errors import NotFound, OfflineError
from scoutfs.files.extent_map import ExtentMap, Piece, read_map, read_pieces
from scoutfs.files.inode import BLOCK_SIZE, Inode
from scoutfs.storage.device import AlignedBuffers

LARGEST_KEPT, MOST_KEPT = 1 << 20, 16
"""Size of the largest buffers that are kept for the next answers, and how many of each size."""

ZEROS = memoryview(bytes(LARGEST_KEPT))


class AnswerBuffers:
    """Memory for answers to the kernel that is used again.

    The binding writes an answer as soon as its handler returns, before any other task runs.  So what a handler hands
    out with its last step is free again when the next one asks for memory.
    """

    def __init__(self) -> None:
        self._buffers = AlignedBuffers(kept_size_max=LARGEST_KEPT, kept_per_size=MOST_KEPT)
        self._handed_out: list[mmap.mmap] = []

    def take(self, length: int) -> mmap.mmap:
        """Return memory of at least `length` bytes."""
        while self._handed_out:
            self._buffers.give(self._handed_out.pop())
        return self._buffers.take(length)

    def hand_out(self, buffer: mmap.mmap) -> None:
        """Note that `buffer` is part of an answer: nothing may be awaited any more before that is returned."""
        self._handed_out.append(buffer)


class OpenFile:
    """An open regular file, with its inode and a part of its map in memory: most readings ask only the data device.

    `pid` is the thread that opened it; readings do not tell who waits for them.
    """

    def __init__(
        self,
        reader: VolumeReader,
        buffers: AnswerBuffers,
        inode: Inode,
        pid: int,
        log: Callable[[int, str], None],
    ) -> None:
        self._reader, self._buffers, self._inode, self.pid, self._log = reader, buffers, inode, pid, log
        self._generation = reader.generation
        self._map: ExtentMap | None = None

    async def read(self, offset: int, size: int) -> Buffer:
        """Return up to `size` bytes from `offset` on, fewer only at the end of the file; holes are zeros.

        They are good until the next call of this method of any file.

        What is in the archive is waited for, as in the original (spec 06 §5.8): until another mount has staged it, or
        the thread that opened the file is interrupted.  Where nobody can do that it raises OfflineError.
        """
        while True:
            generation = await self._reader.fresh(self.pid)
            if generation != self._generation:
                await self._reload(generation)
            stop = min(offset + size, self._inode.size)
            if stop <= offset:
                return b""
            first, last = offset // BLOCK_SIZE, (stop - 1) // BLOCK_SIZE
            known = self._map
            if known is None or not known.covers(first, last):
                self._map = known = await self._reader.ask(self.pid, self._read_map, first, last)
            try:
                pieces = known.pieces(first, last)
            except OfflineError as error:
                await self._wait_for_staging(error, generation)
                continue
            return await self._read_pieces(pieces, offset - first * BLOCK_SIZE, stop - offset)

    async def write(self, offset: int, data: bytes) -> int:
        """Refuse: it is open for reading."""
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def close(self) -> None:
        """Do nothing: nobody keeps account of open files."""

    def _read_map(self, first: int, last: int) -> ExtentMap:
        files = self._reader.files
        blocks = files.volume.data.size // BLOCK_SIZE
        return files.forest.run(lambda items: read_map(items, self._inode.ino, blocks, first, last))

    async def _read_pieces(self, pieces: list[Piece], skipped: int, size: int) -> Buffer:
        if len(pieces) == 1 and not pieces[0].blkno and size <= len(ZEROS):
            return ZEROS[:size]
        length = sum(piece.length for piece in pieces) * BLOCK_SIZE
        buffer = self._buffers.take(length)
        contents = memoryview(buffer)[:length]
        device = self._reader.files.volume.data
        # a thread that is abandoned goes on to write into the buffer, which is given to nobody else then
        await trio.to_thread.run_sync(
            read_pieces, device, pieces, contents, limiter=self._reader.data_threads, abandon_on_cancel=True
        )
        self._buffers.hand_out(buffer)
        return contents[skipped : skipped + size]

    async def _reload(self, generation: int) -> None:
        try:
            self._inode = await self._reader.ask(self.pid, self._reader.files.inode, self._inode.ino)
        except NotFound as error:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from error
        self._generation, self._map = generation, None

    async def _wait_for_staging(self, error: OfflineError, generation: int) -> None:
        if self._reader.unchanging:
            raise error
        self._log(logging.WARNING, f"{error}; a reader waits until another mount does")
        await self._reader.wait_for_change(self.pid, generation)
