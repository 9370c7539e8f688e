"""Counter names are those of a real mount, and counting is safe from any thread."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from scoutfs.counters import COUNTER_NAMES, Counters

CAPTURE = Path(__file__).parent / "data/kernel/sysfs/sysfs-mount0-leader.txt"


def test_the_names_are_those_of_a_real_mount() -> None:
    seen = re.findall(r"^== .*/counters/(\w+)$", CAPTURE.read_text(), re.MULTILINE)
    assert len(seen) == 202
    assert sorted(COUNTER_NAMES) == sorted(seen)


def test_counters_start_at_zero_and_add() -> None:
    counters = Counters()
    assert counters.snapshot() == dict.fromkeys(COUNTER_NAMES, 0)
    counters.add("quorum_elected")
    counters.add("net_send_bytes", 4096)
    counters.merge({"net_send_bytes": 1, "statfs": 3})
    changed = {name: value for name, value in counters.snapshot().items() if value}
    assert changed == {"quorum_elected": 1, "net_send_bytes": 4097, "statfs": 3}


def test_an_unknown_name_is_an_error_and_changes_nothing() -> None:
    counters = Counters()
    with pytest.raises(KeyError):
        counters.add("quorum_erected")
    with pytest.raises(KeyError):
        counters.merge({"statfs": 1, "quorum_erected": 1})
    assert counters.snapshot() == dict.fromkeys(COUNTER_NAMES, 0)


def test_threads_lose_no_counts() -> None:
    counters = Counters()

    def count() -> None:
        for _ in range(5000):
            counters.add("statfs")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert counters.snapshot()["statfs"] == 20000
