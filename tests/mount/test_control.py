"""The `.scoutfs` tree against the sysfs trees of real mounts, recorded byte for byte (spec 02 §9)."""

from __future__ import annotations

import errno
import logging
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mount.control import FIRST_INO, ControlTree, Directory, File, control_directory
from scoutfs.quorum.fencing import FenceView
from scoutfs.quorum.status import Exchange, QuorumStatus, Role
from tests.mount.fakes import FakeMember, FakeMount

RECORDED = Path(__file__).parents[1] / "data" / "kernel" / "sysfs"
OURS = {"connection", "control", "errors", "log", "options", "pids", "requests", "waiting"}


def recorded(name: str) -> dict[str, tuple[str, bytes | None]]:
    """Return mode and contents (None for a directory) of each path of a recorded tree, the root as ""."""
    tree: dict[str, tuple[str, bytes | None]] = {}
    path = ""
    for line in (RECORDED / name).read_text().splitlines():
        if match := re.fullmatch(r"== (\S+) /sys/fs/scoutfs/[^/]+/(.*)", line):
            mode, path = match.groups()
            tree[path.rstrip("/")] = (mode, None if mode.startswith("d") else b"")
            path = path.rstrip("/")
        elif line == "   (no newline at end)":
            mode, contents = tree[path]
            tree[path] = (mode, contents.removesuffix(b"\n"))
        else:
            mode, contents = tree[path]
            # one bare line stands for an empty file
            tree[path] = (mode, contents + line.removeprefix("   | ").encode() + b"\n" if line != "   | " else b"")
    return tree


def shown(directory: Directory, prefix: str = "") -> dict[str, tuple[str, bytes | None]]:
    tree: dict[str, tuple[str, bytes | None]] = {}
    if not prefix:
        tree[""] = (stat.filemode(directory.mode), None)
    for name, node in directory.entries().items():
        path = prefix + name
        mode = stat.filemode(node.mode)
        if isinstance(node, Directory):
            tree[path] = (mode, None)
            tree |= shown(node, path + "/")
        else:
            tree[path] = (mode, node.read())
    return tree


def as_recorded(name: str) -> FakeMount:
    """A fake mount in the state of the recorded one, as far as the recorded bytes tell it."""
    tree = recorded(name)
    slot = int(tree["mount_options/quorum_slot_nr"][1])
    options = f"metadev_path={tree['mount_options/metadev_path'][1].decode()}"
    mount = FakeMount(options + (f",quorum_slot_nr={slot}" if slot >= 0 else ""))
    mount.device = tuple(int(number) for number in tree["data_device_maj_min"][1].split(b":"))
    mount.fsid, mount.rid = int(tree["fsid"][1], 16), int(tree["rid"][1], 16)
    mount.metadata_path = tree["mount_options/metadev_path"][1].decode()
    mount.values = {
        path.removeprefix("counters/"): int(contents)
        for path, (_, contents) in tree.items()
        if path.startswith("counters/")
    }
    return mount


def test_client_shows_what_the_original_shows():
    mount = as_recorded("sysfs-mount3-clientonly.txt")
    tree = shown(control_directory(mount))
    assert {path: entry for path, entry in tree.items() if path not in OURS} == recorded("sysfs-mount3-clientonly.txt")
    assert set(tree) >= OURS
    assert {tree[path][0] for path in OURS} == {"-r--r--r--"}


def test_leader_shows_what_the_original_shows():
    mount = as_recorded("sysfs-mount0-leader.txt")
    # the recorded status: leader of term 11, votes of slots 0 and 1
    mount.member = FakeMember(
        QuorumStatus(
            slot=0,
            term=11,
            role=Role.LEADER,
            vote_for=-1,
            votes=3,
            timeout=1000.0 + 0.058289910,
            server_start_term=11,
            server_event=3,
            last_send={1: Exchange(11, 2, 1000.0 - 0.042073825), 2: Exchange(11, 2, 1000.0 - 0.041746154)},
            last_recv={1: Exchange(11, 1, 1000.0 - 3.386831493)},
        ),
        is_leader=True,
    )
    tree = {path: entry for path, entry in shown(control_directory(mount)).items() if path not in OURS}
    assert tree == recorded("sysfs-mount0-leader.txt")


def test_202_counters():
    tree = control_directory(FakeMount())
    assert len(tree.entries()["counters"].entries()) == 202


def test_only_members_have_quorum_and_fence():
    assert not {"quorum", "fence"} & set(control_directory(FakeMount()).entries())
    member = control_directory(FakeMount(member=FakeMember())).entries()
    assert {"quorum", "fence"} <= set(member)
    assert member["fence"].entries() == {}


