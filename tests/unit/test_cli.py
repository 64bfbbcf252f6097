"""The command line, the demo and the benchmark's figures, over a model that is a stub.

The tests at the end run the real model where it is in the cache.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_model import make_tiny, write_hf_folder

import deal
from deal import _hub, _info, cli, demo

ROOT = Path(__file__).resolve().parents[2]
ALIAS = "smollm2-135m-instruct"
STATS = deal.Stats(
    n_prompt_tokens=10,
    n_forward_tokens=20,
    n_forward_passes=8,
    n_steps=4,
    n_rollouts=0,
    n_rollout_tokens=0,
    n_reward_calls=0,
    n_reward_texts=0,
    seconds_prefill=0.25,
    seconds_forward=0.5,
    seconds_reward=0.0,
    seconds_total=0.75,
)


def generation(text: str) -> deal.Generation:
    return deal.Generation(
        text=text,
        token_ids=tuple(range(len(text.split()) + 1)),
        logprob=-2.0,
        reward=0.0,
        rewards={},
        score=-2.0,
        finish_reason="stop",
        stats=STATS,
    )


class StubStream:
    def __init__(self, text: str, interrupt_after: int | None = None) -> None:
        self.text = text
        self.interrupt_after = interrupt_after
        self.generation: deal.Generation | None = None

    def __iter__(self) -> Iterator[str]:
        for i, word in enumerate(self.text.split(" ")):
            if i == self.interrupt_after:
                raise KeyboardInterrupt
            yield word if i == 0 else " " + word
        self.generation = generation(self.text)


class StubModel:
    """Answers with a fixed text; with rewards, with another. Remembers its calls."""

    path = Path("stub.gguf")
    compute = "int8"
    threads = 2

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        self.loaded: list[tuple[Any, dict[str, Any]]] = []
        self.error: BaseException | None = None
        self.interrupt_after: int | None = None
        self.plain, self.steered = "plain text", "The DOGS saw it."

    def _answer(self, name: str, prompt: Any, options: dict[str, Any]) -> str:
        if isinstance(prompt, list):
            prompt = [dict(message) for message in prompt]
        self.calls.append((name, prompt, options))
        if self.error is not None:
            raise self.error
        return self.steered if options.get("rewards") is not None else self.plain

    def generate(self, prompt: Any, **options: Any) -> Any:
        one = generation(self._answer("generate", prompt, options))
        n = options.get("num_return_sequences", 1)
        return one if n == 1 else [one] * n

    def chat(self, messages: Any, **options: Any) -> Any:
        return generation(self._answer("chat", messages, options))

    def stream(self, prompt: Any, **options: Any) -> StubStream:
        text = self._answer("stream", prompt, options)
        return StubStream(text, self.interrupt_after)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> StubModel:
    model = StubModel()

    def load(name: Any, **options: Any) -> StubModel:
        model.loaded.append((name, options))
        return model

    monkeypatch.setattr("deal._load.load", load)
    monkeypatch.delenv("DEAL_DEBUG", raising=False)
    return model


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What input() returns, in turn; exceptions are raised; then the end of input."""
    queue: list[Any] = []

    def read(prompt: str = "") -> str:
        item = queue.pop(0) if queue else EOFError()
        if isinstance(item, BaseException):
            raise item
        return item

    monkeypatch.setattr("builtins.input", read)
    return queue


# --- generate -------------------------------------------------------------------------


def test_generate_streams(stub: StubModel, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["generate", "Once", "--max-new-tokens", "7", "--stop", "x"]) == 0
    assert capsys.readouterr().out == "plain text\n"
    name, prompt, options = stub.calls[0]
    assert (name, prompt) == ("stream", "Once")
    assert options["max_new_tokens"] == 7
    assert options["stop"] == ["x"]
    assert stub.loaded == [
        (
            ALIAS,
            {
                "compute": "auto",
                "threads": None,
                "max_length": None,
                "kv_type": "f32",
                "kv_budget": None,
            },
        )
    ]


