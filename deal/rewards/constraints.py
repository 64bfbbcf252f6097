"""Text of a given form, matched with llguidance: as a reward, or as a hard constraint.

As rewards they match bytes: a matcher is kept for every text that was asked about, so
that of a text which continues an earlier one only the new bytes are matched. As
constraints they match a model's tokens, in the search itself.
"""

from __future__ import annotations

import functools
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from deal._errors import ConstraintError, RewardError
from deal._pieces import SPECIAL
from deal.rewards._arguments import checked_text, flag
from deal.rewards._extras import needed
from deal.rewards.python import PythonReward
from deal.settings import check_float

_N_KEPT = 1024  # matchers
_END = 256  # the only token that is no byte
_BEFORE = "\x02"  # so that no space is put before a text that continues another


class Constraint(PythonReward):
    """How far a text has the form of a grammar; or that it must have it.

    As a reward: 1 where the text is complete, 0 where no continuation of it can be, and
    `partial` where it is the beginning of one. What is 0 stays 0, which a search knows:
    the bounds of such a text say so. As ``lm.generate(..., constraint=)``: no token is
    taken after which no continuation can match, and the text ends only where it is
    complete; see docs/constraints.md.

    Parameters
    ----------
    grammar : str
        As llguidance has it.
    partial : float, default=0.5
        Between 0 and 1.
    strip : bool, default=False
        Match the text without white space at its ends.
    name : str

    Raises
    ------
    ValueError
        With llguidance's message, for a grammar that does not parse.
    ImportError
        If llguidance is missing: extra ``[constraints]``.
    """

    def __init__(self, grammar: str, partial: float, strip: bool, name: str) -> None:
        partial = check_float("partial", partial, "0 to 1", lambda x: 0 <= x <= 1)
        strip = flag("strip", strip)
        matchers = Matchers(grammar, strip, f"deal.rewards.{type(self).__name__}")
        levels = {"complete": 1.0, "partial": partial, "dead": 0.0}

        def score(text: str) -> float:
            return levels[matchers.state(text)]

        def bounds(prompt: str, text: str, tokens_left: int) -> tuple[float, float]:
            state = matchers.state(text)
            if tokens_left == 0 or state == "dead":
                return levels[state], levels[state]
            return 0.0, 1.0

        super().__init__(
            score, range=(0.0, 1.0), bounds=bounds, name=name, per_text=True
        )
        self.matchers = matchers
        self.grammar = grammar
        self.partial = partial
        self._strip = strip
        self._starts: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def matcher(self, tokenizer: Any) -> Any:
        """Matcher over a model's tokens: what ``constraint=`` takes.

        Parameters
        ----------
        tokenizer : Tokenizer

        Returns
        -------
        llguidance.LLMatcher
            Of the empty text; the search copies it.

        Raises
        ------
        ValueError
            If `strip` is set: a hard constraint has the text as it is.
        ConstraintError
            With llguidance's message, if it fails on the grammar.
        """
        if self._strip:
            raise ValueError(
                "constraint: strip: a hard constraint has the text as it is; expected "
                "False, got True"
            )
        if tokenizer not in self._starts:
            kind = _llguidance(f"deal.rewards.{type(self).__name__}").LLMatcher
            start = kind(_token_tokenizer(tokenizer), self.grammar, log_level=0)
            if start.is_error():
                raise ConstraintError(f"{self.name}: {start.get_error()}")
            self._starts[tokenizer] = start
        return self._starts[tokenizer]


class Regex(Constraint):
    """How far a text matches a regular expression, from its start to its end.

    Scores as :class:`Constraint`: 1 complete, 0 dead, `partial` in between; or a hard
    constraint, ``constraint=`` of ``lm.generate``.

    Parameters
    ----------
    pattern : str
        In the syntax of Rust's ``regex``, which has no look-around and no references.
    partial, strip
        As for :class:`Constraint`.
    name : str, default="regex"

    Examples
    --------
    >>> Regex(r"[0-9]{4}-[0-9]{2}").score(["2024-07", "2024", "24-07"])
    [1.0, 0.5, 0.0]
    """

    def __init__(
        self,
        pattern: str,
        *,
        partial: float = 0.5,
        strip: bool = False,
        name: str = "regex",
    ) -> None:
        checked_text("pattern", pattern)
        matcher = _llguidance("deal.rewards.Regex").LLMatcher
        super().__init__(matcher.grammar_from_regex(pattern), partial, strip, name)
        self.pattern = pattern


