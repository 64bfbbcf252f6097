/* Capsules of the native scorers of csrc/reward. */
#ifndef DEAL_PYTHON_PY_SCORERS_H
#define DEAL_PYTHON_PY_SCORERS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

// Functions of the module, ended by an empty entry:
//
//     keywords(concepts, forbidden=[], mode=0) -> capsule    lists of lists of str
//     length(unit, min, max) -> capsule                      as in reward/length.h
//     repetition(measure, n, allowed) -> capsule             as in reward/repetition.h
//     format(starts_with=None, ...) -> capsule               as in reward/format.h
extern PyMethodDef deal_py_scorer_methods[];

#endif
