/* deal._core.Batch: searches on several threads over the same sessions, and the LM that
 * each of them has there.
 */
#include "python/py_model.h"
#include "python/py_status.h"
#include "search/batch.h"

typedef struct PyBatch {
    PyObject_HEAD
    PySession *session[DEAL_BATCH_N_LM]; // (n_session,) strong references, in use
    int32_t n_session;
    deal_batch *batch; // NULL: closed
    int32_t n_member;
} PyBatch;

// What one search has in place of the sessions.
typedef struct PyBatchLm PyBatchLm;
struct PyBatchLm {
    PyLm base;
    PyBatch *batch;   // strong reference
    PyBatchLm *other; // of the other session, or NULL; a strong reference in the second
    int is_second;
    deal_batch_member *member; // of the first one; NULL once it has left
};

static int
take_session(PyBatch *self, PyObject *session)
{
    PySession *found = (PySession *)session;
    if (deal_py_lm_enter(&found->base) < 0)
        return -1;
    atomic_store(&found->is_cancelled, 0);
    self->session[self->n_session++] = (PySession *)Py_NewRef(session);
    return 0;
}

static PyObject *
batch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keyword[] = {"session", "rollout_session", NULL};
    PyObject *module = PyType_GetModule(type), *session, *rollout_session = Py_None;
    PyTypeObject *session_type = deal_module_state_get(module)->session_type;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|O:Batch", keyword, session_type,
                                     &session, &rollout_session))
        return NULL;
    if (rollout_session != Py_None &&
        !PyObject_TypeCheck(rollout_session, session_type)) {
        PyErr_Format(PyExc_TypeError, "rollout_session: expected Session, got %s",
                     Py_TYPE(rollout_session)->tp_name);
        return NULL;
    }
    PyBatch *self = (PyBatch *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    deal_lm *lm[DEAL_BATCH_N_LM];
    deal_error err;
    deal_status status = DEAL_OK;
    if (take_session(self, session) < 0 ||
        (rollout_session != Py_None && take_session(self, rollout_session) < 0)) {
        Py_DECREF(self);
        return NULL;
    }
    for (int32_t i = 0; i < self->n_session; i++)
        lm[i] = self->session[i]->base.lm;
    status = deal_batch_new(lm, self->n_session, &self->batch, &err);
    if (status == DEAL_OK)
        return (PyObject *)self;
    Py_DECREF(self);
    return deal_py_raise(module, &err);
}

// The sessions are anyone's again.
static void
close_batch(PyBatch *self)
{
    deal_batch_free(self->batch);
    self->batch = NULL;
    for (int32_t i = 0; i < self->n_session; i++) {
        atomic_store(&self->session[i]->is_cancelled, 0);
        deal_py_lm_leave(&self->session[i]->base);
        Py_CLEAR(self->session[i]);
    }
    self->n_session = 0;
}

static int
check_open(const PyBatch *self)
{
    if (self->batch)
        return 0;
    PyErr_SetString(PyExc_ValueError, "batch: it is closed");
    return -1;
}

static PyBatchLm *
new_lm(PyBatch *self, deal_batch_member *member, int32_t i_lm)
{
    PyObject *module = PyType_GetModule(Py_TYPE((PyObject *)self));
    PyTypeObject *type = deal_module_state_get(module)->batch_lm_type;
    PyBatchLm *lm = (PyBatchLm *)type->tp_alloc(type, 0);
    if (!lm)
        return NULL;
    lm->base.lm = deal_batch_lm(member, i_lm);
    lm->base.is_of_batch = 1;
    lm->batch = (PyBatch *)Py_NewRef((PyObject *)self);
    lm->is_second = i_lm > 0;
    return lm;
}

PyDoc_STRVAR(
    join_doc,
    "join($self, /)\n--\n\n"
    "LMs of one more search, one for each session (None for none). All others\n"
    "wait for it until it leaves.");

static PyObject *
batch_join(PyObject *object, PyObject *unused)
{
    (void)unused;
    PyBatch *self = (PyBatch *)object;
    deal_batch_member *member;
    deal_error err;
    if (check_open(self) < 0)
        return NULL;
    if (deal_batch_join(self->batch, &member, &err) != DEAL_OK)
        return deal_py_raise(PyType_GetModule(Py_TYPE(object)), &err);
    PyBatchLm *first = new_lm(self, member, 0), *second = NULL;
    if (!first) {
        deal_batch_leave(member);
        return NULL;
    }
    first->member = member;
    self->n_member++;
    if (self->n_session == 1)
        return Py_BuildValue("(NO)", first, Py_None);
    second = new_lm(self, member, 1);
    if (!second) {
        Py_DECREF(first);
        return NULL;
    }
    first->other = second;
    second->other = (PyBatchLm *)Py_NewRef((PyObject *)first);
    return Py_BuildValue("(NN)", first, second);
}

