"""Mount options: parsed strictly, refused with one line, shown in the original's order (spec 02 §1).

Pure: no device and no path is looked at here.  The string that mount(8) hands over mixes three kinds of options, which
leave this module apart: those of ScoutFS, those that the kernel applies to any mount, and those that only userspace
remembers.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntFlag
from types import MappingProxyType
from typing import Any

from scoutfs.errors import ScoutfsError


class OptionError(ScoutfsError):
    """An option that is refused; the text says which, what was given, and what is allowed."""

    def __init__(self, text: str) -> None:
        super().__init__(text, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class NumberOption:
    """A numeric option: its range, both ends allowed, and what may be done with it.

    `writable`: changes at run time through `mount_options/`; `shown`: part of the option string; `once`: refused when
    given twice (otherwise the last one wins).
    """

    name: str
    low: int
    high: int
    default: int
    writable: bool = True
    shown: bool = True
    once: bool = False

    def parse(self, text: str) -> int:
        """Return the number that `text` writes in base 10, 0x hexadecimal or 0 octal; raises OptionError."""
        if _NUMBER.fullmatch(text):
            digits = text.lstrip("+")
            base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" and len(digits) > 1 else 10
            value = int(digits, base)
            if self.low <= value <= self.high:
                return value
        raise OptionError(f"invalid {self.name} value {_quoted(text)}: allowed is {self.allowed}")

    @property
    def allowed(self) -> str:
        """The range in words."""
        return f"{self.low} or {self.high}" if self.high - self.low == 1 else f"a number from {self.low} to {self.high}"


# hexadecimal and octal forms are limited like the kernel's, to what 64 bits can hold several times over
_NUMBER = re.compile(r"\+?(0[xX][0-9a-fA-F]{1,40}|0[0-7]{0,60}|[1-9][0-9]{0,60})", re.ASCII)

MAX_INT = 2**31 - 1

NUMBERS: Mapping[str, NumberOption] = MappingProxyType(
    {
        option.name: option
        for option in (
            NumberOption("data_prealloc_blocks", 1, 2**52 - 1, 2048),
            NumberOption("data_prealloc_contig_only", 0, 1, 1),
            NumberOption("ino_alloc_per_lock", 1, 1024, 1024),
            NumberOption("lock_idle_count", 32, 100_000, 10_000, shown=False),
            NumberOption("log_merge_wait_timeout_ms", 100, 60_000, 500, shown=False),
            NumberOption("orphan_scan_delay_ms", 100, 60_000, 10_000, once=True),
            NumberOption("quorum_heartbeat_timeout_ms", 2000, 60_000, 10_000, shown=False),
            NumberOption("quorum_slot_nr", 0, 14, -1, writable=False, once=True),
            # the original accepts 3001 and more, but below 4000 no connection of it ever works
            NumberOption("tcp_keepalive_timeout_ms", 4000, MAX_INT, 24_000, writable=False),
        )
    }
)
"""The numeric options of the original, by name."""

COMPACT_DELAY = NumberOption("compact_delay_ms", 1000, 60_000, 10_000)
"""Not a mount option: the file `srch/compact_delay_ms` is changed like one."""

NOT_A_MEMBER = -1
"""`quorum_slot_nr` of a mount that is no member of the quorum."""

WAIT_SECONDS_MAX = 31 * 24 * 3600


class MountFlag(IntFlag):
    """Flags of mount(2) that options of any filesystem stand for."""

    NONE = 0
    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    SYNCHRONOUS = 16
    REMOUNT = 32
    DIRSYNC = 128
    NOSYMFOLLOW = 256
    NOATIME = 1024
    NODIRATIME = 2048
    SILENT = 1 << 15
    RELATIME = 1 << 21
    STRICTATIME = 1 << 24
    LAZYTIME = 1 << 25


_ATIME = MountFlag.NOATIME | MountFlag.RELATIME | MountFlag.STRICTATIME

# option -> (flags it sets, flags it clears)
_FLAGS: Mapping[str, tuple[MountFlag, MountFlag]] = MappingProxyType(
    {
        "ro": (MountFlag.RDONLY, MountFlag.NONE),
        "rw": (MountFlag.NONE, MountFlag.RDONLY),
        "nosuid": (MountFlag.NOSUID, MountFlag.NONE),
        "suid": (MountFlag.NONE, MountFlag.NOSUID),
        "nodev": (MountFlag.NODEV, MountFlag.NONE),
        "dev": (MountFlag.NONE, MountFlag.NODEV),
        "noexec": (MountFlag.NOEXEC, MountFlag.NONE),
        "exec": (MountFlag.NONE, MountFlag.NOEXEC),
        "sync": (MountFlag.SYNCHRONOUS, MountFlag.NONE),
        "async": (MountFlag.NONE, MountFlag.SYNCHRONOUS),
        "dirsync": (MountFlag.DIRSYNC, MountFlag.NONE),
        "nosymfollow": (MountFlag.NOSYMFOLLOW, MountFlag.NONE),
        "symfollow": (MountFlag.NONE, MountFlag.NOSYMFOLLOW),
        "noatime": (MountFlag.NOATIME, _ATIME),
        "atime": (MountFlag.NONE, MountFlag.NOATIME),
        "nodiratime": (MountFlag.NODIRATIME, MountFlag.NONE),
        "diratime": (MountFlag.NONE, MountFlag.NODIRATIME),
        "relatime": (MountFlag.RELATIME, _ATIME),
        "norelatime": (MountFlag.NONE, MountFlag.RELATIME),
        "strictatime": (MountFlag.STRICTATIME, _ATIME),
        "nostrictatime": (MountFlag.NONE, MountFlag.STRICTATIME),
        "lazytime": (MountFlag.LAZYTIME, MountFlag.NONE),
        "nolazytime": (MountFlag.NONE, MountFlag.LAZYTIME),
        "silent": (MountFlag.SILENT, MountFlag.NONE),
        "loud": (MountFlag.NONE, MountFlag.SILENT),
        "remount": (MountFlag.REMOUNT, MountFlag.NONE),
        "defaults": (MountFlag.NONE, MountFlag.NONE),
        # the kernel no longer has mandatory locks, and FUSE refuses to be asked for them
        "nomand": (MountFlag.NONE, MountFlag.NONE),
        "noiversion": (MountFlag.NONE, MountFlag.NONE),
    }
)

# What fstab says to mount(8), systemd or nobody; mount(8) has turned `user` and its like into flags already.  What
# means something after the mount is recorded.
_FORGOTTEN = frozenset({"auto", "noauto", "nouser", "nousers", "noowner", "nogroup", "default_permissions"})
_RECORDED = frozenset({"_netdev", "user", "users", "owner", "group"})
_RECORDED_WITH_VALUE = ("x-", "X-", "user=", "comment=", "uhelper=", "helper=")
# what the kernel shows of a FUSE mount, and mount(8) hands over again to remount it
_KERNELS = frozenset({"user_id", "group_id", "max_read", "blksize"})
_SECURITY = ("context", "fscontext", "defcontext", "rootcontext")

# the options of ours that are not numbers, for messages
_OTHERS = (
    "acl",
    "noacl",
    "metadev_path",
    "foreground",
    "wait",
    "fence",
    "allow_other",
    "noallow_other",
    "nofail",
    "norecovery",
)

_HINTS: Mapping[str, str] = MappingProxyType(
    {
        "loop": "an image file can be mounted as it is, and all mounts of it must use one device",
        "offset": "put the part behind a loop device of its own first, and give that",
        "sizelimit": "put the part behind a loop device of its own first, and give that",
        "mand": "FUSE has no mandatory locks",
    }
)


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The parsed options of one mount.

    `numbers` has a value for every name in `NUMBERS`.  `metadev_path` is None for a volume on one device.  `wait` is
    how many seconds the mount command waits until the filesystem is usable: None not at all, infinity for ever.
    `allow_other` is None unless it was given.  `nofail`: a missing device is no error.  `norecovery`: the volume is
    read as it is, without a cluster.  `security` are the SELinux options for the kernel; `recorded` is what only
    userspace remembers.
    """

    numbers: Mapping[str, int] = field(
        default_factory=lambda: MappingProxyType({name: option.default for name, option in NUMBERS.items()})
    )
    acl: bool = True
    metadev_path: str | None = None
    foreground: bool = False
    wait: float | None = None
    local_fencing: bool = True
    allow_other: bool | None = None
    nofail: bool = False
    norecovery: bool = False
    flags: MountFlag = MountFlag.NONE
    security: tuple[str, ...] = ()
    recorded: tuple[str, ...] = ()

    @property
    def slot(self) -> int:
        """Quorum slot of this mount, `NOT_A_MEMBER` if it has none."""
        return self.numbers["quorum_slot_nr"]

    @property
    def is_member(self) -> bool:
        """Whether the mount takes part in elections."""
        return self.slot != NOT_A_MEMBER

    @property
    def read_only(self) -> bool:
        """Whether files may only be read; the devices are written in any case."""
        return bool(self.flags & MountFlag.RDONLY)


