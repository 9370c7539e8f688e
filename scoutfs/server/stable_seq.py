"""Up to which seq everything is committed (spec 03 §8.8)."""

from __future__ import annotations

from format.keys import Key, Zone
from format.logs import LogTrees
from format.superblock import SuperBlock
from scoutfs.metadata.blocks import DamagedBlock, StaleBlockError
from scoutfs.metadata.btree import tree_of
from scoutfs.metadata.log_trees import wrong_size
from scoutfs.storage.volume import Volume


def read_stable_seq(volume: Volume) -> int:
    """Return the last seq before that of any transaction which a mounted client has open, as it is on disk now.

    No lesser seq can appear in an index later.  Blocks.  Raises VolumeError, DeviceError, and DamagedBlock.
    """
    previous = None
    while True:
        super_block = volume.read_super()
        roots = [
            (root.ref.blkno, root.ref.seq) for root in (super_block.raw.logs_root, super_block.raw.mounted_clients)
        ]
        try:
            return _stable_seq(volume, super_block)
        except StaleBlockError as error:
            if roots == previous:
                raise DamagedBlock(str(error)) from error
            previous = roots


def _stable_seq(volume: Volume, super_block: SuperBlock) -> int:
    raw = super_block.raw
    newest = {}
    for item in tree_of(volume, raw.logs_root).items():
        if len(item.value) != LogTrees.sizeof():
            raise wrong_size(volume.metadata_path, item.key, item.value, LogTrees.sizeof())
        trees = LogTrees.parse(item.value)
        newest[trees.rid] = trees
    clients = tree_of(volume, raw.mounted_clients)
    last = int(raw.seq) - 1
    for rid, trees in newest.items():
        is_open = trees.commit_trans_seq < trees.get_trans_seq <= last
        if is_open and clients.lookup(Key(Zone.MOUNTED_CLIENT, rid).sort_bytes) is not None:
            last = trees.get_trans_seq - 1
    return last
