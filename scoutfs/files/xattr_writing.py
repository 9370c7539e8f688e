"""Setting and removing extended attributes, and what their tags bring about (spec 06 §4.2 to §4.6)."""

from __future__ import annotations

from itertools import islice

from format.block import BlockError
from format.hashes import hash64, xattr_name_hash
from format.keys import FsType
from format.srch import Entry
from format.xattr import HEADER_SIZE, NAME_MAX, VALUE_MAX, IndxEntry, Xattr, indx_key, split_xattr, xattr_name
from scoutfs.files.caller import Caller, Capability
from scoutfs.files.change import Change
from scoutfs.files.entries import changed
from scoutfs.files.errors import (
    AttributeNameTooLong,
    Exists,
    NoAttribute,
    NotPermitted,
    Refused,
    Unsupported,
    ValueTooLarge,
)
from scoutfs.files.inode import Inode
from scoutfs.files.items import damaged, fs_key, fs_range, key_fields
from scoutfs.files.tags import NO_TAGS, BadTag, Tags, indx_name, parse_number, parse_tags, totl_name
from scoutfs.files.xattr import StoredXattr, locate_xattr, stored_value

_PREFIXES = (b"user.", b"trusted.", b"security.", b"scoutfs.")
_RETAINED_PREFIX = b"user."


def set_xattr(
    change: Change, ino: int, name: bytes, value: bytes, caller: Caller, *, create: bool = False, replace: bool = False
) -> None:
    """Set an attribute, other than an access control list, that must not or must exist if asked for.

    Raises Unsupported, BadTag, NoSpace, AttributeNameTooLong, ValueTooLarge, Refused, NotPermitted, NoAttribute,
    Exists, in the order of spec 06 §4.5, and as `Change` does.
    """
    tags, inode = _opened(change, ino, name)
    if tags.totl and tags.indx:
        raise BadTag(f"attribute {name!r}: the tags totl and indx exclude each other")
    _check_name(name)
    if len(value) > VALUE_MAX:
        raise ValueTooLarge(f"a value of {len(value)} bytes, at most {VALUE_MAX} are possible")
    if create and replace:
        raise Refused("an attribute that must exist and must not")
    _check_rights(change, inode, name, tags, caller)
    found = locate_xattr(change, ino, name)
    if found is None and replace:
        raise NoAttribute(f"inode {ino} has no attribute {name!r}")
    if found is not None and create:
        raise Exists(f"inode {ino} has the attribute {name!r}")
    if tags.indx and value:
        raise BadTag(f"attribute {name!r}: with the tag indx it can have no value")
    if tags.indx and found is not None:
        return
    total = parse_number(value) if tags.totl else 0
    if found is None:
        _index(change, inode.ino, inode.next_xattr_id, name, tags, created=True)
        if tags.totl:
            change.add_total(totl_name(name), total, 1)
        inode = add_xattr(change, inode, name, value)
    else:
        if tags.totl:
            change.add_total(totl_name(name), total - parse_number(stored_value(change, ino, name, found)), 0)
        replace_xattr(change, inode, name, value, found)
    change.set(changed(change, inode))


def remove_xattr(change: Change, ino: int, name: bytes, caller: Caller) -> None:
    """Remove an attribute, other than an access control list.  Raises NoAttribute, and as `set_xattr` does."""
    tags, inode = _opened(change, ino, name)
    _check_name(name)
    _check_rights(change, inode, name, tags, caller)
    found = locate_xattr(change, ino, name)
    if found is None:
        raise NoAttribute(f"inode {ino} has no attribute {name!r}")
    _index(change, ino, found.id, name, tags, created=False)
    if tags.totl:
        change.add_total(totl_name(name), -parse_number(stored_value(change, ino, name, found)), -1)
    delete_xattr(change, ino, name, found)
    change.set(changed(change, inode))


def add_xattr(change: Change, inode: Inode, name: bytes, value: bytes) -> Inode:
    """Add the parts of an attribute that is not there; return the inode with the id after that of the attribute."""
    for part, piece in enumerate(split_xattr(Xattr(name, value))):
        change.create(fs_key(inode.ino, FsType.XATTR, xattr_name_hash(name), inode.next_xattr_id, part), piece)
    return inode._replace(next_xattr_id=inode.next_xattr_id + 1)


