/* deal._core.Model: weights in memory. */
#include "python/py_model.h"

#include <limits.h>

#include "common/alloc.h"
#include "python/py_status.h"

static int
get_long(PyObject *dict, const char *key, long min, long max, long *out)
{
    PyObject *value = PyDict_GetItemString(dict, key); // borrowed
    if (!value) {
        PyErr_Format(PyExc_ValueError, "hparams: %s is missing", key);
        return -1;
    }
    long number = PyLong_AsLong(value);
    if (number == -1 && PyErr_Occurred())
        return -1;
    if (number < min || number > max) {
        PyErr_Format(PyExc_ValueError, "hparams: %s: expected %ld to %ld, got %ld", key,
                     min, max, number);
        return -1;
    }
    *out = number;
    return 0;
}

static int
get_float(PyObject *dict, const char *key, float *out)
{
    PyObject *value = PyDict_GetItemString(dict, key); // borrowed
    if (!value) {
        PyErr_Format(PyExc_ValueError, "hparams: %s is missing", key);
        return -1;
    }
    double number = PyFloat_AsDouble(value);
    if (number == -1.0 && PyErr_Occurred())
        return -1;
    *out = (float)number;
    return 0;
}

// deal_hparams from a dict whose keys are its fields.
static int
hparams_from_dict(PyObject *dict, deal_hparams *hp)
{
    struct {
        const char *key;
        int32_t *field;
    } count[] = {
        {"n_vocab", &hp->n_vocab},     {"n_embd", &hp->n_embd},
        {"n_layer", &hp->n_layer},     {"n_head", &hp->n_head},
        {"n_head_kv", &hp->n_head_kv}, {"head_dim", &hp->head_dim},
        {"n_ff", &hp->n_ff},           {"n_ctx_train", &hp->n_ctx_train},
        {"rope_dim", &hp->rope_dim},   {"rope_n_ctx_orig", &hp->rope_n_ctx_orig},
    };
    struct {
        const char *key;
        float *field;
    } real[] = {
        {"norm_eps", &hp->norm_eps},
        {"rope_base", &hp->rope_base},
        {"rope_factor", &hp->rope_factor},
        {"rope_low_freq_factor", &hp->rope_low_freq_factor},
        {"rope_high_freq_factor", &hp->rope_high_freq_factor},
    };
    long number;
    for (size_t i = 0; i < sizeof count / sizeof *count; i++) {
        if (get_long(dict, count[i].key, 0, INT32_MAX, &number) < 0)
            return -1;
        *count[i].field = (int32_t)number;
    }
    for (size_t i = 0; i < sizeof real / sizeof *real; i++)
        if (get_float(dict, real[i].key, real[i].field) < 0)
            return -1;
    if (get_long(dict, "is_tied", 0, 1, &number) < 0)
        return -1;
    hp->is_tied = number != 0;
    if (get_long(dict, "rope_pairing", 0, 1, &number) < 0)
        return -1;
    hp->rope_pairing = (deal_rope_pairing)number;
    if (get_long(dict, "rope_scaling", 0, 2, &number) < 0)
        return -1;
    hp->rope_scaling = (deal_rope_scaling)number;
    return 0;
}

static PyObject *
hparams_to_dict(const deal_hparams *hp)
{
    return Py_BuildValue(
        "{s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:d,s:O,s:i,s:d,s:i,s:i,s:d,s:d,s:d,s:i}",
        "n_vocab", hp->n_vocab, "n_embd", hp->n_embd, "n_layer", hp->n_layer, "n_head",
        hp->n_head, "n_head_kv", hp->n_head_kv, "head_dim", hp->head_dim, "n_ff",
        hp->n_ff, "n_ctx_train", hp->n_ctx_train, "norm_eps", (double)hp->norm_eps,
        "is_tied", hp->is_tied ? Py_True : Py_False, "rope_dim", hp->rope_dim,
        "rope_base", (double)hp->rope_base, "rope_pairing", (int)hp->rope_pairing,
        "rope_scaling", (int)hp->rope_scaling, "rope_factor", (double)hp->rope_factor,
        "rope_low_freq_factor", (double)hp->rope_low_freq_factor,
        "rope_high_freq_factor", (double)hp->rope_high_freq_factor, "rope_n_ctx_orig",
        hp->rope_n_ctx_orig);
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

static int
map_files(PyObject *module, PyObject *paths, deal_mapped_file *file)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(paths); i++) {
        PyObject *path;
        if (!PyUnicode_FSConverter(PyList_GET_ITEM(paths, i), &path))
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

PyDoc_STRVAR(from_tensors_doc,
             "from_tensors(hparams, tensors, files, compute)\n--\n\n"
             "Load from tensors in files: hparams is a dict of deal_hparams' fields,\n"
             "tensors a list of (name, type, shape, i_file, offset, size).");

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
    failed = failed || map_files(module, paths, file) < 0;
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
    return model ? wrap_model((PyTypeObject *)cls, model) : NULL;
}

static int
object_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    return 0;
}

static void
model_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    deal_model_free(((PyModel *)object)->model);
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

static PyMethodDef model_methods[] = {
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