def test_is_leader_is_one_byte():
    mount = FakeMount(member=FakeMember())
    is_leader = control_directory(mount).entries()["quorum"].entries()["is_leader"]
    assert is_leader.read() == b"0"
    mount.member.is_leader = True
    assert is_leader.read() == b"1"


def test_status_before_the_member_has_published_one_is_empty():
    quorum = control_directory(FakeMount(member=FakeMember())).entries()["quorum"]
    assert quorum.entries()["status"].read() == b""


def test_status_is_relative_to_the_reading():
    status = QuorumStatus(slot=1, term=6, role=Role.FOLLOWER, vote_for=-1, votes=0, timeout=1009.9)
    mount = FakeMount(member=FakeMember(status))
    file = control_directory(mount).entries()["quorum"].entries()["status"]
    assert b"timeout_in_secs 9.900000000\n" in file.read()
    mount.time = 1010.3
    assert b"timeout_in_secs -1.600000000\n" in file.read()


def test_fence_request_without_newlines():
    fence = FenceView(0xBBBB000000000001, "10.1.2.3", "client_recovery", 990.5, fenced=False, error=True)
    mount = FakeMount(member=FakeMember(fences=(fence,)))
    tree = shown(control_directory(mount))
    path = "fence/bbbb000000000001"
    assert {name: entry for name, entry in tree.items() if name.startswith(path)} == {
        path: ("drwxr-xr-x", None),
        f"{path}/elapsed_secs": ("-r--r--r--", b"9"),
        f"{path}/fenced": ("-rw-r--r--", b"0"),
        f"{path}/error": ("-rw-r--r--", b"1"),
        f"{path}/ipv4_addr": ("-r--r--r--", b"10.1.2.3"),
        f"{path}/reason": ("-r--r--r--", b"client_recovery"),
        f"{path}/rid": ("-r--r--r--", b"bbbb000000000001"),
    }


@pytest.mark.parametrize("data", [b"1\n", b"0", b"", b"anything"])
@pytest.mark.parametrize("which", ["fenced", "error"])
def test_any_write_answers_a_fence_request(which, data):
    mount = FakeMount(member=FakeMember(fences=(FenceView(7, "127.0.0.1", "client_reconnect", 999.0),)))
    directory = control_directory(mount).entries()["fence"].entries()["0000000000000007"]
    directory.entries()[which].write(data)
    assert mount.member.answers == [(7, which)]


def option_file(mount: FakeMount, name: str) -> File:
    return control_directory(mount).entries()["mount_options"].entries()[name]


def test_written_option_reads_back_and_changes_behaviour_at_once():
    mount = FakeMount("quorum_slot_nr=0")
    file = option_file(mount, "quorum_heartbeat_timeout_ms")
    for data, value in ((b"2000\n", 2000), (b"60000", 60000), (b"0x1770\n", 6000)):
        file.write(data)
        assert file.read() == b"%d" % value
        assert mount.changes[-1] == ("quorum_heartbeat_timeout_ms", value)
    assert "quorum_heartbeat" not in mount.options.text
    option_file(mount, "orphan_scan_delay_ms").write(b"101")
    assert "orphan_scan_delay_ms=101," in mount.options.text


@pytest.mark.parametrize("data", [b"0", b"-1", b"1000000", b"", b"\n", b"3000\n\n", b"3000x", b"\xff", b" 3000"])
def test_bad_option_is_refused_and_logged_and_changes_nothing(data):
    mount = FakeMount("quorum_slot_nr=0,quorum_heartbeat_timeout_ms=5000")
    file = option_file(mount, "quorum_heartbeat_timeout_ms")
    with pytest.raises(OSError, match="invalid quorum_heartbeat_timeout_ms value") as caught:
        file.write(data)
    assert caught.value.errno == errno.EINVAL
    assert file.read() == b"5000"
    assert mount.changes == []
    [(level, text)] = mount.logged
    assert level == logging.ERROR
    assert "invalid quorum_heartbeat_timeout_ms value" in text


def test_what_cannot_change_has_no_writer():
    mount = FakeMount("quorum_slot_nr=3", member=FakeMember())
    root = control_directory(mount).entries()
    for name in ("metadev_path", "quorum_slot_nr"):
        assert root["mount_options"].entries()[name].write is None
    assert root["fsid"].write is None
    assert "tcp_keepalive_timeout_ms" not in root["mount_options"].entries()


