"""The locks of a mount: tasks, grants and invalidations in every order that may happen (spec 05 §2)."""

from __future__ import annotations

import errno

import pytest

from format.keys import Key
from format.net import Command
from format.payloads import LockMode
from scoutfs.client.lock_client import Answer, Ask, Deadlock, Holder, LockClient, Lower, Ready
from scoutfs.files.store import ORPHAN_LOCK, RENAME_LOCK, inode_request
from scoutfs.network.locks import NO_KEY, LockMessage
from scoutfs.network.session import Request, SessionError

NULL, READ, WRITE, WRITE_ONLY = LockMode
LOCK = inode_request(5)
KEY, END = LOCK.start, LOCK.end


class Mount:
    """A mount's locks, told by the test what the server says; requests are numbered."""

    def __init__(self, idle_count: int = 1000) -> None:
        self.locks = LockClient(idle_count)
        self.requests = 0

    def take(self, mode: LockMode, lock=LOCK, holder: Holder | None = None):
        """Have a task ask for a lock; return it and what is to be done."""
        holder = holder or Holder()
        return holder, self.locks.take(holder, lock._replace(mode=mode))

    def grant(self, old: LockMode, new: LockMode, write_seq: int = 0, key: bytes = KEY):
        return self.locks.granted(LockMessage(key, old, new, write_seq))

    def invalidate(self, old: LockMode, new: LockMode, key: bytes = KEY, epoch: int = 1):
        self.requests += 1
        request = Request(Command.LOCK, self.requests, b"", epoch)
        return self.locks.invalidate(request, LockMessage(key, old, new))

    def answer(self, number: int, old: LockMode, new: LockMode, epoch: int = 1) -> Answer:
        return Answer(Request(Command.LOCK, number, b"", epoch), LockMessage(KEY, old, new))

    def has(self, mode: LockMode, lock=LOCK) -> None:
        """Let a task take a lock and go, so that the mount has it."""
        holder, _ = self.take(mode, lock)
        self.grant(NULL, mode, 7 if mode != READ else 0, lock.start)
        self.locks.release(holder)

    def mode(self, key: bytes = KEY) -> LockMode | None:
        return next((lock.mode for lock in self.locks.infos() if lock.start == key), None)


def ask(old: LockMode, new: LockMode, key: bytes = KEY) -> Ask:
    return Ask(LockMessage(key, old, new))


def test_a_lock_is_asked_for_once_and_kept() -> None:
    mount = Mount()
    first, actions = mount.take(READ)
    assert actions == [ask(NULL, READ)]
    second, actions = mount.take(READ)
    assert actions == []
    assert mount.grant(NULL, READ) == [Ready(first), Ready(second)]
    assert first.holds(LOCK._replace(mode=READ))
    assert not first.holds(LOCK)
    assert mount.locks.release(first) == mount.locks.release(second) == []
    third, actions = mount.take(READ)
    assert actions == []
    assert third.waiting is None


@pytest.mark.parametrize(
    ("held", "wanted", "served"),
    [(WRITE, READ, True), (READ, WRITE, False), (WRITE, WRITE_ONLY, False), (WRITE_ONLY, READ, False)],
)
def test_which_modes_serve(held: LockMode, wanted: LockMode, served: bool) -> None:
    mount = Mount()
    mount.has(held)
    holder, actions = mount.take(wanted)
    assert (holder.waiting is None) == served
    assert actions == ([] if served else [ask(held, wanted)])


def test_the_generation_changes_when_others_may_have_written() -> None:
    """Spec 05 §2.6, T6."""
    mount = Mount()
    mount.has(READ)
    assert mount.locks.refresh_gen(KEY) == 1
    holder, _ = mount.take(WRITE)
    mount.grant(READ, WRITE, 5)
    assert (mount.locks.refresh_gen(KEY), mount.locks.write_seq(KEY)) == (1, 5)
    mount.locks.release(holder)
    mount.invalidate(WRITE, READ)
    mount.locks.lowered(KEY)
    assert mount.locks.refresh_gen(KEY) == 1
    mount.has(WRITE_ONLY, ORPHAN_LOCK)
    assert mount.locks.refresh_gen(ORPHAN_LOCK.start) == 0
    mount.invalidate(READ, NULL)
    assert mount.locks.refresh_gen(KEY) == 0
    mount.locks.lowered(KEY)
    mount.has(READ)
    assert mount.locks.refresh_gen(KEY) == 2


def test_r1_a_lock_is_given_up_while_more_of_it_is_asked_for() -> None:
    mount = Mount()
    mount.has(READ)
    holder, _ = mount.take(WRITE)
    assert mount.invalidate(READ, NULL) == [Lower(KEY, END, READ, NULL)]
    assert mount.locks.lowered(KEY) == [mount.answer(1, READ, NULL)]
    assert mount.grant(NULL, WRITE, 9) == [Ready(holder)]
    assert mount.locks.refresh_gen(KEY) == 2