class JsonSchema(Constraint):
    """How far a text is a JSON value of a schema.

    Scores as :class:`Constraint`: 1 complete, 0 dead, `partial` in between; or a hard
    constraint, ``constraint=`` of ``lm.generate``. Properties
    come in the order of the schema, and characters are written out, not escaped as
    ``\\u00e9``: what llguidance takes.

    Parameters
    ----------
    schema : mapping, str, or class with ``model_json_schema`` (pydantic)
        ``{}`` is any JSON value, ``{"type": "object"}`` any object.
    partial, strip
        As for :class:`Constraint`.
    name : str, default="json_schema"
    **options
        Of llguidance's JSON compiler, such as ``whitespace_flexible=False``.
    """

    def __init__(
        self,
        schema: Any,
        *,
        partial: float = 0.5,
        strip: bool = False,
        name: str = "json_schema",
        **options: Any,
    ) -> None:
        if hasattr(schema, "model_json_schema"):
            schema = schema.model_json_schema()
        if not isinstance(schema, (Mapping, str)):
            raise TypeError(f"schema: expected a mapping or JSON, got {schema!r}")
        source = schema if isinstance(schema, str) else json.dumps(dict(schema))
        matcher = _llguidance("deal.rewards.JsonSchema").LLMatcher
        grammar = matcher.grammar_from_json_schema(source, overrides=options or None)
        super().__init__(grammar, partial, strip, name)
        self.schema = json.loads(source)


class Grammar(Constraint):
    """How far a text is a sentence of a context-free grammar.

    Scores as :class:`Constraint`: 1 complete, 0 dead, `partial` in between; or a hard
    constraint, ``constraint=`` of ``lm.generate``.

    Parameters
    ----------
    grammar : str
        In llguidance's variant of Lark's syntax; its first rule is ``start``.
    partial, strip
        As for :class:`Constraint`.
    name : str, default="grammar"

    Examples
    --------
    >>> Grammar('start: ("yes" | "no") "."').score(["yes.", "n", "maybe"])
    [1.0, 0.5, 0.0]
    """

    def __init__(
        self,
        grammar: str,
        *,
        partial: float = 0.5,
        strip: bool = False,
        name: str = "grammar",
    ) -> None:
        checked_text("grammar", grammar)
        matcher = _llguidance("deal.rewards.Grammar").LLMatcher
        super().__init__(matcher.grammar_from_lark(grammar), partial, strip, name)
        self.source = grammar


# --- matchers ------------------------------------------------------------------------


def _llguidance(what: str) -> Any:
    return needed("llguidance", "constraints", what)


class _Bytes:
    """What llguidance asks of a tokenizer; here a token is a byte."""

    eos_token_id = _END
    bos_token_id = None
    tokens = [bytes([i]) for i in range(256)] + [b"\xff<end>"]
    special_token_ids = [_END]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@functools.cache
def _byte_tokenizer() -> Any:
    llguidance = _llguidance("deal.rewards.Constraint")
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()), slices=[])