PyDoc_STRVAR(cancel_doc, "cancel($self, /)\n--\n\n"
                         "Ends all searches, at their next forward pass at the latest; "
                         "for any thread.");

static PyObject *
batch_cancel(PyObject *object, PyObject *unused)
{
    (void)unused;
    PyBatch *self = (PyBatch *)object;
    if (check_open(self) < 0)
        return NULL;
    for (int32_t i = 0; i < self->n_session; i++)
        atomic_store(&self->session[i]->is_cancelled, 1);
    deal_batch_cancel(self->batch);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Gives the sessions back; all searches have been freed.");

static PyObject *
batch_close(PyObject *object, PyObject *unused)
{
    (void)unused;
    PyBatch *self = (PyBatch *)object;
    if (self->n_member > 0)
        return PyErr_Format(PyExc_RuntimeError,
                            "batch: expected no more searches, got %d", self->n_member);
    close_batch(self);
    Py_RETURN_NONE;
}

static int
batch_traverse(PyObject *object, visitproc visit, void *arg)
{
    PyBatch *self = (PyBatch *)object;
    Py_VISIT(Py_TYPE(object));
    for (int32_t i = 0; i < self->n_session; i++)
        Py_VISIT(self->session[i]);
    return 0;
}

// There is no tp_clear: sessions refer to nothing that could refer back.
static void
batch_dealloc(PyObject *object)
{
    PyBatch *self = (PyBatch *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    close_batch(self);
    type->tp_free(object);
    Py_DECREF(type);
}

static void
end_member(PyBatchLm *first)
{
    if (!first->member)
        return;
    deal_batch_leave(first->member);
    first->member = NULL;
    first->base.lm = NULL;
    if (first->other)
        first->other->base.lm = NULL;
    first->batch->n_member--;
}

static PyObject *
lm_leave(PyObject *object, PyObject *unused)
{
    (void)unused;
    PyBatchLm *self = (PyBatchLm *)object;
    PyBatchLm *first = self->is_second ? self->other : self;
    if (first->base.n_search > 0 || (first->other && first->other->base.n_search > 0)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "batch: expected the search to be freed before it leaves");
        return NULL;
    }
    end_member(first);
    Py_RETURN_NONE;
}

static int
lm_traverse(PyObject *object, visitproc visit, void *arg)
{
    PyBatchLm *self = (PyBatchLm *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->batch);
    if (self->is_second)
        Py_VISIT(self->other);
    return 0;
}

static void
lm_dealloc(PyObject *object)
{
    PyBatchLm *self = (PyBatchLm *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    end_member(self);
    if (self->is_second && self->other) {
        self->other->other = NULL;
        Py_CLEAR(self->other);
    }
    Py_CLEAR(self->batch);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef batch_methods[] = {
    {"join", batch_join, METH_NOARGS, join_doc},
    {"cancel", batch_cancel, METH_NOARGS, cancel_doc},
    {"close", batch_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot batch_slots[] = {
    {Py_tp_doc,
     (void *)"Batch(session, rollout_session=None)\n--\n\nSearches on several threads "
             "whose questions to the sessions share forward passes."},
    {Py_tp_new, batch_new},
    {Py_tp_dealloc, batch_dealloc},
    {Py_tp_traverse, batch_traverse},
    {Py_tp_methods, batch_methods},
    {0, NULL},
};

static PyType_Spec batch_spec = {
    .name = "deal._core.Batch",
    .basicsize = sizeof(PyBatch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = batch_slots,
};

static PyMethodDef lm_methods[] = {
    {"leave", lm_leave, METH_NOARGS,
     "leave($self, /)\n--\n\nEnds the search's part in the batch, for both LMs."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lm_slots[] = {
    {Py_tp_methods, lm_methods},
    {Py_tp_doc,
     (void *)"The language model of one search of a Batch; join() makes it."},
    {Py_tp_dealloc, lm_dealloc},
    {Py_tp_traverse, lm_traverse},
    {0, NULL},
};

static PyType_Spec lm_spec = {
    .name = "deal._core.BatchLM",
    .basicsize = sizeof(PyBatchLm),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = lm_slots,
};

int
deal_py_batch_register(PyObject *module)
{
    deal_module_state *state = deal_module_state_get(module);
    if (deal_py_add_type(module, &batch_spec, &state->batch_type) < 0)
        return -1;
    return deal_py_add_type(module, &lm_spec, &state->batch_lm_type);
}
