"""Unix sockets at paths of any length, for umount to follow a mount."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path


def listening_socket(path: Path) -> socket.socket:
    """Return a Unix socket that listens at `path`, for its owner and root only.  Raises OSError.

    Bound through its directory's descriptor: the path may be longer than the address of a socket.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with _short_path(path) as short:
            sock.bind(short)
            os.chmod(short, 0o600)
        sock.listen(16)
    except OSError:
        sock.close()
        raise
    return sock


def connected_socket(path: Path, timeout: float) -> socket.socket:
    """Return a socket connected to the mount that listens at `path`.  Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(timeout)
        with _short_path(path) as short:
            sock.connect(short)
    except OSError:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _short_path(path: Path) -> Iterator[str]:
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)
