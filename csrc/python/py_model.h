/* The Python objects around a model and a session. */
#ifndef DEAL_PYTHON_PY_MODEL_H
#define DEAL_PYTHON_PY_MODEL_H

#include "model/session.h"
#include "python/module.h"

typedef struct PyModel {
    PyObject_HEAD
    deal_model *model;
} PyModel;

typedef struct PySession {
    PyObject_HEAD
    PyModel *model; // strong reference; the session borrows its model
    deal_session *session;
    int is_in_use; // by a call that has released the GIL; changed with the GIL held
} PySession;

// Marks the session as in use, or raises RuntimeError and returns -1: a second thread,
// or a reward that calls back into its own search.
int deal_py_session_enter(PySession *session);
void deal_py_session_leave(PySession *session);

#endif
