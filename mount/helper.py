"""`mount.scoutfs`: the helper that mount(8) runs for the type scoutfs, and a command of its own.

Parses the command line and the options before anything else is even imported: what is wrong with them is told at once.
"""

from __future__ import annotations

import gc
import getopt
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from mount.daemon import ExitCode, ForegroundReadiness, Readiness, run_in_background
from mount.options import MountFlag, MountOptions, OptionError, parse_options
from scoutfs.errors import ScoutfsError

PROGRAM = "mount.scoutfs"

USAGE = """\
usage: mount.scoutfs [-sfnvrw] [-N NAMESPACE] [--foreground] [-o OPTIONS] DEVICE DIRECTORY

Mounts a ScoutFS volume.  DEVICE is its data device, or its only one; image files work too.

  -o OPTIONS       comma separated, may be given several times:
                     metadev_path=PATH      the metadata device, if the volume has two devices
                     quorum_slot_nr=N       be the member of quorum slot N; without it the mount is a client only
                     wait[=SECONDS]         return when the filesystem is usable, fail when it is not in time
                     foreground             stay in the foreground and log to standard error
                     fence=local|agent      fence mounts of this host without help (default), or never
                   and more, see mount.scoutfs(8)
  -f, --fake       check everything, but do not mount
  -s               ignore options that are not known
  -n, --no-mtab    do not record the options for mount(8)
  -v, --verbose    say what is done
  -r, -w           like -o ro, -o rw
  -N NAMESPACE     mount in another mount namespace: a process number or a path
  --foreground     like -o foreground
  -h, --help       show this
  -V, --version    show the version

examples:
  mount.scoutfs -o quorum_slot_nr=0,metadev_path=/dev/meta /dev/data /mnt/scoutfs
  mount.scoutfs -o quorum_slot_nr=0,wait=10 volume.img /mnt/scoutfs
  mount -t scoutfs -o metadev_path=/dev/meta /dev/data /mnt/scoutfs

exit status: 0 mounted, 1 wrong usage or not permitted, 2 system error, 4 internal error, 8 interrupted,
16 mounted but not recorded for mount(8), 32 refused or failed
"""


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A parsed command line; `options` is what stands behind every -o, joined."""

    source: str
    directory: str
    options: str = ""
    fake: bool = False
    sloppy: bool = False
    verbose: bool = False
    record: bool = True
    namespace: str | None = None


class UsageError(ScoutfsError):
    """A command line that makes no sense."""


@dataclass
class _Words:
    """What was gathered from a command line so far."""

    options: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    namespace: str | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (`sys.argv` by default); return the exit status of mount(8)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in arguments):
        print(USAGE, end="")
        return ExitCode.SUCCESS
    if any(word in ("-V", "--version") for word in arguments):
        from scoutfs.cli import version

        print(f"{PROGRAM} from {version()}")
        return ExitCode.SUCCESS
    try:
        line = parse_command_line(arguments)
    except UsageError as error:
        print(f"{PROGRAM}: {error}\n{PROGRAM}: see mount.scoutfs --help", file=sys.stderr)
        return ExitCode.USAGE
    try:
        options = parse_options(line.options, sloppy=line.sloppy)
        if options.flags & MountFlag.REMOUNT:
            return _remount(line, options)
    except ScoutfsError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return ExitCode.FAILURE
    return _mount(line, options)


def parse_command_line(arguments: Sequence[str]) -> CommandLine:
    """Parse the words of a command line, options before or behind the others; raises UsageError."""
    try:
        pairs, words = getopt.gnu_getopt(
            list(arguments), "o:fsnvrwN:t:", ["fake", "no-mtab", "verbose", "foreground", "read-only", "rw", "options="]
        )
    except getopt.GetoptError as error:
        raise UsageError(error.msg) from error
    given = _Words()
    for option, value in pairs:
        match option:
            case "-o" | "--options":
                given.options.append(value)
            case "-r" | "--read-only":
                given.options.append("ro")
            case "-w" | "--rw":
                given.options.append("rw")
            case "--foreground":
                given.options.append("foreground")
            case "-N":
                given.namespace = value
            case "-t":
                _check_type(value)
            case _:
                given.flags.add(option.lstrip("-")[0])
    if len(words) != 2:
        raise UsageError(f"a device and a directory are needed, {len(words)} words were given")
    source, directory = words
    return CommandLine(
        source=source,
        directory=directory,
        options=",".join(given.options),
        fake="f" in given.flags,
        sloppy="s" in given.flags,
        verbose="v" in given.flags,
        record="n" not in given.flags,
        namespace=given.namespace,
    )


def _check_type(kind: str) -> None:
    # mount(8) hands the type over if it has a dot
    if kind not in ("scoutfs", "fuse.scoutfs"):
        raise UsageError(f"-t {kind}: this mounts scoutfs only")


def _mount(line: CommandLine, options: MountOptions) -> int:
    # before the child leaves the working directory
    source, directory = os.path.abspath(line.source), os.path.abspath(line.directory)
    metadev_path = options.metadev_path and os.path.abspath(options.metadev_path)

    def run(readiness: Readiness) -> int:
        # here, because only the child needs it; nothing of it is garbage, so nobody need look for that meanwhile
        gc.disable()
        from dataclasses import replace

        from mount.preparation import MountRequest
        from mount.process import run_mount

        gc.enable()

        request = MountRequest(
            source,
            directory,
            replace(options, metadev_path=metadev_path),
            fake=line.fake,
            verbose=line.verbose,
            record=line.record,
            namespace=line.namespace,
        )
        return run_mount(request, readiness)

    if options.foreground or line.fake:
        try:
            return run(ForegroundReadiness(PROGRAM))
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED
    return run_in_background(PROGRAM, run)


def _remount(line: CommandLine, options: MountOptions) -> int:
    """Change the flags that the kernel keeps; the options of ours are changed through files."""
    from mount import kernel

    directory = os.path.realpath(line.directory)
    mounted = kernel.mounted_at(directory)
    if mounted is None or mounted.type != kernel.FILESYSTEM_TYPE:
        raise ScoutfsError(f"{directory}: no ScoutFS volume is mounted here")
    path = os.path.join(directory, ".scoutfs", "options")
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            running = parse_options(file.read().removesuffix("\n"))
    except OSError as error:
        raise ScoutfsError(f"{path}: {error.strerror}") from error
    if options.norecovery and not running.norecovery:
        raise OptionError("norecovery cannot be changed by a remount: unmount first")
    if running.norecovery and not options.read_only:
        raise OptionError(f"{directory} is mounted with norecovery, which is possible read-only only: unmount first")
    for name, value in options.numbers.items():
        given = f"{name}=" in line.options
        if given and value != running.numbers[name] and not _is_hidden(name):
            raise OptionError(
                f"{name}={value} cannot be changed by a remount, it is {running.numbers[name]}: "
                f"write to {directory}/.scoutfs/mount_options/{name}, or unmount first"
            )
    if not line.fake:
        kernel.remount(directory, options.flags & ~MountFlag.REMOUNT)
    return ExitCode.SUCCESS


def _is_hidden(name: str) -> bool:
    from mount.options import NUMBERS

    return not NUMBERS[name].shown


if __name__ == "__main__":
    sys.exit(main())