class _Tokens:
    """A model's tokens, as llguidance asks for them: an id is what it adds to a text.

    It wants one end token; which tokens end a text, the search knows.
    """

    bos_token_id = None

    def __init__(self, tokenizer: Any) -> None:
        vocab, n = tokenizer.vocab, tokenizer.vocab_size
        names = tokenizer.tokens()
        is_special = [vocab.kind(i) == SPECIAL for i in range(n)]
        self.tokens = [
            (names[i] or "").encode() if is_special[i] else vocab.piece(i)
            for i in range(n)
        ]
        self.special_token_ids = [i for i in range(n) if is_special[i] and names[i]]
        self.eos_token_id = tokenizer.eos_token_id
        if self.eos_token_id is None:
            raise ValueError("constraint: the tokenizer has no end token")
        self._tokenizer = tokenizer
        special = {*self.special_token_ids}
        words = [i for i in range(n) if self.tokens[i] and i not in special]
        self._ids = {self.tokens[i]: i for i in reversed(words)}  # the lowest id
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: str | bytes) -> list[int]:
        """Ids of a continuation, as the model would have it cut: of forced text."""
        data = text.encode() if isinstance(text, str) else text
        try:
            ids = self._tokenizer.encode(_BEFORE + data.decode(), False)
        except UnicodeDecodeError:
            return self._greedy(data)
        before = self._tokenizer.encode(_BEFORE, False)
        ids = ids[len(before) :] if ids[: len(before)] == before else []
        is_same = b"".join(self.tokens[i] for i in ids) == data
        return ids if is_same else self._greedy(data)

    def _greedy(self, data: bytes) -> list[int]:
        """The longest token first."""
        ids: list[int] = []
        while data:
            n = next(n for n in range(self._longest, 0, -1) if data[:n] in self._ids)
            ids.append(self._ids[data[:n]])
            data = data[n:]
        return ids


_token_tokenizers: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def _token_tokenizer(tokenizer: Any) -> Any:
    if tokenizer not in _token_tokenizers:
        llguidance = _llguidance("deal.rewards.Constraint")
        wrapper = llguidance.TokenizerWrapper(_Tokens(tokenizer))
        _token_tokenizers[tokenizer] = llguidance.LLTokenizer(wrapper)
    return _token_tokenizers[tokenizer]


class Matchers:
    """The state of a grammar after a text, found from that of its longest beginning."""

    def __init__(self, grammar: str, strip: bool, what: str) -> None:
        matcher = _llguidance(what).LLMatcher
        problem = matcher.validate_grammar(grammar, _byte_tokenizer())
        if problem and not problem.startswith("WARNING"):
            raise ValueError(f"{what}: {problem}")
        self._strip = strip
        self._start = matcher(_byte_tokenizer(), grammar, log_level=0)
        self._check(self._start)
        # By text, the longest unused first; None where no continuation can match.
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._n_of_length: Counter[int] = Counter()
        self._lock = threading.Lock()
        self.n_bytes = 0  # matched so far; a measure of cost

    def state(self, text: str) -> str:
        """ "complete", "partial" or "dead"."""
        if self._strip:
            text = text.strip()
        with self._lock:
            matcher = self._after(text)
        if matcher is None:
            return "dead"
        return "complete" if matcher.is_accepting() else "partial"

    def _after(self, text: str) -> Any:
        if text in self._kept:
            self._kept.move_to_end(text)
            return self._kept[text]
        begin, matcher = self._longest_beginning(text)
        if matcher is not None:
            data = text[begin:].encode()
            matcher = matcher.deep_copy()
            n = matcher.try_consume_tokens(list(data))
            self.n_bytes += n
            self._check(matcher)
            if n < len(data):
                matcher = None
        self._keep(text, matcher)
        return matcher

    def _longest_beginning(self, text: str) -> tuple[int, Any]:
        for length in sorted(self._n_of_length, reverse=True):
            if length <= len(text) and text[:length] in self._kept:
                self._kept.move_to_end(text[:length])
                return length, self._kept[text[:length]]
        return 0, self._start

    def _keep(self, text: str, matcher: Any) -> None:
        self._kept[text] = matcher
        self._n_of_length[len(text)] += 1
        if len(self._kept) > _N_KEPT:
            old, _ = self._kept.popitem(last=False)
            self._n_of_length[len(old)] -= 1
            if self._n_of_length[len(old)] == 0:
                del self._n_of_length[len(old)]

    @staticmethod
    def _check(matcher: Any) -> None:
        """A text without match is no error; a limit of the library is one."""
        if matcher.is_error():
            raise RewardError(f"llguidance: {matcher.get_error()}")
