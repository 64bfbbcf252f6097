"""Means over the prompts of a sweep, and a picture of what they trade."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from deal._html import safe
from deal.rewards._extras import needed


def _per_token(outcome: Any) -> float:
    return outcome.logprob / max(1, outcome.n_tokens)


def _reward_of(name: str, outcome: Any) -> float:
    return outcome.rewards[name]


MEANS: dict[str, Callable[[Any], float]] = {
    "logprob": lambda each: each.logprob,
    "logprob_per_token": _per_token,
    "n_tokens": lambda each: each.n_tokens,
    "reward": lambda each: each.reward,
    "seconds": lambda each: each.seconds,
}


def summary_rows(sweep: Any) -> list[dict[str, Any]]:
    """What ``Sweep.summary`` returns."""
    values = dict(MEANS)
    for name in sweep.reward_names:
        values[f"reward:{name}"] = partial(_reward_of, name)
    n_prompt = len(sweep.outcomes) // len(sweep.points)
    rows = []
    for i, point in enumerate(sweep.points):
        outcomes = sweep.outcomes[i * n_prompt : (i + 1) * n_prompt]
        good = [each for each in outcomes if each.error is None]
        row = dict(point) | {"n": len(good)}
        for name, value in values.items():
            row[name] = sum(map(value, good)) / len(good) if good else None
        rows.append(row)
    return rows


def page_part(sweep: Any) -> str:
    """The means as a table, for a notebook."""
    rows = summary_rows(sweep)
    cell = 'style="text-align:right;padding:2px 10px"'
    heads = "".join(f"<th {cell}>{safe(key)}</th>" for key in rows[0])
    lines = "".join(
        "<tr>"
        + "".join(f"<td {cell}>{safe(_shortly(value))}</td>" for value in row.values())
        + "</tr>"
        for row in rows
    )
    return (
        f'<div style="overflow-x:auto">{safe(str(sweep))}<table><thead><tr>{heads}</tr>'
        f"</thead><tbody>{lines}</tbody></table></div>"
    )


def _shortly(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that none is better than, by rising first coordinate.

    A point is better than another if it is at least as high in both coordinates and
    higher in one.
    """
    order = sorted(range(len(points)), key=lambda i: points[i], reverse=True)
    front: list[int] = []
    best = None
    for i in order:  # by falling x, then falling y
        x, y = points[i]
        if best is None or y > best[1] or (x, y) == best:
            front.append(i)
            best = (x, y)
    return front[::-1]


def _axes_of(sweep: Any, x: str | None, y: str | None) -> tuple[str, str]:
    rewards = [f"reward:{name}" for name in sweep.reward_names]
    if len(rewards) >= 2:
        x, y = x or rewards[0], y or rewards[1]
    keys = [key for key in summary_rows(sweep)[0] if key not in sweep.points[0]]
    x, y = x or "logprob_per_token", y or rewards[0]
    for name, key in (("x", x), ("y", y)):
        if key not in keys:
            raise ValueError(f"{name}: expected one of {keys}, got {key!r}")
    return x, y


def front_rows(sweep: Any, x: str | None, y: str | None) -> list[dict[str, Any]]:
    """What ``Sweep.front`` returns."""
    x, y = _axes_of(sweep, x, y)
    rows = [row for row in summary_rows(sweep) if row["n"] > 0]
    return [rows[i] for i in pareto_front([(row[x], row[y]) for row in rows])]


def plot(sweep: Any, x: str | None, y: str | None, ax: Any) -> Any:
    """What ``Sweep.plot`` returns."""
    x, y = _axes_of(sweep, x, y)
    rows = [row for row in summary_rows(sweep) if row["n"] > 0]
    if not rows:
        raise ValueError("sweep: nothing to plot, every prompt has an error")
    if ax is None:
        pyplot = needed("matplotlib.pyplot", "notebook", "Sweep.plot")
        ax = pyplot.subplots(figsize=(6.4, 4.8))[1]
    places = [(row[x], row[y]) for row in rows]
    ax.margins(0.12)  # room for labels beside the outermost points
    ax.scatter(*zip(*places, strict=True), color="#94a3b8", label="points", zorder=2)
    front = [(row[x], row[y]) for row in front_rows(sweep, x, y)]
    on_front = list(zip(*front, strict=True))
    ax.plot(*on_front, "o-", color="#c2410c", label="Pareto front", zorder=3)
    varied = [k for k in sweep.points[0] if len({str(p[k]) for p in sweep.points}) > 1]
    for place, told in _labels(rows, places, varied):
        ax.annotate(told, place, (4, 4), textcoords="offset points", fontsize=8)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if varied:
        ax.set_title("(" + ", ".join(varied) + ")", fontsize=9)
    ax.legend()
    return ax


def _labels(
    rows: Sequence[dict[str, Any]], places: Sequence[Any], varied: Sequence[str]
) -> list[tuple[Any, str]]:
    """One label a place: the first point there, and how many more there are."""
    told: dict[Any, list[str]] = {}
    for row, place in zip(rows, places, strict=True):
        told.setdefault(place, []).append(", ".join(_told(row[key]) for key in varied))
    return [
        (place, texts[0] + (f" and {len(texts) - 1} more" if len(texts) > 1 else ""))
        for place, texts in told.items()
    ]


def _told(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
