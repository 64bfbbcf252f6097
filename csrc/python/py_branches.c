/* deal._core.branches and .probe: what benchmarks measure. */
#include "python/py_array.h"
#include "python/py_model.h"
#include "python/py_status.h"

#include "common/alloc.h"
#include "kernels/probe.h"
#include "search/branches.h"

static PyObject *
list_of(const int32_t *token, int32_t n_branch, int32_t n_step)
{
    PyObject *rows = PyList_New(n_branch);
    for (int32_t b = 0; rows && b < n_branch; b++) {
        PyObject *row = PyList_New(n_step);
        for (int32_t i = 0; row && i < n_step; i++) {
            PyObject *id =
                PyLong_FromLong(token[(size_t)b * (size_t)n_step + (size_t)i]);
            if (!id)
                Py_CLEAR(row);
            else
                PyList_SET_ITEM(row, i, id);
        }
        if (!row)
            Py_CLEAR(rows);
        else
            PyList_SET_ITEM(rows, b, row);
    }
    return rows;
}

PyDoc_STRVAR(
    branches_doc,
    "branches(session, prefix, first, n_step)\n--\n\n"
    "Continues each of the tokens `first` greedily after `prefix`, all in lockstep.\n"
    "Returns the tokens that follow, a list for each branch, and the seconds that the\n"
    "prefix and the steps took.");

static PyObject *
branches(PyObject *module, PyObject *args)
{
    PyObject *session, *prefix_ids, *first_ids, *result = NULL;
    int n_step;
    int32_t *prefix = NULL, *first = NULL, n_prefix = 0, n_branch = 0;
    if (!PyArg_ParseTuple(args, "O!OOi:branches",
                          deal_module_state_get(module)->session_type, &session,
                          &prefix_ids, &first_ids, &n_step))
        return NULL;
    if (deal_py_ids(prefix_ids, "prefix", &prefix, &n_prefix) < 0 ||
        deal_py_ids(first_ids, "first", &first, &n_branch) < 0)
        goto done;
    if (n_prefix < 1 || n_branch < 1 || n_step < 1) {
        PyErr_SetString(PyExc_ValueError,
                        "prefix, first, n_step: expected at least one each");
        goto done;
    }
    PySession *self = (PySession *)session;
    int32_t *token = deal_alloc((size_t)n_branch, (size_t)n_step * sizeof *token);
    if (!token) {
        PyErr_NoMemory();
        goto done;
    }
    deal_error err;
    deal_branches_times times;
    if (deal_py_lm_enter(&self->base) == 0) {
        deal_status status;
        Py_BEGIN_ALLOW_THREADS
        status = deal_branches_run(deal_session_lm(self->session), prefix, n_prefix,
                                   first, n_branch, n_step, token, &times, &err);
        Py_END_ALLOW_THREADS
        deal_py_lm_leave(&self->base);
        PyObject *rows = status == DEAL_OK ? list_of(token, n_branch, n_step)
                                           : deal_py_raise(module, &err);
        if (rows)
            result = Py_BuildValue("(Ndd)", rows, times.prefill, times.decode);
    }
    deal_free(token);
done:
    deal_free(prefix);
    deal_free(first);
    return result;
}

PyDoc_STRVAR(probe_doc,
             "probe(threads)\n--\n\n"
             "Bytes read from memory and int8 multiply-adds per second that `threads`\n"
             "threads reach at most.");

static PyObject *
probe(PyObject *module, PyObject *arg)
{
    long n_thread = PyLong_AsLong(arg);
    if (n_thread == -1 && PyErr_Occurred())
        return NULL;
    deal_pool *pool = NULL;
    deal_probe found;
    deal_error err;
    deal_status status =
        deal_pool_new(n_thread > 1024 ? 1025 : (int32_t)n_thread, &pool, &err);
    if (status == DEAL_OK) {
        Py_BEGIN_ALLOW_THREADS
        status = deal_probe_run(pool, &found, &err);
        deal_pool_free(pool);
        Py_END_ALLOW_THREADS
    }
    if (status != DEAL_OK)
        return deal_py_raise(module, &err);
    return Py_BuildValue("(dd)", found.read_rate, found.multiply_rate);
}

static PyMethodDef branches_methods[] = {
    {"branches", branches, METH_VARARGS, branches_doc},
    {"probe", probe, METH_O, probe_doc},
    {NULL, NULL, 0, NULL},
};

int
deal_py_branches_register(PyObject *module)
{
    return PyModule_AddFunctions(module, branches_methods);
}
