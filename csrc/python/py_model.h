/* The Python objects around a model and a session, and what is common to language
 * models.
 */
#ifndef DEAL_PYTHON_PY_MODEL_H
#define DEAL_PYTHON_PY_MODEL_H

#include <stdatomic.h>

#include "model/session.h"
#include "python/module.h"

typedef struct PyModel {
    PyObject_HEAD
    deal_model *model;
    PyObject *memory; // list of memoryviews that the weights may point into, or NULL
} PyModel;

// The head of every object that is a language model.
typedef struct PyLm {
    PyObject_HEAD
    deal_lm *lm;
    int is_in_use;   // by a call that has released the GIL; changed with the GIL held
    int is_of_batch; // its search shares passes with those of other threads
    int n_search;    // objects that may hold nodes
} PyLm;

typedef struct PySession {
    PyLm base;
    PyModel *model; // strong reference; the session borrows its model
    deal_session *session;
    atomic_int is_cancelled; // whatever it runs is to end
} PySession;

// Marks the model as in use, or raises RuntimeError and returns -1: a second thread, or
// a reward that calls back into its own search.
int deal_py_lm_enter(PyLm *lm);
void deal_py_lm_leave(PyLm *lm);

// `object` as a session, a CallbackLM or one of a batch, borrowed; TypeError naming
// `what` where it is none.
PyLm *deal_py_lm_get(PyObject *module, PyObject *object, const char *what);

#endif
