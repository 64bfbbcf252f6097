/* deal._core.Reader: what a model says of texts that grow, call after call. */
#include "common/alloc.h"
#include "common/controls.h"
#include "python/py_array.h"
#include "python/py_controls.h"
#include "python/py_model.h"
#include "python/py_status.h"
#include "search/reader.h"

typedef struct PyReader {
    PyObject_HEAD
    PySession *session; // strong references; the reader borrows from both
    PyObject *controls;
    deal_reader *reader;
    size_t tap_len;
} PyReader;

static PyObject *
reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keyword[] = {"session", "controls", "n_keep", NULL};
    PyObject *module = PyType_GetModule(type), *session, *given = Py_None;
    int n_keep = 2048;
    const deal_controls *controls;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|Oi:Reader", keyword,
                                     deal_module_state_get(module)->session_type,
                                     &session, &given, &n_keep) ||
        deal_py_controls_get(module, given, &controls) < 0)
        return NULL;
    PyReader *self = (PyReader *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->session = (PySession *)Py_NewRef(session);
    self->controls = Py_NewRef(given);
    self->tap_len = controls ? controls->tap_len : 0;
    deal_error err;
    if (deal_reader_new(deal_session_lm(self->session->session), controls, n_keep,
                        &self->reader, &err) != DEAL_OK) {
        Py_DECREF(self);
        return deal_py_raise(module, &err);
    }
    return (PyObject *)self;
}

// --- texts ---------------------------------------------------------------------------

static void
free_texts(deal_reader_text *text, int32_t n_text)
{
    for (int32_t i = 0; text && i < n_text; i++) {
        deal_free((void *)(uintptr_t)text[i].token);
        deal_free(text[i].logprob);
    }
    deal_free(text);
}

static int
read_number(PyObject *list, int32_t i, int32_t *out)
{
    long n = PyLong_AsLong(PyList_GET_ITEM(list, i));
    if (n == -1 && PyErr_Occurred())
        return -1;
    if (n < INT32_MIN || n > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "texts: expected small numbers, got %ld", n);
        return -1;
    }
    *out = (int32_t)n;
    return 0;
}

// Texts (n,) from the token ids of each and one number for each, which the caller puts
// where it belongs; NULL with an exception set on failure.
static deal_reader_text *
read_texts(PyObject *sequences, PyObject *numbers, int32_t *n_text)
{
    Py_ssize_t n = PyList_GET_SIZE(sequences);
    if (n > INT32_MAX || PyList_GET_SIZE(numbers) != n) {
        PyErr_Format(PyExc_ValueError, "expected a number for each of %zd texts", n);
        return NULL;
    }
    deal_reader_text *text = deal_alloc_zero((size_t)n, sizeof *text);
    if (!text) {
        PyErr_NoMemory();
        return NULL;
    }
    for (int32_t i = 0; i < (int32_t)n; i++) {
        int32_t *ids;
        if (deal_py_ids(PyList_GET_ITEM(sequences, i), "sequence", &ids,
                        &text[i].n_token) < 0)
            goto fail;
        text[i].token = ids;
        if (read_number(numbers, i, &text[i].n_prompt) < 0)
            goto fail;
    }
    *n_text = (int32_t)n;
    return text;
fail:
    free_texts(text, (int32_t)n);
    return NULL;
}

static int
run(PyReader *self, const deal_reader_text *text, int32_t n_text)
{
    if (deal_py_lm_enter(&self->session->base) < 0)
        return -1;
    deal_error err;
    deal_status status;
    Py_BEGIN_ALLOW_THREADS
    status = deal_reader_read(self->reader, text, n_text, &err);
    Py_END_ALLOW_THREADS
    deal_py_lm_leave(&self->session->base);
    if (status == DEAL_OK)
        return 0;
    deal_py_raise(PyType_GetModule(Py_TYPE(self)), &err);
    return -1;
}

static int
check_open(const PyReader *self)
{
    if (self->reader)
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "reader: it was closed");
    return -1;
}

PyDoc_STRVAR(
    logprobs_doc,
    "logprobs(sequences, n_prompts)\n--\n\n"
    "Natural log-prob, summed over the tokens after the first n_prompts[i] of\n"
    "sequences[i]: a list of float.");

