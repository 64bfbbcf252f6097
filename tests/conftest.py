"""Fixtures that several test files share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from search_table import Program, find_or_build

from deal import _hub

ALIAS = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file, from the cache that `make test` fills."""
    path = _hub.cached_path(ALIAS)
    if path is None:
        pytest.skip(
            f"{ALIAS} is not in the cache; `deal models --fetch {ALIAS}` puts it there"
        )
    return path


@pytest.fixture(scope="session")
def search_table(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The C search over a table LM, as a program."""
    return find_or_build(tmp_path_factory)


@pytest.fixture()
def ctrl_c() -> Iterator[None]:
    """Python's own handler, which it leaves out where a shell's background job, or a
    CI runner, starts it with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
