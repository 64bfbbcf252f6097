#include "python/py_controls.h"

#include <string.h>

#define NO_IMPORT_ARRAY
#define PY_ARRAY_UNIQUE_SYMBOL deal_ARRAY_API
#include <numpy/arrayobject.h>

#include "common/alloc.h"
#include "python/py_model.h"
#include "python/py_status.h"

// A Python function as an edit of the final state.
typedef struct python_control {
    deal_control control; // first: the public part
    PyObject *fn;
    PyObject *error; // deal.ControlError
} python_control;

typedef struct PyControls {
    PyObject_HEAD
    deal_controls *controls;
    PyObject *held;         // list: capsules of the edits
    python_control *python; // (n_python,)
    int32_t n_python;
} PyControls;

// --- the trampoline ------------------------------------------------------------------

// Copies what a function returned over the states.
static int
read_states(const python_control *p, PyObject *result, float *states, int32_t n_state,
            int32_t n_embd)
{
    PyObject *any = result == Py_None ? NULL : PyArray_FROM_O(result);
    PyErr_Clear();
    PyArrayObject *array = (PyArrayObject *)any;
    if (!any || PyArray_NDIM(array) != 2 || PyArray_DIM(array, 0) != n_state ||
        PyArray_DIM(array, 1) != n_embd ||
        !(PyArray_ISFLOAT(array) || PyArray_ISINTEGER(array))) {
        PyObject *shape = any ? PyObject_GetAttrString(any, "shape") : NULL;
        PyObject *type = any ? PyObject_GetAttrString(any, "dtype") : NULL;
        if (shape && type)
            PyErr_Format(p->error,
                         "control '%s': expected an array of floats of shape "
                         "(%d, %d), got shape %R of %R",
                         p->control.name, n_state, n_embd, shape, type);
        else
            PyErr_Format(p->error,
                         "control '%s': expected an array of floats of shape "
                         "(%d, %d), got %s",
                         p->control.name, n_state, n_embd, Py_TYPE(result)->tp_name);
        Py_XDECREF(shape);
        Py_XDECREF(type);
        Py_XDECREF(any);
        return -1;
    }
    PyObject *floats =
        PyArray_FROM_OTF(any, NPY_FLOAT32, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_FORCECAST);
    Py_DECREF(any);
    if (!floats)
        return -1;
    memcpy(states, PyArray_DATA((PyArrayObject *)floats),
           (size_t)n_state * (size_t)n_embd * sizeof *states);
    Py_DECREF(floats);
    return 0;
}

// Runs on the thread of the forward pass, which has released the GIL.
static int
call_python(void *self, float *states, int32_t n_state, int32_t n_embd, char *message)
{
    (void)message;
    const python_control *p = self;
    PyGILState_STATE gil = PyGILState_Ensure();
    npy_intp dim[2] = {n_state, n_embd};
    PyObject *result = NULL, *array = PyArray_SimpleNew(2, dim, NPY_FLOAT32);
    int status = DEAL_CONTROL_RAISED;
    if (array) {
        memcpy(PyArray_DATA((PyArrayObject *)array), states,
               (size_t)n_state * (size_t)n_embd * sizeof *states);
        result = PyObject_CallFunctionObjArgs(p->fn, array, NULL);
    }
    if (result && read_states(p, result, states, n_state, n_embd) == 0)
        status = 0;
    Py_XDECREF(result);
    Py_XDECREF(array);
    PyGILState_Release(gil);
    return status;
}

// --- the set -------------------------------------------------------------------------

// Numbers of an array, or NULL of None; the array is appended to `arrays`, which keeps
// it alive.
static int
read_floats(PyObject *object, npy_intp n, const float **data, PyObject *arrays)
{
    *data = NULL;
    if (object == Py_None)
        return 0;
    PyObject *array = PyArray_FROM_OTF(object, NPY_FLOAT32, NPY_ARRAY_CARRAY_RO);
    if (!array)
        return -1;
    int failed = PyList_Append(arrays, array) < 0;
    if (!failed && PyArray_SIZE((PyArrayObject *)array) != n) {
        PyErr_Format(PyExc_ValueError, "controls: expected %zd numbers, got %zd",
                     (Py_ssize_t)n, (Py_ssize_t)PyArray_SIZE((PyArrayObject *)array));
        failed = 1;
    }
    *data = PyArray_DATA((PyArrayObject *)array);
    Py_DECREF(array); // the list has it
    return failed ? -1 : 0;
}

static int
read_control(PyControls *self, PyObject *error, PyObject *object,
             const deal_control **control)
{
    if (object == Py_None)
        return 0;
    if (PyCapsule_CheckExact(object)) {
        if (!PyCapsule_IsValid(object, DEAL_CONTROL_CAPSULE)) {
            PyErr_Format(PyExc_TypeError, "EditFinal.fn: expected a capsule %s, got %R",
                         DEAL_CONTROL_CAPSULE, object);
            return -1;
        }
        *control = PyCapsule_GetPointer(object, DEAL_CONTROL_CAPSULE);
        return PyList_Append(self->held, object);
    }
    python_control *p = &self->python[self->n_python];
    p->control = (deal_control){.abi_version = DEAL_CONTROL_ABI,
                                .struct_size = sizeof p->control,
                                .self = p,
                                .name = "EditFinal",
                                .edit = call_python};
    p->fn = Py_NewRef(object);
    p->error = Py_NewRef(error);
    self->n_python++;
    *control = &p->control;
    return 0;
}

