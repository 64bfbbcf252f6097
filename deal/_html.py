"""A generation as HTML: its text, each token tinted by what the search changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from deal._trace import Step, likeliest, path, rewards_of, text_of, verdict_of
from deal.generation import Candidate, Generation

N_TIPS_MAX = 200  # tokens that tell their candidates, those that changed first
N_ROWS_MAX = 6  # candidates that one tells
N_TEXT_MAX = 20_000  # characters shown

# Colours that work on light and dark ground: the text keeps the notebook's own.
_STYLE = """<style>
.deal-text{white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.6}
.deal-text span{border-radius:3px}
.deal-changed{background:rgba(234,88,12,var(--deal));box-shadow:0 1px rgb(234,88,12)}
.deal-along{background:rgba(59,130,246,.16)}
.deal-note{font-size:85%;opacity:.75}
</style>"""


_TURNS = "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"  # text around, beyond its end


def shown(text: str) -> str:
    """The text, with a sign for every character that would act instead of being shown:
    controls, halves of a surrogate pair, changes of the direction of writing."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if (c < " " and c not in "\t\n")
        or "\x7f" <= c <= "\x9f"
        or "\ud800" <= c <= "\udfff"
        or c in _TURNS
        else c
        for c in text
    )


def safe(text: str) -> str:
    """Escaped for HTML text and attributes."""
    return escape(shown(text), quote=True)


@dataclass(frozen=True)
class _Piece:
    """Tokens that make whole characters, and the decisions that took them."""

    text: str
    steps: tuple[Step, ...]
    is_along: bool  # no decision of its own: taken along of a rollout


def _pieces(generation: Generation, steps: list[Step]) -> Iterator[_Piece]:
    at = {step.chosen.position: step for step in steps}
    stream = generation._tokenizer.vocab.detokenizer()
    n_left = len(generation.text)
    taken: list[Step] = []
    is_along = False
    for i, token in enumerate(generation.token_ids):
        if i in at:
            taken.append(at[i])
        else:
            is_along = True
        text = stream.push(token)
        is_last = i + 1 == len(generation.token_ids)
        text = (text + stream.pending() if is_last else text)[:n_left]
        if not text and not is_last:
            continue  # part of a character, or special
        n_left -= len(text)
        yield _Piece(text, tuple(taken), is_along)
        taken, is_along = [], False


def _mark(step: Step, candidate: Candidate) -> str:
    if candidate is step.chosen:
        return "✓"
    return "+" if candidate.is_chosen else " "


def _row(tokenizer: Any, step: Step, candidate: Candidate) -> str:
    is_other = candidate.beam != step.chosen.beam
    low, high = candidate.bounds
    parts = [
        f"{_mark(step, candidate)} {text_of(tokenizer, [candidate.token_id])!r}",
        "after another text" if is_other else "",
        f"log P {candidate.logprob:.2f}",
        rewards_of(candidate),
        verdict_of(candidate),
        "" if candidate.score is not None else f"in [{low:.2f}, {high:.2f}]",
    ]
    return "  ".join(part for part in parts if part)


def tip(tokenizer: Any, step: Step) -> str:
    """A decision's candidates as plain text, best first, and among them the one that
    this text has; the others that several beams took are marked apart."""
    rows = list(step.decision.candidates)
    shown = rows[:N_ROWS_MAX]
    if step.chosen not in shown:
        shown[-1] = step.chosen
    lines = [f"decision {step.decision.step}"]
    lines += [_row(tokenizer, step, candidate) for candidate in shown]
    if len(rows) > len(shown):
        lines.append(f"and {len(rows) - len(shown)} more")
    if any(_mark(step, candidate) == "+" for candidate in shown):
        lines.append("✓ in this text, + taken by another beam")
    return "\n".join(lines)


def loss_of(step: Step) -> float:
    """Nats of log-prob below the model's own first choice; 0 where it is that."""
    return likeliest(step.decision, step.chosen.beam).logprob - step.chosen.logprob


def is_changed(step: Step) -> bool:
    return likeliest(step.decision, step.chosen.beam) is not step.chosen


def _span(tokenizer: Any, piece: _Piece, has_tip: bool) -> str:
    changed = [step for step in piece.steps if is_changed(step)]
    attributes = ""
    if changed:
        strength = min(0.6, 0.2 + 0.1 * max(map(loss_of, changed)))
        attributes = f' class="deal-changed" style="--deal:{strength:.2f}"'
    elif piece.is_along:
        attributes = ' class="deal-along"'
    if has_tip and piece.steps:
        told = "\n".join(tip(tokenizer, step) for step in piece.steps)
        attributes += f' title="{safe(told)}"'
    text = safe(piece.text)
    return f"<span{attributes}>{text}</span>" if attributes else text


def _numbers(generation: Generation) -> str:
    parts = [f"{len(generation.token_ids)} tokens"]
    parts.append(f"log P {generation.logprob:.2f}")
    parts += [f"{name} {score:.3g}" for name, score in generation.rewards.items()]
    if len(generation.rewards) > 1:
        parts.append(f"reward {generation.reward:.3g}")
    parts.append(f"score {generation.score:.2f}")
    parts.append(f"finished by {generation.finish_reason}")
    return ", ".join(parts)


def _plain(generation: Generation, why: str) -> str:
    text = generation.text
    cut = text[:N_TEXT_MAX] + ("…" if len(text) > N_TEXT_MAX else "")
    return _frame(safe(cut), [why, _numbers(generation)])


def _frame(body: str, notes: list[str]) -> str:
    lines = "".join(f'<div class="deal-note">{safe(note)}</div>' for note in notes)
    return f'{_STYLE}<div class="deal-text">{body}</div>{lines}'


def page_part(generation: Generation) -> str:
    """What a notebook shows of a generation."""
    if not generation.trace:
        return _plain(
            generation,
            "No trace: no search with rewards chose these tokens, so none is tinted.",
        )
    if generation._tokenizer is None:
        return _plain(
            generation,
            "Copied or unpickled, without the model's tokenizer: no token is tinted.",
        )
    steps = path(generation)
    if not steps:
        return _plain(generation, "The trace does not lead to this text.")
    return _tinted(generation, steps)


def _tinted(generation: Generation, steps: list[Step]) -> str:
    pieces = list(_pieces(generation, steps))
    by_need = sorted(
        (i for i, piece in enumerate(pieces) if piece.steps),
        key=lambda i: not any(map(is_changed, pieces[i].steps)),
    )
    told = set(by_need[:N_TIPS_MAX])
    spans, size = [], 0
    for i, piece in enumerate(pieces):
        size += len(piece.text)
        if size > N_TEXT_MAX:
            spans.append("…")
            break
        spans.append(_span(generation._tokenizer, piece, i in told))
    n_changed = sum(map(is_changed, steps))
    note = f"{n_changed} of {len(steps)} decisions took another token than the model's "
    note += "first choice (orange)"
    if any(piece.is_along for piece in pieces):
        note += "; blue ones came along with a decision's rollout"
    note += "; hover for the candidates."
    if len(by_need) > N_TIPS_MAX:
        note += f" {N_TIPS_MAX} of {len(by_need)} tokens tell theirs."
    return _frame("".join(spans), [note, _numbers(generation)])
