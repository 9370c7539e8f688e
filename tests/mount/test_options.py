"""Mount options against the table of spec 02 §1.1, entered here a second time."""

from __future__ import annotations

import errno
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mount.options import (
    COMPACT_DELAY,
    NUMBERS,
    MountFlag,
    OptionError,
    check_combination,
    option_string,
    parse_options,
    split_options,
)

# name, least, greatest, default, given twice, writable in mount_options/
TABLE = [
    ("data_prealloc_blocks", 1, 2**52 - 1, 2048, "last wins", True),
    ("data_prealloc_contig_only", 0, 1, 1, "last wins", True),
    ("ino_alloc_per_lock", 1, 1024, 1024, "last wins", True),
    ("lock_idle_count", 32, 100000, 10000, "last wins", True),
    ("log_merge_wait_timeout_ms", 100, 60000, 500, "last wins", True),
    ("orphan_scan_delay_ms", 100, 60000, 10000, "refused", True),
    ("quorum_heartbeat_timeout_ms", 2000, 60000, 10000, "last wins", True),
    ("quorum_slot_nr", 0, 14, -1, "refused", False),
    ("tcp_keepalive_timeout_ms", 4000, 2**31 - 1, 24000, "last wins", False),
]
NAMES = [row[0] for row in TABLE]


def refusal(text: str, **how: bool) -> str:
    with pytest.raises(OptionError) as caught:
        parse_options(text, **how)
    assert caught.value.errno == errno.EINVAL
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_table_is_complete():
    assert set(NUMBERS) == set(NAMES)


@pytest.mark.parametrize(("name", "low", "high", "default", "twice", "writable"), TABLE)
class TestNumber:
    def test_default(self, name, low, high, default, twice, writable):
        assert parse_options("").numbers[name] == default

    def test_both_ends_are_allowed_and_nothing_beyond(self, name, low, high, default, twice, writable):
        for value in (low, high):
            assert parse_options(f"{name}={value}").numbers[name] == value
        for value in (low - 1, high + 1, 2**64, 2**64 + low, -(2**63)):
            message = refusal(f"{name}={value}")
            assert message.startswith(f'invalid {name} value "{value}"')
            assert str(low) in message
            assert str(high) in message

    def test_given_twice(self, name, low, high, default, twice, writable):
        text = f"{name}={low},{name}={high}"
        if twice == "refused":
            assert name in refusal(text)
            assert "twice" in refusal(text)
        else:
            assert parse_options(text).numbers[name] == high

    def test_bases(self, name, low, high, default, twice, writable):
        for form in ("{:d}", "0x{:x}", "0X{:X}", "0{:o}", "+{:d}"):
            assert parse_options(f"{name}={form.format(high)}").numbers[name] == high

    def test_garbage_is_refused(self, name, low, high, default, twice, writable):
        for garbage in ("{}x", "{} ", " {}", "{}.0", "{}_0", "0o{}", "--{}", "{}k", "9{}e1", "0b1{}", "٣{}"):
            assert refusal(f"{name}={garbage.format(high)}").startswith(f"invalid {name} value")
        assert refusal(f"{name}=").startswith(f'invalid {name} value ""')

    def test_a_missing_value_is_malformed(self, name, low, high, default, twice, writable):
        message = refusal(name)
        assert message.startswith(f'Unknown or malformed option "{name}"')
        assert str(low) in message

    def test_writable(self, name, low, high, default, twice, writable):
        assert NUMBERS[name].writable is writable


def test_octal_digits():
    assert refusal("lock_idle_count=089").startswith('invalid lock_idle_count value "089"')
    assert parse_options("lock_idle_count=0100").numbers["lock_idle_count"] == 64


def test_keepalive_that_no_connection_survives_is_refused():
    # the original accepts 3001..3999, and then cannot connect
    for value in (3000, 3001, 3999):
        assert refusal(f"tcp_keepalive_timeout_ms={value}").startswith("invalid tcp_keepalive_timeout_ms value")


def test_fragments_that_tools_search_for():
    assert "invalid quorum_heartbeat_timeout_ms value" in refusal("quorum_heartbeat_timeout_ms=1000000")
    assert "Unknown or malformed option" in refusal("wat")