@pytest.mark.parametrize("command", [["generate", "Once"], ["chat"]])
def test_kv_options(stub: StubModel, lines: list[Any], command: list[str]) -> None:
    assert cli.main([*command, "--kv-type", "f16", "--kv-budget", "5000000"]) == 0
    options = stub.loaded[0][1]
    assert (options["kv_type"], options["kv_budget"]) == ("f16", 5000000)
    assert cli.main([*command, "--kv-type", "f8"]) == 2
    assert cli.main([*command, "--kv-budget", "0"]) == 2


def test_kv_budget_that_is_too_small(
    stub: StubModel, lines: list[Any], capsys: pytest.CaptureFixture
) -> None:
    """One line, no traceback; a conversation goes on."""
    stub.error = deal.KVBudgetError("kv_budget: expected at most 9 bytes")
    assert cli.main(["generate", "Once"]) == 1
    message = capsys.readouterr().err
    assert message == "deal: error: kv_budget: expected at most 9 bytes\n"
    lines += ["hello"]
    assert cli.main(["chat"]) == 0
    assert "at most 9 bytes (/reset starts anew)" in capsys.readouterr().err


def test_generate_keywords(stub: StubModel, capsys: pytest.CaptureFixture) -> None:
    arguments = ["generate", "Once", "--keywords", "dog|dogs, saw", "--lookahead", "3"]
    arguments += ["--reward-weight", "2.5", "--num-beams", "2", "--commit", "2"]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == "The DOGS saw it.\n"
    options = stub.calls[0][2]
    assert options["search"] == deal.Search(
        top_k=5, lookahead=3, reward_weight=2.5, num_beams=2, commit=2
    )
    assert isinstance(options["rewards"], deal.Reward)


def test_generate_rewards(
    stub: StubModel, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    file = tmp_path / "rewards.json"
    file.write_text('[{"type": "repetition", "n": 2, "weight": -1}, "Length(min=4)"]')
    formulas = ["0.5 * Length(max=2)", '{"type": "format", "no_commas": true}']
    arguments = ["generate", "Once", "--keywords", "cat", "--rewards", str(file)]
    for formula in formulas:
        arguments += ["--reward", formula]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == "The DOGS saw it.\n"
    options = stub.calls[0][2]
    assert options["search"] == deal.Search(top_k=5, lookahead=16, reward_weight=4.0)
    r = deal.rewards
    expected = r.Keywords(["cat"]) + 0.5 * r.Length(max=2) + r.Format(no_commas=True)
    expected = expected - r.Repetition(2) + r.Length(min=4)
    texts = ["a cat, a cat", "one two three four five six"]
    assert options["rewards"].score(texts) == expected.score(texts)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("Length(", "was never closed"),
        ("Length(longest=1)", "got 'longest'"),
        ("[]", "at least one"),
        ('{"type": "nothing"}', "type: expected one of"),
        ('Lexicon(path="none.txt")', "No such file or directory: none.txt"),
    ],
)
def test_rewards_that_are_none(
    stub: StubModel, capsys: pytest.CaptureFixture, value: str, said: str
) -> None:
    assert cli.main(["generate", "a", "--reward", value]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and said in captured.err
    assert stub.calls == []


def test_generate_sampling_json(stub: StubModel, capsys: pytest.CaptureFixture) -> None:
    arguments = ["generate", "Once", "--temperature", "0.7", "--top-k", "9", "--top-p"]
    arguments += ["0.9", "--seed", "3", "-r", "2", "--json", "--threads", "1"]
    assert cli.main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["text"] for row in rows] == ["plain text"] * 2
    assert rows[0]["token_ids"] == [0, 1, 2]
    assert rows[0]["stats"]["n_forward_tokens"] == 20
    assert stub.calls[0][0] == "generate"
    assert stub.calls[0][2]["sampling"] == deal.Sampling(
        0.7, top_k=9, top_p=0.9, seed=3
    )


def test_generate_several_as_text(
    stub: StubModel, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["generate", "a", "--num-beams", "2", "-r", "2"]) == 0
    assert capsys.readouterr().out.count("plain text") == 2
    assert stub.calls[0][2]["num_beams"] == 2


