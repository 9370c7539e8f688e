"""Control directories made of plain files, as the recorded sysfs directories of real mounts list them."""

from __future__ import annotations

from pathlib import Path

RECORDED = Path(__file__).parents[1] / "data" / "kernel" / "sysfs"
LEADER = "sysfs-mount0-leader.txt"
FOLLOWERS = ("sysfs-mount1-follower.txt", "sysfs-mount2-follower.txt")
CLIENT = "sysfs-mount3-clientonly.txt"

FSID = 0xE55DD1


def recreate(listing: str, directory: Path) -> Path:
    """Make the files of a recorded directory in `directory`; return it."""
    root = ""
    path, content = None, ""
    for line in [*(RECORDED / listing).read_text("ascii").split("\n"), "== "]:
        if line.startswith("   | "):
            content += line.removeprefix("   | ") + "\n"
        elif line == "   (no newline at end)":
            content = content.removesuffix("\n")
        elif line.startswith("== "):
            if path is not None:
                path.write_text(content)
            path, content = None, ""
            name = line.rpartition(" ")[2]
            root = root or name
            target = directory / name.removeprefix(root)
            if name.endswith("/"):
                target.mkdir(parents=True)
            elif name:
                path = target
    return directory


def add_fence(directory: Path, rid: int, **files: str) -> None:
    """Add a fence request to a control directory."""
    request = directory / "fence" / f"{rid:016x}"
    request.mkdir(parents=True)
    content = {"elapsed_secs": "0", "fenced": "0", "error": "0", "ipv4_addr": "10.0.0.1", "reason": "unknown"}
    for name, text in {**content, "rid": f"{rid:016x}", **files}.items():
        (request / name).write_text(text)
