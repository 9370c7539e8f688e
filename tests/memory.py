"""Devices in memory, for tests that open thousands of them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from scoutfs.storage.system import SystemIO

PAGE = 4096


class Image:
    """The contents of a device: pages that are not there read as zeros."""

    def __init__(self, size: int, pages: dict[int, bytes] | None = None) -> None:
        self.size = size
        self.pages = dict(pages or {})

    @classmethod
    def of_file(cls, path: Path) -> Image:
        """Copy a file, its holes included."""
        image = cls(path.stat().st_size)
        with path.open("rb") as file:
            offset = 0
            while True:
                try:
                    offset = os.lseek(file.fileno(), offset, os.SEEK_DATA)
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
                    return image
                end = os.lseek(file.fileno(), offset, os.SEEK_HOLE)
                file.seek(offset)
                image.write(offset, file.read(end - offset))
                offset = end

    def copy(self) -> Image:
        """Return an independent image with the same contents."""
        return Image(self.size, self.pages)

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes, fewer at the end."""
        length = max(0, min(length, self.size - offset))
        first, last = offset // PAGE, (offset + length + PAGE - 1) // PAGE
        whole = b"".join(self.pages.get(page, bytes(PAGE)) for page in range(first, last))
        return whole[offset - first * PAGE :][:length]

    def write(self, offset: int, data: bytes) -> None:
        """Store `data`; zeros take no memory."""
        first, last = offset // PAGE, (offset + len(data) + PAGE - 1) // PAGE
        whole = bytearray(self.read(first * PAGE, (last - first) * PAGE).ljust((last - first) * PAGE, b"\0"))
        start = offset - first * PAGE
        whole[start : start + len(data)] = data
        for number in range(first, last):
            start = (number - first) * PAGE
            page = bytes(whole[start : start + PAGE])
            if page.strip(b"\0"):
                self.pages[number] = page
            else:
                self.pages.pop(number, None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and (self.size, self.pages) == (other.size, other.pages)

    __hash__ = None  # type: ignore[assignment]


class MemoryIO(SystemIO):
    """System calls on `images`, by path; everything is a regular file, and locks always succeed."""

    def __init__(self, images: dict[str, Image]) -> None:
        self.images = images
        self._opened: list[str] = []

    def open(self, path, flags):
        if path not in self.images:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._opened.append(path)
        return len(self._opened) - 1

    def close(self, fd):
        pass

    def stat(self, fd):
        inode = sorted(self.images).index(self._opened[fd]) + 1
        size = self.images[self._opened[fd]].size
        return os.stat_result((stat.S_IFREG | 0o600, inode, 1, 1, 0, 0, size, 0, 0, 0))

    def size(self, fd):
        return self.images[self._opened[fd]].size

    def pread(self, fd, buffer, offset):
        data = self.images[self._opened[fd]].read(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def pwrite(self, fd, buffer, offset, *, durable=False):
        self.images[self._opened[fd]].write(offset, bytes(buffer))
        return len(buffer)

    def flush(self, fd):
        pass

    def lock(self, fd, *, exclusive):
        pass

    def lock_bytes(self, fd, offset, size, *, exclusive):
        pass

    def loop_devices_of(self, fd):
        return []

    def drop_cache(self, fd):
        pass
