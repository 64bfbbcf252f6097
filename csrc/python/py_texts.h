/* Lists of strings as C arrays, for the constructors of native rewards. */
#ifndef DEAL_PYTHON_PY_TEXTS_H
#define DEAL_PYTHON_PY_TEXTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

typedef struct deal_py_texts {
    PyObject *tuple; // keeps the strings alive
    const char **text;
    size_t *size;
    int32_t n;
} deal_py_texts;

// From any sequence of str; TypeError naming `what` otherwise. -1 with an exception set
// on failure. `t` is zero before; free it also on failure.
int deal_py_texts_init(deal_py_texts *t, PyObject *list, const char *what);
void deal_py_texts_free(deal_py_texts *t);

// n numbers from a sequence, which has to have just as many. Caller frees with
// deal_free(); NULL with an exception set on failure.
double *deal_py_doubles(PyObject *list, int32_t n, const char *what);

#endif
