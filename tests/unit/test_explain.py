"""A search's decisions as text and as a picture."""

from __future__ import annotations

import re
import xml.dom.minidom
from pathlib import Path

import pytest
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal.cli import main

PROMPT = "the cat sat"
SVG = "http://www.w3.org/2000/svg"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explain") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return path


@pytest.fixture(scope="module")
def lm(path: Path) -> deal.Model:
    return deal.load(path, compute="f32", threads=2)


def write(lm: deal.Model, mode: str, num_beams: int = 1) -> deal.Generation:
    search = deal.Search(3, 4, 2.0, num_beams, mode=mode)
    rewards = deal.rewards.Keywords(["cat", "dog"])
    return lm.generate(PROMPT, rewards=rewards, search=search, max_new_tokens=5)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("mode", ["exact", "naive"])
def test_text_has_every_candidate(lm: deal.Model, mode: str, num_beams: int) -> None:
    r = write(lm, mode, num_beams)
    lines = str(deal.explain(r, lm.tokenizer)).splitlines()
    rows = [c for decision in r.trace for c in decision.candidates]
    shown = [line for line in lines if re.match(r" [* ] \d ", line)]
    assert len(shown) == len(rows)
    assert sum(line.startswith("decision ") for line in lines) == len(r.trace)
    for line, row in zip(shown, rows, strict=True):
        assert line.startswith(" *") == row.is_chosen
        assert f"log P {row.logprob:8.2f}" in line
        assert (f"score {row.score:.2f}" if row.score is not None else "") in line
    assert lines[-1] == f"text: {r.text!r}"


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("mode", ["exact", "naive"])
def test_picture_joins_candidates_to_what_they_extend(
    lm: deal.Model, mode: str, num_beams: int
) -> None:
    r = write(lm, mode, num_beams)
    picture = xml.dom.minidom.parseString(deal.explain(r, lm.tokenizer).svg())
    n_candidate = [len(decision.candidates) for decision in r.trace]
    assert len(picture.getElementsByTagName("rect")) == sum(n_candidate)
    assert len(picture.getElementsByTagName("title")) == sum(n_candidate)
    # The first decision extends the prompt, all others what was chosen before.
    assert len(picture.getElementsByTagName("path")) == sum(n_candidate[1:])
    assert picture.documentElement.namespaceURI == SVG


@pytest.mark.parametrize("mode", ["exact", "naive", "segment"])
def test_candidates_lead_to_the_results(lm: deal.Model, mode: str) -> None:
    """Chains of parents are the texts, also where rollouts end within a commit."""
    n_pooled = 0
    commit, weight = (1, 1.0) if mode == "segment" else (3, 2.0)
    search = deal.Search(3, 4, weight, 3, mode=mode, commit=commit)
    for seed in range(12):
        found = lm.generate(
            PROMPT,
            rewards=deal.reward(lambda completions: [-len(c) for c in completions]),
            search=search,
            eos_token_id=list(range(seed, lm.hparams.n_vocab, 12)),
            max_new_tokens=14,
            num_return_sequences=3,
        )
        assert isinstance(found, list)
        trace = found[0].trace
        heads: dict[int | None, tuple[int, ...]] = {0: ()}
        ended = []
        for i, decision in enumerate(trace):
            going = {}
            assert {c.beam for c in decision.candidates} <= set(heads)
            for c in decision.candidates:
                whole = (*heads[c.beam], c.token_id, *c.rollout)
                n = len(heads[c.beam]) + commit
                if c.next_beam is not None:
                    assert c.is_chosen and c.next_beam not in going
                    going[c.next_beam] = whole if mode == "segment" else whole[:n]
                elif c.is_chosen:
                    ended.append(whole[:n])
                    is_late = i + 1 < len(trace) and len(c.rollout) > 0
                    n_pooled += c.is_finished and is_late
            heads = going
            assert sorted(going) == list(range(len(going)))
        assert bool(heads) is False
        if mode != "segment":
            assert {r.token_ids for r in found} <= set(ended)
    assert mode == "segment" or n_pooled >= 3


def test_save(lm: deal.Model, tmp_path: Path) -> None:
    explanation = deal.explain(write(lm, "exact"), lm.tokenizer)
    explanation.save(tmp_path / "tree.svg")
    assert (tmp_path / "tree.svg").read_text("utf-8") == explanation._repr_svg_()
    with pytest.raises(ValueError, match=r"ends in \.svg, got .*tree\.png"):
        explanation.save(tmp_path / "tree.png")


def test_without_a_search(lm: deal.Model) -> None:
    with pytest.raises(ValueError, match="with a trace"):
        deal.explain(lm.generate(PROMPT, max_new_tokens=2), lm.tokenizer)


def test_command(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    svg = tmp_path / "tree.svg"
    words = ["explain", PROMPT, "--model", str(path), "--keywords", "cat,dog"]
    assert main([*words, "--max-new-tokens", "4", "--svg", str(svg)]) == 0
    assert capsys.readouterr().out.startswith("decision 0\n")
    assert xml.dom.minidom.parse(str(svg)).documentElement.tagName == "svg"
    assert main([*words, "--svg", str(tmp_path / "tree.png")]) == 2
