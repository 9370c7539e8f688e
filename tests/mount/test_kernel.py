"""The mount table, and the data argument of mount(2)."""

from __future__ import annotations

import errno
import os

import pytest

from mount import kernel
from mount.options import parse_options

TABLE = """\
22 28 0:21 / /proc rw,nosuid shared:12 - proc proc rw
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
40 28 0:52 / /mnt/a\\040b rw,relatime shared:33 master:2 - fuse.scoutfs /dev/loop\\0407 rw,user_id=0
41 28 0:53 / /mnt/a\\040b rw,relatime - fuse.scoutfs /dev/loop8 rw,user_id=0
42 28 0:54 / /mnt/tab\\011new\\012line\\134040\\043 rw - tmpfs none rw
"""


def test_table():
    entries = kernel.mount_table(TABLE)
    assert [entry.target for entry in entries] == ["/proc", "/", "/mnt/a b", "/mnt/a b", "/mnt/tab\tnew\nline\\040#"]
    assert entries[2] == kernel.MountEntry(40, "0:52", "/mnt/a b", "fuse.scoutfs", "/dev/loop 7")
    assert entries[1].type == "ext4"


def test_the_mount_on_top_counts():
    entries = kernel.mount_table(TABLE)
    assert kernel.mounted_at("/mnt/a b", entries).mount_id == 41
    assert kernel.mounted_at("/mnt", entries) is None


def test_the_real_table_has_a_root():
    assert kernel.mounted_at("/") is not None


def test_options_for_the_kernel():
    uid, gid = os.getuid(), os.getgid()
    plain = kernel.kernel_options(7, parse_options(""), 0o40755)
    assert plain == f"fd=7,rootmode=40755,user_id={uid},group_id={gid},default_permissions,allow_other"
    assert "allow_other" not in kernel.kernel_options(7, parse_options("noallow_other"), 0o40755)
    security = kernel.kernel_options(7, parse_options('context="a:b:c0,c1"'), 0o40755)
    assert security.endswith(',context="a:b:c0,c1"')


def test_what_is_not_mounted_cannot_be_detached(tmp_path):
    with pytest.raises(kernel.AttachError) as caught:
        kernel.detach(str(tmp_path))
    assert caught.value.errno in (errno.EINVAL, errno.EPERM)


def test_a_namespace_that_is_none(tmp_path):
    for namespace in (str(tmp_path / "absent"), "4194305"):
        with pytest.raises(kernel.AttachError, match="mount namespace"):
            kernel.enter_mount_namespace(namespace)
