#include "python/py_recall.h"

#include "python/py_controls.h"
#include "python/py_status.h"

static PyObject *
recall_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keyword[] = {"session", "controls", "n_top", "n_node_max", NULL};
    PyObject *module = PyType_GetModule(type), *session, *given;
    int n_top;
    long long n_node_max;
    const deal_controls *controls; // checked here; the searches hand it over
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OiL:Recall", keyword,
                                     deal_module_state_get(module)->session_type,
                                     &session, &given, &n_top, &n_node_max) ||
        deal_py_controls_get(module, given, &controls) < 0)
        return NULL;
    PyRecall *self = (PyRecall *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->session = (PySession *)Py_NewRef(session);
    self->controls = Py_NewRef(given);
    deal_error err;
    if (deal_recall_new(deal_session_lm(self->session->session), n_top,
                        (int64_t)n_node_max, &self->recall, &err) != DEAL_OK) {
        Py_DECREF(self);
        return deal_py_raise(module, &err);
    }
    return (PyObject *)self;
}

int
deal_py_recall_get(PyObject *module, PyObject *object, const PyLm *session,
                   PyObject *controls, PyRecall **recall)
{
    *recall = NULL;
    if (object == Py_None)
        return 0;
    if (!PyObject_TypeCheck(object, deal_module_state_get(module)->recall_type)) {
        PyErr_SetString(PyExc_TypeError, "recall: expected Recall or None");
        return -1;
    }
    PyRecall *found = (PyRecall *)object;
    if (&found->session->base != session || found->controls != controls) {
        PyErr_SetString(PyExc_ValueError,
                        "recall: expected one over the search's session and controls");
        return -1;
    }
    *recall = found;
    return 0;
}

static int
recall_traverse(PyObject *object, visitproc visit, void *arg)
{
    PyRecall *self = (PyRecall *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->session);
    Py_VISIT(self->controls);
    return 0;
}

// The nodes go back to the session, so the recall goes first.
static int
recall_clear(PyObject *object)
{
    PyRecall *self = (PyRecall *)object;
    deal_recall_free(self->recall);
    self->recall = NULL;
    Py_CLEAR(self->session);
    Py_CLEAR(self->controls);
    return 0;
}

static void
recall_dealloc(PyObject *object)
{
    PyRecall *self = (PyRecall *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    recall_clear(object);
    deal_memo_free(&self->memo);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyType_Slot recall_slots[] = {
    {Py_tp_doc,
     (void *)"Recall(session, controls, n_top, n_node_max)\n--\n\nWhat searches of one "
             "prompt, with the same rewards, have been told; it outlives them."},
    {Py_tp_new, recall_new},
    {Py_tp_dealloc, recall_dealloc},
    {Py_tp_traverse, recall_traverse},
    {Py_tp_clear, recall_clear},
    {0, NULL},
};

static PyType_Spec recall_spec = {
    .name = "deal._core.Recall",
    .basicsize = sizeof(PyRecall),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = recall_slots,
};

int
deal_py_recall_register(PyObject *module)
{
    return deal_py_add_type(module, &recall_spec,
                            &deal_module_state_get(module)->recall_type);
}
