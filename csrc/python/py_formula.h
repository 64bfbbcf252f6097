/* deal._core.Formula: how the rewards of a request make one number. */
#ifndef DEAL_PYTHON_PY_FORMULA_H
#define DEAL_PYTHON_PY_FORMULA_H

#include "python/module.h"
#include "search/formula.h"

// The formula in a Formula object, borrowed from it, or one without terms for None.
// TypeError and -1 otherwise.
int deal_py_formula_get(PyObject *module, PyObject *object, deal_formula *formula);

#endif
