"""Many settings over the same prompts, and what each trades for what."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from os import PathLike
from typing import Any

from deal import _core, _rollouts
from deal._progress import progress_bar
from deal._request import (
    GENERATE_DEFAULTS,
    Options,
    generations,
    is_messages,
    known,
    make_row,
    rows_of,
)
from deal._resume import Checkpoint
from deal._trade_off import MEANS, front_rows, page_part, plot, summary_rows
from deal.model import Model
from deal.rewards._extras import needed
from deal.rewards.base import Reward, as_reward
from deal.rewards.combine import formula_of
from deal.settings import Search

_SETTINGS = (
    "top_k lookahead reward_weight num_beams commit mode skip_above".split()
)  # of deal.Search, that a grid may hold
_MEMORY = 1 << 29  # bytes of KV cells that are kept between the points of a prompt


@dataclass(frozen=True)
class Outcome:
    """One prompt at one point of the grid.

    Attributes
    ----------
    i_prompt : int
    point : dict
        The grid's keys, with the values of this point.
    text, logprob, reward, rewards, score, finish_reason
        As of :class:`deal.Generation`; None, and empty, where there is an error.
    n_tokens : int or None
    n_forward_tokens, n_recalled_tokens : int
        Tokens evaluated here, and those that an earlier point had evaluated.
    seconds : float
    error : str or None
        What went wrong, "RewardError: ...".
    """

    i_prompt: int
    point: dict[str, Any]
    text: str | None = None
    n_tokens: int | None = None
    logprob: float | None = None
    reward: float | None = None
    rewards: dict[str, float] | None = None
    score: float | None = None
    finish_reason: str | None = None
    n_forward_tokens: int = 0
    n_recalled_tokens: int = 0
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True, repr=False)
class Sweep:
    """Made by :func:`sweep`; notebooks show the means.

    Attributes
    ----------
    outcomes : tuple of Outcome
        Point by point in the grid's order, within each prompt by prompt.
    points : tuple of dict
    reward_names : tuple of str
    """

    outcomes: tuple[Outcome, ...]
    points: tuple[dict[str, Any], ...]
    reward_names: tuple[str, ...]

    @property
    def errors(self) -> tuple[Outcome, ...]:
        """Those that went wrong."""
        return tuple(each for each in self.outcomes if each.error is not None)

    @property
    def n_forward_tokens(self) -> int:
        """Tokens evaluated, of all points that were not read from a checkpoint's file
        as well as of those that were."""
        return sum(each.n_forward_tokens for each in self.outcomes)

    @property
    def n_recalled_tokens(self) -> int:
        """Tokens that points used and earlier ones had evaluated: each would have cost
        an evaluation in a separate run."""
        return sum(each.n_recalled_tokens for each in self.outcomes)

    def rows(self) -> list[dict[str, Any]]:
        """One flat dict for each outcome: the grid's keys, the fields of `Outcome`, and
        ``reward:<name>`` for each reward."""
        result = []
        for each in self.outcomes:
            row = dict(each.point)
            for item in fields(Outcome):
                if item.name not in ("point", "rewards"):
                    row[item.name] = getattr(each, item.name)
            rewards = each.rewards or {}
            row |= {f"reward:{name}": rewards.get(name) for name in self.reward_names}
            result.append(row)
        return result

    def frame(self) -> Any:
        """The rows as a ``pandas.DataFrame``.

        Raises
        ------
        ImportError
            Without pandas, which the extra ``notebook`` brings.
        """
        return needed("pandas", "notebook", "Sweep.frame").DataFrame(self.rows())

    def summary(self) -> list[dict[str, Any]]:
        """Means over the prompts, one dict for each point.

        Returns
        -------
        list of dict
            The grid's keys; ``n``, prompts without an error; the means of ``logprob,
            logprob_per_token, n_tokens, reward, seconds`` and of ``reward:<name>``,
            None where `n` is 0.
        """
        return summary_rows(self)

    def front(self, x: str | None = None, y: str | None = None) -> list[dict[str, Any]]:
        """The points that no other one is better than in one of two means and at least
        as good as in the other.

        Parameters
        ----------
        x, y : str, optional
            Keys of :meth:`summary`, as for :meth:`plot`.

        Returns
        -------
        list of dict
            Those rows of :meth:`summary`, by rising `x`; empty where no prompt went
            well.

        Raises
        ------
        ValueError
            For a key that is none.
        """
        return front_rows(self, x, y)

    def plot(self, x: str | None = None, y: str | None = None, ax: Any = None) -> Any:
        """Draw the trade-off between two means, with the Pareto front.

        Parameters
        ----------
        x, y : str, optional
            Keys of :meth:`summary`, both better where higher. Default: the first two
            rewards; with one reward ``logprob_per_token`` against it.
        ax : matplotlib.axes.Axes, optional
            Default: those of a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ImportError
            Without matplotlib, which the extra ``notebook`` brings.
        ValueError
            For a key that is none, or where no prompt went well.
        """
        return plot(self, x, y, ax)

    def __str__(self) -> str:
        n = len(self.outcomes)
        return (
            f"{len(self.points)} points, {n} outcomes, {len(self.errors)} errors; "
            f"{self.n_forward_tokens} tokens evaluated, "
            f"{self.n_recalled_tokens} recalled"
        )

    def __repr__(self) -> str:
        return f"<deal.Sweep: {self}>"

    def _repr_html_(self) -> str:
        return page_part(self)


# --- the grid ------------------------------------------------------------------------


def _weight_names(reward: Reward) -> dict[str, int]:
    """The rewards of the sum that a grid may weigh, by name."""
    if formula_of(reward) is not None:
        return {}
    return {part.name: i for i, part in enumerate(reward.leaves())}


def _points(grid: Any, reward: Reward) -> list[dict[str, Any]]:
    if not isinstance(grid, Mapping) or not grid:
        raise ValueError(
            "grid: expected a mapping of names to lists of values, such as "
            f"{{'reward_weight': [1, 4]}}, got {grid!r}"
        )
    names = _weight_names(reward)
    taken = {*MEANS, "n", *(each.name for each in fields(Outcome))}
    for name, values in grid.items():
        if name not in _SETTINGS and name not in names:
            raise ValueError(
                f"grid[{name!r}]: expected one of {_SETTINGS} or the name of a reward "
                f"of the weighted sum, {list(names)}"
            )
        if name in _SETTINGS and name in names:
            raise ValueError(
                f"grid[{name!r}]: a setting of deal.Search and a reward's name; give "
                "the reward another one"
            )
        if name in taken:
            raise ValueError(
                f"grid[{name!r}]: a column of the results has this name; give the "
                "reward another one"
            )
        if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
            values = list(values) if hasattr(values, "tolist") else None
        if not values:
            raise ValueError(f"grid[{name!r}]: expected a list of values, not empty")
    columns = [
        [v.item() if hasattr(v, "item") else v for v in grid[name]] for name in grid
    ]
    return [dict(zip(grid, row, strict=True)) for row in itertools.product(*columns)]


def _weighted(reward: Reward, point: Mapping[str, Any]) -> Reward:
    """The sum with the point's weights, its rewards in the same order."""
    names = _weight_names(reward)
    if not names.keys() & point.keys():
        return reward
    terms = [
        point.get(part.name, part.weight) * part.reward for part in reward.leaves()
    ]
    return sum(terms[1:], start=terms[0])


