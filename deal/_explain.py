"""A search's decisions as a tree: text for a terminal, a picture for a notebook.

>>> r = lm.generate(prompt, rewards=rewards, search=search)
>>> print(deal.explain(r, lm.tokenizer))
>>> deal.explain(r, lm.tokenizer).save("tree.svg")
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any

from deal._trace import check_trace, kind_of, text_of, verdict_of
from deal.generation import Candidate, Generation

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 132, 46, 12, 34  # of a box and between boxes, px
_MARGIN = 16
_FILL = {"chosen": "#cfe8d5", "scored": "#eef2f7", "pruned": "#f6f6f6"}
_INK = {"chosen": "#14532d", "scored": "#334155", "pruned": "#9ca3af"}


@dataclass(frozen=True)
class Explanation:
    """Made by :func:`explain`; ``str()`` is the text, notebooks show the picture."""

    generation: Generation
    tokenizer: Any

    def _text(self, ids: Any) -> str:
        return text_of(self.tokenizer, ids)

    def _line(self, candidate: Candidate, n_name: int) -> str:
        name = repr(self._text([candidate.token_id]))
        mark = "*" if candidate.is_chosen else " "
        reward = "" if candidate.reward is None else f"reward {candidate.reward:.2f}"
        rollout = ""
        if candidate.rollout:
            end = " (ends)" if candidate.is_finished else ""
            rollout = f"  ... {self._text(candidate.rollout)!r}{end}"
        return (
            f" {mark} {candidate.beam} {name:<{n_name}}  log P {candidate.logprob:8.2f}"
            f"  {reward:<13} {verdict_of(candidate):<22}{rollout}"
        ).rstrip()

    def __str__(self) -> str:
        lines = []
        for decision in self.generation.trace:
            names = [repr(self._text([c.token_id])) for c in decision.candidates]
            n_name = max(map(len, names))
            lines.append(f"decision {decision.step}")
            lines += [self._line(c, n_name) for c in decision.candidates]
        lines.append(f"text: {self.generation.text!r}")
        return "\n".join(lines)

    def _box(self, candidate: Candidate, x: int, y: int) -> str:
        kind = kind_of(candidate)
        reward = "" if candidate.reward is None else f", reward {candidate.reward:.3f}"
        tip = (
            f"{self._text([candidate.token_id])!r}: log P {candidate.logprob:.3f}"
            f"{reward}, {verdict_of(candidate)}\n{self._text(candidate.rollout)!r}"
        )
        name = repr(self._text([candidate.token_id]))[1:-1]
        name = name if len(name) <= 16 else name[:15] + "…"
        style = f'x="{x + 8}" fill="{_INK[kind]}" xml:space="preserve"'
        return (
            f"<g><title>{_xml(tip)}</title>"
            f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" '
            f'fill="{_FILL[kind]}" stroke="{_INK[kind]}"/>'
            f'<text {style} y="{y + 18}" font-weight="bold">{_xml(name)}</text>'
            f'<text {style} y="{y + 36}">{_xml(verdict_of(candidate))}</text></g>'
        )

    def svg(self) -> str:
        """The tree as one SVG picture; hovering over a box shows its numbers.

        Every row is a decision, with its candidates, best first, below the hypothesis
        that they extend. Green boxes were taken, grey ones pruned by their bound.
        """
        boxes, lines, parents = [], [], {}
        n_column = 1
        for row, decision in enumerate(self.generation.trace):
            y = _MARGIN + row * (_HEIGHT + _GAP_Y)
            places = {}
            for column, candidate in enumerate(decision.candidates):
                x = _MARGIN + column * (_WIDTH + _GAP_X)
                boxes.append(self._box(candidate, x, y))
                if candidate.beam in parents:
                    lines.append(_edge(parents[candidate.beam], x, y, candidate))
                places[id(candidate)] = x, y
            n_column = max(n_column, len(decision.candidates))
            parents = {c.next_beam: places[id(c)] for c in decision.candidates}
        width = 2 * _MARGIN + n_column * (_WIDTH + _GAP_X) - _GAP_X
        n_row = max(1, len(self.generation.trace))
        height = 2 * _MARGIN + n_row * (_HEIGHT + _GAP_Y) - _GAP_Y
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
            f'height="{height}" font-family="monospace" font-size="12">'
            + "".join(lines + boxes)
            + "</svg>"
        )

    def _repr_svg_(self) -> str:
        return self.svg()

    def save(self, path: str | PathLike[str]) -> None:
        """Write the picture to an ``.svg`` file."""
        path = Path(path)
        if path.suffix != ".svg":
            raise ValueError(f"path: expected a name that ends in .svg, got {path}")
        path.write_text(self.svg(), encoding="utf-8")


def explain(generation: Generation, tokenizer: Any) -> Explanation:
    """The decisions of a DeAL search as a tree.

    Parameters
    ----------
    generation : Generation
    tokenizer : Tokenizer
        That of the model which wrote it, ``lm.tokenizer``.

    Returns
    -------
    Explanation
        ``print()`` shows for every decision the candidates, best first: ``*`` where
        taken, the hypothesis that it extends, the token, its log-prob, its reward where
        it was known, its score or the bound that made it unnecessary, and the rollout.

    Raises
    ------
    ValueError
        If the generation has no trace: it was not written by a search with rewards.
    """
    check_trace(generation)
    return Explanation(generation, tokenizer)


def _edge(parent: tuple[int, int], x: int, y: int, candidate: Candidate) -> str:
    x0, y0 = parent[0] + _WIDTH // 2, parent[1] + _HEIGHT
    x1 = x + _WIDTH // 2
    width = 2 if candidate.is_chosen else 1
    return (
        f'<path d="M{x0} {y0} C{x0} {y0 + 16} {x1} {y - 16} {x1} {y}" fill="none" '
        f'stroke="{_INK[kind_of(candidate)]}" stroke-width="{width}"/>'
    )


def _xml(text: str) -> str:
    """Escaped, without the control characters that XML has no way to write."""
    return escape(
        "".join(
            c if c >= " " or c in "\t\n" else "\N{REPLACEMENT CHARACTER}" for c in text
        )
    )