def test_r2_an_invalidation_behind_a_grant_finds_the_lock_in_use() -> None:
    mount = Mount()
    holder, _ = mount.take(WRITE)
    mount.grant(NULL, WRITE, 9)
    assert mount.invalidate(WRITE, READ) == []
    assert mount.mode() == WRITE
    assert mount.locks.release(holder) == [Lower(KEY, END, WRITE, READ)]
    assert mount.mode() == READ, "lowered before anything is done"


def test_r3_a_lock_that_is_given_back_may_be_used_until_the_server_takes_it() -> None:
    mount = Mount()
    mount.has(READ)
    assert mount.locks.shrink_all() == [ask(READ, NULL)]
    reader, actions = mount.take(READ)
    assert (reader.waiting, actions) == (None, [])
    writer, actions = mount.take(WRITE)
    assert actions == [], "one request at a time"
    assert mount.invalidate(READ, NULL) == []
    assert mount.locks.release(reader) == [Lower(KEY, END, READ, NULL)]
    assert mount.locks.lowered(KEY) == [mount.answer(1, READ, NULL)]
    assert mount.grant(NULL, NULL) == [ask(NULL, WRITE)]
    assert mount.grant(NULL, WRITE, 3) == [Ready(writer)]


def test_r4_others_want_what_is_being_given_back() -> None:
    mount = Mount()
    mount.has(READ)
    mount.locks.shrink_all()
    mount.invalidate(READ, NULL)
    mount.locks.lowered(KEY)
    assert mount.grant(NULL, NULL) == []
    assert len(mount.locks) == 0


def test_r5_invalidations_are_answered_one_by_one() -> None:
    mount = Mount()
    mount.has(WRITE)
    assert mount.invalidate(WRITE, READ) == [Lower(KEY, END, WRITE, READ)]
    assert mount.invalidate(WRITE, NULL) == []
    assert mount.locks.lowered(KEY) == [mount.answer(1, WRITE, READ), Lower(KEY, END, READ, NULL)]
    assert mount.invalidate(WRITE, NULL) == []
    assert mount.locks.lowered(KEY) == [mount.answer(2, WRITE, NULL), mount.answer(3, WRITE, NULL)]
    assert len(mount.locks) == 0


def test_r6_what_we_do_not_have_is_given_up_at_once() -> None:
    mount = Mount()
    assert mount.invalidate(WRITE, NULL) == [mount.answer(1, WRITE, NULL)]


def test_r7_a_new_server_is_told_the_mode_that_is_being_given_up() -> None:
    mount = Mount()
    mount.has(WRITE)
    mount.invalidate(WRITE, NULL)
    assert mount.locks.held_from(NO_KEY) == [LockMessage(KEY, WRITE, WRITE, 7)]
    mount.locks.lowered(KEY)
    assert mount.locks.held_from(NO_KEY) == []


def test_r8_the_new_server_grants_what_the_old_one_is_still_being_given() -> None:
    mount = Mount()
    mount.has(READ)
    assert mount.invalidate(READ, NULL, epoch=1) == [Lower(KEY, END, READ, NULL)]
    holder, actions = mount.take(WRITE)
    assert actions == [ask(NULL, WRITE)]
    assert mount.locks.server_changed() == []
    assert mount.locks.held_from(NO_KEY)[0].new_mode == READ
    assert mount.grant(READ, WRITE, 8) == [], "what is known must be forgotten first"
    assert mount.locks.held_from(NO_KEY)[0].new_mode == WRITE, "should the server change once more"
    # the answer has the epoch of the old server: the session does not send it
    assert mount.locks.lowered(KEY) == [mount.answer(1, READ, NULL, epoch=1), Ready(holder)]
    assert mount.locks.refresh_gen(KEY) == 2


def test_r8_what_only_the_old_server_wanted_back_is_kept() -> None:
    mount = Mount()
    reader, _ = mount.take(READ)
    mount.grant(NULL, READ)
    assert mount.invalidate(READ, NULL) == []
    late, actions = mount.take(READ)
    assert late.waiting is not None
    assert actions == [], "it waits until the lock is gone, and then asks"
    assert mount.locks.server_changed() == [Ready(late)]
    assert mount.locks.release(reader) == []
    assert mount.mode() == READ


def test_r8_a_server_that_believes_in_more_than_there_is() -> None:
    mount = Mount()
    mount.has(READ)
    assert mount.invalidate(WRITE, READ) == [mount.answer(1, WRITE, READ)]
    assert mount.mode() == READ
    mount.has(WRITE_ONLY, ORPHAN_LOCK)
    (lower,) = mount.invalidate(WRITE, READ, ORPHAN_LOCK.start)
    assert lower == Lower(ORPHAN_LOCK.start, ORPHAN_LOCK.end, WRITE_ONLY, NULL)


def test_r9_null_is_given_up_for_a_task_that_waits() -> None:
    mount = Mount()
    holder, _ = mount.take(WRITE)
    assert mount.invalidate(NULL, NULL) == [mount.answer(1, NULL, NULL)]
    assert mount.grant(NULL, WRITE, 4) == [Ready(holder)]


def test_r10_the_number_of_the_second_grant_counts() -> None:
    mount = Mount()
    mount.take(WRITE)
    mount.locks.server_changed()
    mount.grant(NULL, WRITE, 31)
    assert mount.locks.write_seq(KEY) == 31


