"""Rewards written as one line of text, as command lines and task files carry them.

A spec is a formula in Python's own syntax, read and never executed:

    Keywords(["cat", "couch"]) + 0.5 * Length(max=20)
    at_least(Keywords(doc["concepts"]), 0.5)
    my_rewards.py:polite
    Lexicon(path="words.txt") + 0.2 * Fluency(floor=-8)
    "my_rewards.py:polite" - 0.1 * Repetition(3)

or as JSON, one reward or a list of rewards that are added up:

    {"type": "length", "unit": "words", "max": 20, "weight": 0.5, "clip": [0.2, 1]}

It may call the rewards and combinations of :mod:`deal.rewards` that are named in
`CALLS`, with literal arguments, read those of `FROM_FILE` from a file, and name a
reward or a function of a Python file or of an installed module, which is then imported:
the one way in which a spec runs code. `doc` is the row of the data set that a text is
written for.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from deal import rewards

CALLS = (
    "Classifier",
    "Contrast",
    "Fluency",
    "Format",
    "Grammar",
    "JsonSchema",
    "Keywords",
    "Length",
    "Lexicon",
    "NgramModel",
    "Regex",
    "Repetition",
    "RewardModel",
    "at_least",
    "clip",
    "lexicographic",
    "maximum",
    "minimum",
    "penalty",
    "product",
)
# What ``path=`` reads, and how.
FROM_FILE = {
    "Classifier": "load",
    "Lexicon": "from_file",
    "NgramModel": "load",
    "RewardModel": "load",
}
_HEADS = ("Classifier", "RewardModel")  # of a model's states; by path alone
_OF_MODEL = ("Contrast", "Fluency")  # take the model that writes as first argument
# "ngram_model", "NgramModel" and "ngrammodel" are the same type in JSON.
_TYPES = {name.replace("_", "").lower(): name for name in CALLS}
_CONSTANTS = {"true": True, "false": False, "null": None}  # JSON's
_OBJECT = re.compile(r"[^\s\"'()\[\]{},+*=]+:[A-Za-z_]\w*")
_LONGEST = 10_000
_LONGEST_JSON = 1_000_000
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
}


class _Scope(NamedTuple):
    """What a formula is evaluated for."""

    doc: Mapping[str, Any] | None
    model: Any


class RewardSpec:
    """A spec, its syntax checked.

    Parameters
    ----------
    spec : str, mapping or sequence
        A formula; or JSON, as text or read: a mapping with "type", the name of one of
        `CALLS`, its arguments by name and, all optional, "weight" and "clip", a pair
        of numbers or nulls; or a list of mappings and formulas, which are added up.
    allow_files : bool, default=True
        False for specs of others: one that names a file, or code in one, is refused.
    names : mapping of str to Reward, optional
        Further rewards, which a formula takes by their name, and JSON as a "type"
        without arguments.

    Attributes
    ----------
    text : str
        The formula.
    uses_doc : bool
        Whether the formula reads `doc`.
    objects : tuple of str
        What it imports: "path/to/file.py:name" or "package.module:name".

    Raises
    ------
    ValueError
        Where the spec is no formula; says what is not.
    """

    def __init__(
        self,
        spec: str | Mapping[str, Any] | Sequence[Any],
        *,
        allow_files: bool = True,
        names: Mapping[str, rewards.Reward] | None = None,
    ) -> None:
        self._allow_files = allow_files
        self._names = dict(names or {})
        self.text = text = _formula(_read(spec), self._names)
        source = repr(text) if _OBJECT.fullmatch(text) else text
        try:
            self._tree = ast.parse(source, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._error(str(error)) from None
        used = [n.id for n in ast.walk(self._tree) if isinstance(n, ast.Name)]
        self.uses_doc = "doc" in used
        terms: list[ast.AST] = [
            self._tree
        ]  # of a sum or a product; strings elsewhere are arguments
        for node in ast.walk(self._tree):
            if isinstance(node, (ast.BinOp, ast.UnaryOp)):
                terms += ast.iter_child_nodes(node)
        self.objects = tuple(
            n.value
            for n in terms
            if isinstance(n, ast.Constant) and isinstance(n.value, str)
        )

    def build(
        self, doc: Mapping[str, Any] | None = None, model: Any = None
    ) -> rewards.Reward:
        """The reward, for one row of a data set.

        Parameters
        ----------
        doc : mapping, optional
        model : deal.Model, optional
            The one that writes; rewards that read its states or log-probs need it.

        Raises
        ------
        ValueError
            For a name, an argument or an operation that no formula has, a field that
            `doc` lacks, or a file where none is allowed.
        OSError, ImportError
            Where a file or module cannot be read or lacks the name.
        """
        try:
            reward = self._reward(self._tree, _Scope(doc, model))
        except RecursionError:
            raise self._error("it is nested too deep") from None
        if not isinstance(reward, rewards.Reward):
            raise self._error(f"expected a reward, got {reward!r:.80}")
        return reward

    def _error(self, what: str) -> ValueError:
        return ValueError(f"rewards: {self.text!r:.200}: {what}")

    def _reward(self, node: ast.expr, scope: _Scope) -> Any:
        """A reward or a number."""
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            left, right = (
                self._reward(node.left, scope),
                self._reward(node.right, scope),
            )
            try:
                return _OPERATORS[type(node.op)](left, right)
            except (TypeError, ValueError) as error:
                raise self._error(str(error)) from error
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -1.0 * self._reward(node.operand, scope)
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                self._check_file(node.value)
                return rewards.as_reward(_imported(node.value))
            if isinstance(node.value, (int, float)) and not isinstance(
                node.value, bool
            ):
                return float(node.value)
        if isinstance(node, ast.Call):
            return self._call(node, scope)
        if isinstance(node, ast.Name) and node.id in self._names:
            return self._names[node.id]
        raise self._error(
            f"expected rewards, numbers, +, - and *, got {ast.unparse(node):.80}"
        )

    def _call(self, node: ast.Call, scope: _Scope) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in CALLS:
            raise self._error(
                f"expected one of {', '.join(CALLS)}, got {ast.unparse(node.func):.80}"
            )
        args = [self._argument(a, scope) for a in node.args]
        named = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise self._error("expected name=value in calls, got **")
            named[keyword.arg] = self._argument(keyword.value, scope)
        make = getattr(rewards, name)
        if name in FROM_FILE and "path" in named:
            self._check_file(named["path"])
            make = getattr(make, FROM_FILE[name])
        elif name in _HEADS:
            raise self._error(f"{name}: expected path=, a file that was saved")
        self._check_names(name, make, named)
        try:
            if name in _HEADS:
                named.setdefault("model", self._model(name, scope))
            elif name in _OF_MODEL:
                args = [self._model(name, scope), *args]
            return make(*args, **named)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._error(f"{name}: {error}") from error

    def _check_names(self, name: str, make: Any, named: Mapping[str, Any]) -> None:
        known = inspect.signature(make).parameters
        for each in named:
            if each not in known:
                raise self._error(
                    f"{name}: expected arguments of {', '.join(known)}, got {each!r}"
                )

    def _check_file(self, path: Any) -> None:
        if not isinstance(path, str) or "\0" in path:
            raise self._error(f"path: expected the name of a file, got {path!r:.80}")
        if not self._allow_files:
            raise self._error(f"expected no files and no code here, got {path!r:.80}")

    def _model(self, name: str, scope: _Scope) -> Any:
        if scope.model is None:
            raise self._error(f"{name}: expected a model that writes, got none")
        return scope.model

    def _argument(self, node: ast.expr, scope: _Scope) -> Any:
        """A literal, a field of `doc`, or a reward that a combination is made of."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self._argument(e, scope) for e in node.elts]
        if isinstance(node, ast.Dict) and None not in node.keys:
            keys = [self._argument(k, scope) for k in node.keys if k is not None]
            values = [self._argument(v, scope) for v in node.values]
            try:
                return dict(zip(keys, values, strict=True))
            except TypeError as error:  # a list as key
                raise self._error(f"{ast.unparse(node):.80}: {error}") from None
        if isinstance(node, ast.Name) and node.id in _CONSTANTS:
            return _CONSTANTS[node.id]
        if isinstance(node, ast.Name) and node.id in self._names:
            return self._names[node.id]
        if isinstance(node, ast.Subscript):
            return self._field(node, scope)
        if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
            if isinstance(node.op, ast.USub) and type(node.operand.value) in (
                int,
                float,
            ):
                return -node.operand.value  # type: ignore[operator]
        if isinstance(node, (ast.Call, ast.BinOp)):
            return self._reward(node, scope)
        raise self._error(f"expected a literal, got {ast.unparse(node):.80}")

    def _field(self, node: ast.Subscript, scope: _Scope) -> Any:
        is_doc = isinstance(node.value, ast.Name) and node.value.id == "doc"
        holder: Any = scope.doc if is_doc else self._argument(node.value, scope)
        key = self._argument(node.slice, scope)
        try:
            return holder[key]
        except (KeyError, IndexError, TypeError):
            fields = sorted(holder) if isinstance(holder, Mapping) else "none"
            raise self._error(
                f"{ast.unparse(node):.80}: there is no such field; fields: {fields}"
            ) from None


