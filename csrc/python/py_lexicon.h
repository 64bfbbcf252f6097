/* The lexicon reward for Python, and a loop over any native reward to time it. */
#ifndef DEAL_PYTHON_PY_LEXICON_H
#define DEAL_PYTHON_PY_LEXICON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

// Functions of the module, ended by an empty entry:
//
//     lexicon(entries, weights, negators, window, negation, per, alpha) -> capsule
//     reward_seconds(capsule, texts, token_size, n_times) -> float
extern PyMethodDef deal_py_lexicon_methods[];

#endif
