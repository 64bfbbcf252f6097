/* deal._core.Model: weights in memory. */
#include "python/py_model.h"

#include <stddef.h>

#include "common/alloc.h"
#include "python/py_status.h"

typedef enum field_type { COUNT, REAL, FLAG, PAIRING, SCALING, ACTIVATION } field_type;

// The fields of deal_hparams, which are the keys of its dict.
#define FIELD(name, type)                                                              \
    {                                                                                  \
#        name, type, offsetof(deal_hparams, name)                                      \
    }
static const struct {
    const char *key;
    field_type type;
    size_t offset;
} fields[] = {
    FIELD(n_vocab, COUNT),
    FIELD(n_embd, COUNT),
    FIELD(n_layer, COUNT),
    FIELD(n_head, COUNT),
    FIELD(n_head_kv, COUNT),
    FIELD(head_dim, COUNT),
    FIELD(n_ff, COUNT),
    FIELD(n_ctx_train, COUNT),
    FIELD(norm_eps, REAL),
    FIELD(is_tied, FLAG),
    FIELD(has_qk_norm, FLAG),
    FIELD(has_post_norm, FLAG),
    FIELD(norm_base, REAL),
    FIELD(activation, ACTIVATION),
    FIELD(embd_scale, REAL),
    FIELD(attn_scale, REAL),
    FIELD(attn_softcap, REAL),
    FIELD(final_softcap, REAL),
    FIELD(n_swa, COUNT),
    FIELD(swa_begin, COUNT),
    FIELD(swa_period, COUNT),
    FIELD(rope_dim, COUNT),
    FIELD(rope_base, REAL),
    FIELD(rope_base_local, REAL),
    FIELD(rope_pairing, PAIRING),
    FIELD(rope_scaling, SCALING),
    FIELD(rope_factor, REAL),
    FIELD(rope_low_freq_factor, REAL),
    FIELD(rope_high_freq_factor, REAL),
    FIELD(rope_n_ctx_orig, COUNT),
};
#define N_FIELD (sizeof fields / sizeof *fields)

static int
read_real(PyObject *value, float *field)
{
    double number = PyFloat_AsDouble(value);
    if (number == -1.0 && PyErr_Occurred())
        return -1;
    *field = (float)number;
    return 0;
}

static int
read_field(PyObject *value, size_t i_field, deal_hparams *hp)
{
    static const long max[] = {[COUNT] = INT32_MAX,
                               [FLAG] = 1,
                               [PAIRING] = 1,
                               [SCALING] = 2,
                               [ACTIVATION] = 1};
    field_type type = fields[i_field].type;
    void *field = (char *)hp + fields[i_field].offset;
    if (type == REAL)
        return read_real(value, field);
    long number = PyLong_AsLong(value);
    if (number == -1 && PyErr_Occurred())
        return -1;
    if (number < 0 || number > max[type]) {
        PyErr_Format(PyExc_ValueError, "hparams: %s: expected 0 to %ld, got %ld",
                     fields[i_field].key, max[type], number);
        return -1;
    }
    if (type == FLAG)
        *(bool *)field = number != 0;
    else if (type == PAIRING)
        *(deal_rope_pairing *)field = (deal_rope_pairing)number;
    else if (type == ACTIVATION)
        *(deal_activation *)field = (deal_activation)number;
    else if (type == SCALING)
        *(deal_rope_scaling *)field = (deal_rope_scaling)number;
    else
        *(int32_t *)field = (int32_t)number;
    return 0;
}

static int
hparams_from_dict(PyObject *dict, deal_hparams *hp)
{
    *hp = (deal_hparams){0};
    for (size_t i = 0; i < N_FIELD; i++) {
        PyObject *value = PyDict_GetItemString(dict, fields[i].key); // borrowed
        if (!value) {
            PyErr_Format(PyExc_ValueError, "hparams: %s is missing", fields[i].key);
            return -1;
        }
        if (read_field(value, i, hp) < 0)
            return -1;
    }
    return 0;
}

static PyObject *
field_value(const deal_hparams *hp, size_t i_field)
{
    const void *field = (const char *)hp + fields[i_field].offset;
    switch (fields[i_field].type) {
    case REAL:
        return PyFloat_FromDouble((double)*(const float *)field);
    case FLAG:
        return PyBool_FromLong(*(const bool *)field);
    case PAIRING:
        return PyLong_FromLong((long)*(const deal_rope_pairing *)field);
    case ACTIVATION:
        return PyLong_FromLong((long)*(const deal_activation *)field);
    case SCALING:
        return PyLong_FromLong((long)*(const deal_rope_scaling *)field);
    default:
        return PyLong_FromLong(*(const int32_t *)field);
    }
}

