/* deal._core.Search: one generation over a session, step by step. */
#include "search/search.h"

#include <string.h>

#include "common/alloc.h"
#include "python/py_array.h"
#include "python/py_constraint.h"
#include "python/py_controls.h"
#include "python/py_formula.h"
#include "python/py_recall.h"
#include "python/py_status.h"
#include "python/py_vocab.h"

// Owns everything that the C search borrows.
typedef struct PySearch {
    PyObject_HEAD
    deal_search *search;
    PyLm *session, *rollout_session; // the second one or NULL
    PyObject *vocab;
    PyObject *text;     // str, of the prompt
    PyObject *stop;     // tuple of bytes
    PyObject *capsules; // tuple of reward capsules
    PyObject *controls; // Controls or None
    PyObject *rollout_controls;
    PyObject *formula;                 // Formula or None
    PyObject *constraint;              // capsule or None
    PyRecall *recall, *rollout_recall; // or NULL
    int32_t *prompt, *end_token;
    const char **stop_text; // (n_stop,)
    deal_reward **reward;   // (n_reward,)
    double *weight;         // (n_reward,)
    int32_t n_reward;
    int is_done;
} PySearch;

static int
read_params(PyObject *dict, deal_search_params *params)
{
    static char *keyword[] = {"mode",
                              "n_new_max",
                              "n_return",
                              "repetition_penalty",
                              "temperature",
                              "top_k",
                              "top_p",
                              "min_p",
                              "seed",
                              "beam_size",
                              "length_penalty",
                              "lookahead_len",
                              "reward_weight",
                              "commit",
                              "tricks",
                              "n_proposal",
                              "skip_above",
                              "is_checked",
                              NULL};
    PyObject *empty = PyTuple_New(0);
    if (!empty)
        return -1;
    int mode, checked;
    unsigned long long seed;
    unsigned tricks;
    int ok = PyArg_ParseTupleAndKeywords(
        empty, dict, "iiiddiddKididiIidp:params", keyword, &mode, &params->n_new_max,
        &params->n_return, &params->repetition_penalty, &params->temperature,
        &params->top_k, &params->top_p, &params->min_p, &seed, &params->beam_size,
        &params->length_penalty, &params->lookahead_len, &params->reward_weight,
        &params->commit, &tricks, &params->n_proposal, &params->skip_above, &checked);
    Py_DECREF(empty);
    params->mode = (deal_search_mode)mode;
    params->seed = seed;
    params->tricks = tricks;
    params->is_checked = checked;
    return ok ? 0 : -1;
}

static int
read_rewards(PySearch *self, PyObject *weights)
{
    Py_ssize_t n = PyTuple_GET_SIZE(self->capsules);
    if (PyTuple_GET_SIZE(weights) != n) {
        PyErr_Format(PyExc_ValueError, "weights: expected %zd, got %zd", n,
                     PyTuple_GET_SIZE(weights));
        return -1;
    }
    self->reward = deal_alloc_zero((size_t)n, sizeof *self->reward);
    self->weight = deal_alloc_zero((size_t)n, sizeof *self->weight);
    if (!self->reward || !self->weight) {
        PyErr_NoMemory();
        return -1;
    }
    self->n_reward = (int32_t)n;
    for (Py_ssize_t i = 0; i < n; i++) {
        self->reward[i] = PyCapsule_GetPointer(PyTuple_GET_ITEM(self->capsules, i),
                                               DEAL_REWARD_CAPSULE);
        self->weight[i] = PyFloat_AsDouble(PyTuple_GET_ITEM(weights, i));
        if (PyErr_Occurred())
            return -1;
    }
    return 0;
}

static int
read_stops(PySearch *self)
{
    Py_ssize_t n = PyTuple_GET_SIZE(self->stop);
    self->stop_text = deal_alloc_zero((size_t)n, sizeof *self->stop_text);
    if (!self->stop_text) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        char *text;
        if (PyBytes_AsStringAndSize(PyTuple_GET_ITEM(self->stop, i), &text, NULL) < 0)
            return -1; // also where it holds a zero byte
        self->stop_text[i] = text;
    }
    return 0;
}

static PyLm *
hold(PyLm *lm)
{
    lm->n_search++;
    return (PyLm *)Py_NewRef((PyObject *)lm);
}