def _settings_of(search: Search, point: Mapping[str, Any]) -> Search:
    return replace(search, **{k: v for k, v in point.items() if k in _SETTINGS})


# --- the run -------------------------------------------------------------------------


def _bytes_per_cell(lm: Any) -> int:
    hp = lm.hparams
    size = 2 if lm.kv_type == "f16" else 4
    return 2 * hp.n_layer * hp.n_head_kv * hp.head_dim * size


@contextmanager
def _recalls(lm: Any, options: Sequence[Options]) -> Iterator[tuple[Any, Any, Any]]:
    """Sessions, controls and recalls that the points of one prompt share."""
    with ExitStack() as stack:
        sessions = stack.enter_context(_rollouts.sessions(lm, options[0]))
        controls = _rollouts.controls(lm, options[0])
        n_top = max(max(1, each.params["top_k"]) for each in options)
        recalls: list[Any] = []
        stack.callback(recalls.clear)  # before the sessions go back
        for i, model in enumerate((lm, options[0].rollout_model)):
            if model is None:
                recalls.append(None)
                continue
            n_cell = max(1, _MEMORY // _bytes_per_cell(model))
            n = n_top if i == 0 else 1
            recalls.append(_core.Recall(sessions[i], controls[i], n, n_cell))
        yield sessions, controls, recalls


def _run_point(
    lm: Any, prompt: Any, options: Options, row: Mapping[str, Any], shared: Any
) -> Any:
    sessions, controls, recalls = shared
    search = lm._start(sessions, prompt, options, dict(row), controls, recalls)
    try:
        search.run()
        return generations(search, options, lm.tokenizer)[0]
    finally:
        del search


def _outcome(i_prompt: int, point: dict[str, Any], r: Any) -> Outcome:
    return Outcome(
        i_prompt=i_prompt,
        point=point,
        text=r.text,
        n_tokens=len(r.token_ids),
        logprob=r.logprob,
        reward=r.reward,
        rewards=dict(r.rewards),
        score=r.score,
        finish_reason=r.finish_reason,
        n_forward_tokens=r.stats.n_forward_tokens + r.stats.n_rollout_model_tokens,
        n_recalled_tokens=r.stats.n_recalled_tokens,
        seconds=r.stats.seconds_total,
    )


def _failed(i_prompt: int, point: dict[str, Any], error: Exception) -> Outcome:
    return Outcome(i_prompt, point, error=f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class _Plan:
    """A sweep, checked."""

    lm: Any
    prompts: list[Any]
    rows: list[dict[str, Any]]
    points: list[dict[str, Any]]
    options: list[Options]


def _run_prompt(
    plan: _Plan, i_prompt: int, missing: Sequence[int]
) -> Iterator[tuple[int, Outcome]]:
    """The outcomes of the points `missing`, as they come."""
    options = [plan.options[i] for i in missing]
    done = 0
    try:
        prompt = plan.lm._encode(*_prompt_of(plan.lm, plan.prompts[i_prompt]))
        row = make_row(plan.prompts[i_prompt], plan.rows[i_prompt])
        with _recalls(plan.lm, options) as shared:
            for i, option in zip(missing, options, strict=True):
                try:
                    r = _run_point(plan.lm, prompt, option, row, shared)
                    found = _outcome(i_prompt, plan.points[i], r)
                except Exception as error:
                    found = _failed(i_prompt, plan.points[i], error)
                done += 1
                yield i, found
    except Exception as error:  # of the prompt itself
        for i in missing[done:]:
            yield i, _failed(i_prompt, plan.points[i], error)


def _prompt_of(lm: Any, prompt: Any) -> tuple[Any, bool]:
    if is_messages(prompt):
        return lm.tokenizer.apply_chat_template(prompt), True
    return prompt, False


def _plan(
    lm: Any,
    prompts: Any,
    grid: Any,
    reward: Reward,
    search: Search,
    columns: Any,
    kwargs: dict[str, Any],
) -> _Plan:
    if isinstance(prompts, (str, bytes)) or not hasattr(prompts, "__len__"):
        raise TypeError(f"prompts: expected a list of prompts, got {prompts!r}")
    if len(prompts) == 0:
        raise ValueError("prompts: expected at least one, got none")
    if not isinstance(lm, Model):
        raise TypeError(f"lm: expected deal.Model, got {lm!r}")
    if not isinstance(search, Search):
        raise TypeError(f"search: expected deal.Search, got {search!r}")
    points = _points(grid, reward)
    options = []
    for point in points:
        tried = {
            "rewards": _weighted(reward, point),
            "search": _settings_of(search, point),
        }
        options.append(lm._options(GENERATE_DEFAULTS | known(kwargs) | tried))
    rows = rows_of(columns, len(prompts))
    return _Plan(lm, list(prompts), rows, points, options)


def _about(
    plan: _Plan, reward: Reward, search: Search, kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """What every outcome of a checkpoint's file has in common."""
    lm = plan.lm
    return {
        "model": lm.path.name,
        "compute": lm.compute,
        "kv_type": lm.kv_type,
        "search": repr(search),
        "settings": {name: repr(kwargs[name]) for name in sorted(kwargs)},
        "rewards": [[part.name, part.weight] for part in reward.leaves()],
    }


def sweep(
    lm: Any,
    prompts: Sequence[Any],
    grid: Mapping[str, Sequence[Any]],
    *,
    rewards: Any,
    search: Search | None = None,
    reward_kwargs: Mapping[str, Sequence[Any]] | None = None,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool = False,
    **kwargs: Any,
) -> Sweep:
    """Generate for every prompt at every point of a grid of settings.

    The points of one prompt share what was evaluated: contexts of the model, and scores
    of rewards on texts, which are asked once. Texts and scores are those of separate
    runs, bit for bit.

    Parameters
    ----------
    lm : deal.Model
    prompts : sequence
        Prompts as for :meth:`deal.Model.generate`, or conversations as for ``chat``.
    grid : mapping of str to list
        The points are all combinations. A key is a setting of :class:`deal.Search`,
        ``top_k, lookahead, reward_weight, num_beams, commit, mode`` or ``skip_above``,
        or the name of a reward of the weighted sum `rewards`, for its weight.
    rewards : Reward or callable
    search : deal.Search, optional
        The settings that the grid leaves alone.
    reward_kwargs : mapping, optional
        Columns with a value for each prompt.
    checkpoint : path, optional
        A JSON-lines file that every outcome is added to when it is there. A sweep that
        is called again with the file goes on where it stopped; errors are tried again,
        and the grid and the prompts may have grown. It cannot tell whether a reward
        with the same name scores as before.
    progress : bool, default=False
        Show a tqdm bar.
    **kwargs
        Of :meth:`deal.Model.generate`, such as ``max_new_tokens``.

    Returns
    -------
    Sweep

    Raises
    ------
    ValueError
        For a bad grid or setting, before anything runs; for a checkpoint of a sweep
        with another model or other settings, or one that is damaged.
    TypeError
        For an argument of the wrong kind.

    Notes
    -----
    What goes wrong with one prompt at one point becomes that outcome's ``error``.
    KeyboardInterrupt stops the sweep.

    Examples
    --------
    >>> grid = {"reward_weight": [0, 1, 2, 4, 8], "lookahead": [8, 16]}
    >>> found = deal.sweep(lm, prompts, grid, rewards=rewards, checkpoint="a.jsonl")
    >>> found.frame()
    >>> found.plot()
    """
    reward = as_reward(rewards)
    base = Search() if search is None else search
    plan = _plan(lm, prompts, grid, reward, base, reward_kwargs, kwargs)
    names = tuple(part.name for part in reward.leaves())
    found: dict[tuple[int, int], Outcome] = {}
    n_point = len(plan.points)
    with ExitStack() as stack:
        file = None
        if checkpoint is not None:
            about = _about(plan, reward, base, kwargs)
            file = stack.enter_context(Checkpoint(checkpoint, about))
        bar = stack.enter_context(
            progress_bar(len(plan.prompts) * n_point, "sweep", progress, "point")
        )
        for i_prompt, prompt in enumerate(plan.prompts):
            keys = [_key(prompt, plan.rows[i_prompt], p) for p in plan.points]
            for i, key in enumerate(keys):
                saved = None if file is None else file.get(key)
                if saved is not None:
                    point = plan.points[i]
                    found[i, i_prompt] = _restored(i_prompt, point, saved, names)
                    bar.update()
            missing = [i for i in range(n_point) if (i, i_prompt) not in found]
            for i, outcome in _run_prompt(plan, i_prompt, missing) if missing else ():
                found[i, i_prompt] = outcome
                if file is not None:
                    file.add(keys[i], _saved(outcome))
                bar.update()
    outcomes = tuple(found[each] for each in sorted(found))
    return Sweep(outcomes, tuple(plan.points), names)


# --- the checkpoint's rows -----------------------------------------------------------


def _key(prompt: Any, row: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    """What tells an outcome apart: the prompt, its columns, the point."""
    if not isinstance(prompt, str):
        prompt = list(prompt)
    parts = [prompt, sorted(row.items()), sorted(point.items())]
    return json.dumps(parts, default=repr, ensure_ascii=True)


def _saved(outcome: Outcome) -> dict[str, Any] | None:
    """An outcome for the file; none of an error, which is tried again."""
    if outcome.error is not None:
        return None
    names = [each.name for each in fields(Outcome)]
    names = [name for name in names if name not in ("i_prompt", "point", "error")]
    return {name: getattr(outcome, name) for name in names}


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_scores(value: Any, names: Sequence[str]) -> bool:
    is_named = isinstance(value, dict) and list(value) == list(names)
    return is_named and all(map(_is_number, value.values()))


def _restored(
    i_prompt: int, point: dict[str, Any], saved: dict[str, Any], names: Sequence[str]
) -> Outcome:
    checks = {
        "text": lambda value: isinstance(value, str),
        "finish_reason": lambda value: value in ("stop", "length", "dead_end"),
        "rewards": lambda value: _is_scores(value, names),
    }
    checks |= dict.fromkeys(("logprob", "reward", "score", "seconds"), _is_number)
    counts = ("n_tokens", "n_forward_tokens", "n_recalled_tokens")
    checks |= dict.fromkeys(counts, _is_count)
    if saved.keys() != checks.keys():
        raise ValueError(
            f"checkpoint: expected outcomes of {sorted(checks)}, got {sorted(saved)}"
        )
    for name, holds in checks.items():
        if not holds(saved[name]):
            raise ValueError(
                f"checkpoint: {name} of an outcome at {point}: got {saved[name]!r}"
            )
    return Outcome(i_prompt, point, **saved)
