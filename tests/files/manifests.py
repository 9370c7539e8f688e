"""What the kernel showed of its volumes, and the same as the library reads it, in the form of the manifests."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from collections.abc import Iterator
from typing import Any

from scoutfs.files.errors import OfflineError
from scoutfs.files.filesystem import READ_SIZE, Filesystem
from scoutfs.files.inode import Inode
from tests import kernel_images

SEGMENT_HASHED = 16 << 20
"""Bytes of each segment of a large file that the manifest has a hash of."""
LARGE_FILE = 4 << 30
OFFLINE = "offline, not read"

_MANIFESTS = ("manifest-remount-noatime.jsonl", "recovered-manifest.jsonl", "manifest.jsonl")
_TIMES = ("atime", "ctime", "mtime")
_EXTENDED = ("meta_seq", "data_seq", "data_version", "online_blocks", "offline_blocks")


def manifest(name: str) -> dict[bytes, dict[str, Any]]:
    """Return the manifest of a volume by path."""
    lines = kernel_images.recording(name, *_MANIFESTS).decode("utf-8", "surrogateescape").splitlines()
    entries = map(json.loads, lines)
    return {base64.b64decode(entry["path_b64"]): entry for entry in entries}


def walk(files: Filesystem, inode: Inode | None = None, path: bytes = b".") -> Iterator[tuple[bytes, Inode]]:
    """Yield every path below the root, each with its inode."""
    inode = inode or files.inode(1)
    yield path, inode
    if inode.is_directory:
        for entry in files.readdir(inode.ino):
            if entry.name not in (b".", b".."):
                yield from walk(files, files.inode(entry.ino), path + b"/" + entry.name)


def described(files: Filesystem, inode: Inode, expected: dict[str, Any]) -> dict[str, Any]:
    """Return what the library says of `inode`, under the names that `expected` has; what it lacks is left out."""
    found: dict[str, Any] = {
        "ino": inode.ino,
        "size": inode.size,
        "blocks": inode.blocks,
        "blksize": 4096,
        "uid": inode.uid,
        "gid": inode.gid,
        "nlink": inode.nlink,
        "mode": f"{inode.mode:o}",
        **{f"{time}_ns": getattr(inode, time) for time in _TIMES if f"{time}_ns" in expected},
    }
    if "attr_x" in expected:
        found["attr_x"] = _extended(inode, expected["attr_x"])
    if stat.S_ISLNK(inode.mode):
        target = files.readlink(inode.ino)
        found |= {"target_b64": base64.b64encode(target).decode(), "target_len": len(target)}
    if stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
        found["rdev"] = [inode.rdev >> 20, inode.rdev & 0xFFFFF]
    xattrs = {name: value.hex() for name, value in files.xattrs(inode.ino)}
    hidden = {xattr.name for xattr in files.xattr_names(inode.ino) if xattr.hidden}
    listed = {_text(name): value for name, value in xattrs.items() if name not in hidden}
    found |= {"xattrs": listed} if listed else {}
    if "hidden_xattrs" in expected or "attr_x" in expected:
        secret = {_text(name): value for name, value in xattrs.items() if name in hidden}
        found |= {"hidden_xattrs": secret} if secret else {}
    if inode.is_regular:
        found |= _contents(files, inode)
        if not found["fiemap"] and "fiemap" not in expected:
            del found["fiemap"]
    return found


def expected_fields(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of a manifest without what only tells where it is, and without what could not be asked for."""
    left_out = {"path", "path_b64"}
    found = {field: value for field, value in entry.items() if field not in left_out}
    if "attr_x" in found:
        found["attr_x"] = {name: _number(value) for name, value in found["attr_x"].items() if name != "error"}
    return found


def _extended(inode: Inode, expected: dict[str, str]) -> dict[str, int]:
    found = {field: getattr(inode, field) for field in _EXTENDED} | {"crtime": inode.crtime}
    if "error" not in expected:
        found |= {
            "ctime": inode.ctime,
            "size": inode.size,
            "project_id": inode.proj,
            "retention": int(inode.retention),
        }
    return found


def _number(text: str) -> int:
    """Return a number, or a time of seconds, dot and nanoseconds as nanoseconds."""
    seconds, dot, nanoseconds = text.partition(".")
    return int(seconds) * 1_000_000_000 + int(nanoseconds) if dot else int(seconds)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _contents(files: Filesystem, inode: Inode) -> dict[str, Any]:
    found: dict[str, Any] = {"fiemap": [list(mapping) for mapping in files.fiemap(inode.ino)]}
    if inode.size > LARGE_FILE:
        found["data_segments_sha256"] = [
            [offset, length, _hash(files, inode.ino, offset, min(length, SEGMENT_HASHED))]
            for offset, length in files.data_segments(inode.ino)
        ]
        return found
    try:
        found["sha256"] = _hash(files, inode.ino, 0, inode.size)
    except OfflineError:
        found["sha256"] = OFFLINE
    return found


def _hash(files: Filesystem, ino: int, offset: int, length: int) -> str:
    digest = hashlib.sha256()
    for start in range(offset, offset + length, READ_SIZE):
        piece = files.read(ino, start, min(READ_SIZE, offset + length - start))
        assert len(piece) == min(READ_SIZE, offset + length - start)
        digest.update(piece)
    return digest.hexdigest()
