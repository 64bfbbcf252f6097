/* deal._core.Session: a trie over a model, and the logits of a token sequence. */
#include "common/alloc.h"
#include "python/py_array.h"
#include "python/py_controls.h"
#include "python/py_model.h"
#include "python/py_status.h"
#include "python/py_walk.h"

int
deal_py_lm_enter(PyLm *self)
{
    if (self->is_in_use) {
        PyErr_SetString(PyExc_RuntimeError,
                        "session: in use by another thread, or by the search that is "
                        "calling this reward; use another session");
        return -1;
    }
    self->is_in_use = 1;
    return 0;
}

void
deal_py_lm_leave(PyLm *self)
{
    self->is_in_use = 0;
}

PyLm *
deal_py_lm_get(PyObject *module, PyObject *object, const char *what)
{
    deal_module_state *state = deal_module_state_get(module);
    if (PyObject_TypeCheck(object, state->session_type) ||
        PyObject_TypeCheck(object, state->callback_lm_type) ||
        PyObject_TypeCheck(object, state->batch_lm_type)) {
        if (((PyLm *)object)->lm)
            return (PyLm *)object;
        PyErr_Format(PyExc_ValueError, "%s: it has left its batch", what);
        return NULL;
    }
    PyErr_Format(PyExc_TypeError, "%s: expected Session, CallbackLM or BatchLM, got %s",
                 what, Py_TYPE(object)->tp_name);
    return NULL;
}

// Long calls run without the GIL and ask here, so that Ctrl-C ends a long prompt too.
static deal_status
check_signals(void *user, deal_error *err)
{
    PySession *self = user;
    if (atomic_load(&self->is_cancelled))
        return deal_fail(err, DEAL_ERR_INTERRUPTED, "interrupted");
    PyGILState_STATE gil = PyGILState_Ensure();
    int failed = PyErr_CheckSignals() < 0;
    PyGILState_Release(gil);
    return failed ? deal_fail(err, DEAL_ERR_INTERRUPTED, "interrupted") : DEAL_OK;
}

static PyObject *
session_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keyword[] = {"model",   "max_length", "threads",
                              "kv_type", "kv_budget",  NULL};
    PyObject *module = PyType_GetModule(type), *model;
    int n_ctx, n_thread, kv_type = DEAL_KV_F32;
    Py_ssize_t kv_budget = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!ii|in:Session", keyword,
                                     deal_module_state_get(module)->model_type, &model,
                                     &n_ctx, &n_thread, &kv_type, &kv_budget))
        return NULL;
    if ((kv_type != DEAL_KV_F32 && kv_type != DEAL_KV_F16) || kv_budget < 0) {
        PyErr_Format(PyExc_ValueError,
                     "session: expected kv_type 0 (f32) or 1 (f16) and kv_budget from "
                     "0 on, got %d and %zd",
                     kv_type, kv_budget);
        return NULL;
    }
    const deal_session_params params = {n_ctx, n_thread, (deal_kv_type)kv_type,
                                        (size_t)kv_budget};
    PySession *self = (PySession *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->model = (PyModel *)Py_NewRef(model);
    deal_error err;
    if (deal_session_new(self->model->model, &params, &self->session, &err) !=
        DEAL_OK) {
        Py_DECREF(self);
        return deal_py_raise(module, &err);
    }
    deal_session_set_poll(self->session, check_signals, self);
    self->base.lm = deal_session_lm(self->session);
    return (PyObject *)self;
}

// Evaluates items [i_begin, n_items), a chain in which each continues the one before
// and the first continues `parent`, and gives the references back.
static deal_status
run_chain(deal_lm *lm, deal_node parent, deal_lm_item *item, int32_t n_items,
          deal_error *err)
{
    if (n_items == 0)
        return DEAL_OK;
    for (int32_t i = 0; i < n_items; i++) {
        item[i].parent = parent;
        item[i].i_parent = i - 1;
    }
    DEAL_TRY(lm->ops->extend(lm, item, n_items, err));
    for (int32_t i = 0; i < n_items; i++)
        lm->ops->release(lm, item[i].node);
    return DEAL_OK;
}

static deal_status
run_logits(deal_lm *lm, const deal_controls *controls, const int32_t *ids,
           int32_t n_ids, int32_t i_first, float *logits, deal_error *err)
{
    deal_lm_item *item = deal_alloc_zero((size_t)n_ids, sizeof *item);
    if (!item)
        return deal_fail_memory(err, "items of the sequence");
    for (int32_t i = 0; i < n_ids; i++) {
        item[i].token = ids[i];
        if (i < i_first)
            continue;
        item[i].want = DEAL_WANT_LOGITS;
        item[i].logits = logits + (size_t)(i - i_first) * (size_t)lm->n_vocab;
    }
    deal_node root;
    deal_status status = controls
                             ? lm->ops->controlled_root(lm, controls, n_ids, &root, err)
                             : lm->ops->root(lm, &root, err);
    if (status == DEAL_OK) {
        status = run_chain(lm, root, item, n_ids, err);
        lm->ops->release(lm, root);
    }
    deal_free(item);
    return status;
}