static void
let_go(PyLm **lm)
{
    if (*lm)
        (*lm)->n_search--;
    Py_CLEAR(*lm);
}

// The session and the controls of the model that rolls out, each of which may be None.
static int
take_rollouts(PySearch *self, PyObject *session, PyObject *controls,
              deal_search_request *request)
{
    PyObject *module = PyType_GetModule(Py_TYPE((PyObject *)self));
    self->rollout_controls = Py_NewRef(controls);
    if (deal_py_controls_get(module, controls, &request->rollout_controls) < 0)
        return -1;
    if (session == Py_None)
        return 0;
    PyLm *lm = deal_py_lm_get(module, session, "rollout_session");
    if (!lm)
        return -1;
    self->rollout_session = hold(lm);
    request->rollout_lm = lm->lm;
    return 0;
}

// What earlier searches were told, in place of the sessions' own LMs.
static int
take_recalls(PySearch *self, PyObject *recall, PyObject *rollout_recall,
             deal_search_request *request)
{
    PyObject *module = PyType_GetModule(Py_TYPE((PyObject *)self));
    PyRecall *first, *second;
    if (deal_py_recall_get(module, recall, self->session, self->controls, &first) < 0 ||
        deal_py_recall_get(module, rollout_recall, self->rollout_session,
                           self->rollout_controls, &second) < 0)
        return -1;
    if (self->rollout_session && !first != !second) {
        PyErr_SetString(PyExc_ValueError, "recall: expected one for each session");
        return -1;
    }
    self->recall = (PyRecall *)Py_XNewRef((PyObject *)first);
    self->rollout_recall = (PyRecall *)Py_XNewRef((PyObject *)second);
    if (first) {
        request->lm = deal_recall_lm(first->recall);
        request->memo = &first->memo;
    }
    if (second)
        request->rollout_lm = deal_recall_lm(second->recall);
    return 0;
}

// The object, its C search made; takes over the reference.
static PyObject *
start(PySearch *self, deal_search_request *request)
{
    request->prompt = self->prompt;
    request->end_token = self->end_token;
    request->stop = self->stop_text;
    request->n_stop = (int32_t)PyTuple_GET_SIZE(self->stop);
    request->reward = self->reward;
    request->weight = self->weight;
    request->n_reward = self->n_reward;
    deal_error err;
    if (deal_search_new(request, &self->search, &err) == DEAL_OK)
        return (PyObject *)self;
    PyObject *module = PyType_GetModule(Py_TYPE((PyObject *)self));
    Py_DECREF(self); // its type, and so the module, stays
    return deal_py_raise(module, &err);
}

static PyObject *
search_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keyword[] = {
        "session",    "vocab",    "prompt",          "prompt_text",
        "end_tokens", "stop",     "rewards",         "weights",
        "params",     "controls", "rollout_session", "rollout_controls",
        "formula",    "recall",   "rollout_recall",  "constraint",
        NULL};
    PyObject *module = PyType_GetModule(type);
    deal_module_state *state = deal_module_state_get(module);
    PyObject *session, *vocab, *prompt, *text, *end, *stop, *capsules, *weights, *dict;
    PyObject *given = Py_None, *second = Py_None, *second_given = Py_None,
             *formula = Py_None, *recall = Py_None, *rollout_recall = Py_None,
             *constraint = Py_None;
    deal_search_request request = {0};
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "OO!OUOO!O!O!O!|OOOOOOO:Search", keyword, &session,
            state->vocab_type, &vocab, &prompt, &text, &end, &PyTuple_Type, &stop,
            &PyTuple_Type, &capsules, &PyTuple_Type, &weights, &PyDict_Type, &dict,
            &given, &second, &second_given, &formula, &recall, &rollout_recall,
            &constraint) ||
        deal_py_controls_get(module, given, &request.controls) < 0 ||
        deal_py_formula_get(module, formula, &request.formula) < 0 ||
        deal_py_constraint_get(constraint, &request.constraint) < 0)
        return NULL;
    PyLm *lm = deal_py_lm_get(module, session, "session");
    PySearch *self = lm ? (PySearch *)type->tp_alloc(type, 0) : NULL;
    if (!self)
        return NULL;
    self->session = hold(lm);
    self->vocab = Py_NewRef(vocab);
    self->text = Py_NewRef(text);
    self->stop = Py_NewRef(stop);
    self->capsules = Py_NewRef(capsules);
    self->controls = Py_NewRef(given);
    self->formula = Py_NewRef(formula);
    self->constraint = Py_NewRef(constraint);
    request.lm = lm->lm;
    request.vocab = ((PyVocab *)vocab)->vocab;
    Py_ssize_t text_size;
    const char *utf8 = PyUnicode_AsUTF8AndSize(text, &text_size);
    if (!utf8 || take_rollouts(self, second, second_given, &request) < 0 ||
        take_recalls(self, recall, rollout_recall, &request) < 0 ||
        read_params(dict, &request.params) < 0 || read_stops(self) < 0 ||
        read_rewards(self, weights) < 0 ||
        deal_py_ids(prompt, "prompt", &self->prompt, &request.n_prompt) < 0 ||
        deal_py_ids(end, "end_tokens", &self->end_token, &request.n_end) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    request.prompt_text = utf8;
    request.prompt_text_size = (size_t)text_size;
    return start(self, &request);
}

