/* What fits of rewards share: a callback after every step, and the report. */
#ifndef DEAL_PYTHON_PY_FIT_H
#define DEAL_PYTHON_PY_FIT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "reward/lbfgs.h"

// For deal_fit_params.on_step, without the GIL held: calls on_step(step, loss,
// held_out_loss), the context; None: signals alone are looked at. Not 0 with an
// exception set.
int deal_py_fit_step(void *context, int32_t step, double loss, double held_out_loss);

// (steps, best step, loss, held-out loss, converged)
PyObject *deal_py_fit_report(const deal_fit_report *report);

#endif