static PyObject *
hparams_to_dict(const deal_hparams *hp)
{
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict && i < N_FIELD; i++) {
        PyObject *value = field_value(hp, i);
        if (!value || PyDict_SetItemString(dict, fields[i].key, value) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(value);
    }
    return dict;
}

static PyObject *
wrap_model(PyTypeObject *type, deal_model *model)
{
    PyModel *self = (PyModel *)type->tp_alloc(type, 0);
    if (!self) {
        deal_model_free(model);
        return NULL;
    }
    self->model = model;
    return (PyObject *)self;
}

PyDoc_STRVAR(from_gguf_doc, "from_gguf(path, compute)\n--\n\n"
                            "Load a GGUF file. `compute`: 0 is f32, 1 is int8.");

static PyObject *
model_from_gguf(PyObject *cls, PyObject *args)
{
    PyObject *path;
    int compute;
    if (!PyArg_ParseTuple(args, "O&i:from_gguf", PyUnicode_FSConverter, &path,
                          &compute))
        return NULL;
    PyTypeObject *type = (PyTypeObject *)cls;
    deal_model *model = NULL;
    deal_error err;
    deal_status status;
    Py_BEGIN_ALLOW_THREADS
    deal_gguf gguf = {0};
    status = deal_gguf_open(PyBytes_AS_STRING(path), &gguf, &err);
    if (status == DEAL_OK)
        status = deal_model_from_gguf(&gguf, (deal_compute)compute, &model, &err);
    Py_END_ALLOW_THREADS
    Py_DECREF(path);
    if (status != DEAL_OK)
        return deal_py_raise(PyType_GetModule(type), &err);
    return wrap_model(type, model);
}

// One row of from_tensors: (name, type, shape, i_file, offset, size).
static int
read_tensor(PyObject *module, PyObject *row, const deal_mapped_file *file,
            int32_t n_file, deal_tensor *tensor)
{
    const char *name;
    int type, i_file;
    PyObject *shape;
    unsigned long long offset, size;
    if (!PyArg_ParseTuple(row, "siO!iKK:tensor", &name, &type, &PyTuple_Type, &shape,
                          &i_file, &offset, &size))
        return -1;
    Py_ssize_t n_dim = PyTuple_GET_SIZE(shape);
    int64_t dim[DEAL_TENSOR_DIMS_MAX];
    if (n_dim < 1 || n_dim > DEAL_TENSOR_DIMS_MAX || i_file < 0 || i_file >= n_file ||
        !deal_type_is_known(type)) {
        PyErr_Format(PyExc_ValueError, "tensor %s: bad shape, file or type", name);
        return -1;
    }
    for (Py_ssize_t d = 0; d < n_dim; d++) {
        dim[d] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape, d));
        if (dim[d] == -1 && PyErr_Occurred())
            return -1;
    }
    deal_error err;
    if (deal_tensor_from_file(&file[i_file], name, (deal_type)type, (int32_t)n_dim, dim,
                              offset, size, tensor, &err) != DEAL_OK) {
        deal_py_raise(module, &err);
        return -1;
    }
    return 0;
}

// The bytes of an object with the buffer protocol, which `memory` then keeps.
static int
borrow_memory(PyObject *source, PyObject *memory, deal_mapped_file *file)
{
    PyObject *view = PyMemoryView_FromObject(source);
    if (!view)
        return -1;
    const Py_buffer *buffer = PyMemoryView_GET_BUFFER(view);
    int failed = !PyBuffer_IsContiguous(buffer, 'C');
    if (failed)
        PyErr_SetString(PyExc_ValueError, "files: expected contiguous memory");
    failed = failed || PyList_Append(memory, view) < 0;
    if (!failed)
        *file = (deal_mapped_file){
            .data = buffer->buf, .size = (size_t)buffer->len, .is_borrowed = true};
    Py_DECREF(view);
    return failed ? -1 : 0;
}

static int
map_files(PyObject *module, PyObject *sources, PyObject *memory, deal_mapped_file *file)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(sources); i++) {
        PyObject *path, *source = PyList_GET_ITEM(sources, i);
        if (PyObject_CheckBuffer(source)) {
            if (borrow_memory(source, memory, &file[i]) < 0)
                return -1;
            continue;
        }
        if (!PyUnicode_FSConverter(source, &path))
            return -1;
        deal_error err;
        deal_status status =
            deal_mapped_file_open(PyBytes_AS_STRING(path), &file[i], &err);
        Py_DECREF(path);
        if (status != DEAL_OK) {
            deal_py_raise(module, &err);
            return -1;
        }
    }
    return 0;
}

PyDoc_STRVAR(
    from_tensors_doc,
    "from_tensors(hparams, tensors, files, compute)\n--\n\n"
    "Load from tensors in files, or in contiguous memory in their place, which\n"
    "the model shares: hparams is a dict of deal_hparams' fields, tensors a\n"
    "list of (name, type, shape, i_file, offset, size).");

