/* State of the extension module `deal._core` and what its files share.
 *
 * The only folder that includes Python.h and NumPy's headers; module.c imports NumPy's
 * C API, the others refer to it.
 */
#ifndef DEAL_PYTHON_MODULE_H
#define DEAL_PYTHON_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

typedef struct deal_module_state {
    PyTypeObject *gguf_type;
    PyTypeObject *model_type;
    PyTypeObject *session_type;
    PyTypeObject *search_type;
    PyTypeObject *vocab_type;
    PyTypeObject *detokenizer_type;
    PyTypeObject *reward_state_type;
    PyTypeObject *controls_type;
    PyTypeObject *formula_type;
    PyTypeObject *reader_type;
    PyTypeObject *callback_lm_type;
    PyTypeObject *recall_type;
    PyTypeObject *batch_type;
    PyTypeObject *batch_lm_type;
    PyObject *errors; // the module deal._errors
} deal_module_state;

extern struct PyModuleDef deal_module_def;

static inline deal_module_state *
deal_module_state_get(PyObject *module)
{
    return (deal_module_state *)PyModule_GetState(module);
}

// Each adds its types to the module; -1 with an exception set on failure.
int deal_py_gguf_register(PyObject *module);
int deal_py_model_register(PyObject *module);
int deal_py_session_register(PyObject *module);
int deal_py_search_register(PyObject *module);
int deal_py_branches_register(PyObject *module);
int deal_py_controls_register(PyObject *module);
int deal_py_formula_register(PyObject *module);
int deal_py_reader_register(PyObject *module);
int deal_py_callback_lm_register(PyObject *module);
int deal_py_recall_register(PyObject *module);
int deal_py_batch_register(PyObject *module);

// Makes a heap type from `spec`, stores it in `*slot` and adds it to the module.
int deal_py_add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **slot);

#endif
