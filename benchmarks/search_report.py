"""The result of the search benchmark as lines of text."""

from __future__ import annotations

from typing import Any


def _line(row: dict[str, Any], name: str) -> str:
    wins = f"{row['top_wins']:.2f}" if row.get("top_wins") is not None else ""
    predicted = row.get("slowdown_predicted")
    text = f"{name:46}{row['mode']:17}{row['n']:4}{row['slowdown']:8.2f}"
    long = row.get("slowdown_as_long")
    text += f"{long:8.2f}" if long is not None else 8 * " "
    text += f"{predicted:8.2f}" if predicted is not None else 8 * " "
    text += f"{1e3 * row['seconds_per_token']:8.1f}"
    text += f"{row['forward_tokens_per_token']:9.1f}{wins:>10}"
    text += f"{row['coverage_soft']:6.2f}{row['coverage_hard']:6.2f}"
    return text + f"{row['logprob_per_token']:7.2f}"


def report(result: dict[str, Any]) -> str:
    """The tables as text."""
    head = f"{'setting':46}{'mode':17}{'n':>4}{'slower':>8}{'as long':>8}{'model':>8}"
    head += (
        f"{'ms/tok':>8}{'fwd/tok':>9}{'top wins':>10}{'soft':>6}{'hard':>6}{'logp':>7}"
    )
    lines = [head]
    for row in result["rows"]:
        lines.append(_line(row, row["setting"]))
        if row.get("goal"):
            lines[-1] += f"  goal {row['goal']:g}"
        if row.get("times"):
            lines[-1] += f"  {row['times']:.1f} times ours"
            if row.get("same_text") is not None:
                lines[-1] += f", same text {row['same_text']:.2f}"
            if row.get("same_decisions") is not None:
                lines[-1] += f", same decisions {row['same_decisions']:.2f}"
    for row in result.get("sweep", ()):
        lines.append(_line(row, f"{row['against']}={row['value']:g}"))
    for row in result.get("ablation", ()):
        lines.append(_line(row, f"{row['setting']}: {row['variant']}"))
    for row in result.get("modes", ()):
        lines.append(_line(row, row["setting"]) + f"  score {row['score']:.2f}")
    check = result["check"]
    lines.append(f"equal to naive: {check['n_compared']} texts compared")
    lines += [f"DIFFERS: {row}" for row in check["differences"]]
    return "\n".join(lines)
