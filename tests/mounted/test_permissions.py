"""Who may read what through a mount, against what ext4, or whatever holds the tests, says of the same files."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from format.acl import ACCESS_NAME, AclEntry, AclTag, build_acl
from tests.files.building import Builder
from tests.mounted.cluster import Cluster, cluster_in

USERS, GROUPS = (1001, 1002, 1003), (2001, 2002)
CALLERS = [(1001, 2001, [2001]), (1002, 2002, [2002]), (1003, 100, [100]), (1003, 100, [100, 2001, 2002]), (0, 0, [0])]
FILES, DIRECTORIES = 60, 30

ASK = """
import json, os, sys
tree, uid, gid, *groups = map(int, sys.argv[1:])
os.fchdir(tree)
os.setgroups(groups)
os.setresgid(gid, gid, gid)
os.setresuid(uid, uid, uid)
found = {}
def attempt(name, what, call):
    try:
        call()
        found[f"{name} {what}"] = 0
    except OSError as error:
        found[f"{name} {what}"] = error.errno
for name in os.listdir("."):
    for way in (os.R_OK, os.X_OK, os.R_OK | os.X_OK):
        found[f"{name} {way}"] = os.access(name, way)
    attempt(name, "open", lambda: os.close(os.open(name, os.O_RDONLY)))
    attempt(name, "inside", lambda: os.stat(f"{name}/inside"))
    attempt(name, "attribute", lambda: os.getxattr(name, "user.a"))
    attempt(name, "list", lambda: os.listdir(name))
print(json.dumps(found))
"""


def random_acl(draw: random.Random) -> tuple[AclEntry, ...]:
    """Return a list with named users and groups, in canonical order."""
    users = sorted(draw.sample(USERS, draw.randint(0, 2)))
    groups = sorted(draw.sample(GROUPS, draw.randint(0, 2)))
    return (
        AclEntry(AclTag.USER_OBJ, draw.randrange(8)),
        *(AclEntry(AclTag.USER, draw.randrange(8), user) for user in users),
        AclEntry(AclTag.GROUP_OBJ, draw.randrange(8)),
        *(AclEntry(AclTag.GROUP, draw.randrange(8), group) for group in groups),
        AclEntry(AclTag.MASK, draw.randrange(8)),
        AclEntry(AclTag.OTHER, draw.randrange(8)),
    )


def mode_of(acl: tuple[AclEntry, ...]) -> int:
    """Return the permissions that go with a list: the group's are those of its mask."""
    perms = {entry.tag: entry.perm for entry in acl}
    return perms[AclTag.USER_OBJ] << 6 | perms[AclTag.MASK] << 3 | perms[AclTag.OTHER]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Path, Path]]:
    """The same files twice: on a volume, and below a directory; yields cluster, mount and directory."""
    top = tmp_path_factory.mktemp("permissions")
    reference = top / "reference"
    reference.mkdir()
    draw, builder = random.Random(20), Builder()
    for number in range(FILES + DIRECTORIES):
        name, is_file = f"n{number:03}", number < FILES
        acl = random_acl(draw) if draw.random() < 0.8 else None
        mode = mode_of(acl) if acl else draw.randrange(0o1000)
        uid, gid = draw.choice(USERS), draw.choice(GROUPS)
        type = stat.S_IFREG if is_file else stat.S_IFDIR
        ino = builder.add(1, name.encode(), type | mode, uid=uid, gid=gid)
        builder.add_xattr(ino, b"user.a", b"value")
        path = reference / name
        if is_file:
            path.touch()
        else:
            path.mkdir()
            (path / "inside").touch()
            builder.add(ino, b"inside", stat.S_IFREG | 0o644)
        os.setxattr(path, "user.a", b"value")
        os.chown(path, uid, gid)
        os.chmod(path, mode)
        if acl:
            builder.add_xattr(ino, ACCESS_NAME, build_acl(acl))
            os.setxattr(path, ACCESS_NAME.decode(), build_acl(acl))
    for cluster in cluster_in(top / "cluster"):
        volume = cluster.volume(1, loop=False, devices=2)
        assert volume.metadev is not None
        builder.write(Path(volume.metadev), Path(volume.device))
        mount = cluster.try_mount(volume.device, volume.options(None, "ro", "norecovery"), "acl")
        assert mount.returncode == 0, mount.stderr
        yield cluster, cluster.directory / "acl", reference


def asked(tree: Path, uid: int, gid: int, groups: list[int]) -> dict[str, int]:
    """Return what somebody is answered; the directories above the tree are not for everybody."""
    fd = os.open(tree, os.O_RDONLY)
    try:
        command = [sys.executable, "-I", "-c", ASK, *map(str, (fd, uid, gid, *groups))]
        done = subprocess.run(command, pass_fds=(fd,), capture_output=True, check=True, timeout=60)
    finally:
        os.close(fd)
    return json.loads(done.stdout)


@pytest.mark.parametrize(("uid", "gid", "groups"), CALLERS)
def test_everybody_may_what_modes_and_lists_allow(trees, uid: int, gid: int, groups: list[int]):
    _, mounted, reference = trees
    expected = asked(reference, uid, gid, groups)
    assert len(expected) == 7 * (FILES + DIRECTORIES)
    assert len(set(expected.values())) > 2
    assert asked(mounted, uid, gid, groups) == expected


def test_without_lists_only_modes_count(trees):
    cluster, mounted, _ = trees
    meta, data = cluster.directory / "v0.img", cluster.directory / "v1.img"
    done = cluster.try_mount(str(data), f"ro,norecovery,noacl,metadev_path={meta}", "noacl")
    assert done.returncode == 0, done.stderr
    plain = cluster.directory / "noacl"
    for name in os.listdir(mounted):
        if ACCESS_NAME.decode() in os.listxattr(mounted / name):
            assert ACCESS_NAME.decode() in os.listxattr(plain / name), "listed all the same, spec 06 §4.5"
            with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
                os.getxattr(plain / name, ACCESS_NAME.decode())
            status = (plain / name).stat()
            caller = asked(plain, 1003, 100, [100])
            if status.st_uid != 1003:
                assert caller[f"{name} 4"] == bool(status.st_mode & 4), name
            break
    else:
        pytest.fail("no file has a list")
