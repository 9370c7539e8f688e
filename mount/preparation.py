"""Everything that can be refused is checked before anything is changed: directory, devices, slots, root.

What fails here has written nothing, registered nothing and started nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from format.acl import ACCESS_NAME
from format.superblock import ROOT_INO
from mount import kernel
from mount.control import NAME as CONTROL_NAME
from mount.options import MountOptions, check_combination
from scoutfs.errors import ScoutfsError
from scoutfs.files.errors import NoAttribute, NotFound
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.inode import Inode
from scoutfs.paths import mounts_directory
from scoutfs.quorum.registration import Host, MountRecord
from scoutfs.quorum.slots import verify_slots
from scoutfs.storage.system import SystemIO
from scoutfs.storage.volume import Volume

ANSWER_TIMEOUT = 5.0
"""Seconds in which a FUSE filesystem that is mounted on the directory must answer."""

_RECORD_SIZE = 4096


@dataclass(frozen=True, slots=True)
class MountRequest:
    """What a mount command asks for; `directory` is absolute.  `record`: mount(8) is to know the options."""

    source: str
    directory: str
    options: MountOptions
    fake: bool = False
    verbose: bool = False
    record: bool = True
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class RootDirectory:
    """The root directory as it was at some time; `acl` is its access control list as it is stored, None for none."""

    inode: Inode
    acl: bytes | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """An open volume that may be mounted at `directory`, an absolute path without symbolic links."""

    directory: str
    volume: Volume
    root: RootDirectory


def prepare(request: MountRequest, say: Callable[[str], None], *, io: SystemIO | None = None) -> Prepared:
    """Check everything and open the volume.  Raises ScoutfsError or BlockError with the one line that says why not.

    `say` is told what happens on the way that somebody should know.
    """
    check_combination(request.options)
    directory = check_directory(request.directory, say)
    writable = not request.options.norecovery
    volume = Volume.open(request.source, request.options.metadev_path, writable=writable, io=io)
    try:
        check_slot(volume, request.options)
        return Prepared(directory, volume, read_root(volume))
    except BaseException:
        volume.close()
        raise


def check_directory(path: str, say: Callable[[str], None]) -> str:
    """Return the real path of the directory to mount on.  Raises ScoutfsError if nothing can be mounted there.

    A mount of ours whose process is dead is taken away first.
    """
    directory = _real_path(path)
    while (mounted := kernel.mounted_at(directory)) is not None and mounted.type == kernel.FILESYSTEM_TYPE:
        if _answers(directory):
            raise ScoutfsError(f"{directory}: a ScoutFS volume ({mounted.source}) is mounted here", errno.EBUSY)
        say(f"{directory}: unmounting {mounted.source}, whose mount process is dead")
        kernel.detach(directory, lazy=True)
    try:
        status = os.stat(directory)
    except OSError as error:
        raise ScoutfsError(f"{path}: {error.strerror}", error.errno or errno.EIO) from error
    if not stat.S_ISDIR(status.st_mode):
        raise ScoutfsError(f"{path}: the mount point is not a directory", errno.ENOTDIR)
    return directory


def read_root(volume: Volume) -> RootDirectory:
    """Read the root directory.  Blocks.

    Raises ScoutfsError: of the device, of the tree, or (EIO) because there is no root directory in it.
    """
    what = f"{volume.metadata_path}: root inode"
    try:
        root = root_directory(Filesystem(volume))
    except NotFound as error:
        raise ScoutfsError(f"{what}: there is no item for it", errno.EIO) from error
    if not root.inode.is_directory:
        raise ScoutfsError(f"{what}: mode is {root.inode.mode:#o}, expected a directory", errno.EIO)
    return root


def root_directory(files: Filesystem) -> RootDirectory:
    """Return the root directory as it is now.  Blocks; raises as `Filesystem.inode` does."""
    root = files.inode(ROOT_INO)
    try:
        return RootDirectory(root, files.getxattr(ROOT_INO, ACCESS_NAME))
    except NoAttribute:
        return RootDirectory(root)


def check_slot(volume: Volume, options: MountOptions) -> None:
    """Check that a member may run in the slot of the options, if they have one.  Raises ScoutfsError."""
    if not options.is_member:
        return
    verify_slots(volume.super.quorum_config, options.slot)
    for record in live_mounts(mounts_directory(), Host.current().boot_id):
        if record.fsid == volume.fsid and record.slot == options.slot:
            where = f" at {record.mount_point}" if record.mount_point else ""
            pids = " and ".join(str(process.pid) for process in record.processes)
            raise ScoutfsError(
                f"quorum_slot_nr={options.slot} of this volume is mounted on this host already,{where} by process"
                f"{'es' if len(record.processes) > 1 else ''} {pids}: unmount that, or choose another slot",
                errno.EADDRINUSE,
            )


def live_mounts(directory: Path, boot_id: str) -> Iterator[MountRecord]:
    """Yield the records of mounts of this boot of this host that are alive, as far as this user may read them."""
    with contextlib.suppress(OSError):
        for path in sorted(directory.iterdir()):
            if not path.name.startswith("."):
                record = _read_live(path)
                if record is not None and record.host.boot_id == boot_id:
                    yield record


def _read_live(path: Path) -> MountRecord | None:
    """Return the record at `path` if its lock is held."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with contextlib.suppress(OSError, ValueError):
            return MountRecord.parse(os.pread(fd, _RECORD_SIZE, 0))
    except OSError:
        pass
    finally:
        os.close(fd)
    return None


def _real_path(path: str) -> str:
    """Resolve symbolic links; a dead mount at the end of the path cannot be looked into, so only its parent is."""
    absolute = os.path.abspath(path)
    parent = os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))
    if kernel.mounted_at(parent) is not None:
        return parent
    return os.path.realpath(absolute)


def _answers(directory: str) -> bool:
    """Whether the FUSE filesystem at `directory` has a process.  Raises ScoutfsError if it has one that is stuck.

    Asked in a thread: a process that is stopped makes the question wait for ever.  A file is opened since attributes
    are known to the kernel, which tells them for a while after the process has died.
    """
    path = os.path.join(directory, os.fsdecode(CONTROL_NAME), "rid")
    results: list[bool] = []

    def ask() -> None:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            results.append(True)
        except OSError as error:
            results.append(error.errno not in (errno.ENOTCONN, errno.ECONNABORTED))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_TIMEOUT)
    if not results:
        text = f"{directory}: a ScoutFS volume is mounted here, and its process does not answer"
        raise ScoutfsError(f"{text}: unmount it with umount -f", errno.EBUSY)
    return results[0]
