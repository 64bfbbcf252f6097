"""Threads and processes: fork, several models at once, OpenBLAS held to one thread."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation import PROMPT, SEARCH, key
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal

IDS = [5 + i % 40 for i in range(100)]
COMPUTE = ["f32", "int8"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("threads")
    paths = [folder / f"tiny-{seed}.gguf" for seed in range(3)]
    for seed, path in enumerate(paths):
        write_gguf(make_tiny(TinyConfig(seed=seed)), path)
    return paths


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork()")
@pytest.mark.parametrize("compute", COMPUTE)
def test_a_forked_child_goes_on(paths: list[Path], compute: str) -> None:
    """With the parent's model, with another session, and with a model of its own."""
    program = f"""
import os, sys, threading
import numpy as np
import deal
lm = deal.load({str(paths[0])!r}, compute={compute!r}, threads=3)
expected = lm.logits({IDS})
pid = os.fork()
same = [np.array_equal(lm.logits({IDS}), expected) for _ in range(2)]
pieces = lm.stream({IDS}, max_new_tokens=3, eos_token_id=[])
next(pieces)  # holds the session that was idle
same.append(np.array_equal(lm.logits({IDS}), expected))
pieces.close()
own = deal.load({str(paths[0])!r}, compute={compute!r}, threads=2)
same.append(np.array_equal(own.logits({IDS}), expected))
del own, lm
if pid == 0:
    os._exit(0 if all(same) else 3)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.exit(0 if all(same) and status == 0 else 4 + status)
"""
    # A program of its own: pytest's process may have threads that fork() would lose.
    done = subprocess.run([sys.executable, "-c", program], timeout=120)
    assert done.returncode == 0


@pytest.mark.parametrize("compute", COMPUTE)
def test_several_models_from_several_threads(paths: list[Path], compute: str) -> None:
    """Each as if it were alone; two threads of each model at a time."""
    options: dict[str, Any] = {
        "rewards": deal.rewards.Keywords(["dog", "sun"]),
        "search": SEARCH,
        "max_new_tokens": 6,
    }
    models = [deal.load(path, compute=compute, threads=2) for path in paths]
    expected = [(lm.logits(IDS), key(lm.generate(PROMPT, **options))) for lm in models]
    assert len({text for _, (text, *_) in expected}) > 1
    wrong: list[Any] = []
    start = threading.Barrier(2 * len(models))

    def ask(i_model: int) -> None:
        try:
            start.wait()
            for _ in range(4):
                logits, result = expected[i_model]
                lm = models[i_model]
                if not np.array_equal(lm.logits(IDS), logits):
                    wrong.append((i_model, "logits"))
                if key(lm.generate(PROMPT, **options)) != result:
                    wrong.append((i_model, "generate"))
        except BaseException as error:
            wrong.append((i_model, error))

    threads = [threading.Thread(target=ask, args=(i % 3,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_model_may_go_before_the_others(paths: list[Path]) -> None:
    first, second = (deal.load(path, threads=2) for path in paths[:2])
    expected = second.logits(IDS)
    first.logits(IDS)
    del first
    assert np.array_equal(second.logits(IDS), expected)


def test_openblas_has_one_thread(paths: list[Path]) -> None:
    """Loading says so, whatever it was told before; our own pool does the rest."""
    wheel = pytest.importorskip("scipy_openblas32", reason="the core uses another BLAS")
    library = next(
        path
        for path in Path(wheel.get_lib_dir()).iterdir()
        if path.name.startswith("libscipy_openblas")
        and path.suffix in (".so", ".dylib")
    )
    blas = ctypes.CDLL(str(library))
    blas.scipy_openblas_set_num_threads(2)
    deal.load(paths[0], compute="f32", threads=2).logits(IDS)
    assert blas.scipy_openblas_get_num_threads() == 1


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts through /proc")
def test_no_more_threads_than_asked_for(paths: list[Path]) -> None:
    """A session has its caller and threads - 1 more; they end with the model."""
    program = f"""
import gc, os
import deal
def count(): return len(os.listdir("/proc/self/task"))
before = count()
lm = deal.load({str(paths[0])!r}, compute="f32", threads=3)
for _ in range(3):
    lm.logits({IDS})
assert count() == before + 2, (before, count())
del lm
gc.collect()
assert count() == before, (before, count())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
