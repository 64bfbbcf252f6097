#include "python/py_status.h"

#include <stdbool.h>
#include <string.h>

#include "python/module.h"

// Raises `name` of deal._errors.
static void
raise_named(PyObject *module, const char *name, PyObject *message)
{
    PyObject *type =
        PyObject_GetAttrString(deal_module_state_get(module)->errors, name);
    if (!type)
        return;
    PyErr_SetObject(type, message);
    Py_DECREF(type);
}

static void
raise_status(PyObject *module, deal_status code, PyObject *message)
{
    switch (code) {
    case DEAL_ERR_INVALID_ARG:
        PyErr_SetObject(PyExc_ValueError, message);
        return;
    case DEAL_ERR_NO_MEMORY:
        PyErr_SetObject(PyExc_MemoryError, message);
        return;
    case DEAL_ERR_IO:
        PyErr_SetObject(PyExc_OSError, message);
        return;
    case DEAL_ERR_FORMAT:
        raise_named(module, "ModelFormatError", message);
        return;
    case DEAL_ERR_UNSUPPORTED:
        PyErr_SetObject(PyExc_NotImplementedError, message);
        return;
    case DEAL_ERR_CONTEXT_FULL:
        raise_named(module, "ContextLengthError", message);
        return;
    case DEAL_ERR_REWARD:
        raise_named(module, "RewardError", message);
        return;
    case DEAL_ERR_CONTROL:
        raise_named(module, "ControlError", message);
        return;
    case DEAL_ERR_CONSTRAINT:
        raise_named(module, "ConstraintError", message);
        return;
    case DEAL_ERR_KV_BUDGET:
        raise_named(module, "KVBudgetError", message);
        return;
    case DEAL_ERR_CALLBACK:
    case DEAL_ERR_INTERRUPTED:
    case DEAL_OK:
        break;
    }
    PyErr_SetObject(PyExc_SystemError, message); // a bug: nothing was set
}

PyObject *
deal_py_raise(PyObject *module, const deal_error *err)
{
    bool is_set = PyErr_Occurred() != NULL;
    if (!module || (is_set && (err->code == DEAL_ERR_CALLBACK ||
                               err->code == DEAL_ERR_INTERRUPTED)))
        return NULL;
    // A message may quote a file: broken UTF-8 in it must not hide the error.
    PyObject *message =
        PyUnicode_DecodeUTF8(err->message, (Py_ssize_t)strlen(err->message), "replace");
    if (message) {
        raise_status(module, err->code, message);
        Py_DECREF(message);
    }
    return NULL;
}
