"""`python -m tests.mount.memory_mount DIRECTORY BLOCKS`: a filesystem in memory, mounted until it is unmounted.

Commands come on standard input, one JSON list a line, and are answered by a line each; they are what other mounts do.
At the end the whole volume is checked by the rules of the checker of volumes, and "clean" is the last line.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pyfuse3
import trio

from format.payloads import LockMode
from mount import kernel
from mount.control import ControlTree, control_directory
from mount.kernel_cache import KernelCache
from mount.notifications import Notifications
from mount.operations import Operations
from mount.options import parse_options
from mount.preparation import RootDirectory
from mount.writable_files import WritableFiles
from scoutfs.files.archive import release, stage
from scoutfs.files.attributes import NewAttributes, set_attributes
from scoutfs.files.caller import ROOT
from scoutfs.files.create import create
from scoutfs.files.linking import unlink
from scoutfs.files.writing import write
from tests.files.world import Space, World
from tests.mount.fakes import FakeMount
from tests.mount.memory_client import MemoryClient


def main() -> None:
    fuse = kernel.attach("memory", sys.argv[1], parse_options(""), root_mode=0o40755)
    trio.run(serve, fuse)
    pyfuse3.close(unmount=False)


async def serve(fuse: int) -> None:
    world = World()
    world.space = Space(int(sys.argv[2]))
    client = MemoryClient(world)
    view = FakeMount()
    cache = KernelCache(client, Notifications(fuse))
    root = RootDirectory(client.world.inode(1))

    def log(level: int, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    operations = Operations(
        None,
        root,
        None,
        ControlTree(control_directory(view)),
        client.statfs,
        log,
        files=lambda report: WritableFiles(client, cache, root, report, log, acl=True),
    )
    view.errors_text = operations.requests.errors_text
    view.requests_text = lambda: operations.in_progress.text(trio.current_time())
    pyfuse3.init(operations, f"/dev/fd/{fuse}", set())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.run)
        nursery.start_soon(operations.in_progress.watch)
        nursery.start_soon(obey, client)
        print("mounted", flush=True)
        await pyfuse3.main(max_tasks=10_000)
        nursery.cancel_scope.cancel()
    for ino in list(client.kept):
        client.drop_inode(ino, unlinked=True)
    client.world.check()
    print("clean", flush=True)


async def obey(client: MemoryClient) -> None:
    """Do what lines of standard input say."""
    lines = trio.lowlevel.FdStream(0)
    rest = b""
    async for chunk in lines:
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            print(json.dumps(await do(client, *json.loads(line))), flush=True)


async def do(client: MemoryClient, name: str, *arguments: Any) -> Any:
    """Do one thing that another mount, or the server, would do."""
    world = client.world
    if name == "lose":
        await client.lose(arguments[0], LockMode(arguments[1]))
    elif name == "grant":
        client.grant(*arguments)
    elif name == "hold back":
        client.held_back = True
    elif name == "release":
        client.release_all()
    elif name == "write":
        world.tick()
        world.perform(write, arguments[0], arguments[1], arguments[2].encode(), ROOT)
    elif name == "chmod":
        world.perform(set_attributes, arguments[0], NewAttributes(mode=arguments[1]), ROOT)
    elif name == "unlink":
        world.perform(unlink, arguments[0], arguments[1].encode())
    elif name == "archive":
        ino, length = arguments
        world.perform(release, ino, 0, length, world.inode(ino).data_version)
        world.commit()
    elif name == "stage":
        world.perform(stage, arguments[0], 0, arguments[1].encode(), world.inode(arguments[0]).data_version)
    elif name == "create":
        return world.perform(create, arguments[0], arguments[1].encode(), world.new_ino(), 0o100644, ROOT).ino
    elif name == "read":
        return world.contents(arguments[0]).decode()
    elif name == "exists":
        return world.exists(arguments[0])
    elif name == "commits":
        return client.commits
    else:
        raise ValueError(name)
    return None


if __name__ == "__main__":
    main()