// Neither session is waited for: one that is in use is an error.
static int
enter(PySearch *self)
{
    if (deal_py_lm_enter(self->session) < 0)
        return -1;
    if (!self->rollout_session || deal_py_lm_enter(self->rollout_session) == 0)
        return 0;
    deal_py_lm_leave(self->session);
    return -1;
}

static void
leave(PySearch *self)
{
    deal_py_lm_leave(self->session);
    if (self->rollout_session)
        deal_py_lm_leave(self->rollout_session);
}

// Steps until done, or once. Between steps signals are handled, so that Ctrl-C works;
// in a batch nobody asks for the GIL, as its main thread is the one that sees to them.
static PyObject *
advance(PySearch *self, int is_single)
{
    if (enter(self) < 0)
        return NULL;
    deal_error err = {.code = DEAL_OK};
    deal_status status = DEAL_OK;
    bool is_done = self->is_done, is_long = !is_single && self->session->is_of_batch;
    while (status == DEAL_OK && !is_done) {
        Py_BEGIN_ALLOW_THREADS
        do
            status = deal_search_step(self->search, &is_done, &err);
        while (is_long && status == DEAL_OK && !is_done);
        Py_END_ALLOW_THREADS
        if (status == DEAL_OK && PyErr_CheckSignals() < 0)
            status = deal_fail(&err, DEAL_ERR_INTERRUPTED, "interrupted");
        if (is_single)
            break;
    }
    leave(self);
    if (status != DEAL_OK) {
        err.code = status;
        return deal_py_raise(PyType_GetModule(Py_TYPE((PyObject *)self)), &err);
    }
    self->is_done = is_done;
    return PyBool_FromLong(is_done);
}

static PyObject *
search_step(PyObject *self, PyObject *unused)
{
    (void)unused;
    return advance((PySearch *)self, 1);
}

static PyObject *
search_run(PyObject *self, PyObject *unused)
{
    (void)unused;
    return advance((PySearch *)self, 0);
}

// Scores what the search has, and no more.
static PyObject *
search_stop(PyObject *object, PyObject *unused)
{
    (void)unused;
    PySearch *self = (PySearch *)object;
    if (enter(self) < 0)
        return NULL;
    deal_error err;
    deal_status status;
    Py_BEGIN_ALLOW_THREADS
    status = deal_search_stop(self->search, &err);
    Py_END_ALLOW_THREADS
    leave(self);
    if (status != DEAL_OK)
        return deal_py_raise(PyType_GetModule(Py_TYPE(object)), &err);
    self->is_done = 1;
    Py_RETURN_NONE;
}

static PyObject *
search_text(PyObject *self, PyObject *unused)
{
    (void)unused;
    const char *text;
    size_t size;
    deal_search_text(((PySearch *)self)->search, &text, &size);
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)size, "strict");
}

static PyObject *
id_list(const int32_t *ids, size_t n_ids)
{
    PyObject *list = PyList_New((Py_ssize_t)n_ids);
    for (size_t i = 0; list && i < n_ids; i++) {
        PyObject *id = PyLong_FromLong(ids[i]);
        if (!id)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, id);
    }
    return list;
}

