#include "python/py_texts.h"

#include "common/alloc.h"

int
deal_py_texts_init(deal_py_texts *t, PyObject *list, const char *what)
{
    t->tuple = PySequence_Tuple(list);
    if (!t->tuple)
        return -1;
    Py_ssize_t n = PyTuple_GET_SIZE(t->tuple);
    if (n > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%s: too many, %zd", what, n);
        return -1;
    }
    t->n = (int32_t)n;
    t->text = deal_alloc((size_t)n, sizeof *t->text);
    t->size = deal_alloc((size_t)n, sizeof *t->size);
    if (!t->text || !t->size) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *text = PyTuple_GET_ITEM(t->tuple, i);
        Py_ssize_t size = 0;
        if (!PyUnicode_Check(text)) {
            PyErr_Format(PyExc_TypeError, "%s[%zd]: expected str, got %s", what, i,
                         Py_TYPE(text)->tp_name);
            return -1;
        }
        t->text[i] = PyUnicode_AsUTF8AndSize(text, &size);
        if (!t->text[i])
            return -1;
        t->size[i] = (size_t)size;
    }
    return 0;
}

void
deal_py_texts_free(deal_py_texts *t)
{
    Py_XDECREF(t->tuple);
    deal_free(t->text);
    deal_free(t->size);
    *t = (deal_py_texts){0};
}

double *
deal_py_doubles(PyObject *list, int32_t n, const char *what)
{
    PyObject *tuple = PySequence_Tuple(list);
    double *value = tuple ? deal_alloc((size_t)n, sizeof *value) : NULL;
    if (tuple && !value)
        PyErr_NoMemory();
    if (value && PyTuple_GET_SIZE(tuple) != n)
        PyErr_Format(PyExc_ValueError, "%s: expected %d numbers, got %zd", what, (int)n,
                     PyTuple_GET_SIZE(tuple));
    for (int32_t i = 0; value && !PyErr_Occurred() && i < n; i++)
        value[i] = PyFloat_AsDouble(PyTuple_GET_ITEM(tuple, i));
    Py_XDECREF(tuple);
    if (value && PyErr_Occurred()) {
        deal_free(value);
        value = NULL;
    }
    return value;
}