static PyObject *
model_from_tensors(PyObject *cls, PyObject *args)
{
    PyObject *dict, *rows, *paths, *module = PyType_GetModule((PyTypeObject *)cls);
    int compute;
    deal_hparams hp;
    if (!PyArg_ParseTuple(args, "O!O!O!i:from_tensors", &PyDict_Type, &dict,
                          &PyList_Type, &rows, &PyList_Type, &paths, &compute) ||
        hparams_from_dict(dict, &hp) < 0)
        return NULL;
    int32_t n_file = (int32_t)PyList_GET_SIZE(paths);
    deal_tensor_table table = {.n_tensor = (int32_t)PyList_GET_SIZE(rows)};
    table.tensor = deal_alloc_zero((size_t)table.n_tensor, sizeof *table.tensor);
    deal_mapped_file *file = deal_alloc_zero((size_t)n_file, sizeof *file);
    int failed = !table.tensor || !file;
    if (failed)
        PyErr_NoMemory();
    PyObject *memory = failed ? NULL : PyList_New(0);
    failed = !memory || map_files(module, paths, memory, file) < 0;
    for (int32_t i = 0; !failed && i < table.n_tensor; i++)
        failed = read_tensor(module, PyList_GET_ITEM(rows, i), file, n_file,
                             &table.tensor[i]) < 0;
    deal_model *model = NULL;
    if (!failed) {
        deal_error err;
        deal_status status;
        Py_BEGIN_ALLOW_THREADS
        status = deal_model_from_tensors(&hp, &table, file, n_file,
                                         (deal_compute)compute, &model, &err);
        Py_END_ALLOW_THREADS
        if (status != DEAL_OK)
            deal_py_raise(module, &err);
    } else if (file) {
        for (int32_t i = 0; i < n_file; i++)
            deal_mapped_file_close(&file[i]);
        deal_free(file);
    }
    deal_free(table.tensor);
    PyObject *self = model ? wrap_model((PyTypeObject *)cls, model) : NULL;
    if (self)
        ((PyModel *)self)->memory = memory;
    else
        Py_XDECREF(memory);
    return self;
}

static int
object_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((PyModel *)object)->memory);
    return 0;
}

// The weights may point into the memory, so they go first.
static void
model_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    deal_model_free(((PyModel *)object)->model);
    Py_CLEAR(((PyModel *)object)->memory);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *
model_hparams(PyObject *self, void *unused)
{
    (void)unused;
    return hparams_to_dict(&((PyModel *)self)->model->hparams);
}

static PyObject *
model_owned_size(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromSize_t(((PyModel *)self)->model->weights.owned_size);
}

PyDoc_STRVAR(kv_page_size_doc,
             "kv_page_size(kv_type)\n--\n\n"
             "Bytes of a page of KV cells, the least that a session's budget can be.");

static PyObject *
model_kv_page_size(PyObject *self, PyObject *arg)
{
    long kv_type = PyLong_AsLong(arg);
    if (kv_type == -1 && PyErr_Occurred())
        return NULL;
    if (kv_type != DEAL_KV_F32 && kv_type != DEAL_KV_F16)
        return PyErr_Format(PyExc_ValueError,
                            "kv_type: expected 0 (f32) or 1 (f16), got %ld", kv_type);
    return PyLong_FromSize_t(
        deal_session_page_size(((PyModel *)self)->model, (deal_kv_type)kv_type));
}

static PyMethodDef model_methods[] = {
    {"kv_page_size", model_kv_page_size, METH_O, kv_page_size_doc},
    {"from_gguf", model_from_gguf, METH_VARARGS | METH_CLASS, from_gguf_doc},
    {"from_tensors", model_from_tensors, METH_VARARGS | METH_CLASS, from_tensors_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef model_getset[] = {
    {"hparams", model_hparams, NULL, "dict of deal_hparams' fields", NULL},
    {"owned_size", model_owned_size, NULL, "bytes held besides the mapped files", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot model_slots[] = {
    {Py_tp_doc, (void *)"Weights of a model; immutable. Made by from_gguf."},
    {Py_tp_dealloc, model_dealloc},
    {Py_tp_traverse, object_traverse},
    {Py_tp_methods, model_methods},
    {Py_tp_getset, model_getset},
    {0, NULL},
};

static PyType_Spec model_spec = {
    .name = "deal._core.Model",
    .basicsize = sizeof(PyModel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = model_slots,
};

int
deal_py_model_register(PyObject *module)
{
    return deal_py_add_type(module, &model_spec,
                            &deal_module_state_get(module)->model_type);
}
