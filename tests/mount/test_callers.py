"""Groups and capabilities of callers, against what processes really have."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from mount.callers import creator, known_caller
from scoutfs.files.caller import ALL_CAPABILITIES, ROOT, Capability

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@contextmanager
def process(*arguments: str, **how) -> Iterator[int]:
    """Run something that waits; yield its number."""
    with subprocess.Popen(
        [*arguments, "sh", "-c", "echo; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **how,
    ) as child:
        child.stdout.readline()
        try:
            yield child.pid
        finally:
            child.stdin.close()


def ctx(pid: int, uid: int, gid: int) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, uid=uid, gid=gid, umask=0)


@root_only
def test_groups_and_capabilities_of_a_user():
    with process(user=1234, group=77, extra_groups=[5, 6]) as pid:
        caller = creator(ctx(pid, 1234, 77))
    assert (caller.uid, caller.gid, caller.groups) == (1234, 77, {5, 6, 77})
    assert caller.capabilities == Capability(0)


@root_only
def test_the_superuser_may_have_lost_capabilities():
    with process("setpriv", "--bounding-set=-sys_admin,-fsetid", "--inh-caps=-sys_admin,-fsetid") as pid:
        assert known_caller(ctx(pid, 0, 0)).capabilities == Capability.CHOWN | Capability.FOWNER
    with process() as pid:
        assert known_caller(ctx(pid, 0, 0)).capabilities == ALL_CAPABILITIES


@root_only
def test_capabilities_in_a_user_namespace_of_its_own_do_not_count():
    with process("unshare", "--user", "--map-root-user") as pid:
        with open(f"/proc/{pid}/status") as status:
            assert "CapEff:\t0000000000000000" not in status.read()
        assert known_caller(ctx(pid, 1234, 77)).capabilities == Capability(0)


def test_a_thread_that_cannot_be_seen():
    assert known_caller(ctx(0, 0, 0)) == ROOT
    assert known_caller(ctx(0, 1234, 7)).capabilities == Capability(0)
    assert known_caller(ctx(0, 1234, 7)).groups == {7}


def test_files_of_the_superuser_have_the_group_that_he_has():
    assert creator(ctx(0, 0, 0)) == ROOT
    caller = creator(ctx(0, 0, 12))
    assert (caller.uid, caller.gid, caller.capabilities) == (0, 12, ALL_CAPABILITIES)
