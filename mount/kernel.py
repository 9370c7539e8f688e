"""Attaching to and detaching from the kernel: mount(2), fusermount3 where that is not permitted, the mount table.

The binding is handed a FUSE descriptor that is mounted already: so every refusal of the kernel can be told, and every
option of any filesystem works as for others.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
from dataclasses import dataclass

from mount.options import MountFlag, MountOptions
from scoutfs.errors import ScoutfsError

SUBTYPE = "scoutfs"
FILESYSTEM_TYPE = f"fuse.{SUBTYPE}"
"""What the mount table calls the filesystem."""

_DEVICE = "/dev/fuse"
_CLONE_NEWNS = 0x00020000
_MNT_FORCE, _MNT_DETACH, _UMOUNT_NOFOLLOW = 1, 2, 8
_HELPER_SECONDS = 30


class AttachError(ScoutfsError):
    """The kernel, or fusermount3 on our behalf, refused to mount or to unmount."""


@dataclass(frozen=True, slots=True)
class MountEntry:
    """A line of the mount table."""

    mount_id: int
    device: str
    target: str
    type: str
    source: str


def mount_table(text: str | None = None) -> list[MountEntry]:
    """Return the mounts of this process's namespace, later ones behind those they hide.  `text` is for tests."""
    if text is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            text = table.read()
    entries = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, source, *_) = left.split(" "), right.split(" ")
        entries.append(MountEntry(int(fields[0]), fields[2], _unescaped(fields[4]), kind, _unescaped(source)))
    return entries


def mounted_at(target: str, table: list[MountEntry] | None = None) -> MountEntry | None:
    """Return what is mounted at the absolute path `target`, on top, None if nothing is."""
    entries = mount_table() if table is None else table
    return next((entry for entry in reversed(entries) if entry.target == target), None)


def attach(source: str, directory: str, options: MountOptions, *, root_mode: int) -> int:
    """Mount on `directory` and return the FUSE descriptor.  Raises AttachError."""
    if os.geteuid() != 0:
        return _attach_with_helper(source, directory, options)
    fd = _open_device()
    try:
        _mount(source, directory, FILESYSTEM_TYPE, options.flags, kernel_options(fd, options, root_mode))
    except OSError as error:
        os.close(fd)
        raise AttachError(_mount_refusal(directory, error), error.errno or errno.EIO) from error
    return fd


def kernel_options(fd: int, options: MountOptions, root_mode: int) -> str:
    """Return the data argument of mount(2).

    As for any filesystem everybody may use what root has mounted, unless the options say otherwise.
    """
    items = [f"fd={fd}", f"rootmode={root_mode:o}", f"user_id={os.getuid()}", f"group_id={os.getgid()}"]
    items.append("default_permissions")
    if options.allow_other is not False:
        items.append("allow_other")
    return ",".join([*items, *options.security])


def remount(directory: str, flags: MountFlag) -> None:
    """Give the mount at `directory` other flags.  Raises AttachError."""
    try:
        _mount("none", directory, FILESYSTEM_TYPE, flags | MountFlag.REMOUNT, "")
    except OSError as error:
        raise AttachError(f"remounting {directory}: {error.strerror}", error.errno or errno.EIO) from error


def detach(directory: str, *, lazy: bool = False, force: bool = False) -> None:
    """Unmount `directory`; raises AttachError, with errno EBUSY while it is in use.

    `lazy` takes it out of sight at once, whoever still uses it; `force` aborts what is in progress.
    """
    if os.geteuid() != 0:
        _detach_with_helper(directory, lazy=lazy)
        return
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0) | (_MNT_FORCE if force else 0)
    if _libc().umount2(os.fsencode(directory), flags) != 0:
        number = ctypes.get_errno()
        text = "is in use" if number == errno.EBUSY else os.strerror(number)
        raise AttachError(f"{directory}: {text}", number)


