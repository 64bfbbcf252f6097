/* The linear model over n-grams for Python, and its fit. */
#ifndef DEAL_PYTHON_PY_NGRAMS_H
#define DEAL_PYTHON_PY_NGRAMS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

// Functions of the module, ended by an empty entry; `what` is a tuple (kind, n_slot,
// words_min, words_max, characters_min, characters_max, is_within_words, is_folded,
// is_signed, word_size_min, stop, terms) as in reward/ngrams.h:
//
//     ngram_model(what, weight, idf, intercept, tf, is_normed) -> capsule
//     ngram_fit(what, texts, labels, costs, n_train, has_idf, tf, is_normed, l2, steps,
//               tolerance, patience, on_step) -> (weight, idf, intercept, report)
extern PyMethodDef deal_py_ngrams_methods[];

#endif
