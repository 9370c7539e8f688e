"""The `.scoutfs` directory as a model: the sysfs directory of this mount, and what we add to it (spec 02 §9.1).

Knows nothing of FUSE.  Every file is made of what is in memory when it is read: nothing here waits, for a server, a
device or a lock.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn, Protocol, TypeAlias

from mount.options import COMPACT_DELAY, NUMBERS, MountOptions, NumberOption, OptionError, option_string
from scoutfs.counters import COUNTER_NAMES
from scoutfs.quorum.status import PAGE_SIZE, QuorumStatus, format_status

NAME = b".scoutfs"
"""Name of the directory in the root of the mount: found by those who know it, listed for nobody."""

FIRST_INO = 1 << 63
"""Inode numbers from here on are ours; those of a volume count up from 1 and do not get here."""

WRITE_MAX = PAGE_SIZE
"""Bytes that one write to a file may have."""

Log = Callable[[int, str], None]


@dataclass(frozen=True, slots=True)
class File:
    """A file: `read` makes its whole contents, `write` takes what one write(2) gave; both may raise OSError."""

    read: Callable[[], bytes]
    write: Callable[[bytes], None] | None = None

    @property
    def mode(self) -> int:
        """Type and permissions."""
        return stat.S_IFREG | (0o444 if self.write is None else 0o644)


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory: `entries` makes its present contents."""

    entries: Callable[[], Mapping[str, Node]]

    @property
    def mode(self) -> int:
        """Type and permissions."""
        return stat.S_IFDIR | 0o755


Node: TypeAlias = File | Directory


