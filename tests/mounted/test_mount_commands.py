"""Through mount(8), umount(8), fstab, and as a user who is not root."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mount.kernel import mount_table
from tests.mounted.cluster import BIN, Cluster, cluster_in, wait_until

HELPERS = ("mount.scoutfs", "umount.scoutfs", "mount.fuse.scoutfs", "umount.fuse.scoutfs")


@pytest.fixture
def installed(cluster: Cluster) -> list[str]:
    """Words before a command that runs it where mount(8) and umount(8) find our helpers: in a namespace of its own."""
    sbin = cluster.directory / "sbin"
    sbin.mkdir()
    for path in Path("/usr/sbin").iterdir():
        (sbin / path.name).symlink_to(cluster.directory / "real-sbin" / path.name)
    for name in HELPERS:
        (sbin / name).unlink(missing_ok=True)
        (sbin / name).symlink_to(BIN / name.replace(".fuse", ""))
    (cluster.directory / "real-sbin").mkdir()
    prepare = (
        f"mount --bind /usr/sbin {cluster.directory}/real-sbin && mount --bind {sbin} /usr/sbin && "
        # mounts of the test are to be seen outside, where they are taken away again
        'exec "$@"'
    )
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", prepare, "sh"]


def test_through_mount_and_fstab(cluster: Cluster, installed: list[str]):
    volume = cluster.volume(1)
    directory = cluster.directory / "m"
    directory.mkdir()
    fstab = cluster.directory / "fstab"
    fstab.write_text(f"{volume.device} {directory} scoutfs _netdev,noauto,nosuid,{volume.options(0, 'wait=20')} 0 0\n")
    script = f"""
        set -ex
        mount -t scoutfs -o {volume.options(0, "wait=20,x-hello=1")} {volume.device} {directory}
        cat {directory}/.scoutfs/quorum/is_leader; echo
        mount | grep {directory}
        findmnt --noheadings --mtab -o SOURCE,FSTYPE,OPTIONS {directory}
        umount {directory}
        test -z "$(ls -A {cluster.directory}/state/mounts)"
        mount -T {fstab} {directory}
        cat {directory}/.scoutfs/quorum/is_leader; echo
        findmnt --noheadings --mtab -o OPTIONS {directory}
        mount -o remount,noexec {directory}
        findmnt --noheadings -o OPTIONS {directory}
        umount -f {directory}
        ! findmnt {directory}
        mount -t fuse.scoutfs -o {volume.options(0, "wait=20")} {volume.device} {directory}
        umount -l {directory}
    """
    done = cluster.run(*installed, "sh", "-c", script)
    lines = done.stdout.splitlines()
    assert lines[0] == "1", done.stdout
    assert f"{volume.device} on {directory} type fuse.scoutfs (rw," in lines[1]
    assert "quorum_slot_nr=0" in lines[1]
    assert lines[2].split()[:2] == [volume.device, "fuse.scoutfs"]
    assert lines[3] == "1"
    assert "nosuid" in lines[4]
    assert "_netdev" in lines[4]
    assert "noexec" in lines[5]
    assert not any(entry.target == str(directory) for entry in mount_table())


def test_mount_reports_the_refusal(cluster: Cluster, installed: list[str]):
    volume = cluster.volume(1)
    directory = cluster.directory / "m"
    directory.mkdir()
    command = ["mount", "-t", "scoutfs", "-o", volume.options(7), volume.device, str(directory)]
    done = cluster.run(*installed, *command, check=False)
    assert done.returncode == 32
    assert "usable slots: 0" in done.stderr


NOBODY = 65534


@pytest.fixture
def users_cluster() -> Iterator[Cluster]:
    """A cluster of a user who may write neither to the run directory nor to that of registrations."""
    if not shutil.which("fusermount3"):
        pytest.skip("needs fusermount3")
    directory = Path(tempfile.mkdtemp(prefix="scoutfs-user."))
    directory.chmod(0o755)
    # /dev/fuse may be for root only where no udev has set it up: the test has one of its own, that all may use
    fuse = directory / "fuse"
    os.mknod(fuse, 0o666 | stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
    fuse.chmod(0o666)
    script = f"mount --bind {fuse} /dev/fuse && echo ready && exec sleep 600"
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "ready\n"
        for cluster in cluster_in(directory):
            runtime = directory / "runtime"
            runtime.mkdir()
            for path in (directory, runtime):
                os.chown(path, NOBODY, NOBODY)
            for name in ("run", "state"):
                (directory / name).mkdir(mode=0o755)
            cluster.environment["XDG_RUNTIME_DIR"] = str(runtime)
            cluster.owner = NOBODY
            cluster.namespace_of = str(holder.pid)
            user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
            cluster.prefix = ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", *user]
            probe = cluster.run(str(BIN / "python"), "-c", "import mount.process", check=False)
            if probe.returncode != 0:
                pytest.skip("the project is not readable for other users here")
            yield cluster
    finally:
        holder.kill()
        holder.communicate(timeout=10)
        shutil.rmtree(directory, ignore_errors=True)


def test_a_user_mounts_an_image(users_cluster: Cluster):
    volume = users_cluster.volume(1, loop=False)
    mount = users_cluster.mount(volume, 0, "wait=20")
    [entry] = [entry for entry in users_cluster.mount_table() if entry.target == str(mount.directory)]
    assert (entry.source, entry.type) == (volume.device, "fuse.scoutfs")
    # nobody else may look into it, not even root: so ask as the user
    assert users_cluster.run("cat", str(mount.control("quorum/is_leader"))).stdout == "1"
    assert users_cluster.run("stat", "-c", "%u %a", str(mount.control(""))).stdout == f"{NOBODY} 755\n"
    users_cluster.run("stat", "-f", str(mount.directory))
    script = f"echo 3000 > {mount.control('mount_options/quorum_heartbeat_timeout_ms')}"
    users_cluster.run("sh", "-c", script)
    assert "cannot register the mount" in users_cluster.run("cat", str(mount.control("log"))).stdout
    mount.umount()
    assert not mount.is_mounted()
    assert mount.processes_gone()


def test_a_user_is_told_what_he_may_not(users_cluster: Cluster):
    volume = users_cluster.volume(1, loop=False)
    directory = users_cluster.directory / "m"
    directory.mkdir()
    done = users_cluster.try_mount(volume.device, volume.options(0))
    assert done.returncode == 1
    assert "fusermount3" in done.stderr
    assert users_cluster.mounted() == []
    wait_until(lambda: not users_cluster.live_pids(), "the end of the processes")
    os.chown(directory, NOBODY, NOBODY)
    if "user_allow_other" not in Path("/etc/fuse.conf").read_text().split("\n"):
        done = users_cluster.try_mount(volume.device, volume.options(0, "allow_other"))
        assert done.returncode == 1
        assert "allow_other" in done.stderr