def parse_options(text: str, *, sloppy: bool = False) -> MountOptions:
    """Parse the comma separated options behind `-o`; raises OptionError for the first that is refused.

    Commas inside double quotes do not separate.  Empty items are skipped, and unknown ones if `sloppy`.
    """
    numbers = {name: option.default for name, option in NUMBERS.items()}
    given: set[str] = set()
    changes: dict[str, Any] = {}
    flags = MountFlag.NONE
    security: list[str] = []
    recorded: list[str] = []
    items = list(split_options(text))
    for item in items:
        name, equals, value = item.partition("=")
        if name in NUMBERS and equals:
            option = NUMBERS[name]
            if option.once and name in given:
                raise OptionError(f"option {name} is given twice, the second time as {_quoted(value)}: give it once")
            numbers[name] = option.parse(value)
        elif not equals and item in _FLAGS:
            sets, clears = _FLAGS[item]
            flags = flags & ~clears | sets
        elif item in _FORGOTTEN:
            pass
        elif item in _RECORDED or item.startswith(_RECORDED_WITH_VALUE):
            recorded.append(item)
        elif equals and value and name in _SECURITY:
            security.append(f'{name}="{value}"' if "," in value else item)
        elif change := _own_option(name, value if equals else None):
            changes.update(change)
        elif not (sloppy or ("remount" in items and name in _KERNELS)):
            raise _unknown(item)
        given.add(name)
    return replace(
        MountOptions(),
        numbers=MappingProxyType(numbers),
        flags=flags,
        security=tuple(security),
        recorded=tuple(recorded),
        **changes,
    )


