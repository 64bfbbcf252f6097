"""KV cells from Python: their type, the budget, what idle sessions keep."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from generation import PROMPT, key
from kv_cells import page_size
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal

IDS = [5 + i % 40 for i in range(100)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kv") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return path


@pytest.mark.parametrize("kv_type", ["f32", "f16"])
def test_size_is_that_of_pages(path: Path, kv_type: str) -> None:
    lm = deal.load(path, compute="f32", kv_type=kv_type)
    assert lm.kv_type == kv_type and lm.kv_budget is None and lm.kv_size == 0
    lm.logits(IDS)  # and a root
    assert lm.kv_size == 2 * page_size(lm)


@pytest.mark.parametrize("compute", ["f32", "int8"])
def test_f16_is_near_f32_and_as_reproducible(path: Path, compute: str) -> None:
    f32 = deal.load(path, compute=compute)
    half = deal.load(path, compute=compute, kv_type="f16", threads=1)
    expected, got = f32.logits(IDS), half.logits(IDS)
    assert not np.array_equal(got, expected)
    # Of a key or value 2^-11 at most; that may move an activation of int8 compute by
    # one of its 8-bit steps.
    error = np.sqrt(np.mean((got - expected) ** 2)) / expected.std()
    assert error < (2e-3 if compute == "f32" else 0.03)
    again = deal.load(path, compute=compute, kv_type="f16", threads=2)
    again.logits(IDS[:70])
    assert np.array_equal(again.logits(IDS), got)
    assert key(again.generate(PROMPT)) == key(half.generate(PROMPT))


@pytest.mark.parametrize("kv_type", ["f32", "f16"])
def test_budget(path: Path, kv_type: str) -> None:
    free = deal.load(path, compute="f32", kv_type=kv_type)
    size = page_size(free)
    lm = deal.load(path, compute="f32", kv_type=kv_type, kv_budget=3 * size - 1)
    assert lm.kv_budget == 3 * size - 1
    expected = free.logits(IDS)
    for _ in range(2):
        with pytest.raises(
            deal.KVBudgetError,
            match=rf"kv_budget: .*at most {3 * size - 1} bytes.*{2 * size} held.*"
            rf"{size} needed",
        ):
            lm.logits([5] * 128)  # with the root one more than two pages have
        assert np.array_equal(lm.logits(IDS), expected)
        with pytest.raises(deal.KVBudgetError):
            lm.generate(IDS, max_new_tokens=60, eos_token_id=[])
        assert len(lm.generate(IDS, max_new_tokens=20, eos_token_id=[]).token_ids) == 20
    assert lm.kv_size == 2 * size
    assert issubclass(deal.KVBudgetError, MemoryError)


def test_budget_ends_a_search(path: Path) -> None:
    """Branches of a search count too; the model stays usable."""
    free = deal.load(path, compute="f32")
    size = page_size(free)
    lm = deal.load(path, compute="f32", kv_budget=size)
    search = deal.Search(top_k=8, lookahead=30)
    options = {"rewards": deal.rewards.Keywords(["zebra"])}
    with pytest.raises(deal.KVBudgetError, match="kv_budget"):
        lm.generate(PROMPT, search=search, eos_token_id=[], **options)
    short = {"max_new_tokens": 5, "search": deal.Search(top_k=2, lookahead=2)}
    assert key(lm.generate(PROMPT, **options, **short)) == key(
        free.generate(PROMPT, **options, **short)
    )


def test_budget_is_of_one_request(path: Path) -> None:
    """Two requests at once may hold as much each."""
    size = page_size(deal.load(path, compute="f32"))
    lm = deal.load(path, compute="f32", kv_budget=2 * size, threads=1)
    expected = lm.logits(IDS)
    found: list[bool] = []

    def ask() -> None:
        found.append(np.array_equal(lm.logits(IDS), expected))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


def test_idle_sessions_keep_little(tmp_path: Path) -> None:
    path = tmp_path / "long.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0, n_ctx=1024)), path)
    lm = deal.load(path, compute="f32")
    pieces = lm.stream([5] * 900, max_new_tokens=100, eos_token_id=[])
    next(pieces)
    assert lm.kv_size >= 15 * page_size(lm)  # 900 tokens are there
    pieces.close()
    assert lm.kv_size == 8 * page_size(lm)
    lm.logits([5] * 900)
    assert lm.kv_size == 8 * page_size(lm)


@pytest.mark.parametrize("kv_type", ["f8", "F32", None, 1])
def test_bad_type(path: Path, kv_type: object) -> None:
    with pytest.raises(ValueError, match="kv_type: expected 'f32' or 'f16', got"):
        deal.load(path, kv_type=kv_type)


@pytest.mark.parametrize("kv_budget", [0, -1, sys.maxsize + 1])
def test_bad_budget(path: Path, kv_budget: int) -> None:
    with pytest.raises(ValueError, match="kv_budget: expected"):
        deal.load(path, kv_budget=kv_budget)


@pytest.mark.parametrize("kv_type", ["f32", "f16"])
def test_budget_below_one_page(path: Path, kv_type: str) -> None:
    size = page_size(deal.load(path, kv_type=kv_type))
    with pytest.raises(ValueError, match=f"at least {size} bytes.*got {size - 1}"):
        deal.load(path, kv_type=kv_type, kv_budget=size - 1)
    lm = deal.load(path, kv_type=kv_type, kv_budget=size)
    assert len(lm.generate(PROMPT, max_new_tokens=2, eos_token_id=[]).token_ids) == 2


def test_overflow_of_f16_is_an_error(tmp_path: Path) -> None:
    tiny = make_tiny(TinyConfig(seed=0))
    name = "model.layers.0.self_attn.v_proj.weight"
    tiny.weights[name] *= np.float32(1e7)
    path = tmp_path / "large.gguf"
    write_gguf(tiny, path)
    assert np.isfinite(deal.load(path, compute="f32").logits(IDS)).all()
    half = deal.load(path, compute="f32", kv_type="f16")
    with pytest.raises(ValueError, match="kv_type: .*65504.*position 0 in layer 0"):
        half.logits(IDS)
