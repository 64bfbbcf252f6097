/* Token ids and float arrays between Python and C. */
#ifndef DEAL_PYTHON_PY_ARRAY_H
#define DEAL_PYTHON_PY_ARRAY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

// Copies a one-dimensional sequence or array of integers. ValueError or TypeError
// naming `what` where it is none, a value does not fit int32 or it is longer than int32
// counts. Caller frees `*ids` with deal_free(). Returns -1 with an exception set on
// failure.
int deal_py_ids(PyObject *object, const char *what, int32_t **ids, int32_t *n_ids);

// A fresh float32 array (n_row, n_column), and where its numbers lie.
PyObject *deal_py_new_f32(int64_t n_row, int64_t n_column, float **data);
float *deal_py_f32_data(PyObject *array); // of such an array

// The same of int32.
PyObject *deal_py_new_i32(int64_t n_row, int64_t n_column, int32_t **data);

// The numbers of a C-contiguous float32 array (n_row, n_column), borrowed; NULL with
// TypeError or ValueError naming `what` where it is none.
const float *deal_py_f32_rows(PyObject *array, const char *what, int64_t n_row,
                              int64_t n_column);

#endif