def replace_xattr(change: Change, inode: Inode, name: bytes, value: bytes, found: StoredXattr) -> None:
    """Give an attribute another value; it keeps its id."""
    pieces = split_xattr(Xattr(name, value))
    keys = [
        fs_key(inode.ino, FsType.XATTR, xattr_name_hash(name), found.id, part)
        for part in range(max(len(pieces), len(found.parts)))
    ]
    for key, piece in zip(keys, pieces[: len(found.parts)]):
        change.update(key, piece)
    for key, piece in zip(keys[len(found.parts) :], pieces[len(found.parts) :]):
        change.create(key, piece)
    for key in keys[len(pieces) :]:
        change.delete(key)


def delete_xattr(change: Change, ino: int, name: bytes, found: StoredXattr) -> None:
    """Delete the parts of an attribute."""
    for part in range(len(found.parts)):
        change.delete(fs_key(ino, FsType.XATTR, xattr_name_hash(name), found.id, part))


def delete_parts(change: Change, ino: int, limit: int) -> bool:
    """Delete at most `limit` parts of the attributes of an inode that is going; return whether that was all.

    Indexes and totals change with part 0 (spec 06 §4.6).  Raises as `Change` does, and DamagedItem.
    """
    found = list(islice(change.items(*fs_range(ino, FsType.XATTR)), limit + 1))
    for key, value in found[:limit]:
        _, _, _, _, id, part = key_fields(key)
        if not part:
            _forget(change, ino, id, key, value)
        change.delete(key)
    return len(found) <= limit


def _forget(change: Change, ino: int, id: int, key: bytes, first: bytes) -> None:
    try:
        name = xattr_name(first, "attribute")
    except BlockError as error:
        damaged(change, key, error)
    try:
        tags = parse_tags(name)
        if tags.totl:
            change.add_total(totl_name(name), -parse_number(first[HEADER_SIZE + len(name) :]), -1)
        _index(change, ino, id, name, tags, created=False)
    except BadTag:
        # No release has written such a name as a tagged one: nothing was indexed.
        return


def _opened(change: Change, ino: int, name: bytes) -> tuple[Tags, Inode]:
    if not name.startswith(_PREFIXES):
        raise Unsupported(f"attribute {name!r}: only names with user., trusted., security. or scoutfs. are possible")
    tags = parse_tags(name)
    (inode,) = change.open(ino)
    change.need_space()
    return tags, inode


def _check_name(name: bytes) -> None:
    if len(name) > NAME_MAX or name in _PREFIXES:
        raise AttributeNameTooLong(f"the name of an attribute of {len(name)} bytes, at most {NAME_MAX} are possible")


def _check_rights(change: Change, inode: Inode, name: bytes, tags: Tags, caller: Caller) -> None:
    admin = caller.capabilities & Capability.SYS_ADMIN
    if not admin and (tags != NO_TAGS or name.startswith(b"trusted.")):
        raise NotPermitted(f"attribute {name!r} is for administrators")
    if tags.totl:
        totl_name(name)
    if tags.indx:
        if change.fmt_vers < 2:
            raise Unsupported(f"attribute {name!r}: volumes of format version 1 do not have the tag indx")
        indx_name(name)
    if name.startswith(_RETAINED_PREFIX):
        if not inode.is_regular and not inode.is_directory:
            raise NotPermitted(f"attribute {name!r} is for files and directories")
        if inode.retention:
            raise NotPermitted(f"inode {inode.ino} is retained")


def _index(change: Change, ino: int, id: int, name: bytes, tags: Tags, *, created: bool) -> None:
    """Have indexes find an attribute that is created, or not find one that goes."""
    if tags.indx:
        change.set_indx(indx_key(IndxEntry(*indx_name(name), ino, id)).sort_bytes, there=created)
    if tags.srch:
        change.add_search_entry(Entry(hash64(name), ino, id))