PyDoc_STRVAR(logits_doc,
             "logits($self, ids, controls=None, first=0, /)\n--\n\n"
             "Logits after every token of a sequence from ids[first] on, float32\n"
             "(n_ids - first, n_vocab).");

static PyObject *
session_logits(PyObject *object, PyObject *args)
{
    PySession *self = (PySession *)object;
    deal_lm *lm = deal_session_lm(self->session);
    PyObject *sequence, *given = Py_None;
    const deal_controls *controls;
    int32_t *ids, n_ids, i_first = 0;
    if (!PyArg_ParseTuple(args, "O|Oi:logits", &sequence, &given, &i_first) ||
        deal_py_controls_get(PyType_GetModule(Py_TYPE(object)), given, &controls) < 0 ||
        deal_py_ids(sequence, "ids", &ids, &n_ids) < 0)
        return NULL;
    float *data;
    deal_error err;
    deal_status status = DEAL_OK;
    PyObject *array = NULL;
    if (n_ids > lm->n_ctx)
        status = deal_fail(&err, DEAL_ERR_CONTEXT_FULL,
                           "ids: expected at most %d tokens (max_length), got %d",
                           lm->n_ctx, n_ids);
    else if (i_first < 0 || i_first > n_ids)
        status = deal_fail(&err, DEAL_ERR_INVALID_ARG,
                           "first: expected 0 to %d, got %d", n_ids, i_first);
    else
        array = deal_py_new_f32(n_ids - i_first, lm->n_vocab, &data);
    if (array && deal_py_lm_enter(&self->base) == 0) {
        Py_BEGIN_ALLOW_THREADS
        status = run_logits(lm, controls, ids, n_ids, i_first, data, &err);
        Py_END_ALLOW_THREADS
        deal_py_lm_leave(&self->base);
    } else {
        Py_CLEAR(array);
    }
    deal_free(ids);
    if (status != DEAL_OK) {
        Py_XDECREF(array);
        return deal_py_raise(PyType_GetModule(Py_TYPE(object)), &err);
    }
    return array;
}

static int
session_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((PySession *)object)->model);
    return 0;
}

// There is no tp_clear: a session refers to nothing that could refer back, and searches
// and readers of a cycle that is collected give nodes back to it until they are freed.
// The C session borrows the model, so it goes first.
static void
session_dealloc(PyObject *object)
{
    PySession *self = (PySession *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    deal_session_free(self->session);
    Py_CLEAR(self->model);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *
session_size(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromSize_t(deal_session_size(((PySession *)self)->session));
}

static PyObject *
session_kv_size(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromSize_t(deal_session_kv_size(((PySession *)self)->session));
}

static PyObject *
session_n_live(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLong(deal_session_n_live(((PySession *)self)->session));
}

static PyObject *
session_n_forward_tokens(PyObject *self, void *unused)
{
    (void)unused;
    const deal_lm *lm = deal_session_lm(((PySession *)self)->session);
    return PyLong_FromLongLong(lm->n_forward_tokens);
}

static PyObject *
session_n_forward_passes(PyObject *self, void *unused)
{
    (void)unused;
    const deal_lm *lm = deal_session_lm(((PySession *)self)->session);
    return PyLong_FromLongLong(lm->n_forward_passes);
}

static PyMethodDef session_methods[] = {
    {"logits", session_logits, METH_VARARGS, logits_doc},
    {"logprobs", deal_py_session_logprobs, METH_VARARGS, deal_py_logprobs_doc},
    {"likelihoods", deal_py_session_likelihoods, METH_VARARGS, deal_py_likelihoods_doc},
    {"states", deal_py_session_states, METH_VARARGS, deal_py_states_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef session_getset[] = {
    {"size", session_size, NULL, "bytes of KV cells and scratch", NULL},
    {"kv_size", session_kv_size, NULL, "bytes of KV cells", NULL},
    {"n_live", session_n_live, NULL, "trie nodes in use", NULL},
    {"n_forward_tokens", session_n_forward_tokens, NULL, "tokens evaluated", NULL},
    {"n_forward_passes", session_n_forward_passes, NULL, "in how many passes", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot session_slots[] = {
    {Py_tp_doc,
     (void *)"Session(model, max_length, threads, kv_type=0, kv_budget=0)\n--\n\n"
             "A trie of contexts over a model; one thread at a time. kv_type: 0 is "
             "f32,\n"
             "1 is f16; kv_budget in bytes, 0 for no limit."},
    {Py_tp_new, session_new},
    {Py_tp_dealloc, session_dealloc},
    {Py_tp_traverse, session_traverse},
    {Py_tp_methods, session_methods},
    {Py_tp_getset, session_getset},
    {0, NULL},
};

static PyType_Spec session_spec = {
    .name = "deal._core.Session",
    .basicsize = sizeof(PySession),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = session_slots,
};

int
deal_py_session_register(PyObject *module)
{
    return deal_py_add_type(module, &session_spec,
                            &deal_module_state_get(module)->session_type);
}