static PyObject *
search_tokens(PyObject *self, PyObject *unused)
{
    (void)unused;
    const int32_t *token;
    int32_t n_token;
    deal_search_tokens(((PySearch *)self)->search, &token, &n_token);
    return id_list(token, (size_t)n_token);
}

static PyObject *
float_list(const double *value, int32_t n)
{
    PyObject *list = PyList_New(n);
    for (int32_t i = 0; list && i < n; i++) {
        PyObject *number = PyFloat_FromDouble(value[i]);
        if (!number)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, number);
    }
    return list;
}

static const char *
finish_name(deal_finish_reason reason)
{
    if (reason == DEAL_FINISH_LENGTH)
        return "length";
    return reason == DEAL_FINISH_DEAD_END ? "dead_end" : "stop";
}

static PyObject *
search_results(PyObject *object, PyObject *unused)
{
    (void)unused;
    PySearch *self = (PySearch *)object;
    if (!self->is_done) {
        PyErr_SetString(PyExc_RuntimeError,
                        "search: results are asked for before its end");
        return NULL;
    }
    PyObject *list = PyList_New(0);
    for (int32_t i = 0; list && i < deal_search_n_result(self->search); i++) {
        deal_search_result r;
        deal_search_result_get(self->search, i, &r);
        PyObject *row = Py_BuildValue(
            "{s:N,s:N,s:d,s:d,s:N,s:d,s:s}", "token_ids",
            id_list(r.token, (size_t)r.n_token), "text",
            PyUnicode_DecodeUTF8(r.text, (Py_ssize_t)r.text_size, "strict"), "logprob",
            r.logprob, "reward", r.h, "rewards", float_list(r.reward, self->n_reward),
            "score", r.score, "finish_reason", finish_name(r.finish_reason));
        if (!row || PyList_Append(list, row) < 0)
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyObject *
search_stats(PyObject *object, PyObject *unused)
{
    (void)unused;
    deal_search_stats s;
    deal_search_stats_get(((PySearch *)object)->search, &s);
    return Py_BuildValue(
        "{s:L,s:L,s:L,s:L,s:L,s:L,s:L,s:L,s:L,s:L,s:L,s:L,s:L,s:L,s:L,s:L,s:d,s:d,s:d,"
        "s:d,s:L,s:L,s:d,s:L}",
        "n_skipped", (long long)s.n_skipped, "n_reused_tokens",
        (long long)s.n_reused_tokens, "n_pruned", (long long)s.n_pruned, "n_settled",
        (long long)s.n_settled, "n_draft_tokens", (long long)s.n_draft_tokens,
        "n_draft_accepted", (long long)s.n_draft_accepted, "n_ahead_tokens",
        (long long)s.n_ahead_tokens, "n_in_vain", (long long)s.n_in_vain,
        "n_prompt_tokens", (long long)s.n_prompt_tokens, "n_forward_tokens",
        (long long)s.n_forward_tokens, "n_forward_passes",
        (long long)s.n_forward_passes, "n_steps", (long long)s.n_steps, "n_rollouts",
        (long long)s.n_rollouts, "n_rollout_tokens", (long long)s.n_rollout_tokens,
        "n_reward_calls", (long long)s.n_reward_calls, "n_reward_texts",
        (long long)s.n_reward_texts, "seconds_prefill", s.seconds_prefill,
        "seconds_forward", s.seconds_forward, "seconds_reward", s.seconds_reward,
        "seconds_total", s.seconds_total, "n_rollout_model_tokens",
        (long long)s.n_rollout_model_tokens, "n_rollout_model_passes",
        (long long)s.n_rollout_model_passes, "seconds_rollout_model",
        s.seconds_rollout_model, "n_recalled_tokens", (long long)s.n_recalled_tokens);
}

static PyObject *
search_trace(PyObject *object, PyObject *unused)
{
    (void)unused;
    PySearch *self = (PySearch *)object;
    deal_trace trace;
    deal_search_trace_get(self->search, &trace);
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < trace.n_row; i++) {
        const deal_trace_row *row = &trace.row[i];
        const double *reward =
            self->n_reward ? trace.reward + i * (size_t)self->n_reward : NULL;
        PyObject *dict = Py_BuildValue(
            "{s:i,s:i,s:i,s:i,s:i,s:d,s:d,s:N,s:d,s:d,s:d,s:O,s:O,s:O,s:N}", "step",
            row->i_step, "beam", row->i_beam, "next_beam", row->i_next, "n_committed",
            row->n_committed, "token_id", row->token, "logprob", row->logprob, "reward",
            row->h, "rewards", float_list(reward, self->n_reward), "score", row->score,
            "low", row->low, "high", row->high, "is_finished",
            row->is_finished ? Py_True : Py_False, "is_chosen",
            row->is_chosen ? Py_True : Py_False, "is_skipped",
            row->is_skipped ? Py_True : Py_False, "rollout",
            id_list(trace.rollout + row->i_rollout, (size_t)row->n_rollout));
        if (!dict || PyList_Append(list, dict) < 0)
            Py_CLEAR(list);
        Py_XDECREF(dict);
    }
    return list;
}

static int
search_traverse(PyObject *object, visitproc visit, void *arg)
{
    PySearch *self = (PySearch *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->session);
    Py_VISIT(self->rollout_session);
    Py_VISIT(self->vocab);
    Py_VISIT(self->capsules);
    Py_VISIT(self->controls);
    Py_VISIT(self->rollout_controls);
    Py_VISIT(self->formula);
    Py_VISIT(self->constraint);
    Py_VISIT(self->recall);
    Py_VISIT(self->rollout_recall);
    return 0;
}

// The C search gives its nodes back to the sessions, so it goes first.
static int
search_clear(PyObject *object)
{
    PySearch *self = (PySearch *)object;
    deal_search_free(self->search);
    self->search = NULL;
    Py_CLEAR(self->recall);
    Py_CLEAR(self->rollout_recall);
    let_go(&self->session);
    let_go(&self->rollout_session);
    Py_CLEAR(self->vocab);
    Py_CLEAR(self->text);
    Py_CLEAR(self->stop);
    Py_CLEAR(self->capsules);
    Py_CLEAR(self->controls);
    Py_CLEAR(self->rollout_controls);
    Py_CLEAR(self->formula);
    Py_CLEAR(self->constraint);
    return 0;
}

static void
search_dealloc(PyObject *object)
{
    PySearch *self = (PySearch *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    search_clear(object);
    deal_free(self->prompt);
    deal_free(self->end_token);
    deal_free(self->stop_text);
    deal_free(self->reward);
    deal_free(self->weight);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef search_methods[] = {
    {"step", search_step, METH_NOARGS,
     "step($self, /)\n--\n\nTakes one decision; True when done."},
    {"run", search_run, METH_NOARGS, "run($self, /)\n--\n\nSteps until done."},
    {"stop", search_stop, METH_NOARGS,
     "stop($self, /)\n--\n\nEnds a search of one hypothesis with what it has."},
    {"tokens", search_tokens, METH_NOARGS,
     "tokens($self, /)\n--\n\nIds decided so far."},
    {"text", search_text, METH_NOARGS,
     "text($self, /)\n--\n\nText that is final so far."},
    {"results", search_results, METH_NOARGS, "results($self, /)\n--\n\nlist of dict."},
    {"stats", search_stats, METH_NOARGS,
     "stats($self, /)\n--\n\ndict of counts and seconds."},
    {"trace", search_trace, METH_NOARGS,
     "trace($self, /)\n--\n\nlist of dict, one a candidate."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot search_slots[] = {
    {Py_tp_doc, (void *)"Search(session, vocab, prompt, prompt_text, end_tokens, stop, "
                        "rewards, weights, params, controls=None, "
                        "rollout_session=None, rollout_controls=None, "
                        "formula=None, recall=None, rollout_recall=None, "
                        "constraint=None)\n--\n\nOne generation, step by step."},
    {Py_tp_new, search_new},
    {Py_tp_dealloc, search_dealloc},
    {Py_tp_traverse, search_traverse},
    {Py_tp_clear, search_clear},
    {Py_tp_methods, search_methods},
    {0, NULL},
};

static PyType_Spec search_spec = {
    .name = "deal._core.Search",
    .basicsize = sizeof(PySearch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = search_slots,
};

int
deal_py_search_register(PyObject *module)
{
    return deal_py_add_type(module, &search_spec,
                            &deal_module_state_get(module)->search_type);
}