# --- JSON ----------------------------------------------------------------------------


def _read(spec: Any) -> Any:
    """The spec, JSON read."""
    if isinstance(spec, (Mapping, list, tuple)):
        return spec
    is_json = isinstance(spec, str) and spec.lstrip()[:1] in ("{", "[")
    longest = _LONGEST_JSON if is_json else _LONGEST
    if not isinstance(spec, str) or not spec.strip() or len(spec) > longest:
        raise ValueError(
            f"rewards: expected a formula of 1 to {_LONGEST} characters, such as "
            f'Keywords(["cat"]) + 0.5 * Length(max=20), or JSON, got {spec!r:.80}'
        )
    if not is_json:
        return spec.strip()
    try:
        return json.loads(spec)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"rewards: JSON: {error}: {spec!r:.80}") from None


def _formula(spec: Any, names: Mapping[str, Any]) -> str:
    """What was read, as a formula."""
    if isinstance(spec, str):
        return spec
    rows = [spec] if isinstance(spec, Mapping) else spec
    if not rows:
        raise ValueError("rewards: expected at least one, got []")
    return " + ".join(_term(f"rewards[{i}]", row, names) for i, row in enumerate(rows))


def _term(where: str, row: Any, names: Mapping[str, Any]) -> str:
    if isinstance(row, str) and row.lstrip()[:1] not in ("{", "["):
        text = _read(row)
        return repr(text) if _OBJECT.fullmatch(text) else f"({text})"
    kind = row.get("type") if isinstance(row, Mapping) else None
    if not isinstance(kind, str):
        raise ValueError(
            f'{where}: expected a formula or a mapping with "type", got {row!r:.80}'
        )
    name = kind if kind in names else _TYPES.get(kind.replace("_", "").lower())
    if name is None:
        known = ", ".join((*CALLS, *names))
        raise ValueError(f"{where}: type: expected one of {known}, got {kind!r:.80}")
    named = {k: v for k, v in row.items() if k not in ("type", "weight", "clip")}
    for key, value in named.items():
        if not (isinstance(key, str) and key.isidentifier()):
            raise ValueError(f"{where}: expected names of arguments, got {key!r:.80}")
        _check_literal(f"{where}: {key}", value)
    try:
        text = f"{name}({', '.join(f'{k}={v!r}' for k, v in named.items())})"
        if name in names and not named:
            text = name
    except RecursionError:
        raise ValueError(f"{where}: it is nested too deep") from None
    if row.get("clip") is not None:
        low, high = _ends(where, row["clip"])
        text = f"clip({text}, {low!r}, {high!r})"
    weight = row.get("weight", 1.0)
    _check_number(f"{where}: weight", weight)
    return text if weight == 1.0 else f"{weight!r} * {text}"