class Fence(Protocol):
    """A fence request, as `fence/` shows it."""

    @property
    def rid(self) -> int: ...
    @property
    def address(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def fenced(self) -> bool: ...
    @property
    def error(self) -> bool: ...
    def age(self, now: float) -> int: ...


class Member(Protocol):
    """What the directory shows of the member, and what it tells it."""

    @property
    def status(self) -> QuorumStatus | None: ...
    @property
    def is_leader(self) -> bool: ...
    @property
    def fences(self) -> Iterable[Fence]: ...
    def answer_fence(self, rid: int, answer: Literal["fenced", "error"], /) -> None: ...


class Mount(Protocol):
    """What the directory shows of a mount.  Texts end with a newline or are empty."""

    @property
    def device(self) -> tuple[int, int]: ...
    @property
    def fmt_vers(self) -> int: ...
    @property
    def fsid(self) -> int: ...
    @property
    def rid(self) -> int: ...
    @property
    def metadata_path(self) -> str: ...
    @property
    def data_alloc_zone_blocks(self) -> int | None: ...
    @property
    def options(self) -> RunningOptions: ...
    @property
    def member(self) -> Member | None: ...
    @property
    def leaving(self) -> bool: ...
    def now(self) -> float: ...
    def counters(self) -> Mapping[str, int]: ...
    def log(self, level: int, text: str, /) -> None: ...
    def connection_text(self) -> str: ...
    def waiting_text(self) -> str: ...
    def pids_text(self) -> str: ...
    def log_text(self) -> str: ...
    def errors_text(self) -> str: ...
    def requests_text(self) -> str: ...
    def control_text(self) -> str: ...


class RunningOptions:
    """The numeric options of a running mount; those that are writable change, and who asked is told at once."""

    def __init__(self, given: MountOptions, log: Log, on_change: Callable[[str, int], None]) -> None:
        self.given = given
        self._values = {**given.numbers, COMPACT_DELAY.name: COMPACT_DELAY.default}
        self._log, self._on_change = log, on_change

    def __getitem__(self, name: str) -> int:
        return self._values[name]

    @property
    def text(self) -> str:
        """The option string with the present values."""
        return option_string(self.given, {name: self._values[name] for name in NUMBERS})

    def write(self, option: NumberOption, data: bytes) -> None:
        """Take what was written to the file of `option`; what is refused is logged and raises OSError (EINVAL)."""
        try:
            # as in the original: one newline behind the number is no part of it
            value = option.parse(data.decode("ascii", "backslashreplace").removesuffix("\n"))
        except OptionError as error:
            self._log(logging.ERROR, f"{error}, it stays {self._values[option.name]}")
            raise OSError(errno.EINVAL, str(error)) from error
        if value != self._values[option.name]:
            self._values[option.name] = value
            self._on_change(option.name, value)


def control_directory(mount: Mount) -> Directory:
    """Return the root of the tree that shows `mount`."""
    files = _identity_files(mount) | _own_files(mount)
    directories: dict[str, Node] = {
        "counters": _counters(mount),
        "srch": _fixed({COMPACT_DELAY.name: _option_file(mount.options, COMPACT_DELAY)}),
        "volume_options": _fixed({"data_alloc_zone_blocks": _zone_blocks_file(mount)}),
    }
    if mount.member is not None:
        directories["quorum"] = _quorum(mount, mount.member)
        directories["fence"] = _fences(mount, mount.member)
    always = {**files, **directories}
    while_mounted = {**always, "mount_options": _mount_options(mount)}
    # the original takes the options away first when it unmounts: nothing may change them under way
    return Directory(lambda: always if mount.leaving else while_mounted)


class ControlTree:
    """The nodes below a directory by inode number.

    A number belongs to a path as long as the kernel remembers it; what is no longer there raises OSError (ENOENT).
    """

    def __init__(self, root: Directory) -> None:
        self._root = root
        self._paths: dict[int, tuple[str, ...]] = {FIRST_INO: ()}
        self._numbers: dict[tuple[str, ...], int] = {(): FIRST_INO}
        self._lookups: dict[int, int] = {}
        self._next = FIRST_INO + 1

    def node(self, ino: int) -> Node:
        """Return the node with the number `ino`."""
        node: Node = self._root
        for name in self._path(ino):
            node = self._entries(node).get(name) or _absent()
        return node

    def lookup(self, parent: int, name: bytes) -> tuple[int, Node]:
        """Return number and node of `name` in the directory `parent`; the kernel will remember it once more."""
        text = os.fsdecode(name)
        node = self._entries(self.node(parent)).get(text) or _absent()
        ino = self._number((*self._path(parent), text))
        self.remember(ino)
        return ino, node

    def entries(self, ino: int) -> list[tuple[bytes, int, Node]]:
        """Return name, number and node of everything in the directory `ino`, in the order of names."""
        path = self._path(ino)
        entries = self._entries(self.node(ino))
        return [(os.fsencode(name), self._number((*path, name)), node) for name, node in sorted(entries.items())]

    def parent(self, ino: int) -> int:
        """Return the number of the directory that holds `ino`; that of the root is its own."""
        return self._number(self._path(ino)[:-1])

    def remember(self, ino: int) -> None:
        """Note that the kernel was told of `ino` once more."""
        self._lookups[ino] = self._lookups.get(ino, 0) + 1

    def forget(self, ino: int, count: int) -> None:
        """Note that the kernel forgets `count` times that it was told of `ino`."""
        left = self._lookups.get(ino, 0) - count
        if left > 0:
            self._lookups[ino] = left
            return
        self._lookups.pop(ino, None)
        # numbers of lasting nodes are kept: there are few, and links and daemons may compare them
        path = self._paths.get(ino, ())
        if path[:1] == ("fence",) and len(path) > 1:
            del self._paths[ino], self._numbers[path]

    def _path(self, ino: int) -> tuple[str, ...]:
        return self._paths[ino] if ino in self._paths else _absent()

    def _number(self, path: tuple[str, ...]) -> int:
        ino = self._numbers.get(path)
        if ino is None:
            ino = self._next
            self._next += 1
            self._numbers[path], self._paths[ino] = ino, path
        return ino

    @staticmethod
    def _entries(node: Node) -> Mapping[str, Node]:
        if isinstance(node, File):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return node.entries()


def _identity_files(mount: Mount) -> dict[str, Node]:
    return {
        "data_device_maj_min": _text_file(lambda: "{}:{}\n".format(*mount.device)),
        "format_version": _text_file(lambda: f"{mount.fmt_vers}\n"),
        "fsid": _text_file(lambda: f"{mount.fsid:016x}\n"),
        "rid": _text_file(lambda: f"{mount.rid:016x}\n"),
    }


def _own_files(mount: Mount) -> dict[str, Node]:
    """Files that the original does not have."""
    return {
        "connection": _text_file(mount.connection_text),
        "control": _text_file(mount.control_text),
        # looked up at each reading: the mount knows its requests only after it has made these files
        "errors": _text_file(lambda: mount.errors_text()),
        "log": _text_file(mount.log_text),
        "options": _text_file(lambda: mount.options.text + "\n"),
        "pids": _text_file(mount.pids_text),
        "requests": _text_file(lambda: mount.requests_text()),
        "waiting": _text_file(mount.waiting_text),
    }


def _counters(mount: Mount) -> Directory:
    def counter(name: str) -> File:
        return File(lambda: b"%d\n" % mount.counters().get(name, 0), _refuse_write)

    return _fixed({name: counter(name) for name in COUNTER_NAMES})


def _mount_options(mount: Mount) -> Directory:
    files: dict[str, Node] = {
        name: _option_file(mount.options, option) for name, option in NUMBERS.items() if option.writable
    }
    files["metadev_path"] = _text_file(lambda: mount.metadata_path)
    files["quorum_slot_nr"] = _text_file(lambda: f"{mount.options['quorum_slot_nr']}\n")
    return _fixed(files)


def _quorum(mount: Mount, member: Member) -> Directory:
    def status() -> str:
        return "" if member.status is None else format_status(member.status, mount.now())

    return _fixed(
        {"status": _text_file(status), "is_leader": _text_file(lambda: "1" if member.is_leader else "0")},
    )


def _fences(mount: Mount, member: Member) -> Directory:
    return Directory(lambda: {f"{fence.rid:016x}": _fence(mount, member, fence) for fence in member.fences})


def _fence(mount: Mount, member: Member, fence: Fence) -> Directory:
    def answer(which: Literal["fenced", "error"]) -> Callable[[bytes], None]:
        # whatever is written counts, "0" too (spec 02 §6.2)
        return lambda data: member.answer_fence(fence.rid, which)

    return _fixed(
        {
            "elapsed_secs": _text_file(lambda: str(fence.age(mount.now()))),
            "fenced": _text_file(lambda: str(int(fence.fenced)), answer("fenced")),
            "error": _text_file(lambda: str(int(fence.error)), answer("error")),
            "ipv4_addr": _text_file(lambda: fence.address),
            "reason": _text_file(lambda: fence.reason),
            "rid": _text_file(lambda: f"{fence.rid:016x}"),
        }
    )


def _zone_blocks_file(mount: Mount) -> File:
    def read() -> str:
        return "" if mount.data_alloc_zone_blocks is None else str(mount.data_alloc_zone_blocks)

    def write(data: bytes) -> None:
        mount.log(logging.ERROR, "volume_options/data_alloc_zone_blocks cannot be changed by this release")
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    return _text_file(read, write)


def _option_file(options: RunningOptions, option: NumberOption) -> File:
    return _text_file(lambda: str(options[option.name]), lambda data: options.write(option, data))


def _text_file(read: Callable[[], str], write: Callable[[bytes], None] | None = None) -> File:
    return File(lambda: os.fsencode(read()), write)


def _fixed(entries: Mapping[str, Node]) -> Directory:
    return Directory(lambda: entries)


def _refuse_write(data: bytes) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def _absent() -> NoReturn:
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
