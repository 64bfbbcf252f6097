/* `deal._core`: the C core as Python objects. Internal; the public API is in deal/.
 *
 *     Gguf(path)                                a GGUF file's metadata and tensor table
 *     Model.from_gguf / .from_tensors           weights, immutable, shared
 *     Session(model, max_length, threads)       one trie; used by one thread at a time
 *     Search(session, vocab, ...)               one generation, step by step
 *     Controls(model, edits, taps)              edits and taps of the forward pass
 *     Reader(session, controls, n_keep)          log-probs and states of growing texts
 *     CallbackLM(evaluate, ...)                 a trie over a forward pass in Python
 *     Recall(session, controls, ...)            what searches of one prompt were told
 *     branches(session, prefix, first, n_step)  greedy branches, in lockstep
 *     Vocab, Detokenizer                        ids -> text
 *     keywords, length, head, python_reward         capsules "deal.reward.v1"
 *     matcher_constraint                        a capsule "deal.constraint.v1"
 */
#include "python/module.h"

#define PY_ARRAY_UNIQUE_SYMBOL deal_ARRAY_API
#include <numpy/arrayobject.h>

#include "kernels/gemm_cblas.h"
#include "kernels/kernels.h"
#include "python/py_constraint.h"
#include "python/py_head.h"
#include "python/py_lexicon.h"
#include "python/py_ngrams.h"
#include "python/py_reward.h"
#include "python/py_scorers.h"
#include "python/py_vocab.h"

#ifndef DEAL_VERSION
#    define DEAL_VERSION "unknown"
#endif

int
deal_py_add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **slot)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (!type)
        return -1;
    *slot = (PyTypeObject *)type; // the state's own reference
    return PyModule_AddType(module, *slot);
}

PyDoc_STRVAR(build_info_doc,
             "build_info()\n--\n\nKernels chosen for this processor and the BLAS.");

static PyObject *
build_info(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return Py_BuildValue("{s:s,s:s,s:s}", "version", DEAL_VERSION, "kernels",
                         deal_kernels_get()->name, "blas", deal_gemm_config());
}

static PyMethodDef module_methods[] = {
    {"build_info", build_info, METH_NOARGS, build_info_doc},
    {NULL, NULL, 0, NULL},
};

static int
module_exec(PyObject *module)
{
    if (_import_array() < 0) {
        PyErr_SetString(PyExc_ImportError,
                        "deal._core: NumPy's C API failed to import");
        return -1;
    }
    deal_module_state *state = deal_module_state_get(module);
    state->errors = PyImport_ImportModule("deal._errors");
    if (!state->errors)
        return -1;
    if (PyModule_AddFunctions(module, deal_py_reward_methods) < 0 ||
        PyModule_AddFunctions(module, deal_py_scorer_methods) < 0 ||
        PyModule_AddFunctions(module, deal_py_lexicon_methods) < 0 ||
        PyModule_AddFunctions(module, deal_py_ngrams_methods) < 0 ||
        PyModule_AddFunctions(module, deal_py_constraint_methods) < 0 ||
        PyModule_AddFunctions(module, deal_py_head_methods) < 0)
        return -1;
    if (deal_py_vocab_register(module) < 0 || deal_py_reward_register(module) < 0 ||
        deal_py_gguf_register(module) < 0 || deal_py_model_register(module) < 0 ||
        deal_py_session_register(module) < 0 || deal_py_search_register(module) < 0 ||
        deal_py_branches_register(module) < 0 ||
        deal_py_controls_register(module) < 0 || deal_py_formula_register(module) < 0 ||
        deal_py_reader_register(module) < 0 || deal_py_recall_register(module) < 0 ||
        deal_py_batch_register(module) < 0 || deal_py_callback_lm_register(module) < 0)
        return -1;
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    deal_module_state *state = deal_module_state_get(module);
    Py_VISIT(state->gguf_type);
    Py_VISIT(state->model_type);
    Py_VISIT(state->session_type);
    Py_VISIT(state->search_type);
    Py_VISIT(state->vocab_type);
    Py_VISIT(state->detokenizer_type);
    Py_VISIT(state->reward_state_type);
    Py_VISIT(state->controls_type);
    Py_VISIT(state->reader_type);
    Py_VISIT(state->callback_lm_type);
    Py_VISIT(state->recall_type);
    Py_VISIT(state->batch_type);
    Py_VISIT(state->batch_lm_type);
    Py_VISIT(state->errors);
    return 0;
}

static int
module_clear(PyObject *module)
{
    deal_module_state *state = deal_module_state_get(module);
    Py_CLEAR(state->gguf_type);
    Py_CLEAR(state->model_type);
    Py_CLEAR(state->session_type);
    Py_CLEAR(state->search_type);
    Py_CLEAR(state->vocab_type);
    Py_CLEAR(state->detokenizer_type);
    Py_CLEAR(state->reward_state_type);
    Py_CLEAR(state->controls_type);
    Py_CLEAR(state->reader_type);
    Py_CLEAR(state->callback_lm_type);
    Py_CLEAR(state->recall_type);
    Py_CLEAR(state->batch_type);
    Py_CLEAR(state->batch_lm_type);
    Py_CLEAR(state->errors);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000 // NumPy itself supports the main interpreter only
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

struct PyModuleDef deal_module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "deal._core",
    .m_doc = "C core of deal. Internal: use the package's public API.",
    .m_size = sizeof(deal_module_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&deal_module_def);
}
