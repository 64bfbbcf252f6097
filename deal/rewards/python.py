"""Rewards that are Python functions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict, overload

from deal import _core
from deal.rewards._declared import Bounds, accepted_names, checked_range
from deal.rewards.base import Reward, check_texts

if TYPE_CHECKING:
    from typing_extensions import Unpack


class _Declaration(TypedDict, total=False):
    range: tuple[float, float] | None
    bounds: Callable[..., Any] | None
    name: str | None
    per_text: bool
    pure: bool


@overload
def reward(
    fn: Callable[..., Any], **declared: Unpack[_Declaration]
) -> PythonReward: ...


@overload
def reward(
    fn: None = None, **declared: Unpack[_Declaration]
) -> Callable[[Callable[..., Any]], PythonReward]: ...


def reward(
    fn: Callable[..., Any] | None = None,
    *,
    range: tuple[float, float] | None = None,
    bounds: Callable[..., Any] | None = None,
    name: str | None = None,
    per_text: bool = False,
    pure: bool = True,
) -> Any:
    """Make a reward of a Python function; a decorator, with or without arguments.

    Parameters
    ----------
    fn : callable
        ``fn(completions=[...], prompts=[...], **kwargs)`` returns one number for each
        completion, as TRL's reward functions do. Of `prompts` and of a request's
        `reward_kwargs` it gets those that it accepts by name, all of them with
        ``**kwargs``, as lists with one value for each completion.
    range : (float, float), optional
        Least and greatest score; a score outside raises. Knowing it helps the search.
    bounds : callable, optional
        ``bounds(prompt, text, tokens_left)`` returns (low, high) of the scores that a
        completion can still get which begins with `text`, when at most `tokens_left`
        tokens follow; it may end anywhere after `text`. Of `reward_kwargs` it gets
        those that it accepts by name, as single values. Mode "exact" asks it about
        rollouts that are not complete; a later score outside raises.
    name : str, optional
        Default: the function's name.
    per_text : bool, default=False
        ``fn(text)`` returns the number of one completion.
    pure : bool, default=True
        A pure function of prompt and text is asked about each text once, and only where
        its score matters. One that is not, for it counts or draws, gets the calls of
        mode "naive" in every mode: the same texts in the same order, also again.

    Returns
    -------
    PythonReward

    References
    ----------
    .. [1] TRL, "GRPO Trainer", section "Using a custom reward function".
    """
    if fn is None:
        return functools.partial(
            PythonReward,
            range=range,
            bounds=bounds,
            name=name,
            per_text=per_text,
            pure=pure,
        )
    return PythonReward(
        fn, range=range, bounds=bounds, name=name, per_text=per_text, pure=pure
    )


class PythonReward(Reward):
    """A Python function as a reward; see :func:`reward`. A call calls the function."""

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        range: tuple[float, float] | None = None,
        bounds: Callable[..., Any] | None = None,
        name: str | None = None,
        per_text: bool = False,
        pure: bool = True,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"reward: expected a function, got {fn!r}")
        if name is None:
            name = getattr(fn, "__name__", type(fn).__name__)
        super().__init__(name, checked_range(range), bool(pure))
        if bounds is not None and not pure:
            raise ValueError(
                f"reward {name!r}: bounds: a reward that is not pure is never asked"
            )
        self._accepted = accepted_names(fn, name, per_text)
        self._per_text = per_text
        self._bounds = None if bounds is None else Bounds(bounds, name)
        functools.update_wrapper(self, fn, updated=())
        self._fn = fn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._fn(*args, **kwargs)

    def _call(
        self, completions: list[str], prompts: list[str], columns: Mapping[str, Any]
    ) -> Any:
        if self._per_text:
            return [self._fn(text) for text in completions]
        given = {"prompts": prompts, **columns}
        if self._accepted is not None:
            given = {k: v for k, v in given.items() if k in self._accepted}
        return self._fn(completions=completions, **given)

    def _score(
        self, completions: list[Any], prompts: list[str], columns: Mapping[str, Any]
    ) -> list[float]:
        self._check_columns(columns)
        check_texts(self.name, completions)
        result = self._call(completions, prompts, columns)
        return _core.check_scores(self.name, result, len(completions), *self.range)

    def _capsule(self, kwargs: Mapping[str, Any]) -> Any:
        self._check_columns(kwargs)
        row = dict(kwargs)

        def call(prompt: str, texts: list[str]) -> Any:
            n = len(texts)
            columns = {name: [value] * n for name, value in row.items()}
            return self._call(texts, [prompt] * n, columns)

        ask = self._bounds
        bounds = None if ask is None else functools.partial(ask, row=row)
        return _core.python_reward(self.name, call, *self.range, bounds, self.pure)

    def _check_columns(self, columns: Mapping[str, Any]) -> None:
        for name in ("completions", "prompts"):
            if name in columns:
                raise ValueError(f"{name}: no column may have this name")
