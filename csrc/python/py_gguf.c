/* deal._core.Gguf: metadata and tensor table of a GGUF file, as Python objects. */
#include "python/module.h"

#define NO_IMPORT_ARRAY
#define PY_ARRAY_UNIQUE_SYMBOL deal_ARRAY_API
#include <numpy/arrayobject.h>

#include "model/gguf.h"
#include "python/py_status.h"

typedef struct PyGguf {
    PyObject_HEAD
    PyObject *metadata; // dict: key -> str, int, float, bool, list of str or ndarray
    PyObject *tensors;  // list of (name, type name, shape)
} PyGguf;

static const int array_type[] = {
    [DEAL_GGUF_UINT8] = NPY_UINT8,     [DEAL_GGUF_INT8] = NPY_INT8,
    [DEAL_GGUF_UINT16] = NPY_UINT16,   [DEAL_GGUF_INT16] = NPY_INT16,
    [DEAL_GGUF_UINT32] = NPY_UINT32,   [DEAL_GGUF_INT32] = NPY_INT32,
    [DEAL_GGUF_FLOAT32] = NPY_FLOAT32, [DEAL_GGUF_BOOL] = NPY_BOOL,
    [DEAL_GGUF_UINT64] = NPY_UINT64,   [DEAL_GGUF_INT64] = NPY_INT64,
    [DEAL_GGUF_FLOAT64] = NPY_FLOAT64,
};

// Strings of a vocabulary may hold broken UTF-8; surrogates keep their bytes.
static PyObject *
next_string(const uint8_t **cursor)
{
    const char *text;
    size_t size;
    deal_gguf_string_next(cursor, &text, &size);
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)size, "surrogateescape");
}

static PyObject *
string_list(const deal_gguf_entry *entry)
{
    const uint8_t *cursor = entry->data;
    PyObject *list = PyList_New((Py_ssize_t)entry->n_value);
    if (!list)
        return NULL;
    for (uint64_t i = 0; i < entry->n_value; i++) {
        PyObject *text = next_string(&cursor);
        if (!text) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, text);
    }
    return list;
}

// A scalar comes out of a one-element array as a Python number.
static PyObject *
entry_value(const deal_gguf_entry *entry)
{
    if (entry->type == DEAL_GGUF_STRING) {
        const uint8_t *cursor = entry->data;
        return entry->is_array ? string_list(entry) : next_string(&cursor);
    }
    npy_intp n = (npy_intp)entry->n_value;
    PyObject *array = PyArray_SimpleNew(1, &n, array_type[entry->type]);
    if (!array)
        return NULL;
    uint8_t *data = PyArray_DATA((PyArrayObject *)array);
    memcpy(data, entry->data, entry->data_size);
    if (entry->type == DEAL_GGUF_BOOL)
        for (npy_intp i = 0; i < n; i++)
            data[i] = data[i] != 0;
    if (entry->is_array)
        return array;
    PyObject *number = PyArray_GETITEM((PyArrayObject *)array, (char *)data);
    Py_DECREF(array);
    return number;
}

static int
fill_metadata(PyObject *dict, const deal_gguf *gguf)
{
    for (int32_t i = 0; i < gguf->n_entry; i++) {
        const deal_gguf_entry *entry = &gguf->entry[i];
        PyObject *key = PyUnicode_DecodeUTF8(entry->key, (Py_ssize_t)entry->key_size,
                                             "surrogateescape");
        PyObject *value = key ? entry_value(entry) : NULL;
        int failed = !value || PyDict_SetItem(dict, key, value) < 0;
        Py_XDECREF(key);
        Py_XDECREF(value);
        if (failed)
            return -1;
    }
    return 0;
}

static int
fill_tensors(PyObject *list, const deal_gguf *gguf)
{
    for (int32_t i = 0; i < gguf->tensors.n_tensor; i++) {
        const deal_tensor *tensor = &gguf->tensors.tensor[i];
        PyObject *shape = PyTuple_New(tensor->n_dim);
        if (!shape)
            return -1;
        for (int32_t d = 0; d < tensor->n_dim; d++)
            PyTuple_SET_ITEM(shape, d, PyLong_FromLongLong(tensor->dim[d]));
        PyObject *name = PyUnicode_DecodeUTF8(
            tensor->name, (Py_ssize_t)strlen(tensor->name), "surrogateescape");
        PyObject *row = Py_BuildValue("NsN", name, deal_type_name(tensor->type), shape);
        int failed = !row || PyList_Append(list, row) < 0;
        Py_XDECREF(row);
        if (failed)
            return -1;
    }
    return 0;
}

static PyObject *
gguf_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keyword[] = {"path", NULL};
    PyObject *path;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&:Gguf", keyword,
                                     PyUnicode_FSConverter, &path))
        return NULL;
    PyObject *module = PyType_GetModule(type);
    deal_gguf gguf = {0};
    deal_error err;
    deal_status status;
    Py_BEGIN_ALLOW_THREADS
    status = deal_gguf_open(PyBytes_AS_STRING(path), &gguf, &err);
    Py_END_ALLOW_THREADS
    Py_DECREF(path);
    if (status != DEAL_OK)
        return deal_py_raise(module, &err);
    PyGguf *self = (PyGguf *)type->tp_alloc(type, 0);
    if (self) {
        self->metadata = PyDict_New();
        self->tensors = PyList_New(0);
        if (!self->metadata || !self->tensors ||
            fill_metadata(self->metadata, &gguf) < 0 ||
            fill_tensors(self->tensors, &gguf) < 0)
            Py_CLEAR(self);
    }
    deal_gguf_close(&gguf);
    return (PyObject *)self;
}

static int
gguf_traverse(PyObject *object, visitproc visit, void *arg)
{
    PyGguf *self = (PyGguf *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->metadata);
    Py_VISIT(self->tensors);
    return 0;
}

static int
gguf_clear(PyObject *object)
{
    PyGguf *self = (PyGguf *)object;
    Py_CLEAR(self->metadata);
    Py_CLEAR(self->tensors);
    return 0;
}

static void
gguf_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    gguf_clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *
gguf_metadata(PyObject *self, void *unused)
{
    (void)unused;
    return Py_NewRef(((PyGguf *)self)->metadata);
}

static PyObject *
gguf_tensors(PyObject *self, void *unused)
{
    (void)unused;
    return Py_NewRef(((PyGguf *)self)->tensors);
}

static PyGetSetDef gguf_getset[] = {
    {"metadata", gguf_metadata, NULL,
     "dict: key -> str, int, float, bool, list of str, or ndarray of numbers", NULL},
    {"tensors", gguf_tensors, NULL, "list of (name, type name, shape)", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(gguf_doc, "Gguf(path)\n--\n\n"
                       "Metadata and tensor table of a GGUF file; reads no weights.");

static PyType_Slot gguf_slots[] = {
    {Py_tp_doc, (void *)gguf_doc},
    {Py_tp_new, gguf_new},
    {Py_tp_dealloc, gguf_dealloc},
    {Py_tp_traverse, gguf_traverse},
    {Py_tp_clear, gguf_clear},
    {Py_tp_getset, gguf_getset},
    {0, NULL},
};

static PyType_Spec gguf_spec = {
    .name = "deal._core.Gguf",
    .basicsize = sizeof(PyGguf),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = gguf_slots,
};

int
deal_py_gguf_register(PyObject *module)
{
    return deal_py_add_type(module, &gguf_spec,
                            &deal_module_state_get(module)->gguf_type);
}
