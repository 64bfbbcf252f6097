"""A search as a tree to click through: one HTML page that needs nothing else."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from deal._html import is_changed
from deal._trace import (
    Step,
    check_trace,
    kind_of,
    path,
    text_of,
    tokenizer_of,
    verdict_of,
)
from deal.generation import Candidate, Decision, Generation

# In the order that they need each other.
_D3 = (
    "dispatch color ease timer interpolate selection transition drag zoom hierarchy"
).split()
_N_TEXT_MAX = 400  # characters of a rollout
_HEIGHT = 520  # of the frame in a notebook, px


@dataclass(frozen=True)
class Tree:
    """Made by :meth:`deal.Generation.tree`; notebooks show it.

    Attributes
    ----------
    html : str
        The page: its script, its style, D3 [1]_ and the search, in one file. A click,
        or Enter, unfolds a node's candidates, folds them, and shows what was taken;
        hovering tells the numbers; dragging, the wheel and arrow keys move the picture.

    References
    ----------
    .. [1] M. Bostock, D3, https://d3js.org
    """

    html: str = field(repr=False)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the page to an ``.html`` file."""
        path = Path(path)
        if path.suffix not in (".html", ".htm"):
            raise ValueError(f"path: expected a name that ends in .html, got {path}")
        path.write_text(self.html, encoding="utf-8")

    def _repr_html_(self) -> str:
        return (
            f'<iframe sandbox="allow-scripts" title="search tree" width="100%" '
            f'height="{_HEIGHT}" style="border:1px solid #9ca3af;border-radius:6px" '
            f'srcdoc="{escape(self.html, quote=True)}"></iframe>'
        )


def tree(generation: Generation, tokenizer: Any = None) -> Tree:
    """What :meth:`deal.Generation.tree` returns."""
    check_trace(generation)
    tokenizer = tokenizer_of(generation, tokenizer)
    return Tree(_page({"nodes": _nodes(generation, tokenizer)}))


# --- nodes ---------------------------------------------------------------------------


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "∞" if value > 0 else "-∞"


def _visible(text: str) -> str:
    """On one line, with spaces and what does not print made visible."""
    return repr(text)[1:-1].replace(" ", "·") or "(nothing)"


def _details(
    tokenizer: Any, decision: Decision, candidate: Candidate
) -> list[tuple[str, str]]:
    rows = [("decision", str(decision.step))]
    rows.append(("log P", _number(candidate.logprob)))
    if candidate.reward is not None:
        rows.append(("reward", _number(candidate.reward)))
    for name, score in candidate.rewards.items():
        rows.append((name, "not needed" if score is None else _number(score)))
    if candidate.score is not None:
        rows.append(("score", _number(candidate.score)))
    else:
        low, high = map(_number, candidate.bounds)
        rows += [("score in", f"[{low}, {high}]"), ("verdict", verdict_of(candidate))]
    if candidate.is_skipped:
        rows.append(("skipped", "taken without a rollout"))
    if candidate.rollout:
        text = repr(text_of(tokenizer, candidate.rollout))[1:-1]
        end = " (ends)" if candidate.is_finished else ""
        rows.append(("rollout", text[:_N_TEXT_MAX] + end))
    elif candidate.is_finished:
        rows.append(("rollout", "(ends)"))
    return rows


def _taken(decision: Decision | None, candidate: Candidate) -> list[int]:
    """Its token, and those that came along of its rollout before the next decision."""
    n = 1
    if decision is not None and candidate.next_beam is not None:
        for rival in decision.candidates:
            if rival.beam == candidate.next_beam:
                n = rival.position - candidate.position
                break
    return [candidate.token_id, *candidate.rollout][:n]


def _nodes(generation: Generation, tokenizer: Any) -> list[dict[str, Any]]:
    """The root, the prompt, and every candidate; parents before their children."""
    steps: dict[int, Step] = {step.decision.step: step for step in path(generation)}
    about = [
        ("text", repr(generation.text)[1:-1]),
        ("score", _number(generation.score)),
    ]
    about += [(name, _number(score)) for name, score in generation.rewards.items()]
    nodes: list[dict[str, Any]] = [
        {"parent": -1, "label": "prompt", "kind": "chosen", "result": True}
        | {"changed": False, "details": about}
    ]
    parents: dict[int | None, int] = {0: 0}
    trace = generation.trace
    for i, decision in enumerate(trace):
        after = trace[i + 1] if i + 1 < len(trace) else None
        step = steps.get(decision.step)
        following: dict[int | None, int] = {}
        for candidate in decision.candidates:
            if candidate.beam not in parents:
                continue
            is_result = step is not None and step.chosen is candidate
            following[candidate.next_beam] = len(nodes)
            ids = _taken(after, candidate)
            nodes.append(
                {
                    "parent": parents[candidate.beam],
                    "label": _visible(text_of(tokenizer, ids)),
                    "kind": kind_of(candidate),
                    "result": is_result,
                    "changed": is_result and step is not None and is_changed(step),
                    "details": _details(tokenizer, decision, candidate),
                }
            )
        following.pop(None, None)
        parents = following
    return nodes


# --- the page ------------------------------------------------------------------------


def _json(value: Any) -> str:
    """JSON that cannot end the script that it stands in: ASCII, without < > &."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@cache
def _asset(name: str) -> str:
    return (resources.files("deal.assets") / name).read_text(encoding="utf-8")


def _page(data: Any) -> str:
    scripts = [_asset(f"d3/d3-{name}.min.js") for name in _D3]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            # No network, whatever the text says.
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            "script-src 'unsafe-inline'; style-src 'unsafe-inline'\">",
            '<meta name="viewport" content="width=device-width">',
            "<title>deal: search tree</title>",
            f"<style>{_asset('tree.css')}</style></head>",
            "<body><header>",
            '<button id="taken">taken</button><button id="all">all candidates</button>',
            '<button id="fold">fold</button><button id="fit">fit</button>',
            "<span>click or Enter: unfold, fold; hover: numbers; drag, wheel, arrow "
            "keys: move; orange: not the model's first choice</span>",
            '</header><main><svg role="tree" aria-label="search tree"></svg>',
            '<aside aria-live="polite"></aside></main>',
            f'<script id="data" type="application/json">{_json(data)}</script>',
            f"<!--\n{_asset('d3/LICENSE')}-->",
            *(f"<script>{script}</script>" for script in scripts),
            f"<script>{_asset('tree.js')}</script>",
            "</body></html>",
        ]
    )