def test_acl_last_wins():
    assert parse_options("").acl
    assert not parse_options("acl,noacl").acl
    assert parse_options("noacl,acl").acl


def test_metadata_device():
    assert parse_options("").metadev_path is None
    assert parse_options("metadev_path=/dev/a,metadev_path=/dev/b").metadev_path == "/dev/b"
    assert parse_options('metadev_path="/tmp/a,b"').metadev_path == "/tmp/a,b"
    assert parse_options("metadev_path=/tmp/a=b").metadev_path == "/tmp/a=b"
    assert "metadev_path= needs the path" in refusal("metadev_path=")
    assert "metadev_path= needs the path" in refusal("metadev_path")


def test_wait():
    assert parse_options("").wait is None
    assert parse_options("wait").wait == math.inf
    assert parse_options("wait=5").wait == 5.0
    assert refusal("wait=0").startswith('invalid wait value "0"')
    assert refusal("wait=soon").startswith('invalid wait value "soon"')


def test_fence():
    assert parse_options("").local_fencing
    assert not parse_options("fence=agent").local_fencing
    assert parse_options("fence=agent,fence=local").local_fencing
    assert refusal("fence=never") == 'invalid fence value "never": allowed is local or agent'
    assert "local or agent" in refusal("fence")


def test_foreground_and_allow_other():
    assert parse_options("foreground").foreground
    assert parse_options("").allow_other is None
    assert parse_options("allow_other").allow_other is True
    assert parse_options("allow_other,noallow_other").allow_other is False


@pytest.mark.parametrize("item", ["acl", "noacl", "foreground", "ro", "allow_other", "relatime"])
def test_flags_take_no_value(item):
    assert refusal(f"{item}=1") == f'Unknown or malformed option "{item}=1": {item} takes no value'


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("", 0),
        ("rw", 0),
        ("ro", 1),
        ("ro,rw", 0),
        ("nosuid,nodev,noexec", 2 | 4 | 8),
        ("nosuid,suid,nodev,dev,noexec,exec", 0),
        ("sync", 16),
        ("sync,async", 0),
        ("dirsync", 128),
        ("noatime", 1024),
        ("noatime,relatime", 1 << 21),
        ("nodiratime", 2048),
        ("strictatime", 1 << 24),
        ("lazytime", 1 << 25),
        ("remount,ro", 32 | 1),
        ("nosuid,defaults", 2),
        ("noauto,nofail,_netdev,x-systemd.automount,user,comment=hello", 0),
    ],
)
def test_generic_options(text, flags):
    assert parse_options(text).flags == flags


def test_what_userspace_remembers():
    options = parse_options("noauto,_netdev,x-systemd.requires=/a,user=bob,nofail,x-gvfs-hide,rw")
    assert options.recorded == ("_netdev", "x-systemd.requires=/a", "user=bob", "x-gvfs-hide")
    assert options.nofail


def test_security_contexts():
    options = parse_options('context="system_u:object_r:tmp_t:s0:c127,c456",noatime')
    assert options.security == ('context="system_u:object_r:tmp_t:s0:c127,c456"',)
    assert options.flags == MountFlag.NOATIME
    assert parse_options("context=a_t").security == ("context=a_t",)
    assert "needs a context" in refusal("context=")


def test_empty_items_are_skipped():
    assert parse_options(",,quorum_slot_nr=3,,").slot == 3


def test_unclosed_quote():
    assert "double quote" in refusal('context="a,b')


def test_a_typo_is_told():
    assert refusal("quorum_slot_nbr=1").endswith("did you mean quorum_slot_nr?")


def test_an_unknown_option_is_answered_with_what_there_is():
    message = refusal("zzz")
    for name in [*NAMES, "metadev_path", "acl", "wait", "fence", "foreground"]:
        assert name in message


def test_loop_is_answered_with_what_to_do():
    assert "image file" in refusal("loop")
    assert "loop device" in refusal("offset=4096")


def test_sloppy_ignores_what_is_unknown_but_not_what_is_wrong():
    assert parse_options("wat,quorum_slot_nr=1", sloppy=True).slot == 1
    refusal("quorum_slot_nr=99", sloppy=True)