def _ends(where: str, clip: Any) -> tuple[Any, Any]:
    if not isinstance(clip, (list, tuple)) or len(clip) != 2:
        raise ValueError(f"{where}: clip: expected [low, high], got {clip!r:.80}")
    for end in clip:
        if end is not None:
            _check_number(f"{where}: clip", end)
    return clip[0], clip[1]


def _check_number(what: str, value: Any) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or abs(value) > 1e300 or not math.isfinite(value):
        raise ValueError(f"{what}: expected a finite number, got {value!r:.80}")


def _check_literal(what: str, value: Any) -> None:
    """Whether the value is what JSON has, without a number that is not finite."""
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, Mapping):
            todo += [*each.keys(), *each.values()]
        elif isinstance(each, (list, tuple)):
            todo += each
        elif isinstance(each, float) and not math.isfinite(each):
            raise ValueError(f"{what}: expected finite numbers, got {each!r}")
        elif type(each) not in (str, int, float, bool, type(None)):
            raise ValueError(f"{what}: expected what JSON has, got {each!r:.80}")


# --- code of the user ----------------------------------------------------------------


def _imported(name: str) -> Any:
    """The object of "path/to/file.py:name" or "package.module:name"."""
    module, attribute = _located(name)
    try:
        return getattr(module, attribute)
    except AttributeError:
        place = name.rpartition(":")[0]
        raise ImportError(f"rewards: {place} has no {attribute!r}") from None


def source_of(name: str) -> Path | None:
    """The file of what a spec imports; None where its module has none.

    Raises
    ------
    ValueError, OSError, ImportError
        As :meth:`RewardSpec.build`.
    """
    file = getattr(_located(name)[0], "__file__", None)
    return None if file is None else Path(file)


def _located(name: str) -> tuple[Any, str]:
    """The module, imported, and the name in it."""
    place, _, attribute = name.rpartition(":")
    if not place or not attribute.isidentifier():
        raise ValueError(
            f"rewards: expected path/to/file.py:name or package.module:name, got "
            f"{name!r}"
        )
    if not place.endswith(".py"):
        return importlib.import_module(place), attribute
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(2, "rewards: no such file", str(path))
    return _module_of(path, path.stat().st_mtime_ns), attribute


@lru_cache
def _module_of(path: Path, mtime_ns: int) -> Any:
    """A file's module, imported again once the file has changed."""
    name = f"_deal_rewards_{abs(hash(path)):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
