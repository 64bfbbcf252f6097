/* Constraints for Python: checks of a capsule, and the bridge to matchers in Python. */
#ifndef DEAL_PYTHON_PY_CONSTRAINT_H
#define DEAL_PYTHON_PY_CONSTRAINT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "common/constraint.h"

// Functions of the module, ended by an empty entry:
//
//     matcher_constraint(name, matcher, n_vocab) -> capsule
extern PyMethodDef deal_py_constraint_methods[];

// The constraint in a capsule, or NULL for None, into `*out`; -1 with TypeError set
// where it is neither. Borrowed from the capsule. What is in it, deal_masks_new()
// checks.
int deal_py_constraint_get(PyObject *capsule, const deal_constraint **out);

#endif
