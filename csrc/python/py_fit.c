#include "python/py_fit.h"

int
deal_py_fit_step(void *context, int32_t step, double loss, double held_out_loss)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    int code = PyErr_CheckSignals();
    if (code == 0 && context != Py_None) {
        PyObject *result = PyObject_CallFunction((PyObject *)context, "idd", (int)step,
                                                 loss, held_out_loss);
        code = result ? 0 : -1;
        Py_XDECREF(result);
    }
    PyGILState_Release(gil);
    return code;
}

PyObject *
deal_py_fit_report(const deal_fit_report *report)
{
    return Py_BuildValue("(iiddN)", (int)report->n_step, (int)report->best_step,
                         report->loss, report->held_out_loss,
                         PyBool_FromLong(report->has_converged));
}
