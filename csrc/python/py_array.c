#include "python/py_array.h"

#define NO_IMPORT_ARRAY
#define PY_ARRAY_UNIQUE_SYMBOL deal_ARRAY_API
#include <numpy/arrayobject.h>
#include <stdbool.h>

#include "common/alloc.h"

// Raises ValueError where a list or tuple has an integer past 64 bits: NumPy makes an
// array of floats or objects of it, whose type would be no help to the caller.
static bool
raised_for_huge_id(PyObject *object, const char *what)
{
    if (!PyList_Check(object) && !PyTuple_Check(object))
        return false;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(object); i++) {
        PyObject *item = PySequence_Fast_GET_ITEM(object, i);
        int overflow = 0;
        if (PyLong_Check(item))
            PyLong_AsLongLongAndOverflow(item, &overflow);
        if (overflow) {
            PyErr_Format(PyExc_ValueError, "%s[%zd]: %R is no token id", what, i, item);
            return true;
        }
    }
    return false;
}

int
deal_py_ids(PyObject *object, const char *what, int32_t **out, int32_t *n_out)
{
    if (PyUnicode_Check(object) || PyBytes_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s: expected token ids, got %s", what,
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    PyObject *any = PyArray_FROM_O(object);
    if (!any)
        return -1;
    PyArrayObject *array = (PyArrayObject *)any;
    npy_intp n = PyArray_NDIM(array) == 1 ? PyArray_DIM(array, 0) : -1;
    if (n < 0 || n > INT32_MAX || (n > 0 && !PyArray_ISINTEGER(array))) {
        if (!raised_for_huge_id(object, what))
            PyErr_Format(n < 0 ? PyExc_ValueError : PyExc_TypeError,
                         "%s: expected a flat sequence of integers, got %d dimensions "
                         "of type %R",
                         what, PyArray_NDIM(array), (PyObject *)PyArray_DESCR(array));
        Py_DECREF(any);
        return -1;
    }
    PyObject *wide =
        PyArray_FROM_OTF(any, NPY_INT64, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_FORCECAST);
    Py_DECREF(any);
    if (!wide)
        return -1;
    int32_t *ids = deal_alloc((size_t)n, sizeof *ids);
    if (!ids) {
        Py_DECREF(wide);
        PyErr_NoMemory();
        return -1;
    }
    const int64_t *value = PyArray_DATA((PyArrayObject *)wide);
    for (npy_intp i = 0; i < n; i++) {
        if (value[i] < INT32_MIN || value[i] > INT32_MAX) {
            PyErr_Format(PyExc_ValueError, "%s[%zd]: %lld is no token id", what,
                         (Py_ssize_t)i, (long long)value[i]);
            deal_free(ids);
            Py_DECREF(wide);
            return -1;
        }
        ids[i] = (int32_t)value[i];
    }
    Py_DECREF(wide);
    *out = ids;
    *n_out = (int32_t)n;
    return 0;
}

PyObject *
deal_py_new_f32(int64_t n_row, int64_t n_column, float **data)
{
    npy_intp dim[2] = {(npy_intp)n_row, (npy_intp)n_column};
    PyObject *array = PyArray_SimpleNew(2, dim, NPY_FLOAT32);
    if (array)
        *data = PyArray_DATA((PyArrayObject *)array);
    return array;
}

float *
deal_py_f32_data(PyObject *array)
{
    return PyArray_DATA((PyArrayObject *)array);
}

PyObject *
deal_py_new_i32(int64_t n_row, int64_t n_column, int32_t **data)
{
    npy_intp dim[2] = {(npy_intp)n_row, (npy_intp)n_column};
    PyObject *array = PyArray_SimpleNew(2, dim, NPY_INT32);
    if (array)
        *data = PyArray_DATA((PyArrayObject *)array);
    return array;
}

const float *
deal_py_f32_rows(PyObject *object, const char *what, int64_t n_row, int64_t n_column)
{
    PyArrayObject *array = (PyArrayObject *)object;
    if (!PyArray_Check(object) || PyArray_TYPE(array) != NPY_FLOAT32 ||
        !PyArray_IS_C_CONTIGUOUS(array)) {
        PyErr_Format(PyExc_TypeError,
                     "%s: expected a contiguous array of float32, got %s", what,
                     Py_TYPE(object)->tp_name);
        return NULL;
    }
    if (PyArray_NDIM(array) == 2 && PyArray_DIM(array, 0) == n_row &&
        PyArray_DIM(array, 1) == n_column)
        return PyArray_DATA(array);
    PyObject *shape = PyObject_GetAttrString(object, "shape");
    if (shape)
        PyErr_Format(PyExc_ValueError, "%s: expected shape (%lld, %lld), got %R", what,
                     (long long)n_row, (long long)n_column, shape);
    Py_XDECREF(shape);
    return NULL;
}