def test_counters_refuse_writes_with_eio():
    with pytest.raises(OSError) as caught:
        control_directory(FakeMount()).entries()["counters"].entries()["statfs"].write(b"1")
    assert caught.value.errno == errno.EIO


def test_compact_delay():
    mount = FakeMount()
    file = control_directory(mount).entries()["srch"].entries()["compact_delay_ms"]
    assert file.read() == b"10000"
    file.write(b"1000")
    assert file.read() == b"1000"
    with pytest.raises(OSError):
        file.write(b"999")


def test_zone_blocks():
    mount = FakeMount()
    file = control_directory(mount).entries()["volume_options"].entries()["data_alloc_zone_blocks"]
    assert file.read() == b""
    mount.data_alloc_zone_blocks = 4194304
    assert file.read() == b"4194304"
    with pytest.raises(OSError) as caught:
        file.write(b"1")
    assert caught.value.errno == errno.EOPNOTSUPP


def test_mount_options_go_first_when_the_mount_leaves():
    mount = FakeMount(member=FakeMember())
    root = control_directory(mount)
    assert "mount_options" in root.entries()
    mount.leaving = True
    assert "mount_options" not in root.entries()
    assert {"quorum", "counters", "fsid"} <= set(root.entries())


class TestTree:
    def tree(self) -> tuple[FakeMount, ControlTree]:
        mount = FakeMount(member=FakeMember())
        return mount, ControlTree(control_directory(mount))

    def test_numbers_do_not_collide_with_a_volumes(self):
        _, tree = self.tree()
        numbers = [FIRST_INO, *(ino for _, ino, _ in tree.entries(FIRST_INO))]
        assert min(numbers) == 1 << 63
        assert len(set(numbers)) == len(numbers)

    def test_lookup_and_listing_agree(self):
        _, tree = self.tree()
        for name, ino, node in tree.entries(FIRST_INO):
            assert tree.lookup(FIRST_INO, name)[0] == ino
            assert type(tree.node(ino)) is type(node)

    def test_parents(self):
        _, tree = self.tree()
        quorum, _ = tree.lookup(FIRST_INO, b"quorum")
        status, _ = tree.lookup(quorum, b"status")
        assert tree.parent(status) == quorum
        assert tree.parent(quorum) == FIRST_INO
        assert tree.parent(FIRST_INO) == FIRST_INO

    @pytest.mark.parametrize("name", [b"nothing", b"", b"\xff\xfe", b"a/b"])
    def test_unknown_names(self, name):
        _, tree = self.tree()
        with pytest.raises(OSError) as caught:
            tree.lookup(FIRST_INO, name)
        assert caught.value.errno == errno.ENOENT

    def test_a_file_is_no_directory(self):
        _, tree = self.tree()
        fsid, _ = tree.lookup(FIRST_INO, b"fsid")
        with pytest.raises(OSError) as caught:
            tree.lookup(fsid, b"x")
        assert caught.value.errno == errno.ENOTDIR

    def test_a_request_that_is_gone_is_not_found(self):
        mount, tree = self.tree()
        mount.member.fences = (FenceView(7, "127.0.0.1", "client_reconnect", 999.0),)
        fence, _ = tree.lookup(FIRST_INO, b"fence")
        request, _ = tree.lookup(fence, b"0000000000000007")
        fenced, _ = tree.lookup(request, b"fenced")
        mount.member.fences = ()
        for ino in (request, fenced):
            with pytest.raises(OSError) as caught:
                tree.node(ino)
            assert caught.value.errno == errno.ENOENT

    def test_numbers_of_requests_are_freed_when_the_kernel_forgets_them(self):
        mount, tree = self.tree()
        fence, _ = tree.lookup(FIRST_INO, b"fence")
        tree.lookup(FIRST_INO, b"fence")
        mount.member.fences = (FenceView(7, "127.0.0.1", "client_reconnect", 999.0),)
        request, _ = tree.lookup(fence, b"0000000000000007")
        tree.lookup(fence, b"0000000000000007")
        tree.forget(request, 1)
        assert tree.node(request)
        tree.forget(request, 1)
        with pytest.raises(OSError):
            tree.node(request)
        tree.forget(fence, 2)
        assert tree.lookup(FIRST_INO, b"fence")[0] == fence

    @given(st.lists(st.tuples(st.integers(FIRST_INO, FIRST_INO + 30), st.integers(0, 3))))
    def test_forgetting_anything_is_harmless(self, calls):
        _, tree = self.tree()
        for ino, count in calls:
            tree.forget(ino, count)
        assert tree.lookup(FIRST_INO, b"fsid")
