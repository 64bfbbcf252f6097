/* deal._core.CallbackLM: a trie over a forward pass in Python.
 *
 * The GIL is taken for the calls alone.
 */
#include "model/callback_lm.h"

#include <string.h>

#include "python/py_array.h"
#include "python/py_model.h"
#include "python/py_status.h"

typedef struct PyCallbackLm {
    PyLm base;
    deal_callback_lm *callback;
    PyObject *evaluate; // callable
} PyCallbackLm;

static PyObject *
id_rows(int32_t n_row, int32_t n_column, const int32_t *id)
{
    int32_t *data;
    PyObject *array = deal_py_new_i32(n_row, n_column, &data);
    size_t n = (size_t)n_row * (size_t)n_column;
    if (array && n > 0)
        memcpy(data, id, n * sizeof *id);
    return array;
}

// 1 where logits are wanted.
static PyObject *
wanted_rows(const deal_callback_rows *rows, int64_t *n_wanted)
{
    int32_t *data;
    PyObject *array = deal_py_new_i32(rows->n_row, rows->n_new, &data);
    size_t n = (size_t)rows->n_row * (size_t)rows->n_new;
    *n_wanted = 0;
    for (size_t i = 0; array && i < n; i++)
        *n_wanted += data[i] = rows->logits[i] != NULL;
    return array;
}

static int
read_logits(const deal_callback_rows *rows, PyObject *result, int64_t n_wanted,
            int32_t n_vocab)
{
    const float *data = deal_py_f32_rows(result, "logits", n_wanted, n_vocab);
    if (!data)
        return -1;
    size_t n = (size_t)rows->n_row * (size_t)rows->n_new;
    for (size_t i = 0; i < n; i++)
        if (rows->logits[i]) {
            memcpy(rows->logits[i], data, (size_t)n_vocab * sizeof *data);
            data += n_vocab;
        }
    return 0;
}

static int
call(PyCallbackLm *self, const deal_callback_rows *rows)
{
    int64_t n_wanted = 0;
    PyObject *past = id_rows(rows->n_row, rows->n_past, rows->past);
    PyObject *node = id_rows(rows->n_row, rows->n_new, rows->node);
    PyObject *token = id_rows(rows->n_row, rows->n_new, rows->token);
    PyObject *wanted = wanted_rows(rows, &n_wanted), *result = NULL;
    if (past && node && token && wanted && self->evaluate)
        result = PyObject_CallFunctionObjArgs(self->evaluate, past, node, token, wanted,
                                              NULL);
    int failed =
        !result || read_logits(rows, result, n_wanted, self->base.lm->n_vocab) < 0;
    Py_XDECREF(past);
    Py_XDECREF(node);
    Py_XDECREF(token);
    Py_XDECREF(wanted);
    Py_XDECREF(result);
    return failed || PyErr_CheckSignals() < 0 ? -1 : 0;
}

static deal_status
evaluate(void *user, const deal_callback_rows *rows, deal_error *err)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    int failed = call(user, rows) < 0;
    PyGILState_Release(gil);
    return failed ? deal_fail(err, DEAL_ERR_CALLBACK, "the forward pass failed")
                  : DEAL_OK;
}

static PyObject *
callback_lm_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keyword[] = {"evaluate",     "n_vocab",    "max_length", "n_row_max",
                              "n_logits_max", "n_node_max", NULL};
    PyObject *function;
    deal_callback_params params = {0};
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "Oiiii|i:CallbackLM", keyword, &function, &params.n_vocab,
            &params.n_ctx, &params.n_row_max, &params.n_logits_max, &params.n_node_max))
        return NULL;
    if (!PyCallable_Check(function))
        return PyErr_Format(PyExc_TypeError, "evaluate: expected a callable, got %s",
                            Py_TYPE(function)->tp_name);
    PyCallbackLm *self = (PyCallbackLm *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->evaluate = Py_NewRef(function);
    deal_error err;
    if (deal_callback_lm_new(&params, evaluate, self, &self->callback, &err) !=
        DEAL_OK) {
        Py_DECREF(self);
        return deal_py_raise(PyType_GetModule(type), &err);
    }
    self->base.lm = deal_callback_lm_lm(self->callback);
    return (PyObject *)self;
}

static int
callback_lm_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((PyCallbackLm *)object)->evaluate);
    return 0;
}

// The trie stays: searches of a cycle that is collected give nodes back to it.
static int
callback_lm_clear(PyObject *object)
{
    Py_CLEAR(((PyCallbackLm *)object)->evaluate);
    return 0;
}

static void
callback_lm_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    callback_lm_clear(object);
    deal_callback_lm_free(((PyCallbackLm *)object)->callback);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *
set_node_max(PyObject *object, PyObject *arg)
{
    long n = PyLong_AsLong(arg);
    if (n == -1 && PyErr_Occurred())
        return NULL;
    if (n < 0 || n > INT32_MAX)
        return PyErr_Format(PyExc_ValueError, "n_node_max: expected 0 to %d, got %ld",
                            INT32_MAX, n);
    deal_callback_lm_set_node_max(((PyCallbackLm *)object)->callback, (int32_t)n);
    Py_RETURN_NONE;
}

static PyObject *
n_live(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLong(deal_callback_lm_n_live(((PyCallbackLm *)self)->callback));
}

static PyObject *
n_logits(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLong(deal_callback_lm_n_logits(((PyCallbackLm *)self)->callback));
}

static PyObject *
n_node_cap(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLong(
        deal_callback_lm_n_node_cap(((PyCallbackLm *)self)->callback));
}

static PyMethodDef callback_lm_methods[] = {
    {"set_node_max", set_node_max, METH_O,
     "set_node_max(n)\n--\n\nNodes there may be at once from now on; 0: no limit."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef callback_lm_getset[] = {
    {"n_live", n_live, NULL, "trie nodes in use", NULL},
    {"n_logits", n_logits, NULL, "nodes that keep their logits", NULL},
    {"n_node_cap", n_node_cap, NULL, "one more than the largest node so far", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(
    callback_lm_doc,
    "CallbackLM(evaluate, n_vocab, max_length, n_row_max, n_logits_max, n_node_max=0)\n"
    "--\n\n"
    "A trie of contexts over a function: evaluate(past, nodes, tokens, wanted), int32\n"
    "arrays (n_row, n_past) and (n_row, n_new), gives float32 logits (n_wanted,\n"
    "n_vocab) of the tokens that are wanted, row by row. See model/callback_lm.h.");

static PyType_Slot callback_lm_slots[] = {
    {Py_tp_doc, (void *)callback_lm_doc}, {Py_tp_new, callback_lm_new},
    {Py_tp_dealloc, callback_lm_dealloc}, {Py_tp_traverse, callback_lm_traverse},
    {Py_tp_clear, callback_lm_clear},     {Py_tp_methods, callback_lm_methods},
    {Py_tp_getset, callback_lm_getset},   {0, NULL},
};

static PyType_Spec callback_lm_spec = {
    .name = "deal._core.CallbackLM",
    .basicsize = sizeof(PyCallbackLm),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = callback_lm_slots,
};

int
deal_py_callback_lm_register(PyObject *module)
{
    return deal_py_add_type(module, &callback_lm_spec,
                            &deal_module_state_get(module)->callback_lm_type);
}
