/* deal_status as Python exceptions. */
#ifndef DEAL_PYTHON_PY_STATUS_H
#define DEAL_PYTHON_PY_STATUS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "common/status.h"

// Raises what `err` says, with its message, and returns NULL. CALLBACK and INTERRUPTED
// leave the exception that is set already. `module` is deal._core, or NULL where the
// caller could not find it: then the exception that says so stays.
PyObject *deal_py_raise(PyObject *module, const deal_error *err);

#endif