def test_readers_may_come_and_go_while_writing_is_given_up() -> None:
    mount = Mount()
    mount.has(WRITE)
    reader, _ = mount.take(READ)
    assert mount.invalidate(WRITE, READ) == [Lower(KEY, END, WRITE, READ)], "a reader is not in the way"
    another, _ = mount.take(READ)
    assert another.waiting is None
    assert mount.locks.release(reader) == []
    writer, actions = mount.take(WRITE)
    assert actions == [ask(READ, WRITE)]
    assert mount.locks.lowered(KEY) == [mount.answer(1, WRITE, READ)]
    assert writer.waiting is not None


def test_a_stream_of_short_uses_does_not_keep_a_lock_for_ever() -> None:
    mount = Mount()
    first, _ = mount.take(WRITE)
    mount.grant(NULL, WRITE, 4)
    mount.invalidate(WRITE, NULL)
    second, _ = mount.take(WRITE)
    assert second.waiting is not None
    assert mount.locks.release(first) == [Lower(KEY, END, WRITE, NULL)]
    assert mount.locks.lowered(KEY) == [mount.answer(1, WRITE, NULL), ask(NULL, WRITE)]


def test_who_stops_waiting_is_not_served() -> None:
    mount = Mount()
    holder, _ = mount.take(WRITE)
    mount.locks.release(holder)
    assert mount.grant(NULL, WRITE, 4) == []
    assert mount.invalidate(WRITE, NULL) == [Lower(KEY, END, WRITE, NULL)]


@pytest.mark.parametrize("count", [0, 21, 22, 23, 45])
def test_a_new_server_is_told_everything_in_parts(count: int) -> None:
    mount = Mount()
    locks = [inode_request(group, READ) for group in range(count)]
    for lock in reversed(locks):
        mount.has(READ, lock)
    mount.take(READ, RENAME_LOCK)  # waits, so that there is nothing to tell
    key, told, parts = NO_KEY, [], []
    while part := mount.locks.held_from(key):
        parts.append(len(part))
        told += part
        key = Key.from_sort_bytes(part[-1].key).increment().sort_bytes
    assert [lock.key for lock in told] == [lock.start for lock in locks]
    assert all(size == 22 for size in parts[:-1])
    assert all(size <= 22 for size in parts)


def test_the_longest_unused_lock_is_given_back_when_there_are_too_many() -> None:
    mount = Mount(idle_count=3)
    for group in range(3):
        mount.has(READ, inode_request(group, READ))
    mount.locks.idle_count = 2
    _, actions = mount.take(READ, inode_request(1, READ))
    first = inode_request(0).start
    assert actions == [ask(READ, NULL, first)]
    mount.invalidate(READ, NULL, first)
    mount.locks.lowered(first)
    mount.grant(NULL, NULL, key=first)
    assert len(mount.locks) == 2


def test_locks_out_of_order_are_refused() -> None:
    """Spec 05 §1.2."""
    mount = Mount()
    mount.has(WRITE)
    mount.has(WRITE_ONLY, ORPHAN_LOCK)
    holder, _ = mount.take(WRITE_ONLY, ORPHAN_LOCK)
    with pytest.raises(Deadlock) as refused:
        mount.take(WRITE, LOCK, holder)
    assert refused.value.errno == errno.EDEADLK
    holder, _ = mount.take(WRITE)
    with pytest.raises(Deadlock, match="asked for behind"):
        mount.take(READ, LOCK, holder)
    holder.in_transaction = True
    with pytest.raises(Deadlock, match="in a transaction"):
        mount.take(WRITE_ONLY, ORPHAN_LOCK, holder)


def test_a_rename_looks_at_ancestors_one_at_a_time() -> None:
    mount = Mount()
    mount.has(WRITE, RENAME_LOCK)
    holder, _ = mount.take(WRITE, RENAME_LOCK)
    for group in (7, 3, 9):
        mount.has(READ, inode_request(group, READ))
        mount.take(READ, inode_request(group), holder)
        mount.locks.release_last(holder)
    assert [held.start for held in holder.held] == [RENAME_LOCK.start]


def test_taking_without_asking_the_server() -> None:
    mount = Mount()
    assert not mount.locks.try_take(Holder(), LOCK)
    mount.has(READ)
    assert mount.locks.try_take(Holder(), LOCK._replace(mode=READ))
    assert not mount.locks.try_take(Holder(), LOCK)


def test_the_line_of_a_lock() -> None:
    """Spec 05 §3.4."""
    mount = Mount()
    mount.take(READ)
    mount.grant(NULL, READ)
    mount.take(WRITE)
    (lock,) = mount.locks.infos()
    ones = 2**64 - 1
    assert str(lock) == (
        f"start 16.5120.0.0.0.0 end 16.6143.255.{ones}.{ones}.255 refresh_gen 1 mode 1 "
        "waiters: rd 0 wr 1 wo 0 users: rd 1 wr 0 wo 0"
    )


def test_a_grant_that_was_not_asked_for_breaks_the_connection() -> None:
    with pytest.raises(SessionError):
        Mount().grant(NULL, READ)
