/* deal._core.Vocab and deal._core.Detokenizer: the piece table for Python. */
#ifndef DEAL_PYTHON_PY_VOCAB_H
#define DEAL_PYTHON_PY_VOCAB_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "tokenizer/vocab.h"

typedef struct PyVocab {
    PyObject_HEAD
    deal_vocab *vocab; // immutable, never NULL once made
} PyVocab;

// Adds both types to the module; -1 with an exception set on failure.
int deal_py_vocab_register(PyObject *module);

#endif
