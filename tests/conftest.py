"""Options of the whole test suite."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --rewrite."""
    parser.addoption("--rewrite", action="store_true", help="rewrite what transcripts expect with what comes out")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to rewrite where nobody reads the difference."""
    if config.getoption("--rewrite") and os.environ.get("CI"):
        raise pytest.UsageError("--rewrite is refused in CI: rewrite at home, and read the difference")
