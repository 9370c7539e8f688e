"""The mounts that a volume knows: recorded before they are greeted, removed when nothing is left of them (spec 03
§3.3, §5.6)."""

from __future__ import annotations

from typing import NamedTuple

from format.clients import MountedClient, MountedClientFlag
from format.keys import Key
from format.quorum import SlotAddress, address_from_struct, address_to_struct
from scoutfs.metadata.commit import ServerVolume
from scoutfs.server.items import mounted_client_key, parsed


class RecordedMount(NamedTuple):
    """A mount as the volume records it."""

    rid: int
    member: bool
    address: SlotAddress


def is_recorded(volume: ServerVolume, rid: int) -> bool:
    """Whether the volume records the mount."""
    return volume.mounted_clients.lookup(mounted_client_key(rid)) is not None


def record(volume: ServerVolume, mount: RecordedMount) -> None:
    """Record a mount; one that is recorded already stays as it is."""
    key = mounted_client_key(mount.rid)
    if volume.mounted_clients.lookup(key) is None:
        flags = MountedClientFlag.QUORUM if mount.member else 0
        fields = {"addr": address_to_struct(mount.address), "flags": flags, "garbage": bytes(7)}
        volume.mounted_clients.insert(key, MountedClient.build(fields))


def forget(volume: ServerVolume, rid: int) -> None:
    """Remove the record of a mount, if there is one: the last thing to do for it."""
    if is_recorded(volume, rid):
        volume.mounted_clients.delete(mounted_client_key(rid))


def recorded_mounts(volume: ServerVolume) -> list[RecordedMount]:
    """Return all mounts that the volume records; raises DamagedBlock."""
    mounts = []
    for item in volume.mounted_clients.items():
        client = parsed(MountedClient, item, volume)
        address = address_from_struct(client.addr) or _NO_ADDRESS
        member = bool(client.flags & MountedClientFlag.QUORUM)
        mounts.append(RecordedMount(Key.from_sort_bytes(item.key).first, member, address))
    return mounts


_NO_ADDRESS = SlotAddress("0.0.0.0", 0)
