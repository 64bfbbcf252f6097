/* deal._core.Controls: a set of edits and taps for one model. */
#ifndef DEAL_PYTHON_PY_CONTROLS_H
#define DEAL_PYTHON_PY_CONTROLS_H

#include "common/controls.h"
#include "python/module.h"

// The set in a Controls object, borrowed from it, or NULL for None. TypeError and -1
// otherwise.
int deal_py_controls_get(PyObject *module, PyObject *object,
                         const deal_controls **controls);

#endif