def check_combination(options: MountOptions) -> None:
    """Check that the options of a mount go together.  Raises OptionError."""
    if options.norecovery and not options.read_only:
        raise OptionError("norecovery reads a volume without its cluster, which must not write it: add ro")
    if options.norecovery and options.is_member:
        text = f"norecovery with quorum_slot_nr={options.slot}: a mount without a cluster is no member of the quorum"
        raise OptionError(f"{text}, leave one of them out")


def split_options(text: str) -> Iterator[str]:
    """Yield the items of an option string without their double quotes; raises OptionError for an unclosed one."""
    if text.count('"') % 2:
        raise OptionError(f"Unknown or malformed option {_quoted(text)}: a double quote is not closed")
    for item in _ITEM.findall(text):
        if item:
            yield item.replace('"', "")


_ITEM = re.compile(r'(?:[^,"]|"[^"]*")+')


def option_string(options: MountOptions, numbers: Mapping[str, int] | None = None) -> str:
    """Return the options in the order in which the original shows them (spec 02 §1.1).

    `numbers` are the present values of those that were changed at run time.
    """
    numbers = {**options.numbers, **(numbers or {})}
    items = {name: f"{name}={numbers[name]}" for name, option in NUMBERS.items() if option.shown}
    if not options.is_member:
        del items["quorum_slot_nr"]
    items["acl" if options.acl else "noacl"] = "acl" if options.acl else "noacl"
    if options.metadev_path is not None:
        path = options.metadev_path
        items["metadev_path"] = f'metadev_path="{path}"' if "," in path else f"metadev_path={path}"
    if options.norecovery:
        items["norecovery"] = "norecovery"
    return ",".join(items[name] for name in sorted(items))


def _own_option(name: str, value: str | None) -> dict[str, Any] | None:
    """Return the fields that an option of ours without a number sets, None if there is no such option."""
    match name, value:
        case "acl", None:
            return {"acl": True}
        case "noacl", None:
            return {"acl": False}
        case "metadev_path", str(path) if path:
            return {"metadev_path": path}
        case "foreground", None:
            return {"foreground": True}
        case "allow_other", None:
            return {"allow_other": True}
        case "noallow_other", None:
            return {"allow_other": False}
        case "nofail", None:
            return {"nofail": True}
        case "norecovery", None:
            return {"norecovery": True}
        case "wait", None:
            return {"wait": float("inf")}
        case "wait", str(text):
            return {"wait": float(NumberOption("wait", 1, WAIT_SECONDS_MAX, 1).parse(text))}
        case "fence", "agent" | "local":
            return {"local_fencing": value == "local"}
        case "fence", str(text):
            raise OptionError(f"invalid fence value {_quoted(text)}: allowed is local or agent")
    return None


def _unknown(item: str) -> OptionError:
    name, equals, _ = item.partition("=")
    start = f"Unknown or malformed option {_quoted(item)}"
    if name in _HINTS:
        return OptionError(f"{start}: {_HINTS[name]}")
    if name in NUMBERS:
        return OptionError(f"{start}: {name}= needs {NUMBERS[name].allowed}")
    if name in ("metadev_path", "fence", *_SECURITY):
        needed = {"metadev_path": "the path of the metadata device", "fence": "local or agent"}.get(name, "a context")
        return OptionError(f"{start}: {name}= needs {needed}")
    if equals and (name in _FLAGS or _own_option(name, None)):
        return OptionError(f"{start}: {name} takes no value")
    import difflib

    names = sorted({*NUMBERS, *_OTHERS})
    if close := difflib.get_close_matches(name, [*names, *_FLAGS], n=1):
        return OptionError(f"{start}: did you mean {close[0]}?")
    return OptionError(f"{start}: allowed are {', '.join(names)}, and what mount(8) allows for every filesystem")


def _quoted(text: str) -> str:
    """Quote what somebody typed: one line, whatever it holds."""
    shown = text if len(text) <= 200 else text[:200] + "..."
    return '"' + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown) + '"'
