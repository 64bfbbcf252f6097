"""Draws one decision of a real search, step by step, into docs/img/concept-*.svg.

    python tools/draw_concepts.py

What docs/concepts.md shows: the candidates of the first decision, their rollouts, their
scores, and what mode "exact" left out of it and of the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import deal
from deal import Candidate

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "img"
WORDS = ["dog", "river"]
PROMPT = f"Write one short sentence with the words: {', '.join(WORDS)}."
WEIGHT = 4.0
STYLE = """
  text { font: 14px sans-serif; fill: #1f2937; white-space: pre }
  .dim { fill: #6b7280 } .bold { font-weight: bold }
  rect { fill: #eef2f7; stroke: #94a3b8; rx: 6px }
  .chosen rect { fill: #cfe8d5; stroke: #14532d }
  path { fill: none; stroke: #94a3b8 } .page { fill: #fff; stroke: none; rx: 0 }
"""
WIDTH, ROW, BOX_LEFT, BOX_WIDTH = 760, 44, 96, 118  # px
ROLLOUT_LEFT, SCORE_LEFT = 226, 466

Words = Callable[[Candidate], str]  # what stands beside a candidate


def first_decisions(lm: deal.Model, mode: str) -> list[Sequence[Candidate]]:
    """The candidates of the first two decisions."""
    r = lm.chat(
        [{"role": "user", "content": PROMPT}],
        rewards=deal.rewards.Keywords(WORDS),
        search=deal.Search(top_k=3, lookahead=6, reward_weight=WEIGHT, mode=mode),
        max_new_tokens=8,
    )
    return [decision.candidates for decision in r.trace[:2]]


def label(x: int, y: int, text: str, kind: str = "") -> str:
    return f'<text x="{x}" y="{y + 5}" class="{kind}">{escape(text)}</text>'


def row(y: int, middle: int, name: str, rest: str, verdict: str, kind: str) -> str:
    """A candidate's box at height `y`, joined to its context at height `middle`."""
    x = BOX_LEFT
    curve = f"M{x - 24},{middle} C{x},{middle} {x - 14},{y} {x},{y}"
    return "\n".join(
        [
            f'<g class="{kind}"><path d="{curve}"/>',
            f'<rect x="{x}" y="{y - 16}" width="{BOX_WIDTH}" height="32"/></g>',
            label(x + 8, y, name),
            label(ROLLOUT_LEFT, y, rest),
            label(SCORE_LEFT, y, verdict, "bold" if kind else "dim"),
        ]
    )


def draw(
    name: str,
    lm: deal.Model,
    decisions: dict[str, Sequence[Candidate]],
    rollout: Words,
    verdict: Words,
) -> None:
    """One picture: a context's text -> the candidates of its decision."""
    parts, y = [], 32
    for context, candidates in decisions.items():
        middle = y + (len(candidates) - 1) * ROW // 2
        parts.append(label(8, middle, context, "dim"))
        for candidate in candidates:
            token = lm.tokenizer.decode([candidate.token_id])
            words = verdict(candidate)
            kind = "chosen" if candidate.is_chosen and words else ""
            title = f"{token!r}  {candidate.logprob:.2f}"
            parts.append(row(y, middle, title, rollout(candidate), words, kind))
            y += ROW
        y += 14
    size = f'viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}"'
    page = f'<rect class="page" width="{WIDTH}" height="{y}"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>'
    (IMAGES / f"concept-{name}.svg").write_text(
        "\n".join([head, page, *parts, "</svg>\n"])
    )


def score(candidate: Candidate) -> str:
    reward, total = candidate.reward, candidate.score
    return f"{candidate.logprob:.2f} + {WEIGHT:g} · {reward:g} = {total:.2f}"


def score_or_bound(candidate: Candidate) -> str:
    if candidate.score is not None:
        return score(candidate)
    return f"at most {candidate.bounds[1]:.2f}: left out"


def main() -> None:
    lm = deal.load("smollm2-135m-instruct")
    decode = lm.tokenizer.decode

    def rollout(candidate: Candidate) -> str:
        return "…" + decode(list(candidate.rollout)) if candidate.rollout else ""

    naive = {"prompt": first_decisions(lm, "naive")[0]}
    draw("candidates", lm, naive, lambda c: "", lambda c: "")
    draw("rollouts", lm, naive, rollout, lambda c: "")
    draw("scores", lm, naive, rollout, score)
    first, second = first_decisions(lm, "exact")
    chosen = decode([c.token_id for c in first if c.is_chosen])
    draw("exact", lm, {"prompt": first, f"… {chosen}": second}, rollout, score_or_bound)


if __name__ == "__main__":
    main()
