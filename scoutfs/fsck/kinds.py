"""Everything that a check can find: its name, whether it is damage, its sentence, and what it means for the user."""

from __future__ import annotations

from enum import Enum


class Severity(Enum):
    """ERROR is damage; a NOTE is what a crash, a running mount or an older release leaves, and nothing to act on."""

    ERROR = "error"
    NOTE = "note"


_Row = tuple[str, Severity, str, str]


def _error(code: str, sentence: str, meaning: str) -> _Row:
    return code, Severity.ERROR, sentence, meaning


def _note(code: str, sentence: str, meaning: str) -> _Row:
    return code, Severity.NOTE, sentence, meaning


class Kind(Enum):
    """A kind of finding: its code, its severity, its sentence with the places of details, and what it means.

    Codes are stable: programs read them.
    """

    def __init__(self, code: str, severity: Severity, sentence: str, meaning: str) -> None:
        self.code, self.severity, self.sentence, self.meaning = code, severity, sentence, meaning

    # Super blocks and quorum blocks
    SUPER_DAMAGED = _error(
        "super-damaged",
        "the super block fails verification: {problem}",
        "The volume cannot be mounted, and nothing behind this block can be checked.",
    )
    SUPER_ROLE = _error(
        "super-role",
        "the flags {flags:#x} are not those of the {role} device",
        "Mounts refuse the volume.",
    )
    SUPER_MISMATCH = _error(
        "super-mismatch",
        "{field} is {stored}, but that of the metadata device is {expected}",
        "The devices do not belong together, or a change of the format version was interrupted: mounts refuse them.",
    )
    SUPER_TOTAL = _error(
        "super-total",
        "{field} is {total}, but {limit} blocks are possible",
        "The device was truncated, or belongs to another volume: mounts refuse it.",
    )
    SUPER_RESERVED = _error(
        "super-reserved",
        "{field} is not zero",
        "A newer release may have written it; this one does not know what it says.",
    )
    NEXT_INO_LOW = _error(
        "next-ino-low",
        "next_ino is {next_ino}, but inode {ino} exists",
        "A new file may be given the number of an existing one, and destroy it.",
    )
    INODE_COUNT = _error(
        "inode-count",
        "inode_count and the log trees add up to {stored} inodes, {found} exist",
        "df -i shows a wrong number.",
    )
    VOLUME_OPTION = _error(
        "volume-option",
        "volume option {option}: {problem}",
        "Servers refuse the option, and cannot hand out space.",
    )
    QUORUM_CONFIG = _error(
        "quorum-config",
        "{problem}",
        "Members refuse the slots: nobody can lead until scoutfs change-quorum-config has given new ones.",
    )
    QUORUM_BLOCK_DAMAGED = _error(
        "quorum-block-damaged",
        "the quorum block fails verification: {problem}",
        "No member of the volume can start, and clients do not find their server, if the slot is in use.",
    )
    QUORUM_BLOCK_EVENTS = _error(
        "quorum-block-events",
        "{problem}",
        "Members may draw wrong conclusions about who leads or has to be fenced.",
    )
    QUORUM_SLOT_USED = _note(
        "quorum-slot-used",
        "mount {rid:016x} has begun to use the slot and has not ended: it runs, or it crashed",
        "If no mount runs, the next one to use the slot takes it over.",
    )
    MOUNTED_CLIENT = _note(
        "mounted-client",
        "mount {rid:016x} is recorded as mounted",
        "If it does not run any more, the next server takes back what it held.",
    )
    DEVICE_UNCHECKED = _note(
        "device-unchecked",
        "the data device was not given: its super block and its size are not checked",
        "Name both devices to have both checked.",
    )

    # Blocks that are referred to
    BLOCK_REFERENCE = _error(
        "block-reference",
        "a reference leads to block {blkno}, but blocks are 2 to {last}",
        "What the reference led to is lost.",
    )
    BLOCK_UNREADABLE = _error(
        "block-unreadable",
        "block {blkno} cannot be read: {problem}",
        "The device may be failing. What the block held is lost unless it can be read again.",
    )
    BLOCK_CHECKSUM = _error(
        "block-checksum",
        "block {blkno} has the checksum {stored:#010x}, its contents give {expected:#010x}",
        "The block was damaged after it was written: what it held is lost.",
    )
    BLOCK_TYPE = _error(
        "block-type",
        "block {blkno} has the magic {stored:#x}, expected is {expected:#x}",
        "Something else was written over the block: what it held is lost.",
    )
    BLOCK_VOLUME = _error(
        "block-volume",
        "block {blkno} is of the volume with fsid {stored:016x}, not {expected:016x}",
        "It is left from another volume, a write of this one was lost: what the block should hold is missing.",
    )
    BLOCK_SEQUENCE = _error(
        "block-sequence",
        "block {blkno} has the seq {stored:#x}, the reference to it says {expected:#x}",
        "The block is older or newer than the reference: a write was lost, or it was used again too early.",
    )
    BLOCK_NUMBER = _error(
        "block-number",
        "block {blkno} says that it is block {stored}",
        "A write went to the wrong place: what the block should hold is missing.",
    )
    BLOCK_SHARED = _error(
        "block-shared",
        "block {blkno} belongs to {owners}",
        "Whoever writes it next destroys what the other has in it. Do not write to the volume.",
    )
    BLOCK_LEAKED = _error(
        "block-leaked",
        "{what} nobody's: not in use, and not free",
        "The space cannot be used any more. Nothing else is lost.",
    )
    BLOCK_LEAKED_PARENT = _note(
        "block-leaked-parent",
        "{what} nobody's: left over from a merged log tree",
        "The original server forgets such blocks when it frees a log tree. The space stays unused; no harm is done.",
    )
    DATA_SHARED = _error(
        "data-shared",
        "{what} to {owners}",
        "Whoever writes there next destroys the contents of the other. Do not write to the volume.",
    )
    DATA_LEAKED = _error(
        "data-leaked",
        "{what} nobody's: in no file, and not free",
        "The space cannot be used any more. Nothing else is lost.",
    )
    DATA_UNACCOUNTED = _error(
        "data-unaccounted",
        "very many blocks of the data device are in several places or in none",
        "Whoever writes next may destroy contents of files. Do not write to the volume.",
    )
    SPACE_UNCHECKED = _note(
        "space-unchecked",
        "whether {device} space has leaked was not checked, since blocks that are damaged may own it",
        "Space without an owner follows from the damage found above.",
    )

    # Trees
    TREE_ROOT = _error(
        "tree-root",
        "the root says height {height} and block {blkno}",
        "What the tree held cannot be found.",
    )
    TREE_LEVEL = _error(
        "tree-level",
        "block {blkno} is of level {stored}, its place in the tree is level {expected}",
        "Readers refuse the block: what is below it cannot be found.",
    )
    TREE_ITEMS = _error(
        "tree-items",
        "block {blkno} cannot be decoded: {problem}",
        "What the block held is lost.",
    )
    TREE_KEY_RANGE = _error(
        "tree-key-range",
        "block {blkno}: {problem}, outside of what the parent says to find here",
        "The item cannot be found.",
    )
    TREE_KEY_TWICE = _error(
        "tree-key-twice",
        "block {blkno}: {problem} is there twice",
        "Which of the two is found depends on how it is looked for.",
    )
    TREE_AVL = _error(
        "tree-avl",
        "block {blkno}: the links between its items are wrong: {problem}",
        "Items are missing in listings, or come in a wrong order.",
    )
    TREE_AVL_HEIGHT = _error(
        "tree-avl-height",
        "block {blkno}: the tree of its items is out of balance: {problem}",
        "The next change of the block may spoil the order of its items.",
    )
    TREE_HASH = _error(
        "tree-hash",
        "block {blkno}: its hash table does not lead to each item: {problem}",
        "Items that listings show cannot be found by name.",
    )
    TREE_VALUES = _error(
        "tree-values",
        "block {blkno}: values of items lie wrong: {problem}",
        "Values of items overlap and destroy each other.",
    )
    TREE_ITEM_BYTES = _error(
        "tree-item-bytes",
        "block {blkno}: total_item_bytes is {stored}, its items take {expected}",
        "The block is split or joined at the wrong time, and may overflow.",
    )
    TREE_FREE_SPACE = _error(
        "tree-free-space",
        "block {blkno}: mid_free_len is {stored}, but {expected} bytes are free",
        "The next new item is written over others.",
    )
    TREE_PADDING = _error(
        "tree-padding",
        "block {blkno}: bytes that must be zero are not: {problem}",
        "Keys are hashed with these bytes: the item may not be found.",
    )
    TREE_ITEM_FLAGS = _error(
        "tree-item-flags",
        "block {blkno}: {problem}",
        "Readers take the item for something that it is not.",
    )
    TREE_CHILDREN = _error(
        "tree-children",
        "block {blkno} is a parent of {count} blocks, at least 2 are expected",
        "The tree was changed by something that does not keep its rules.",
    )
    TREE_LAST_KEY = _error(
        "tree-last-key",
        "block {blkno}: its last child ends at {key}, not at the greatest key",
        "Keys behind it cannot be looked for or added: the volume fails with EIO there.",
    )
    TREE_FOREIGN_ITEM = _error(
        "tree-foreign-item",
        "block {blkno}: {key} does not belong in this tree",
        "Something wrote to the wrong tree.",
    )
    TREE_ITEM_VALUE = _error(
        "tree-item-value",
        "{key}: the value is wrong: {problem}",
        "Whoever reads the item fails with EIO.",
    )
    TREE_DELETION = _error(
        "tree-deletion",
        "{key} is marked as deleted in a tree that must not have such items",
        "The item is neither there nor away.",
    )
    ITEM_SEQ = _error(
        "item-seq",
        "{key} has the seq {seq}, greater than {limit}, the last one that was given out",
        "Newer versions of the item will be taken for older ones: changes get lost.",
    )

    # Free space
    LIST_BLOCK = _error(
        "list-block",
        "block {blkno}: {problem}",
        "The free blocks in this list and behind it are lost, and servers fail when they come to it.",
    )
    LIST_COUNT = _error(
        "list-count",
        "{field} is {stored}, the list has {expected}",
        "Transactions fail, or df shows a wrong number.",
    )
    LIST_ENTRY = _error(
        "list-entry",
        "block {entry} is listed as free, but blocks are 2 to {last}",
        "A server that takes the block fails.",
    )
    ALLOC_FLAGS = _error(
        "alloc-flags",
        "the flags {flags:#x} are unknown",
        "A newer release may have written them.",
    )
    FREE_TOTAL = _error(
        "free-total",
        "total_len is {stored}, the free extents add up to {expected}",
        "df shows a wrong number, and servers refuse space that they have.",
    )
    FREE_EXTENT_RANGE = _error(
        "free-extent-range",
        "the free extent {extent} is impossible, blocks are {first} to {last}",
        "Whoever takes space from it fails or writes to the wrong place.",
    )
    FREE_EXTENT_OVERLAP = _error(
        "free-extent-overlap",
        "the free extents {extent} and {other} overlap",
        "The same block will be given out twice.",
    )
    FREE_EXTENT_TOUCHING = _error(
        "free-extent-touching",
        "the free extents {extent} and {other} touch, and should be one",
        "Something changed the tree that does not keep its rules; no space is lost.",
    )
    FREE_EXTENT_ORDER = _error(
        "free-extent-order",
        "the free extent {extent} is sorted as of order {stored}, it is of order {expected}",
        "Space is not found, or given out in the wrong order.",
    )
    FREE_EXTENT_HALF = _error(
        "free-extent-half",
        "the free extent {extent} is in the tree by its {present} only, not by its {missing}",
        "Changes of the free space near it fail.",
    )

    # Log trees, merges
    LOG_ITEM = _error(
        "log-item",
        "the item is that of {key}, its value says mount {rid:016x} nr {nr}",
        "The server mistakes one log tree for another.",
    )
    LOG_SEQS = _error(
        "log-seqs",
        "{problem}",
        "The server refuses the mount's next transaction, or merges the tree at the wrong time.",
    )
    LOG_UNFINALIZED = _error(
        "log-unfinalized",
        "the tree is not finalized, though the mount has a later one, nr {later}",
        "It is never merged: what is in it may hide newer changes.",
    )
    LOG_FINALIZED_SPACE = _error(
        "log-finalized-space",
        "the tree is finalized and still holds free space: {what}",
        "The space is lost when the tree is merged.",
    )
    LOG_ABANDONED = _note(
        "log-abandoned",
        "mount {rid:016x} is gone and has left its tree open",
        "All that it has committed is there. The next server closes the tree and takes back the free space.",
    )
    BLOOM_MISSING = _error(
        "bloom-missing",
        "the bloom block does not have the bits of {lock}, of which the tree has items",
        "Mounts do not look into this tree: they show files as they were before, until the tree is merged.",
    )
    BLOOM_COUNT = _error(
        "bloom-count",
        "total_set is {stored}, {expected} bits are set in the bloom block",
        "The bloom block was changed by something that does not keep its rules.",
    )
    MERGE_COUNT = _error(
        "merge-count",
        "{field} is {stored}, but {found} are recorded",
        "The merge never ends, or ends too early.",
    )
    MERGE_ITEM = _error(
        "merge-item",
        "{key}: {problem}",
        "The merge of log trees stops, or leaves out items.",
    )
    MERGE_RUNNING = _note(
        "merge-running",
        "a merge of log trees was going on",
        "Servers and mounts go on with it; readers see the same in the meantime.",
    )

    # Search files
    SRCH_ITEM = _error(
        "srch-item",
        "{key}: {problem}",
        "The server mistakes one search file for another.",
    )
    SRCH_FILE = _error(
        "srch-file",
        "{field} is {stored}, the file has {expected}",
        "Searches for attributes leave out files, or fail.",
    )
    SRCH_BLOCK = _error(
        "srch-block",
        "block {blkno}: {problem}",
        "Searches for attributes leave out files, or fail.",
    )
    SRCH_ORDER = _error(
        "srch-order",
        "block {blkno}: entries are out of order",
        "Searches for attributes leave out files.",
    )
    SRCH_MISSING = _error(
        "srch-missing",
        "attribute {name} (id {id}) is in no search file",
        "scoutfs search-xattrs does not find the inode.",
    )
    SRCH_STALE = _note(
        "srch-stale",
        "search files name attribute id {id} with name hash {hash:016x}, which the inode does not have",
        "scoutfs search-xattrs may show the inode where it should not; who uses it must look at the inode anyway.",
    )

    # Inodes
    ROOT_MISSING = _error(
        "root-missing",
        "the root directory, inode 1, does not exist or is no directory",
        "The volume cannot be mounted.",
    )
    INODE_MISSING = _error(
        "inode-missing",
        "there are {what} of an inode that does not exist",
        "Entries that lead to it give EIO; its contents are out of reach.",
    )
    INODE_FIELD = _error(
        "inode-field",
        "{field} is {value}, which is impossible",
        "Programs see nonsense, or the inode cannot be read.",
    )
    INODE_NLINK = _error(
        "inode-nlink",
        "nlink is {stored}, {expected} would be right",
        "The inode may be deleted while names still lead to it, or never.",
    )
    INODE_UNNAMED = _error(
        "inode-unnamed",
        "nlink is {nlink}, but no name leads to it",
        "The file cannot be reached; its space is lost unless it is linked again.",
    )
    INODE_SIZE = _error(
        "inode-size",
        "size is {stored}, {expected} would be right",
        "A directory may be refused to be removed, or be removed while it has entries; a link may be unreadable.",
    )
    INODE_BLOCKS = _error(
        "inode-blocks",
        "{field} is {stored}, its extents have {expected}",
        "du shows a wrong number, and archive agents release or stage the wrong files.",
    )
    INODE_NEXT_POS = _error(
        "inode-next-pos",
        "next_readdir_pos is {next_pos}, but an entry is at position {pos}",
        "A new entry will replace an existing one.",
    )
    INODE_NEXT_XATTR = _error(
        "inode-next-xattr",
        "next_xattr_id is {next_id}, but an attribute has the id {id}",
        "A new attribute will replace an existing one.",
    )
    INODE_WRONG_ITEMS = _error(
        "inode-wrong-items",
        "it is a {type}, but has {what}",
        "The inode was something else, or another inode's items were written to it.",
    )
    INDEX_MISSING = _error(
        "index-missing",
        "the {index} index does not have it at {seq}",
        "scoutfs walk-inodes, and archive agents with it, do not see the file.",
    )
    INDEX_STALE = _error(
        "index-stale",
        "the {index} index has it at {seq}, where it is not",
        "scoutfs walk-inodes shows a file twice, or one that does not exist.",
    )
    ORPHAN_MISSING = _error(
        "orphan-missing",
        "nlink is 0, but the inode is not recorded as an orphan",
        "It is never deleted: its space is lost.",
    )
    ORPHAN_STALE = _error(
        "orphan-stale",
        "it is recorded as an orphan, but {problem}",
        "Mounts try to delete it again and again.",
    )
    ORPHAN = _note(
        "orphan",
        "it has no name any more and waits to be deleted",
        "It was open when it was removed. A mount deletes it later.",
    )
    TRUNCATE_PENDING = _note(
        "truncate-pending",
        "a truncation was interrupted",
        "The next write or change of size completes it; readers see the right contents.",
    )
    FILES_UNCHECKED = _note(
        "files-unchecked",
        "whether {what} agree was not checked, since items of files could not be read",
        "What is missing there follows from the damage found above.",
    )

    # Directories
    ENTRY_HASH = _error(
        "entry-hash",
        "the entry {name} is sorted under the hash {stored:016x}, its name has {expected:016x}",
        "Listings show the name, but it cannot be opened.",
    )
    ENTRY_KEY = _error(
        "entry-key",
        "the entry {name}: {problem}",
        "The entry cannot be removed, or is found where it is not.",
    )
    ENTRY_COPIES = _error(
        "entry-copies",
        "the entry {name}, position {pos}, {problem}",
        "The name is listed but cannot be opened, cannot be listed, or the file does not know where it is.",
    )
    ENTRY_TWICE = _error(
        "entry-twice",
        "the name {name} is there twice",
        "One of the two files cannot be reached.",
    )
    ENTRY_TYPE = _error(
        "entry-type",
        "the entry {name} in directory {dir} says that it is a {stored}, the inode is a {expected}",
        "Listings show the wrong type.",
    )
    DIRECTORY_PARENTS = _error(
        "directory-parents",
        "directory with {count} names, only one is possible",
        "It is in several places of the tree; .. leads to one of them.",
    )
    DIRECTORY_UNREACHABLE = _error(
        "directory-unreachable",
        "it is below itself: its parents lead from directory {parent} back to it, not to the root",
        "Whatever is below it cannot be reached.",
    )

    # Symbolic links, attributes, extents, other items
    SYMLINK = _error(
        "symlink",
        "the target cannot be read: {problem}",
        "Following the link gives EIO.",
    )
    XATTR_PARTS = _error(
        "xattr-parts",
        "attribute {name}: {problem}",
        "Reading the attribute gives EIO, and so may those with the same hash.",
    )
    XATTR_HASH = _error(
        "xattr-hash",
        "attribute {name} is sorted under the hash {stored:#010x}, its name has {expected:#010x}",
        "The attribute is listed but cannot be read.",
    )
    XATTR_TWICE = _error(
        "xattr-twice",
        "attribute {name} is there twice",
        "One of the two can neither be read nor removed.",
    )
    XATTR_TAG = _error(
        "xattr-tag",
        "attribute {name}: {problem}",
        "The attribute does not count in totals and indexes as its name says.",
    )
    TOTAL_WRONG = _error(
        "total-wrong",
        "it is {total:+d} and its count {count:+d} away from what the attributes add up to",
        "scoutfs read-xattr-totals shows it, and quotas refuse or allow what they should not.",
    )
    INDX_MISSING = _error(
        "indx-missing",
        "the attribute index does not have {entry}",
        "scoutfs read-xattr-index does not show the inode.",
    )
    INDX_STALE = _error(
        "indx-stale",
        "the attribute index has {entry}, but there is no such attribute",
        "scoutfs read-xattr-index shows an inode that should not be there.",
    )
    EXTENT_RANGE = _error(
        "extent-range",
        "the extent {extent} is impossible: {problem}",
        "Reading the file gives EIO.",
    )
    EXTENT_OVERLAP = _error(
        "extent-overlap",
        "the extents {extent} and {other} overlap",
        "Reading the file gives one contents or the other.",
    )
    EXTENT_FLAGS = _error(
        "extent-flags",
        "the extent {extent} has the flags {flags:#x} {problem}",
        "Reading the file gives EIO, or waits for contents that never come.",
    )
    QUOTA_RULE = _error(
        "quota-rule",
        "{key}: {problem}",
        "Checks of quotas fail with EIO: nobody can write.",
    )
