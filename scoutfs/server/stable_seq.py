"""Up to which seq everything is committed (spec 03 §8.8)."""

from __future__ import annotations

from format.keys import Key, Zone
from format.logs import LogTrees
from scoutfs.metadata.blocks import DamagedBlock, StaleBlockError
from scoutfs.metadata.btree import Btree, tree_of
from scoutfs.metadata.commit import ServerVolume
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
            logs, clients = (tree_of(volume, super_block.raw[name]) for name in ("logs_root", "mounted_clients"))
            return _stable_seq(logs, clients, int(super_block.raw.seq) - 1, volume.metadata_path)
        except StaleBlockError as error:
            if roots == previous:
                raise DamagedBlock(str(error)) from error
            previous = roots


def stable_seq(volume: ServerVolume) -> int:
    """Return the same of a volume as its server has changed it so far: it may tell of what is not on disk yet."""
    path = volume.writer.reader.device.path
    return _stable_seq(volume.logs_root, volume.mounted_clients, volume.seqs.last - 1, path)


def _stable_seq(logs: Btree, clients: Btree, last: int, path: str) -> int:
    newest = {}
    for item in logs.items():
        if len(item.value) != LogTrees.sizeof():
            raise wrong_size(path, item.key, item.value, LogTrees.sizeof())
        trees = LogTrees.parse(item.value)
        newest[trees.rid] = trees
    for rid, trees in newest.items():
        is_open = trees.commit_trans_seq < trees.get_trans_seq <= last
        if is_open and clients.lookup(Key(Zone.MOUNTED_CLIENT, rid).sort_bytes) is not None:
            last = trees.get_trans_seq - 1
    return last
