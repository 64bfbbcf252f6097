"""Rewards written as one line of text, as command lines and task files carry them.

A spec is a formula in Python's own syntax, read and never executed:

    Keywords(["cat", "couch"]) + 0.5 * Length(max=20)
    at_least(Keywords(doc["concepts"]), 0.5)
    my_rewards.py:polite
    "my_rewards.py:polite" - 0.1 * Repetition(3)

It may call the rewards and combinations of :mod:`deal.rewards` that are named in
`CALLS`, with literal arguments, and name a reward or a function of a Python file or of
an installed module, which is then imported: the one way in which a spec runs code.
`doc` is the row of the data set that a text is written for.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from deal import rewards

CALLS = (
    "Format",
    "Grammar",
    "JsonSchema",
    "Keywords",
    "Length",
    "Lexicon",
    "Regex",
    "Repetition",
    "at_least",
    "clip",
    "lexicographic",
    "maximum",
    "minimum",
    "penalty",
    "product",
)
_CONSTANTS = {"true": True, "false": False, "null": None}  # JSON's
_OBJECT = re.compile(r"[^\s\"'()\[\]{},+*=]+:[A-Za-z_]\w*")
_LONGEST = 10_000
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
}


class RewardSpec:
    """A spec, its syntax checked.

    Parameters
    ----------
    text : str

    Attributes
    ----------
    uses_doc : bool
        Whether the formula reads `doc`.
    objects : tuple of str
        What it imports: "path/to/file.py:name" or "package.module:name".

    Raises
    ------
    ValueError
        Where the text is no formula; says what is not.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not text.strip() or len(text) > _LONGEST:
            raise ValueError(
                f"rewards: expected a formula of 1 to {_LONGEST} characters, such as "
                f'Keywords(["cat"]) + 0.5 * Length(max=20), got {text!r:.80}'
            )
        self.text = text.strip()
        source = repr(self.text) if _OBJECT.fullmatch(self.text) else self.text
        try:
            self._tree = ast.parse(source, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._error(str(error)) from None
        names = [n.id for n in ast.walk(self._tree) if isinstance(n, ast.Name)]
        self.uses_doc = "doc" in names
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

    def build(self, doc: Mapping[str, Any] | None = None) -> rewards.Reward:
        """The reward, for one row of a data set.

        Raises
        ------
        ValueError
            For a name, an argument or an operation that no formula has, or a field
            that `doc` lacks.
        OSError, ImportError
            Where a file or module cannot be read or lacks the name.
        """
        try:
            return rewards.as_reward(self._reward(self._tree, doc))
        except RecursionError:
            raise self._error("it is nested too deep") from None

    def _error(self, what: str) -> ValueError:
        return ValueError(f"rewards: {self.text!r:.200}: {what}")

    def _reward(self, node: ast.expr, doc: Any) -> Any:
        """A reward or a number."""
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            left, right = self._reward(node.left, doc), self._reward(node.right, doc)
            return _OPERATORS[type(node.op)](left, right)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -1.0 * self._reward(node.operand, doc)
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                return rewards.as_reward(_imported(node.value))
            if isinstance(node.value, (int, float)) and not isinstance(
                node.value, bool
            ):
                return float(node.value)
        if isinstance(node, ast.Call):
            return self._call(node, doc)
        raise self._error(
            f"expected rewards, numbers, +, - and *, got {ast.unparse(node):.80}"
        )

    def _call(self, node: ast.Call, doc: Any) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in CALLS:
            raise self._error(
                f"expected one of {', '.join(CALLS)}, got {ast.unparse(node.func):.80}"
            )
        args = [self._argument(a, doc) for a in node.args]
        named = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise self._error("expected name=value in calls, got **")
            named[keyword.arg] = self._argument(keyword.value, doc)
        try:
            return getattr(rewards, name)(*args, **named)
        except (TypeError, ValueError) as error:
            raise self._error(f"{name}: {error}") from error

    def _argument(self, node: ast.expr, doc: Any) -> Any:
        """A literal, a field of `doc`, or a reward that a combination is made of."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self._argument(e, doc) for e in node.elts]
        if isinstance(node, ast.Dict) and None not in node.keys:
            return {
                self._argument(k, doc): self._argument(v, doc)
                for k, v in zip(node.keys, node.values, strict=True)
                if k is not None
            }
        if isinstance(node, ast.Name) and node.id in _CONSTANTS:
            return _CONSTANTS[node.id]
        if isinstance(node, ast.Subscript):
            return self._field(node, doc)
        if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
            if isinstance(node.op, ast.USub) and type(node.operand.value) in (
                int,
                float,
            ):
                return -node.operand.value  # type: ignore[operator]
        if isinstance(node, (ast.Call, ast.BinOp)):
            return self._reward(node, doc)
        raise self._error(f"expected a literal, got {ast.unparse(node):.80}")

    def _field(self, node: ast.Subscript, doc: Any) -> Any:
        is_doc = isinstance(node.value, ast.Name) and node.value.id == "doc"
        holder = doc if is_doc else self._argument(node.value, doc)
        key = self._argument(node.slice, doc)
        try:
            return holder[key]
        except (KeyError, IndexError, TypeError):
            fields = sorted(holder) if isinstance(holder, Mapping) else "none"
            raise self._error(
                f"{ast.unparse(node):.80}: there is no such field; fields: {fields}"
            ) from None


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
