"""Errors that people read."""

from __future__ import annotations

import errno as _errno


class ScoutfsError(Exception):
    """Something that was refused or failed, in one line that says what is wrong and what to do.

    `errno` is the positive errno that a system call would have given.
    """

    def __init__(self, text: str, errno: int = _errno.EINVAL) -> None:
        self.errno = errno
        super().__init__(text)