static PyObject *
reader_logprobs(PyObject *object, PyObject *args)
{
    PyReader *self = (PyReader *)object;
    PyObject *sequences, *n_prompts, *result = NULL;
    if (!PyArg_ParseTuple(args, "O!O!:logprobs", &PyList_Type, &sequences, &PyList_Type,
                          &n_prompts) ||
        check_open(self) < 0)
        return NULL;
    int32_t n_text;
    deal_reader_text *text = read_texts(sequences, n_prompts, &n_text);
    if (!text)
        return NULL;
    for (int32_t i = 0; i < n_text; i++) {
        int32_t n = text[i].n_token - text[i].n_prompt;
        text[i].logprob = deal_alloc(n > 0 ? (size_t)n : 0, sizeof(double));
        if (!text[i].logprob) {
            PyErr_NoMemory();
            goto done;
        }
    }
    if (run(self, text, n_text) < 0)
        goto done;
    result = PyList_New(n_text);
    for (int32_t i = 0; result && i < n_text; i++) {
        double sum = 0;
        for (int32_t t = 0; t < text[i].n_token - text[i].n_prompt; t++)
            sum += text[i].logprob[t];
        PyObject *number = PyFloat_FromDouble(sum);
        if (!number)
            Py_CLEAR(result);
        else
            PyList_SET_ITEM(result, i, number);
    }
done:
    free_texts(text, n_text);
    return result;
}

PyDoc_STRVAR(states_doc,
             "states(sequences, begins, n_prompts)\n--\n\n"
             "Mean of what the taps read of the tokens begins[i] and later of\n"
             "sequences[i], whose first n_prompts[i] are the prompt: float32 "
             "(n, tap_len).");

static PyObject *
reader_states(PyObject *object, PyObject *args)
{
    PyReader *self = (PyReader *)object;
    PyObject *sequences, *begins, *n_prompts;
    if (!PyArg_ParseTuple(args, "O!O!O!:states", &PyList_Type, &sequences, &PyList_Type,
                          &begins, &PyList_Type, &n_prompts) ||
        check_open(self) < 0)
        return NULL;
    int32_t n_text;
    deal_reader_text *text = read_texts(sequences, n_prompts, &n_text);
    if (!text)
        return NULL;
    float *data;
    PyObject *array = NULL;
    if (PyList_GET_SIZE(begins) != n_text)
        PyErr_SetString(PyExc_ValueError, "begins: expected one for each text");
    else
        array = deal_py_new_f32(n_text, (int64_t)self->tap_len, &data);
    for (int32_t i = 0; array && i < n_text; i++) {
        text[i].state = data + (size_t)i * self->tap_len;
        if (read_number(begins, i, &text[i].state_begin) < 0)
            Py_CLEAR(array);
    }
    if (array && run(self, text, n_text) < 0)
        Py_CLEAR(array);
    free_texts(text, n_text);
    return array;
}

// --- the type ------------------------------------------------------------------------

// The reader gives its nodes back to the session, so it goes first.
static int
reader_clear(PyObject *object)
{
    PyReader *self = (PyReader *)object;
    deal_reader_free(self->reader);
    self->reader = NULL;
    Py_CLEAR(self->session);
    Py_CLEAR(self->controls);
    return 0;
}

PyDoc_STRVAR(close_doc, "close()\n--\n\nGives the nodes back to the session.");

static PyObject *
reader_close(PyObject *object, PyObject *unused)
{
    (void)unused;
    PyReader *self = (PyReader *)object;
    if (self->reader) {
        if (deal_py_lm_enter(&self->session->base) < 0)
            return NULL;
        deal_py_lm_leave(&self->session->base);
        reader_clear(object);
    }
    Py_RETURN_NONE;
}

static int
reader_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((PyReader *)object)->session);
    Py_VISIT(((PyReader *)object)->controls);
    return 0;
}

static void
reader_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    reader_clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *
reader_n_kept(PyObject *object, void *unused)
{
    (void)unused;
    const PyReader *self = (PyReader *)object;
    return PyLong_FromLong(self->reader ? deal_reader_n_kept(self->reader) : 0);
}

static PyMethodDef reader_methods[] = {
    {"logprobs", reader_logprobs, METH_VARARGS, logprobs_doc},
    {"states", reader_states, METH_VARARGS, states_doc},
    {"close", reader_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef reader_getset[] = {
    {"n_kept", reader_n_kept, NULL, "nodes kept for later calls", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_doc,
     (void *)"Reader(session, controls=None, n_keep=2048)\n--\n\n"
             "Log-probs and states of texts that grow: a token is evaluated once, as "
             "long\n"
             "as it is among the `n_keep` used last. Holds the session for itself."},
    {Py_tp_new, reader_new},
    {Py_tp_dealloc, reader_dealloc},
    {Py_tp_traverse, reader_traverse},
    {Py_tp_clear, reader_clear},
    {Py_tp_methods, reader_methods},
    {Py_tp_getset, reader_getset},
    {0, NULL},
};

static PyType_Spec reader_spec = {
    .name = "deal._core.Reader",
    .basicsize = sizeof(PyReader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = reader_slots,
};

int
deal_py_reader_register(PyObject *module)
{
    return deal_py_add_type(module, &reader_spec,
                            &deal_module_state_get(module)->reader_type);
}
