/* Methods of Session that read many texts at once. */
#ifndef DEAL_PYTHON_PY_WALK_H
#define DEAL_PYTHON_PY_WALK_H

#include "python/module.h"

extern const char deal_py_logprobs_doc[], deal_py_likelihoods_doc[],
    deal_py_states_doc[];

PyObject *deal_py_session_logprobs(PyObject *session, PyObject *args);
PyObject *deal_py_session_likelihoods(PyObject *session, PyObject *args);
PyObject *deal_py_session_states(PyObject *session, PyObject *args);

#endif
