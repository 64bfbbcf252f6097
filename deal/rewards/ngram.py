"""A linear model over n-grams: fitted here, or imported from scikit-learn."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from deal import _core
from deal._errors import ModelFormatError
from deal._safetensors import read_tensors, write_tensors
from deal.rewards._arguments import choice, flag, listed, not_negative, number, share
from deal.rewards._arguments import texts as texts_of
from deal.rewards.native import Native
from deal.settings import check_float, check_int

_KINDS = ("hashed", "vocabulary", "murmur")
_TF = ("count", "binary", "log")
_FORMAT = "deal.ngram_model.v1"


@dataclass(frozen=True)
class NgramFeatures:
    """What a :class:`NgramModel` counts.

    Attributes
    ----------
    kind : {"hashed", "vocabulary", "murmur"}
        Which slot an n-gram has: a bucket of our hash, that of its term, or a bucket as
        scikit-learn's ``HashingVectorizer`` has it.
    n_slots : int
    words, characters : (int, int) or None
        Shortest and longest n-grams.
    within_words : bool
        n-grams of characters stay within words, with a space at both ends.
    lowercase : bool
        Case is folded.
    min_word : int
        Characters that a word has at least.
    signed : bool
        "murmur": the hash gives a sign, too.
    stop_words, terms : tuple of str
        Words that are passed over; of a vocabulary, its terms in order.
    """

    kind: str
    n_slots: int
    words: tuple[int, int] | None = None
    characters: tuple[int, int] | None = None
    within_words: bool = True
    lowercase: bool = True
    min_word: int = 1
    signed: bool = False
    stop_words: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()

    def _what(self) -> tuple[Any, ...]:
        """As ``_core.ngram_model`` takes it."""
        return (
            _KINDS.index(self.kind),
            self.n_slots,
            *(self.words or (0, 0)),
            *(self.characters or (0, 0)),
            self.within_words,
            self.lowercase,
            self.signed,
            self.min_word,
            self.stop_words,
            self.terms,
        )


@dataclass(frozen=True)
class NgramFit:
    """How a fit went.

    Attributes
    ----------
    n_texts, n_held_out : int
        Texts fitted on, and texts that told when to stop.
    n_steps, best_step : int
        Steps taken, and the one whose weights were kept.
    loss : float
        Mean logistic loss of the texts fitted on, with the penalty, in nats.
    held_out_loss : float or None
    converged : bool
        The gradient became flat, or no step lowered the loss.
    """

    n_texts: int
    n_held_out: int
    n_steps: int
    best_step: int
    loss: float
    held_out_loss: float | None
    converged: bool


class NgramModel(Native):
    """A logistic regression over counts of n-grams, in (0, 1).

    The score is ``sigmoid(sum(w[j] * v[j]) / |v| + intercept)`` with ``v[j] = idf[j] *
    tf(count[j])``; the norm is there where `norm` is. Made by :meth:`fit`, by
    :meth:`from_sklearn`, by :meth:`load`, or from weights.

    Parameters
    ----------
    weights : mapping of str to float
        Of terms: words joined by one space, or with `characters` strings of them.
    intercept : float, default=0.0
    words : (int, int) or None, default=(1, 1)
        n-grams of words, at most 5.
    characters : (int, int), optional
        Instead of words, with ``words=None``: n-grams of characters, at most 8.
    within_words : bool, default=True
        Characters of white-space separated words, with a space at both ends.
    lowercase : bool, default=True
    min_word : int, default=1
        Shorter words, runs of letters, marks, digits and underscores, are passed over.
    stop_words : iterable of str, default=()
    idf : mapping of str to float, optional
        Positive; terms that are not in it have 1.
    tf : {"count", "binary", "log"}, default="count"
        The count, whether there is one, or one plus its natural logarithm.
    norm : bool, default=False
    name : str, default="ngram_model"

    Attributes
    ----------
    features : NgramFeatures
    weight : ndarray of float32, shape (n_slots,)
    idf : ndarray of float32, shape (n_slots,), or None
    intercept : float
    tf : str
    norm : bool
    report : NgramFit or None

    Raises
    ------
    ValueError
        For numbers that are not finite, n-grams that are too long, or no n-grams.

    Examples
    --------
    >>> model = NgramModel({"good": 2.0, "not good": -3.0}, words=(1, 2))
    >>> [round(score, 2) for score in model.score(["Good.", "not good", ""])]
    [0.88, 0.27, 0.5]
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        intercept: float = 0.0,
        *,
        words: tuple[int, int] | None = (1, 1),
        characters: tuple[int, int] | None = None,
        within_words: bool = True,
        lowercase: bool = True,
        min_word: int = 1,
        stop_words: Iterable[str] = (),
        idf: Mapping[str, float] | None = None,
        tf: str = "count",
        norm: bool = False,
        name: str = "ngram_model",
    ) -> None:
        if not isinstance(weights, Mapping):
            raise TypeError(f"weights: expected a mapping, got {weights!r:.80}")
        if idf is not None and not isinstance(idf, Mapping):
            raise TypeError(f"idf: expected a mapping or None, got {idf!r:.80}")
        terms = tuple(texts_of("weights", list(weights)))
        if not terms:
            raise ValueError("weights: expected at least one term, got none")
        features = NgramFeatures(
            "vocabulary",
            len(terms),
            _pair("words", words),
            _pair("characters", characters),
            flag("within_words", within_words),
            flag("lowercase", lowercase),
            check_int("min_word", min_word, 1, 2**31 - 1),
            stop_words=tuple(texts_of("stop_words", stop_words)),
            terms=terms,
        )
        scale = None
        if idf is not None:
            scale = [number(f"idf: {term!r}", idf.get(term, 1.0)) for term in terms]
        rows = [number(f"weights: {term!r}", weights[term]) for term in terms]
        is_normed = flag("norm", norm)
        self._set_up(features, rows, scale, intercept, tf, is_normed, name)

    def _set_up(
        self,
        features: NgramFeatures,
        weight: Any,
        idf: Any,
        intercept: float,
        tf: str,
        norm: bool,
        name: str,
        report: NgramFit | None = None,
    ) -> None:
        choice("tf", tf, _TF)
        self.features = features
        self.weight = np.ascontiguousarray(weight, dtype=np.float32)
        self.idf = None if idf is None else np.ascontiguousarray(idf, dtype=np.float32)
        self.intercept = number("intercept", intercept)
        self.tf = tf
        self.norm = bool(norm)
        self.report = report
        capsule = _core.ngram_model(
            features._what(),
            self.weight,
            self.idf,
            self.intercept,
            _TF.index(tf),
            self.norm,
        )
        super().__init__(capsule, name)

    @classmethod
    def _of(cls, *args: Any, **kwargs: Any) -> NgramModel:
        model = cls.__new__(cls)
        model._set_up(*args, **kwargs)
        return model

    def __reduce__(self) -> Any:
        numbers = (self.weight, self.idf, self.intercept, self.tf, self.norm)
        return self._of, (self.features, *numbers, self.name, self.report)

    # --- fitting

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        labels: Sequence[Any],
        *,
        words: tuple[int, int] | None = (1, 2),
        characters: tuple[int, int] | None = None,
        n_buckets: int = 2**18,
        tf: str = "log",
        idf: bool = True,
        norm: bool = True,
        C: float = 10.0,
        balanced: bool = False,
        held_out: float = 0.1,
        patience: int = 10,
        max_steps: int = 500,
        tolerance: float = 1e-6,
        seed: int = 0,
        progress: bool = False,
        name: str = "ngram_model",
    ) -> NgramModel:
        """Fit a logistic regression over hashed n-grams.

        Parameters
        ----------
        texts : sequence of str
        labels : sequence of bool or int
            1 for texts that should score high, 0 for others; both have to occur.
        words, characters : (int, int) or None
            Shortest and longest n-grams, of words, of characters within words, or both.
        n_buckets : int, default=2**18
            A power of two.
        tf, idf, norm
            As for the class; `idf` is that of scikit-learn, smoothed.
        C : float, default=10
            As in scikit-learn: the penalty is ``|w|**2 / (2 * C * n_texts)`` beside the
            mean loss.
        balanced : bool, default=False
            Both labels count the same, however often they occur.
        held_out : float, default=0.1
            Share of the texts that is not fitted on, drawn by `seed`: the fit stops
            where the loss on it has not fallen for `patience` steps, and keeps the best
            weights. 0: fits on all, to the end.
        max_steps : int, default=500
        tolerance : float, default=1e-6
            Done where no part of the gradient is greater.
        seed : int, default=0
        progress : bool, default=False
            A progress bar with the losses.

        Returns
        -------
        NgramModel
            With ``report``.

        Raises
        ------
        ValueError
            If lengths differ, a label is neither 0 nor 1, or one of them is missing.

        References
        ----------
        .. [1] D. C. Liu and J. Nocedal, "On the limited memory BFGS method for large
           scale optimization", Mathematical Programming 45, 1989.
        """
        rows = texts_of("texts", texts)
        target = _checked_labels(labels, len(rows))
        choice("tf", tf, _TF)
        C = check_float("C", C, "a finite number > 0", lambda x: x > 0)
        tolerance = not_negative("tolerance", tolerance)
        features = NgramFeatures(
            "hashed",
            _power_of_two("n_buckets", n_buckets),
            _pair("words", words),
            _pair("characters", characters),
        )
        order, n_train = _split(target, share("held_out", held_out), seed)
        target = [target[i] for i in order]
        cost = _costs(target[:n_train], target, flag("balanced", balanced))
        with _progress(max_steps) if progress else nullcontext() as on_step:
            weight, scale, intercept, report = _core.ngram_fit(
                features._what(),
                [rows[i] for i in order],
                target,
                cost,
                n_train,
                flag("idf", idf),
                _TF.index(tf),
                flag("norm", norm),
                1.0 / (C * n_train),
                check_int("max_steps", max_steps, 1, 2**31 - 1),
                tolerance,
                check_int("patience", patience, 1, 2**31 - 1),
                on_step,
            )
        n_steps, best_step, loss, held_out_loss, converged = report
        return cls._of(
            features,
            weight[0],
            scale[0] if idf else None,
            intercept,
            tf,
            norm,
            name,
            NgramFit(
                n_train,
                len(rows) - n_train,
                n_steps,
                best_step,
                loss,
                None if math.isnan(held_out_loss) else held_out_loss,
                converged,
            ),
        )

    @classmethod
    def from_sklearn(
        cls, pipeline: Any, label: Any = None, name: str = "ngram_model"
    ) -> NgramModel:
        """Import a fitted scikit-learn pipeline.

        Parameters
        ----------
        pipeline : sklearn.pipeline.Pipeline, or a sequence of its steps
            ``CountVectorizer``, ``TfidfVectorizer`` or ``HashingVectorizer``, a
            ``TfidfTransformer`` or none, and a linear classifier: ``coef_``,
            ``intercept_`` and ``classes_``, as ``LogisticRegression``,
            ``SGDClassifier`` and ``LinearSVC`` have.
        label : optional
            The class that scores high. Default: of two, the second.
        name : str, default="ngram_model"

        Returns
        -------
        NgramModel
            Its score is the sigmoid of ``decision_function``: of a logistic regression
            the probability, of others a monotone function of the margin. Weights are
            rounded to float32.

        Raises
        ------
        ImportError
            Without scikit-learn: the extra ``sklearn``.
        NotImplementedError
            For what cannot be imported exactly, such as a tokenizer of its own, an L1
            norm or a softmax over more than two classes; it names the setting.

        Notes
        -----
        Marks count as parts of words, and case is folded character by character, which
        differs from ``str.lower`` in a few letters outside of ASCII.
        """
        from deal.rewards._sklearn import read_pipeline

        return cls._of(**read_pipeline(pipeline, label), name=name)

    # --- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as a safetensors file.

        Parameters
        ----------
        path : path
            Replaced as a whole where it is there.
        """
        settings = {
            "features": asdict(self.features),
            "intercept": self.intercept,
            "tf": self.tf,
            "norm": self.norm,
            "name": self.name,
            "report": None if self.report is None else asdict(self.report),
        }
        tensors = {"weight": self.weight}
        if self.idf is not None:
            tensors["idf"] = self.idf
        metadata = {"format": _FORMAT, "settings": json.dumps(settings)}
        write_tensors(Path(path), tensors, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NgramModel:
        """Read what :meth:`save` wrote; scores are the same to the last bit.

        Raises
        ------
        ModelFormatError
            If the file is another one, or damaged.
        """
        tensors, metadata = read_tensors(Path(path))
        found = metadata.get("format")
        if found != _FORMAT:
            raise ModelFormatError(
                f"{Path(path).name}: expected format {_FORMAT!r}, got {found!r}"
            )
        try:
            settings = json.loads(metadata["settings"])
            given = settings["features"]
            for key in ("words", "characters"):
                given[key] = given[key] and tuple(given[key])
            for key in ("stop_words", "terms"):
                given[key] = tuple(given[key])
            report = settings["report"]
            return cls._of(
                NgramFeatures(**given),
                tensors["weight"],
                tensors.get("idf"),
                settings["intercept"],
                settings["tf"],
                settings["norm"],
                settings["name"],
                report and NgramFit(**report),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFormatError(
                f"{Path(path).name}: not a whole n-gram model: {error}"
            ) from error

    def __repr__(self) -> str:
        f = self.features
        return (
            f"deal.rewards.NgramModel({f.kind}, {f.n_slots} slots, words={f.words}, "
            f"characters={f.characters}, name={self.name!r})"
        )


@contextmanager
def _progress(max_steps: int) -> Iterator[Callable[[int, float, float], None]]:
    """A progress bar, as a function to call after every step."""
    from tqdm.auto import tqdm

    with tqdm(total=max_steps, desc="fit") as bar:

        def on_step(step: int, loss: float, held_out_loss: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{loss:.4f}", held_out=f"{held_out_loss:.4f}")

        yield on_step


def _pair(name: str, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    try:
        low, high = value
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a pair or None, got {value!r}") from None
    return check_int(name, low, 1), check_int(name, high, 1)


def _power_of_two(name: str, value: Any) -> int:
    n = check_int(name, value, 2, 2**30)
    if n & (n - 1):
        raise ValueError(f"{name}: expected a power of two, got {n}")
    return n


def _checked_labels(labels: Any, n: int) -> list[float]:
    rows = listed("labels", labels)
    if len(rows) != n:
        raise ValueError(f"labels: expected {n}, as many as texts, got {len(rows)}")
    for i, label in enumerate(rows):
        if not isinstance(label, (Real, np.bool_)) or label not in (0, 1):
            raise ValueError(f"labels[{i}]: expected 0 or 1, got {label!r}")
    if len(set(map(bool, rows))) < 2:
        raise ValueError("labels: expected both 0 and 1")
    return [float(label) for label in rows]


def _split(
    target: Sequence[float], held_out: float, seed: int
) -> tuple[list[int], int]:
    """A random order in which the texts that are held out come last, of each label the
    same share, and how many come before."""
    rng = random.Random(check_int("seed", seed, 0, 2**64 - 1))
    kept: list[int] = []
    out: list[int] = []
    for label in (0.0, 1.0):
        rows = [i for i, value in enumerate(target) if value == label]
        rng.shuffle(rows)
        n = min(round(held_out * len(rows)), len(rows) - 1)
        out += rows[:n]
        kept += rows[n:]
    rng.shuffle(kept)
    return kept + out, len(kept)


def _costs(
    fitted: Sequence[float], target: Sequence[float], balanced: bool
) -> list[float]:
    if not balanced:
        return [1.0] * len(target)
    share = sum(fitted) / len(fitted)
    return [0.5 / (share if value else 1 - share) for value in target]
