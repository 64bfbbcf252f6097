"""The engine benchmark: medians, peers that are missing, marks, the table."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import engine, peers  # noqa: E402


class StubWorker:
    """An engine of a given speed and divergence; `kl` None: it is not installed."""

    def __init__(self, name: str, rate: float, kl: float | None) -> None:
        self.name = name
        self.facts = None if kl is None else {"version": "1", "settings": "stub"}
        self.asked: list[str] = []
        self._rate, self._kl = rate, kl

    def ask(self, what: str) -> Any:
        assert self.facts is not None, "a missing engine is not asked"
        self.asked.append(what)
        if what == "kl":
            return {"kl": self._kl, "n_tokens": 2000, "peak_memory": 1}
        first = self.asked.count(what) == 1
        return 1e9 if first else self._rate * self.asked.count(what)


def test_rows_and_report() -> None:
    workers = [
        StubWorker("deal int8", 100.0, 0.003),
        StubWorker("near", 50.0, 0.01),
        StubWorker("far", 200.0, 0.011),
        StubWorker("gone", 0.0, None),
    ]
    rows = engine.rows_of(workers, 3, engine.WHATS)  # type: ignore[arg-type]
    assert rows[-1] == {"engine": "gone", "missing": "not installed"}
    assert len(rows) == 3 * len(engine.WHATS) + 1
    for row in rows[:-1]:
        rate = {"deal int8": 100.0, "near": 50.0, "far": 200.0}[row["engine"]]
        # The first round, which warms up, is left out.
        assert row["tok_s_all"] == [2 * rate, 3 * rate, 4 * rate]
        assert row["tok_s"] == 3 * rate
        assert row["is_equal"] == (row["engine"] != "far")
    limits = {"tok_s": dict.fromkeys(engine.WHATS, 600.0)}
    text = engine.report({"rows": rows, "limits": limits})
    lines = {line[:20].strip(): line for line in text.splitlines()}
    assert lines["gone"].endswith("not installed")
    assert "0.0110*" in lines["far"] and "*" not in lines["near"]
    assert lines["deal int8 of the lim"].count("50%") == len(engine.WHATS)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("llama.cpp Q4_1", "llama_cpp"),
        ("CTranslate2 int8", "ctranslate2"),
        ("transformers bf16", "transformers"),
    ],
)
def test_a_peer_that_is_not_installed(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert name in peers.PEERS
    monkeypatch.setitem(sys.modules, module, None)  # its import fails
    assert peers.open_engine(name, tmp_path / "model.gguf", 1, tmp_path) is None


def test_prefill_of_one_token_is_no_prefill() -> None:
    """CTranslate2 can be asked so that it ends after the prompt's first token."""

    def generate_batch(tokens: list[list[str]], **options: Any) -> list[Any]:
        if options.get("include_prompt_in_result", True):
            return [SimpleNamespace(sequences_ids=[[1000, 1001]])]
        return [SimpleNamespace(sequences_ids=[[7]])]

    ct2 = object.__new__(peers.CTranslate2Engine)
    ct2._tokenizer = SimpleNamespace(
        convert_ids_to_tokens=lambda ids: list(map(str, ids))
    )
    ct2._model = SimpleNamespace(generate_batch=generate_batch)
    assert ct2.prefill(range(1000, 1512)) >= 0.0
    ct2._model.generate_batch = lambda tokens, **options: generate_batch(tokens)
    with pytest.raises(RuntimeError, match="one token after the prompt"):
        ct2.prefill(range(1000, 1512))
