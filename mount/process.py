"""The mount process, from the checks to the exit (spec 02 §1.3).

In this order: everything is checked; the mount is registered; the member is forked, before this process has an event
loop or a FUSE descriptor that it could inherit; the directory is attached; the event loop runs until the mount has
left.  What fails on the way takes back what was done before it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import traceback
from pathlib import Path

import pyfuse3
import trio

from format.block import FormatError
from mount import kernel, rundir, sockets, utab
from mount.control import RunningOptions
from mount.daemon import ExitCode, MountLog, Readiness
from mount.norecovery import Standalone
from mount.options import MountOptions, option_string
from mount.preparation import MountRequest, Prepared, prepare
from mount.running import ENDING_SIGNALS, Attached, Client, Outcome, RunningMount
from mount.view import MountView
from mount.writing import Writing
from scoutfs.client.client import Client as ClusterClient
from scoutfs.counters import Counters
from scoutfs.errors import ScoutfsError
from scoutfs.paths import mount_name
from scoutfs.quorum.member import MemberHandle, MemberOptions, spawn_member
from scoutfs.quorum.process import MonotonicClock
from scoutfs.quorum.registration import Registration

_SHORT_OF_SOMETHING = frozenset({errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE})


def run_mount(request: MountRequest, readiness: Readiness) -> int:
    """Mount, serve, and leave; return the exit code of the process, after `readiness` was told about it."""
    try:
        if request.namespace is not None:
            kernel.enter_mount_namespace(request.namespace)
        prepared = prepare(request, readiness.say)
    except (ScoutfsError, FormatError) as error:
        return _refuse(request, readiness, error)
    with prepared.volume:
        if request.fake:
            readiness.ready()
            return ExitCode.SUCCESS
        return _Mounting(request, prepared, readiness).run()


def exit_code(error: Exception) -> ExitCode:
    """Return what mount(8) exits with for an error."""
    number = getattr(error, "errno", None)
    if number in _SHORT_OF_SOMETHING:
        return ExitCode.SYSTEM
    if isinstance(error, kernel.AttachError):
        if number in (errno.EPERM, errno.EACCES):
            return ExitCode.USAGE
        if number in (errno.ENODEV, errno.ENOENT, errno.ENXIO):
            return ExitCode.SYSTEM
    return ExitCode.FAILURE


def _refuse(request: MountRequest, readiness: Readiness, error: Exception) -> ExitCode:
    if request.options.nofail and getattr(error, "errno", None) in (errno.ENOENT, errno.ENXIO, errno.ENOMEDIUM):
        readiness.ready()
        return ExitCode.SUCCESS
    code = exit_code(error)
    readiness.failed(code, str(error))
    return code


class _Mounting:
    """One mount; every step that was done is undone at the end, however that comes."""

    def __init__(self, request: MountRequest, prepared: Prepared, readiness: Readiness) -> None:
        self._request, self._prepared, self._readiness = request, prepared, readiness
        self._options: MountOptions = request.options
        self._volume = prepared.volume
        self._rid = rundir.draw_rid(self._volume.fsid)
        name = mount_name(self._volume.fsid, self._rid)
        self._log = MountLog(name, foreground=self._options.foreground)
        self._link: Path | None = None
        self._socket_path: Path | None = None
        self._recorded = False
        self._table_error = ""
        self._member_ran = False

    def run(self) -> int:
        # a mount without a cluster does nothing that it would have to be fenced for
        registration = None if self._options.norecovery else self._register()
        clean = False
        try:
            outcome = self._serve(registration)
            clean = outcome.clean
        except (ScoutfsError, FormatError) as error:
            # nothing was attached; but a member that ran may have been elected, and then others ask what became of it
            clean = not self._member_ran
            return _refuse(self._request, self._readiness, error)
        finally:
            self._forget()
            if self._socket_path is not None:
                rundir.remove(self._socket_path)
            self._volume.close()
            if registration is not None:
                registration.release(clean=clean)
            self._log.close()
        if outcome.code:
            self._readiness.failed(outcome.code, outcome.text)
        return outcome.code

    def _register(self) -> Registration | None:
        """Register the mount with this host.  Without that only the fence daemon can fence it, so it goes on."""
        devices = dict.fromkeys((self._volume.metadata_path, self._volume.data_path))
        try:
            return Registration.create(
                fsid=self._volume.fsid,
                rid=self._rid,
                slot=self._options.slot,
                mount_point=self._prepared.directory,
                devices=devices,
            )
        except ScoutfsError as error:
            level = logging.WARNING if os.geteuid() == 0 else logging.INFO
            self._log(level, f"{error}: this host cannot fence the mount by itself")
            return None

    def _serve(self, registration: Registration | None) -> Outcome:
        # from here on there is something to take back: until the event loop takes signals they wait
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
        member = self._spawn_member(registration) if self._options.is_member else None
        self._member_ran = member is not None
        try:
            attached = self._attach()
        except ScoutfsError:
            if member is not None:
                member.reap()
            raise
        self._say("attached")
        try:
            return trio.run(self._serve_until_left, attached, member, clock=MonotonicClock())
        except Exception as error:  # noqa: BLE001 (the outermost frame: whatever it is must be told)
            # whoever uses the directory must get errors, not what lies below it: it stays attached
            self._log(logging.CRITICAL, f"internal error, nothing more is written: {_described(error)}")
            return Outcome(False, ExitCode.INTERNAL, f"internal error: {_described(error)}")
        finally:
            pyfuse3.close(unmount=False)

    def _spawn_member(self, registration: Registration | None) -> MemberHandle:
        numbers = self._options.numbers
        member_options = MemberOptions(
            heartbeat_timeout_ms=numbers["quorum_heartbeat_timeout_ms"],
            tcp_keepalive_timeout_ms=numbers["tcp_keepalive_timeout_ms"],
            log_merge_wait_timeout_ms=numbers["log_merge_wait_timeout_ms"],
            local_fencing=self._options.local_fencing,
        )
        config = self._volume.super.quorum_config
        self._say(f"starting the member of quorum slot {self._options.slot}")
        return spawn_member(self._volume, config, self._options.slot, self._rid, member_options, registration)

    def _attach(self) -> Attached:
        directory = self._prepared.directory
        fuse = kernel.attach(self._volume.data_path, directory, self._options, root_mode=self._prepared.root.inode.mode)
        mounted = kernel.mounted_at(directory)
        return Attached(directory, fuse, "" if mounted is None else mounted.device)

    async def _serve_until_left(self, attached: Attached, member: MemberHandle | None) -> Outcome:
        counters = Counters()
        writing: Writing | None = None

        def changed(name: str, value: int) -> None:
            self._log(logging.INFO, f"{name} is {value} now")
            if member is not None:
                member.set_option(name, value)
            if writing is not None:
                writing.option_changed(name)

        options = RunningOptions(self._options, self._log, changed)
        client: Client
        if self._options.norecovery:
            client = Standalone(self._volume)
        else:
            client = connected = self._client(counters)
            if not self._options.read_only:
                writing = Writing(self._volume, connected, attached.fuse, options, self._log)

        listening = self._publish()
        view = MountView(
            volume=self._volume,
            rid=self._rid,
            options=options,
            connection=client,
            member=member,
            own_counters=counters,
            log=self._log,
            control_path=str(self._socket_path or ""),
        )
        running = RunningMount(
            attached,
            self._prepared.root,
            view,
            client,
            member,
            writing=writing,
            listening=listening,
            on_detached=self._forget,
        )
        pyfuse3.init(running.operations, f"/dev/fd/{attached.fuse}", set())
        role = f"as member of quorum slot {self._options.slot}" if member is not None else "as client"
        if self._options.norecovery:
            role = "without a cluster, as it is on the devices"
        self._log(logging.INFO, f"mounted {self._volume.data_path} at {attached.directory} {role}")
        return await running.run(self._ready, self._options.wait)

    def _ready(self) -> None:
        if self._table_error:
            self._readiness.ready(ExitCode.TABLE, f"mounted, but {self._table_error}")
        else:
            self._readiness.ready()

    def _client(self, counters: Counters) -> ClusterClient:
        return ClusterClient(
            self._volume,
            self._rid,
            member=self._options.is_member,
            keepalive_ms=self._options.numbers["tcp_keepalive_timeout_ms"],
            log=self._log,
            counters=counters,
        )

    # -- what others find of the mount ---------------------------------------------------------------------------------

    def _publish(self) -> socket.socket | None:
        """Make the link, the socket and the entry in the table of options; none of them is vital."""
        directory = self._prepared.directory
        listening = None
        try:
            self._link = rundir.publish_link(self._volume.fsid, self._rid, directory)
            self._socket_path = rundir.socket_path(self._link)
        except OSError as error:
            level = logging.WARNING if os.geteuid() == 0 else logging.INFO
            self._log(level, f"no link for the fence daemon: {error}")
            private = rundir.private_directory()
            if private is not None:
                self._socket_path = private / f"{mount_name(self._volume.fsid, self._rid)}.socket"
        if self._socket_path is not None:
            try:
                listening = sockets.listening_socket(self._socket_path)
            except OSError as error:
                self._log(logging.WARNING, f"umount cannot follow this mount: {error}")
                self._socket_path = None
        self._record_options()
        return listening

    def _record_options(self) -> None:
        if os.geteuid() != 0 or not self._request.record:
            return
        items = [option_string(self._options), *self._options.recorded]
        if not self._options.local_fencing:
            items.append("fence=agent")
        try:
            utab.record(self._volume.data_path, self._prepared.directory, ",".join(items))
            self._recorded = True
        except OSError as error:
            text = f"mount(8) will not show the options: {error}"
            self._log(logging.WARNING, text)
            # without a place for it there is no table; anything else is what mount(8) has an exit code for
            if error.errno not in (errno.ENOENT, errno.EROFS, errno.EACCES):
                self._table_error = text

    def _forget(self) -> None:
        """Take back what `_publish` did, as soon as the directory is free for others."""
        if self._link is not None:
            rundir.remove(self._link)
            self._link = None
        if self._recorded:
            self._recorded = False
            with contextlib.suppress(OSError):
                utab.remove(self._prepared.directory)

    def _say(self, text: str) -> None:
        if self._request.verbose:
            self._readiness.say(f"{self._prepared.directory}: {text}")


def _described(error: BaseException) -> str:
    """Name an exception, or those in a group of them, with the places where they were raised."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_described(inner) for inner in error.exceptions)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{error!r} at {frame.filename}:{frame.lineno}"