// edits: list of (site, where, layer, head, matrix, vector, control)
static int
read_edits(PyControls *self, const deal_hparams *hp, PyObject *error, PyObject *list,
           deal_edit *edit, PyObject *arrays)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        PyObject *matrix, *vector, *control;
        int site, where;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(list, i), "iiiiOOO:edit", &site, &where,
                              &edit[i].i_layer, &edit[i].i_head, &matrix, &vector,
                              &control))
            return -1;
        npy_intp n = site == DEAL_SITE_HEAD ? hp->head_dim : hp->n_embd;
        edit[i].site = (deal_site)site;
        edit[i].where = (deal_where)where;
        if (read_floats(matrix, n * n, &edit[i].matrix, arrays) < 0 ||
            read_floats(vector, n, &edit[i].vector, arrays) < 0 ||
            read_control(self, error, control, &edit[i].control) < 0)
            return -1;
    }
    return 0;
}

// taps: list of (site, layer)
static int
read_taps(PyObject *list, deal_tap *tap)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        int site;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(list, i), "ii:tap", &site,
                              &tap[i].i_layer))
            return -1;
        tap[i].site = (deal_site)site;
    }
    return 0;
}

static int
build(PyObject *module, PyControls *self, const deal_hparams *hp, PyObject *edits,
      PyObject *taps)
{
    int32_t n_edit = (int32_t)PyList_GET_SIZE(edits);
    int32_t n_tap = (int32_t)PyList_GET_SIZE(taps), failed = 1;
    PyObject *error =
        PyObject_GetAttrString(deal_module_state_get(module)->errors, "ControlError");
    PyObject *arrays = PyList_New(0);
    deal_edit *edit = deal_alloc_zero((size_t)n_edit, sizeof *edit);
    deal_tap *tap = deal_alloc_zero((size_t)n_tap, sizeof *tap);
    self->python = deal_alloc_zero((size_t)n_edit, sizeof *self->python);
    self->held = PyList_New(0);
    if (!edit || !tap || !self->python)
        PyErr_NoMemory();
    else if (error && arrays && self->held)
        failed = read_edits(self, hp, error, edits, edit, arrays) < 0 ||
                 read_taps(taps, tap) < 0;
    if (!failed) {
        deal_error err;
        const deal_controls_shape shape = {hp->n_layer, hp->n_head, hp->head_dim,
                                           hp->n_embd};
        failed = deal_controls_new(&shape, edit, n_edit, tap, n_tap, &self->controls,
                                   &err) != DEAL_OK;
        if (failed)
            deal_py_raise(module, &err);
    }
    Py_XDECREF(error);
    Py_XDECREF(arrays);
    deal_free(edit);
    deal_free(tap);
    return failed ? -1 : 0;
}

static PyObject *
controls_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keyword[] = {"model", "edits", "taps", NULL};
    PyObject *module = PyType_GetModule(type), *model, *edits, *taps;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!O!:Controls", keyword,
                                     deal_module_state_get(module)->model_type, &model,
                                     &PyList_Type, &edits, &PyList_Type, &taps))
        return NULL;
    PyControls *self = (PyControls *)type->tp_alloc(type, 0);
    if (self && build(module, self, &((PyModel *)model)->model->hparams, edits, taps))
        Py_CLEAR(self);
    return (PyObject *)self;
}

int
deal_py_controls_get(PyObject *module, PyObject *object, const deal_controls **controls)
{
    PyTypeObject *type = deal_module_state_get(module)->controls_type;
    if (object != Py_None && !PyObject_TypeCheck(object, type)) {
        PyErr_Format(PyExc_TypeError, "controls: expected Controls or None, got %s",
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    *controls = object == Py_None ? NULL : ((PyControls *)object)->controls;
    return 0;
}

static int
controls_traverse(PyObject *object, visitproc visit, void *arg)
{
    PyControls *self = (PyControls *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->held);
    for (int32_t i = 0; i < self->n_python; i++)
        Py_VISIT(self->python[i].fn);
    return 0;
}

// The set borrows the functions and stays: a session may still hold nodes that have it.
static int
controls_clear(PyObject *object)
{
    PyControls *self = (PyControls *)object;
    for (int32_t i = 0; i < self->n_python; i++)
        Py_CLEAR(self->python[i].fn);
    return 0;
}

static void
controls_dealloc(PyObject *object)
{
    PyControls *self = (PyControls *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    controls_clear(object);
    deal_controls_free(self->controls);
    for (int32_t i = 0; i < self->n_python; i++)
        Py_XDECREF(self->python[i].error);
    deal_free(self->python);
    Py_CLEAR(self->held);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyType_Slot controls_slots[] = {
    {Py_tp_doc, (void *)"Controls(model, edits, taps)\n--\n\n"
                        "A set of edits and taps. edits: list of (site, where, layer,\n"
                        "head, matrix, vector, control); taps: list of (site, layer)."},
    {Py_tp_new, controls_new},
    {Py_tp_dealloc, controls_dealloc},
    {Py_tp_traverse, controls_traverse},
    {Py_tp_clear, controls_clear},
    {0, NULL},
};

static PyType_Spec controls_spec = {
    .name = "deal._core.Controls",
    .basicsize = sizeof(PyControls),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = controls_slots,
};

int
deal_py_controls_register(PyObject *module)
{
    return deal_py_add_type(module, &controls_spec,
                            &deal_module_state_get(module)->controls_type);
}
