"""Linear text classifiers of scikit-learn as what NgramModel is made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from deal.rewards.ngram import NgramFeatures

_PATTERNS = {
    prefix + pattern: size
    for prefix in ("", "(?u)")
    for pattern, size in ((r"\b\w\w+\b", 2), (r"\b\w+\b", 1), (r"\w+", 1))
}


def read_pipeline(pipeline: Any, label: Any) -> dict[str, Any]:
    """Features, weights and the rest, by the names of NgramModel's attributes."""
    try:
        from sklearn.feature_extraction.text import (
            CountVectorizer,
            HashingVectorizer,
            TfidfTransformer,
            TfidfVectorizer,
        )
    except ImportError as error:
        raise ImportError(
            "from_sklearn needs scikit-learn: pip install 'deal-lm[sklearn]'"
        ) from error
    steps = _steps(pipeline)
    vectorizer, middle, classifier = steps[0], steps[1:-1], steps[-1]
    if not isinstance(vectorizer, (CountVectorizer, HashingVectorizer)):
        raise _cannot("the first step", type(vectorizer).__name__)
    if len(middle) > 1 or not all(isinstance(m, TfidfTransformer) for m in middle):
        raise _cannot("steps", [type(step).__name__ for step in steps])
    weighing = [*middle]
    if isinstance(vectorizer, TfidfVectorizer):
        weighing = [vectorizer, *weighing]
    if len(weighing) > 1:
        raise _cannot("two steps of tf-idf", [type(step).__name__ for step in steps])
    is_hashed = isinstance(vectorizer, HashingVectorizer)
    features = _features(vectorizer, is_hashed)
    idf, tf, norm = _weighing(vectorizer, weighing[0] if weighing else None, is_hashed)
    weight, intercept = _decision(classifier, label)
    if len(weight) != features.n_slots:
        raise ValueError(
            f"classifier: expected {features.n_slots} weights, got {len(weight)}"
        )
    return {
        "features": features,
        "weight": weight,
        "idf": idf,
        "intercept": intercept,
        "tf": tf,
        "norm": norm,
    }


def _cannot(what: str, value: Any) -> NotImplementedError:
    return NotImplementedError(f"from_sklearn: {what}: cannot import {value!r:.200}")


def _steps(pipeline: Any) -> list[Any]:
    steps = getattr(pipeline, "steps", pipeline)
    if isinstance(steps, (str, bytes)) or not hasattr(steps, "__iter__"):
        raise TypeError(f"pipeline: expected a Pipeline, got {pipeline!r:.80}")
    steps = [step[1] if isinstance(step, tuple) else step for step in steps]
    steps = [step for step in steps if step is not None and step != "passthrough"]
    if len(steps) < 2:
        raise ValueError("pipeline: expected a vectorizer and a classifier")
    return steps


def _features(vectorizer: Any, is_hashed: bool) -> NgramFeatures:
    for name in ("preprocessor", "tokenizer", "strip_accents"):
        if getattr(vectorizer, name) is not None:
            raise _cannot(name, getattr(vectorizer, name))
    analyzer, pattern = vectorizer.analyzer, vectorizer.token_pattern
    if analyzer not in ("word", "char", "char_wb"):
        raise _cannot("analyzer", analyzer)
    is_words = analyzer == "word"
    if is_words and pattern not in _PATTERNS:
        raise _cannot("token_pattern", pattern)
    stop_words = vectorizer.get_stop_words() if is_words else None
    low, high = vectorizer.ngram_range
    terms: tuple[str, ...] = ()
    if not is_hashed:
        vocabulary = vectorizer.vocabulary_
        terms = tuple(sorted(vocabulary, key=vocabulary.__getitem__))
        if [vocabulary[term] for term in terms] != list(range(len(terms))):
            raise _cannot("vocabulary_", "indices that are not 0, 1, 2, ...")
    return NgramFeatures(
        "murmur" if is_hashed else "vocabulary",
        int(vectorizer.n_features) if is_hashed else len(terms),
        (int(low), int(high)) if is_words else None,
        None if is_words else (int(low), int(high)),
        within_words=analyzer == "char_wb",
        lowercase=bool(vectorizer.lowercase),
        min_word=_PATTERNS[pattern] if is_words else 1,
        signed=bool(is_hashed and vectorizer.alternate_sign),
        stop_words=tuple(sorted(stop_words or ())),
        terms=terms,
    )


def _weighing(vectorizer: Any, tfidf: Any, is_hashed: bool) -> tuple[Any, str, bool]:
    """idf or None, tf, and whether there is a norm."""
    first = vectorizer.norm if is_hashed else None
    norm = first if tfidf is None else tfidf.norm
    if norm not in (None, "l2"):
        raise _cannot("norm", norm)
    is_log = tfidf is not None and tfidf.sublinear_tf
    if tfidf is not None and first is not None and (norm is None or is_log):
        # A second norm alone undoes the first one.
        raise _cannot("norm of HashingVectorizer before tf-idf", first)
    if is_hashed and vectorizer.alternate_sign and (vectorizer.binary or is_log):
        raise _cannot("alternate_sign with binary or sublinear_tf", True)
    idf = tfidf.idf_ if tfidf is not None and tfidf.use_idf else None
    tf = "binary" if vectorizer.binary else "log" if is_log else "count"
    return idf, tf, norm is not None


def _decision(classifier: Any, label: Any) -> tuple[np.ndarray, float]:
    """Weights (n_slots,) and intercept of the class `label` against the others."""
    for name in ("coef_", "intercept_", "classes_"):
        if not hasattr(classifier, name):
            raise _cannot(f"a classifier without {name}", type(classifier).__name__)
    coef = classifier.coef_
    coef = coef.toarray() if hasattr(coef, "toarray") else np.atleast_2d(coef)
    classes = np.asarray(classifier.classes_).tolist()
    intercept = np.broadcast_to(np.atleast_1d(classifier.intercept_), (len(coef),))
    if label is None and len(classes) == 2:
        label = classes[1]
    if label not in classes:
        raise ValueError(f"label: expected one of {classes}, got {label!r}")
    i = classes.index(label)
    if len(classes) == 2:
        sign = 1.0 if i == 1 else -1.0
        return sign * coef[0], sign * float(intercept[0])
    if hasattr(classifier, "predict_proba") and "Logistic" in type(classifier).__name__:
        raise _cannot("a softmax over classes", classes)
    return coef[i], float(intercept[i])