def enter_mount_namespace(namespace: str) -> None:
    """Enter the mount namespace of a process number or at a path.  Raises AttachError."""
    path = f"/proc/{namespace}/ns/mnt" if namespace.isdigit() else namespace
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise AttachError(f"mount namespace {namespace}: {error.strerror}", error.errno or errno.EIO) from error
    try:
        if _libc().setns(fd, _CLONE_NEWNS) != 0:
            number = ctypes.get_errno()
            raise AttachError(f"mount namespace {namespace}: {os.strerror(number)}", number)
    finally:
        os.close(fd)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _mount(source: str, directory: str, kind: str, flags: int, data: str) -> None:
    arguments = [os.fsencode(text) for text in (source, directory, kind)]
    if _libc().mount(*arguments, ctypes.c_ulong(flags), os.fsencode(data)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _open_device() -> int:
    try:
        return os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        text = f"{_DEVICE}: {error.strerror}"
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            text += ": this kernel has no FUSE; try 'modprobe fuse'"
        raise AttachError(text, error.errno or errno.EIO) from error


def _mount_refusal(directory: str, error: OSError) -> str:
    text = f"mounting on {directory}: {error.strerror}"
    if error.errno == errno.ENODEV:
        return f"{text}: this kernel has no FUSE; try 'modprobe fuse'"
    if error.errno == errno.EPERM:
        return f"{text}: this needs the capability CAP_SYS_ADMIN"
    return text


def _attach_with_helper(source: str, directory: str, options: MountOptions) -> int:
    import subprocess

    items = [name for flag, name in _HELPER_NAMES if options.flags & flag] or ["rw"]
    escaped = source.replace("\\", "\\\\").replace(",", "\\,")
    items += [f"fsname={escaped}", f"subtype={SUBTYPE}", "default_permissions", *options.security]
    if options.allow_other:
        items.append("allow_other")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        command = ["fusermount3", "-o", ",".join(items), "--", directory]
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        try:
            done = subprocess.run(
                command,
                pass_fds=(theirs.fileno(),),
                env=environment,
                capture_output=True,
                timeout=_HELPER_SECONDS,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise AttachError(f"fusermount3, which mounts for users who are not root: {error}", errno.EPERM) from error
        if done.returncode != 0:
            raise AttachError(_one_line(done.stderr) or f"fusermount3 failed on {directory}", errno.EPERM)
        ours.settimeout(_HELPER_SECONDS)
        with contextlib.suppress(OSError):
            _, fds, _, _ = socket.recv_fds(ours, 1, 1)
            if fds:
                os.set_inheritable(fds[0], False)
                return fds[0]
    raise AttachError(f"fusermount3 mounted {directory} but handed over no descriptor", errno.EIO)


_HELPER_NAMES = (
    (MountFlag.RDONLY, "ro"),
    (MountFlag.NOSUID, "nosuid"),
    (MountFlag.NODEV, "nodev"),
    (MountFlag.NOEXEC, "noexec"),
    (MountFlag.SYNCHRONOUS, "sync"),
    (MountFlag.DIRSYNC, "dirsync"),
    (MountFlag.NOATIME, "noatime"),
)


def _detach_with_helper(directory: str, *, lazy: bool) -> None:
    import subprocess

    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", directory]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_HELPER_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise AttachError(f"fusermount3, which unmounts for users who are not root: {error}", errno.EPERM) from error
    if done.returncode != 0:
        text = _one_line(done.stderr) or f"fusermount3 failed on {directory}"
        raise AttachError(text, errno.EBUSY if "busy" in text else errno.EPERM)


def _one_line(output: bytes) -> str:
    return " ".join(output.decode(errors="replace").split())


def _unescaped(field: str) -> str:
    """Undo the octal escapes of the mount table."""
    if "\\" not in field:
        return field
    for code in ("\\040", "\\011", "\\012", "\\043"):
        field = field.replace(code, chr(int(code[1:], 8)))
    return field.replace("\\134", "\\")
