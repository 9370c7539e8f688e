"""Blocking functions out of an event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import trio

_Result = TypeVar("_Result")


class Offload:
    """Runs blocking functions in worker threads; one that is cancelled is left to itself, so it should only read."""

    async def __call__(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Return what `function` returns, or raise what it raises."""
        return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)
