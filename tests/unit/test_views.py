"""What notebooks show of a generation, and generations side by side."""

from __future__ import annotations

import html.parser
import pickle
import re
from dataclasses import asdict, replace
from typing import Any

import pytest
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal import _html, _trace

PROMPT = "the cat sat"
REWARDS = deal.rewards.Keywords(
    ["cat", "dog", "sun", "river"]
) + 0.5 * deal.rewards.Length(max=4, unit="words")
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\u2028\u202e\x1b[31m\x00"


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("views") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return deal.load(path, compute="f32", threads=2)


def write(lm: deal.Model, **settings: Any) -> deal.Generation:
    n = settings.pop("max_new_tokens", 12)
    search = deal.Search(**{"top_k": 4, "lookahead": 4, "reward_weight": 9} | settings)
    return lm.generate(PROMPT, rewards=REWARDS, search=search, max_new_tokens=n)


class Page(html.parser.HTMLParser):
    """The tags of a page, and the text between them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.spans: list[tuple[dict[str, Any], str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "span":
            self.spans.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "div" in self.open and "style" not in self.open:
            self.text += data
        if self.open and self.open[-1] == "span":
            self.spans[-1] = (self.spans[-1][0], self.spans[-1][1] + data)


# --- the way to the text -------------------------------------------------------------


@pytest.mark.parametrize("mode", ["exact", "naive"])
@pytest.mark.parametrize("commit", [1, 3])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_path_spells_the_tokens(
    lm: deal.Model, mode: str, commit: int, num_beams: int
) -> None:
    r = write(lm, mode=mode, commit=commit, num_beams=num_beams)
    steps = _trace.path(r)
    assert [step.decision.step for step in steps] == list(range(len(steps)))
    ids: list[int] = []
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        assert step.chosen.position == len(ids) and step.chosen.is_chosen
        whole = [step.chosen.token_id, *step.chosen.rollout]
        end = after.chosen.position if after else len(r.token_ids)
        assert 1 <= end - len(ids) <= commit
        ids += whole[: end - len(ids)]
    assert tuple(ids) == r.token_ids


def test_path_of_each_sequence(lm: deal.Model) -> None:
    search = deal.Search(4, 4, 3.0, 3, commit=2)
    found = lm.generate(
        PROMPT, rewards=REWARDS, search=search, num_return_sequences=3, max_new_tokens=9
    )
    for r in found:
        assert r.token_ids[0] == _trace.path(r)[0].chosen.token_id
    other = replace(found[0], token_ids=(*found[0].token_ids[:-1], 0, 0))
    assert _trace.path(other) == []


@pytest.mark.parametrize(
    "kwargs",
    [
        {"search": deal.Search(4, 5, num_beams=2, mode="segment")},
        {"search": deal.Search.best_of_n(4), "sampling": deal.Sampling(seed=3)},
        {"search": deal.Search(4, 5, 9.0, skip_above=0.3)},
        {"search": deal.Search(4, 5, 9.0), "stop": ["dog", " c"]},
        {"search": deal.Search(4, 5, 9.0), "eos_token_id": list(range(0, 400, 7))},
    ],
)
def test_every_search_has_a_path(lm: deal.Model, kwargs: dict[str, Any]) -> None:
    r = lm.generate(PROMPT, rewards=REWARDS, max_new_tokens=12, **kwargs)
    steps = _trace.path(r)
    assert len(steps) == len(r.trace) > 0
    assert all(r.token_ids[s.chosen.position] == s.chosen.token_id for s in steps)
    page = Page(r._repr_html_())
    assert page.text.startswith(_html.shown(r.text))
    assert f" of {len(steps)} decisions took another" in page.text
    r.tree()


# --- the tinted text -----------------------------------------------------------------


@pytest.mark.parametrize("commit", [1, 3])
def test_tokens_that_the_search_changed_are_tinted(lm: deal.Model, commit: int) -> None:
    r = write(lm, commit=commit, reward_weight=40)
    page = Page(r._repr_html_())
    changed = [step for step in _trace.path(r) if _html.is_changed(step)]
    assert 0 < len(changed) < len(r.trace)
    tinted = [text for at, text in page.spans if at.get("class") == "deal-changed"]
    assert len(tinted) == len(changed)
    for text, step in zip(tinted, changed, strict=True):
        assert step.chosen.logprob <= _trace.likeliest(step.decision, 0).logprob
        assert lm.tokenizer.decode([step.chosen.token_id]).strip() in text
    along = [text for at, text in page.spans if at.get("class") == "deal-along"]
    assert bool(along) == (commit > 1)
    assert page.text.startswith(r.text)
    assert f"{len(changed)} of {len(r.trace)} decisions" in page.text


def test_hovering_tells_the_candidates(lm: deal.Model) -> None:
    r = write(lm)
    tips = [at["title"] for at, _ in Page(r._repr_html_()).spans if "title" in at]
    assert len(tips) == len(r.trace)
    for told, decision in zip(tips, r.trace, strict=True):
        lines = told.splitlines()
        assert lines[0] == f"decision {decision.step}"
        assert len(lines) == 1 + len(decision.candidates)
        for line, c in zip(lines[1:], decision.candidates, strict=True):
            assert line.startswith("✓") == c.is_chosen
            assert f"log P {c.logprob:.2f}" in line
            assert repr(lm.tokenizer.decode([c.token_id]))[1:-1] in line
            if c.score is None:
                assert f"in [{c.bounds[0]:.2f}, {c.bounds[1]:.2f}]" in line
            else:
                assert f"score {c.score:.2f}" in line
                assert f"keywords {c.rewards['keywords']:.3g}" in line


@pytest.mark.parametrize("i_text", [0, 2])
def test_hovering_tells_this_text_from_other_beams(lm: deal.Model, i_text: int) -> None:
    search = deal.Search(2, 4, 9.0, 3)
    found = lm.generate(
        PROMPT, rewards=REWARDS, search=search, num_return_sequences=3, max_new_tokens=9
    )
    r = found[i_text]
    tips = [at["title"] for at, _ in Page(r._repr_html_()).spans if "title" in at]
    steps = _trace.path(r)
    assert len(tips) == len(steps)
    n_other = 0
    for told, step in zip(tips, steps, strict=True):
        candidates = step.decision.candidates
        lines = told.splitlines()[1 : 1 + len(candidates)]
        marked = {
            mark: [
                c for c, line in zip(candidates, lines, strict=True) if line[0] == mark
            ]
            for mark in "✓+"
        }
        assert marked["✓"] == [step.chosen]
        others = [c for c in candidates if c.is_chosen and c is not step.chosen]
        assert marked["+"] == others
        assert ("+ taken by another beam" in told) == bool(others)
        for c, line in zip(candidates, lines, strict=True):
            assert ("after another text" in line) == (c.beam != step.chosen.beam)
        n_other += len(others)
    assert n_other > 0


def test_many_candidates_and_long_texts_stay_small(lm: deal.Model) -> None:
    r = write(lm, top_k=20)
    told = [at["title"] for at, _ in Page(r._repr_html_()).spans if "title" in at][0]
    assert len(told.splitlines()) == 2 + _html.N_ROWS_MAX
    assert told.splitlines()[-1] == f"and {20 - _html.N_ROWS_MAX} more"
    assert told.count("✓") == 1
    r = write(lm, max_new_tokens=260, lookahead=0)
    assert len(r.token_ids) > _html.N_TIPS_MAX
    page = r._repr_html_()
    assert page.count('title="') == _html.N_TIPS_MAX
    n_piece = len([p for p in _html._pieces(r, _trace.path(r)) if p.steps])
    assert f"{_html.N_TIPS_MAX} of {n_piece} tokens tell theirs" in page
    assert len(page) < 500 * _html.N_TIPS_MAX


def test_parts_of_a_character_are_one_piece(lm: deal.Model) -> None:
    parts = lm.tokenizer.encode("€", add_special_tokens=False)[-3:]
    assert lm.tokenizer.decode(parts) == "€"  # its three bytes
    r = write(lm)
    ids = (*parts, *r.token_ids[:2])
    text = lm.tokenizer.decode(list(ids))
    made = replace(r, token_ids=ids, text=text)
    object.__setattr__(made, "_tokenizer", lm.tokenizer)
    pieces = [piece.text for piece in _html._pieces(made, [])]
    assert pieces[0] == "€"
    assert "".join(pieces) == text
    cut = replace(r, token_ids=ids[:2], text=lm.tokenizer.decode(list(ids[:2])))
    object.__setattr__(cut, "_tokenizer", lm.tokenizer)
    assert "".join(p.text for p in _html._pieces(cut, [])) == cut.text


def test_without_a_trace_it_says_so(lm: deal.Model) -> None:
    r = lm.generate(PROMPT, max_new_tokens=4)
    page = Page(r._repr_html_())
    assert page.text.startswith(r.text) and "No trace" in page.text
    assert page.spans == []
    copied = pickle.loads(pickle.dumps(write(lm)))
    assert "without the model's tokenizer" in Page(copied._repr_html_()).text


def test_the_tokenizer_is_no_part_of_the_value(lm: deal.Model) -> None:
    r = write(lm)
    assert r._tokenizer is lm.tokenizer
    copied = pickle.loads(pickle.dumps(r))
    assert copied == r and copied._tokenizer is None
    assert "_tokenizer" not in asdict(r) and "_tokenizer" not in repr(r)


def test_hostile_text_stays_text(lm: deal.Model) -> None:
    r = replace(lm.generate(PROMPT, max_new_tokens=2), text=HOSTILE)
    source = r._repr_html_()
    page = Page(source)
    assert {tag for tag, _ in page.tags} <= {"style", "div", "span"}
    assert "</script><img src=x onerror=alert(1)>\"'&" in page.text
    for character in "\u202e\x1b\x00":
        assert character not in source
    assert source.encode()  # no half of a surrogate pair either
    assert _html.safe("a\ud800b").encode()


# --- side by side --------------------------------------------------------------------


def test_compare_names_and_rows(lm: deal.Model) -> None:
    a, b = lm.generate(PROMPT, max_new_tokens=5), write(lm)
    for found in (
        deal.compare({"greedy": a, "DeAL": b}),
        deal.compare([("greedy", a), ("DeAL", b)]),
    ):
        assert found.names == ("greedy", "DeAL") and found.generations == (a, b)
    assert deal.compare([a, b]).names == ("1", "2")
    first, second = deal.compare([a, b]).rows()
    assert first["keywords"] is None and first["n_changed"] is None
    assert second["keywords"] == b.rewards["keywords"]
    # A reward's name that is another column's.
    assert second["length"] == b.rewards["length"]
    assert second["n_tokens"] == len(b.token_ids) and second["logprob"] == b.logprob
    assert second["n_changed"] == sum(map(_html.is_changed, _trace.path(b)))
    named = deal.rewards.Keywords(["cat"], name="score")
    r = lm.generate(PROMPT, rewards=named, max_new_tokens=3)
    assert {"score", "reward score"} <= set(deal.compare([r]).rows()[0])


def test_compare_shows_tables(lm: deal.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    r = write(lm)
    bad = replace(r, text=HOSTILE)
    shown = str(deal.compare({"one": r, "[bold]two": bad}))
    assert "one" in shown and "[bold]two" in shown and "\x1b" not in shown
    assert f"{r.logprob:.3f}" in shown and r.finish_reason in shown
    source = deal.compare({"<b>": r, "two": bad})._repr_html_()
    page = Page(source)
    tags = {tag for tag, _ in page.tags}
    assert "table" in tags and tags.isdisjoint({"script", "img", "b"})
    assert f"{r.logprob:.3f}" in page.text


def test_compare_frame(lm: deal.Model) -> None:
    pandas = pytest.importorskip("pandas")
    frame = deal.compare({"a": write(lm), "b": write(lm, top_k=1)}).frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.index) == ["a", "b"]
    assert frame["keywords"].dtype.kind == "f"


def test_frame_names_the_extra(lm: deal.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"deal-lm\[notebook\]"):
        deal.compare([write(lm)]).frame()


def test_compare_rejects(lm: deal.Model) -> None:
    r = lm.generate(PROMPT, max_new_tokens=2)
    with pytest.raises(ValueError, match="at least one"):
        deal.compare([])
    with pytest.raises(TypeError, match="expected several"):
        deal.compare(r)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"generations\['2'\]: .* got str"):
        deal.compare([r, "text"])
    with pytest.raises(ValueError, match="'a' comes twice"):
        deal.compare([("a", r), ("a", r)])
    with pytest.raises(TypeError, match="expected str, got 3"):
        deal.compare([(3, r)])


# --- progress ------------------------------------------------------------------------


def test_bars_move(lm: deal.Model, capsys: pytest.CaptureFixture[str]) -> None:
    lm.generate([PROMPT, PROMPT], max_new_tokens=2, progress=True)
    assert re.search(r"generate: 100%.* 2/2", capsys.readouterr().err)
    lm.generate([PROMPT, PROMPT], max_new_tokens=2)
    assert capsys.readouterr().err == ""