def test_control_characters_stay_out_of_messages():
    assert refusal("a\nb\x1b[31m").startswith('Unknown or malformed option "a\\x0ab\\x1b[31m"')
    assert len(refusal("x" * 100_000)) < 1000


def test_what_the_kernel_shows_comes_back_in_a_remount():
    assert parse_options("rw,user_id=0,group_id=0,default_permissions,allow_other,max_read=131072,remount").flags == 32
    refusal("rw,user_id=0")


def test_member_or_not():
    assert not parse_options("").is_member
    assert parse_options("").slot == -1
    assert parse_options("quorum_slot_nr=0").is_member


def test_option_string_of_a_client():
    assert option_string(parse_options("metadev_path=/dev/m")) == (
        "acl,data_prealloc_blocks=2048,data_prealloc_contig_only=1,ino_alloc_per_lock=1024,metadev_path=/dev/m,"
        "orphan_scan_delay_ms=10000,tcp_keepalive_timeout_ms=24000"
    )


def test_option_string_of_a_member_without_acl():
    options = parse_options(
        "noacl,quorum_slot_nr=2,metadev_path=/dev/m,quorum_heartbeat_timeout_ms=2000,lock_idle_count=99"
    )
    assert option_string(options, {"orphan_scan_delay_ms": 777}) == (
        "data_prealloc_blocks=2048,data_prealloc_contig_only=1,ino_alloc_per_lock=1024,metadev_path=/dev/m,noacl,"
        "orphan_scan_delay_ms=777,quorum_slot_nr=2,tcp_keepalive_timeout_ms=24000"
    )


def test_option_string_of_a_single_device_has_no_metadata_device():
    assert "metadev_path" not in option_string(parse_options("quorum_slot_nr=0"))


def test_compact_delay():
    assert COMPACT_DELAY.default == 10000
    assert COMPACT_DELAY.parse("1000") == 1000
    with pytest.raises(OptionError):
        COMPACT_DELAY.parse("999")


numbers = st.fixed_dictionaries({}, optional={name: st.integers(low, high) for name, low, high, *_ in TABLE})
paths = st.text(st.characters(exclude_characters='"', exclude_categories=["Cs"]), min_size=1).map(lambda s: "/" + s)


@given(numbers, st.booleans(), paths | st.none())
def test_what_is_shown_parses_back(values, acl, path):
    items = [f"{name}={value}" for name, value in values.items()] + ["acl" if acl else "noacl"]
    if path is not None:
        items.append(f'metadev_path="{path}"')
    options = parse_options(",".join(items))
    assert options.metadev_path == path
    assert options.acl is acl
    again = parse_options(option_string(options))
    shown = [name for name in NAMES if NUMBERS[name].shown]
    assert [again.numbers[name] for name in shown] == [options.numbers[name] for name in shown]
    assert (again.metadev_path, again.acl) == (path, acl)


@given(st.text())
def test_anything_is_parsed_or_refused(text):
    try:
        options = parse_options(text)
    except OptionError:
        assert refusal(text)
    else:
        assert all(
            options.numbers[name] == default or low <= options.numbers[name] <= high
            for name, low, high, default, *_ in TABLE
        )


@given(st.lists(st.text(st.characters(exclude_characters='",'), min_size=1)))
def test_splitting_keeps_every_item(items):
    assert list(split_options(",".join(items))) == items


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ("norecovery", "add ro"),
        ("norecovery,rw", "add ro"),
        ("ro,norecovery,quorum_slot_nr=2", "quorum_slot_nr=2"),
    ],
)
def test_a_mount_without_a_cluster_only_reads_and_is_no_member(options, refused):
    with pytest.raises(OptionError, match=refused):
        check_combination(parse_options(options))


@pytest.mark.parametrize("options", ["ro,norecovery", "norecovery,ro,metadev_path=/m", "quorum_slot_nr=2", ""])
def test_options_that_go_together(options):
    parsed = parse_options(options)
    check_combination(parsed)
    assert parse_options(option_string(parsed)).norecovery == ("norecovery" in options)