def test_generate_chat_and_stdin(
    stub: StubModel, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("from stdin"))
    assert cli.main(["generate", "-", "--chat", "--no-stream"]) == 0
    name, messages, _ = stub.calls[0]
    assert name == "chat"
    assert messages == [{"role": "user", "content": "from stdin"}]


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate"],
        ["generate", "a", "--max-new-tokens", "0"],
        ["generate", "a", "--keywords", "cat", "--temperature", "1"],
        ["generate", "a", "--reward", "Length(max=3)", "--temperature", "1"],
        ["generate", "a", "--rollout-model", "b"],
        ["generate", "a", "--keywords", " , |"],
        ["explain", "a"],
        ["generate", "a", "--compute", "f64"],
        ["generate", "a", "--no-such-option"],
        ["demo", "-n", "0"],
        ["demo", "-n", "99"],
        ["info"],
        ["no-such-command"],
    ],
)
def test_usage_errors(
    stub: StubModel, capsys: pytest.CaptureFixture, arguments: list[str]
) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err != ""
    assert stub.calls == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("top_k: expected\nat least 1"), "top_k: expected at least 1"),
        (deal.ModelFormatError("m.gguf: cut off"), "m.gguf: cut off"),
        (NotImplementedError("architecture 'mamba'"), "architecture 'mamba'"),
        (FileNotFoundError(2, "no model file", "x.gguf"), "no model file: x.gguf"),
        (_hub.FetchError(28, "no space left"), "no space left"),
        (_hub.FetchError("no network"), "no network"),
        (RuntimeError("odd"), "RuntimeError: odd (DEAL_DEBUG=1 shows where)"),
    ],
)
def test_library_errors_are_one_line(
    stub: StubModel,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    said: str,
) -> None:
    stub.error = error
    assert cli.main(["generate", "a"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"deal: error: {said}\n"
    monkeypatch.setenv("DEAL_DEBUG", "1")
    with pytest.raises(type(error)):
        cli.main(["generate", "a"])


def test_interrupt_leaves_quietly(
    stub: StubModel, capsys: pytest.CaptureFixture
) -> None:
    stub.interrupt_after = 1
    assert cli.main(["generate", "a"]) == 130
    captured = capsys.readouterr()
    assert captured.out == "plain"
    assert "Traceback" not in captured.err


# --- chat -----------------------------------------------------------------------------


def test_chat_keeps_the_conversation(
    stub: StubModel, lines: list[Any], capsys: pytest.CaptureFixture
) -> None:
    lines += ["hello", "", "again", "/reset", "anew"]
    assert cli.main(["chat", "--system", "Be brief.", "--temperature", "0.5"]) == 0
    assert capsys.readouterr().out == "plain text\n" * 3
    system = {"role": "system", "content": "Be brief."}
    hello = {"role": "user", "content": "hello"}
    answer = {"role": "assistant", "content": "plain text"}
    again = {"role": "user", "content": "again"}
    asked = [call[1] for call in stub.calls]
    assert asked == [
        [system, hello],
        [system, hello, answer, again],
        [system, {"role": "user", "content": "anew"}],
    ]
    assert stub.calls[0][2]["sampling"].temperature == 0.5


def test_chat_interrupted_answer_stays(
    stub: StubModel, lines: list[Any], capsys: pytest.CaptureFixture
) -> None:
    stub.interrupt_after = 1
    lines += ["hello", KeyboardInterrupt(), "again"]
    assert cli.main(["chat"]) == 0
    assert capsys.readouterr().out == "plain\nplain\n"
    assert stub.calls[1][1][1] == {"role": "assistant", "content": "plain"}


def test_chat_without_room(
    stub: StubModel, lines: list[Any], capsys: pytest.CaptureFixture
) -> None:
    stub.error = deal.ContextLengthError("prompt: 9000 tokens, at most 8191")
    lines += ["hello", "again"]
    assert cli.main(["chat"]) == 0
    assert "/reset" in capsys.readouterr().err
    assert [len(call[1]) for call in stub.calls] == [1, 1]


# --- models ---------------------------------------------------------------------------


def test_models(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEAL_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert cli.main(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cache"] == str(tmp_path)
    row = next(row for row in found["models"] if row["name"] == ALIAS)
    assert row["path"] is None
    path = _hub.model_path(ALIAS)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    os.truncate(path, _hub.ALIASES[ALIAS].size)
    assert cli.main(["models", "--json"]) == 0
    row = next(r for r in json.loads(capsys.readouterr().out)["models"] if r["path"])
    assert row["path"] == str(path)
    assert cli.main(["models"]) == 0
    assert ALIAS in capsys.readouterr().out
    assert cli.main(["models", "--fetch", "no-such-alias"]) == 1
    assert "unknown model" in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("deal ")
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("demo", "generate", "chat", "info", "models"):
        assert command in out


def test_block_sizes_are_ggmls() -> None:
    gguf = pytest.importorskip("gguf", reason="the reference for block sizes")
    for name, (size, width) in _info._BLOCKS.items():
        kind = gguf.GGMLQuantizationType[name]
        assert gguf.GGML_QUANT_SIZES[kind] == (width, size)


# --- demo -----------------------------------------------------------------------------


def test_demo_json(stub: StubModel, capsys: pytest.CaptureFixture) -> None:
    stub.steered = "A dog catches the ball they threw in the Park"
    assert cli.main(["demo", "--json", "-n", "2", "--top-k", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["words"][0] for item in found["items"]] == ["dog", "woman"]
    first = found["items"][0]
    assert first["plain"]["covered"] == dict.fromkeys(demo.WORD_SETS[0], False)
    assert first["deal"]["covered"] == dict.fromkeys(demo.WORD_SETS[0], True)
    assert first["deal"]["n_tokens"] == 11
    assert found["settings"]["search"]["top_k"] == 3
    assert found["summary"]["deal"]["coverage_hard"] == 0.5
    assert found["summary"]["plain"]["coverage_soft"] == 0.0


def test_demo_table(
    stub: StubModel, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    stub.plain = "A dog with [brackets] in the park."
    assert cli.main(["demo", "-n", "1"]) == 0
    out = capsys.readouterr().out
    assert "2/4 words (not: ball, throw)" in out
    assert "[brackets]" in out
    assert "0/1" in out


def test_word_sets_hold_their_own_forms() -> None:
    for concepts in demo.WORD_SETS:
        for concept, forms in concepts.items():
            assert concept in forms
            assert all(form == form.lower() for form in forms)


def test_find_forms() -> None:
    concepts = {"cat": ("cat", "cats"), "a.c": ("a.c",), "ice cream": ("ice cream",)}
    found = demo.find_forms("Cats concatenate abc; a CAT has Ice cream.", concepts)
    assert found == {"cat": [(0, 4), (24, 27)], "a.c": [], "ice cream": [(32, 41)]}


def test_summarise() -> None:
    def one(covered: list[bool], n_tokens: int, seconds: float) -> demo.Run:
        words = {str(i): is_used for i, is_used in enumerate(covered)}
        return demo.Run("", words, n_tokens, -float(n_tokens), seconds, "stop", {})

    pairs = [
        (one([True, False], 10, 1.0), one([True, True], 10, 4.0)),
        (one([False, False], 10, 1.0), one([True, False], 20, 20.0)),
        (one([True, True], 20, 1.0), one([True, True], 10, 4.0)),
    ]
    summary = demo.summarise(pairs)
    assert summary["plain"]["coverage_soft"] == pytest.approx(0.5)
    assert summary["plain"]["coverage_hard"] == pytest.approx(1 / 3)
    assert summary["deal"]["coverage_soft"] == pytest.approx(2.5 / 3)
    assert summary["deal"]["logprob_per_token"] == -1.0
    assert summary["slowdown_median"] == pytest.approx(8.0)  # of 4, 10 and 8
    assert summary["slowdown_total"] == pytest.approx((40 / 3) / (40 / 28))


# --- the benchmark and the table made of it -------------------------------------------


def test_benchmark_and_table(
    stub: StubModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import make_results_table

    from benchmarks import commongen

    monkeypatch.setattr(deal, "load", lambda *a, **k: stub)
    data = tmp_path / "dev.jsonl"
    record = {"id": "a", "concepts": ["dog"], "forms": {"dog": ["dog", "dogs"]}}
    data.write_text(json.dumps(record) + "\n" + json.dumps(record | {"id": "b"}) + "\n")
    out = tmp_path / "benchmarks" / "results" / "commongen.json"
    assert commongen.main(["--data", str(data), "-n", "2", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["summary"]["plain"]["coverage_hard"] == 0.0
    assert result["summary"]["deal"]["coverage_hard"] == 1.0
    assert result["environment"]["machine"]["cores"] >= 1
    assert [item["id"] for item in result["items"]] == ["a", "b"]
    begin, end = (f"<!-- {e} results: commongen -->" for e in ("BEGIN", "END"))
    document = f"head\n{begin}\nold\n{end}\ntail"
    filled, missing = make_results_table.fill(document, out.parent)
    assert "| DeAL | 1.00 | 1.00 |" in filled and not missing
    assert filled.startswith("head\n") and filled.endswith("\ntail")
    assert "old" not in filled
    assert make_results_table.fill(filled, out.parent) == (filled, [])
    with pytest.raises(ValueError, match="at least 3"):
        commongen.read_items(data, 3, None)
    data.write_text(json.dumps(record | {"forms": {}}) + "\n")
    with pytest.raises(ValueError, match="line 1: no forms"):
        commongen.read_items(data, 1, None)


def test_readme_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "tools" / "make_results_table.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- the real model -------------------------------------------------------------------

needs_model = pytest.mark.skipif(
    _hub.cached_path(ALIAS) is None,
    reason=f"{ALIAS} is not in the cache; `deal models --fetch {ALIAS}` puts it there",
)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_info_names_a_folders_types(dtype: str, tmp_path: Path) -> None:
    write_hf_folder(make_tiny(), tmp_path / "model", dtype)
    lm = deal.load(tmp_path / "model")
    types = _info.model_facts(lm.path, lm)["types"]
    assert types.keys() == {dtype, "F32"}  # norms are F32
    assert types[dtype]["tensors"] > 0


def run_deal(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "deal", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_model
@pytest.mark.slow
def test_real_info() -> None:
    done = run_deal("info", ALIAS, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["hparams"]["n_layer"] == 30
    assert facts["hparams"]["n_head_kv"] == 3
    assert facts["types"]["Q4_1"]["tensors"] > 0
    file_size = _hub.ALIASES[ALIAS].size
    assert 0.9 * file_size < facts["size"] < file_size
    assert facts["tokenizer"]["tokenizer"] == "tokenizers"
    assert "<|im_start|>" in facts["chat_template"]
    plain = run_deal("info", ALIAS)
    assert plain.returncode == 0 and "n_head_kv" in plain.stdout


@needs_model
@pytest.mark.slow
def test_real_generate_streams_what_it_returns() -> None:
    arguments = ("generate", "The capital of France is", "--max-new-tokens", "8")
    streamed, at_once = run_deal(*arguments), run_deal(*arguments, "--json")
    assert streamed.returncode == at_once.returncode == 0, streamed.stderr
    assert streamed.stdout == json.loads(at_once.stdout)[0]["text"] + "\n"
    assert "Paris" in streamed.stdout


@needs_model
@pytest.mark.slow
def test_real_demo_covers_more_words() -> None:
    done = run_deal("demo", "--json", "-n", "2", "--max-new-tokens", "24")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)["summary"]
    assert summary["deal"]["coverage_soft"] >= summary["plain"]["coverage_soft"]


@needs_model
@pytest.mark.slow
def test_real_errors_name_the_fault(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(_hub.model_path(ALIAS).read_bytes()[:1000])
    for arguments in (("info", str(broken)), ("generate", "a", "-m", "no-such-alias")):
        done = run_deal(*arguments)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("deal: error: ")
        assert done.stderr.count("\n") == 1


@needs_model
@pytest.mark.slow
def test_real_readme_example_runs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "'short_words'" in done.stdout
