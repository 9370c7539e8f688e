"""Keys and values of the items in the trees that only servers change (spec 03 §5.5 to §5.7)."""

from __future__ import annotations

from typing import Any

from construct import Container

from format.keys import Key, SrchType, Zone
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.btree import TreeItem
from scoutfs.metadata.commit import ServerVolume
from scoutfs.metadata.log_trees import wrong_size

KEY_MAX = Key.ONES.first


class Refused(ScoutfsError):
    """A request that is answered with an error, and has changed nothing."""


def log_trees_key(rid: int, nr: int) -> bytes:
    """Return the key of a `format.logs.LogTrees`."""
    return Key(Zone.LOG_TREES, rid, 0, nr).sort_bytes


def mounted_client_key(rid: int) -> bytes:
    """Return the key of a `format.clients.MountedClient`."""
    return Key(Zone.MOUNTED_CLIENT, rid).sort_bytes


def srch_key(type: SrchType, second: int, third: int = 0) -> bytes:
    """Return the key of a search file, or of a compaction."""
    return Key(Zone.SRCH, 0, type, second, third).sort_bytes


def merge_key(zone: Zone, first: int = 0, second: int = 0) -> bytes:
    """Return the key of the status, a request, a completion or a tree to be freed of a merge."""
    return Key(zone, first, 0, second).sort_bytes


def range_key(start: bytes) -> bytes:
    """Return the key of the range of a merge that begins with the key `start`: its zone is lost."""
    return bytes([Zone.LOG_MERGE_RANGE]) + start[1:]


def zone_bounds(zone: Zone, first: int | None = None) -> tuple[bytes, bytes]:
    """Return the first and the last key of a zone, or of those in it with the same first field."""
    low, high = (0, KEY_MAX) if first is None else (first, first)
    return Key(zone, low).sort_bytes, Key(zone, high, 255, KEY_MAX, KEY_MAX, 255).sort_bytes


def parsed(declaration: Any, item: TreeItem, volume: ServerVolume) -> Container[Any]:
    """Parse the value of an item, which must have exactly the bytes of its declaration; raises DamagedBlock."""
    if len(item.value) != declaration.sizeof():
        path = volume.writer.reader.device.path
        raise wrong_size(path, item.key, item.value, declaration.sizeof())
    return declaration.parse(item.value)


def stored_key(sort_form: bytes) -> dict[str, Any]:
    """Return what `format.keys.KeyStruct` is built from."""
    key = Key.from_sort_bytes(sort_form)
    return {name: getattr(key, name) for name in ("first", "second", "third", "fourth", "zone", "type")}


def sort_form(key: Any) -> bytes:
    """Return the sort form of a parsed `format.keys.KeyStruct`."""
    return Key(key.zone, key.first, key.type, key.second, key.third, key.fourth).sort_bytes
