/* Heads over hidden states for Python, and their fit. */
#ifndef DEAL_PYTHON_PY_HEAD_H
#define DEAL_PYTHON_PY_HEAD_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

// Functions of the module, ended by an empty entry:
//
//     head(weight, bias, layers, n_embd, pooling, hidden_weight, hidden_bias,
//          activation) -> capsule                            as in reward/head.h
//     head_decide(capsule, x, n) -> bytes of n float64
//     head_fit(x, n_in, target, cost, n_train, n_hidden, activation, l2, steps,
//              tolerance, patience, seed, on_step)
//         -> (weight, bias, hidden_weight, hidden_bias, report)  reward/head_fit.h
//     head_fit_loss(x, n_in, target, cost, n_train, n_hidden, activation, l2, point)
//         -> (loss, gradient)
extern PyMethodDef deal_py_head_methods[];

#endif
