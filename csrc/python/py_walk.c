#include "python/py_walk.h"

#include "common/alloc.h"
#include "common/controls.h"
#include "python/py_array.h"
#include "python/py_controls.h"
#include "python/py_model.h"
#include "python/py_status.h"
#include "search/walk.h"

const char deal_py_logprobs_doc[] =
    "logprobs(sequences, n_prompts, controls=None)\n--\n\n"
    "Natural log-prob of every token after the first n_prompts[i] of sequences[i]:\n"
    "a list of lists of float. Shared prefixes are evaluated once.";

const char deal_py_likelihoods_doc[] =
    "likelihoods(sequences, n_prompts, controls=None, done=None)\n--\n\n"
    "For each sequence the natural log-prob of the tokens after its first\n"
    "n_prompts[i], summed, and whether greedy decoding writes just these: a list of\n"
    "(float, bool).\n"
    "done(i, logprob, is_greedy) is called for each as soon as it is known.";

const char deal_py_states_doc[] =
    "states(sequences, slots, controls)\n--\n\n"
    "What the taps of `controls` read, a float32 array (n_slot, tap_len) for each\n"
    "sequence; slots[i] has for every token its row there, or -1. With slots None, "
    "the\n"
    "mean over all tokens, (1, tap_len).";

// Texts as C arrays.
typedef struct text_list {
    int32_t n;
    deal_walk_text *text; // (n,)
    int32_t **ids;        // (n,) the texts' own tokens
    int32_t **slot;       // (n,)
    bool *is_greedy;      // (n,) or NULL
} text_list;

static void
free_texts(text_list *list)
{
    for (int32_t i = 0; i < list->n; i++) {
        if (list->ids)
            deal_free(list->ids[i]);
        if (list->slot)
            deal_free(list->slot[i]);
        if (list->text) {
            deal_free(list->text[i].logprob);
            deal_free(list->text[i].sum);
        }
    }
    deal_free(list->text);
    deal_free(list->ids);
    deal_free(list->slot);
    deal_free(list->is_greedy);
}

static int
read_texts(PyObject *sequences, text_list *list)
{
    if (PyList_GET_SIZE(sequences) > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "sequences: too many");
        return -1;
    }
    list->n = (int32_t)PyList_GET_SIZE(sequences);
    size_t n = (size_t)list->n;
    list->text = deal_alloc_zero(n, sizeof *list->text);
    list->ids = deal_alloc_zero(n, sizeof *list->ids);
    list->slot = deal_alloc_zero(n, sizeof *list->slot);
    if (!list->text || !list->ids || !list->slot) {
        PyErr_NoMemory();
        return -1;
    }
    for (int32_t i = 0; i < list->n; i++) {
        deal_walk_text *text = &list->text[i];
        if (deal_py_ids(PyList_GET_ITEM(sequences, i), "sequence", &list->ids[i],
                        &text->n_token) < 0)
            return -1;
        text->token = list->ids[i];
        text->n_prompt = text->n_token;
    }
    return 0;
}

static double
sum_of(const deal_walk_text *text)
{
    double sum = 0;
    for (int32_t t = 0; t < text->n_token - text->n_prompt; t++)
        sum += text->logprob[t];
    return sum;
}

// Tells `done` of the texts that have become complete.
static int
tell(const text_list *list, const deal_walk *walk, int32_t *n_told, PyObject *done)
{
    for (; *n_told < deal_walk_n_done(walk); (*n_told)++) {
        int32_t i = deal_walk_done_at(walk, *n_told);
        const deal_walk_text *text = &list->text[i];
        PyObject *is_greedy = *text->is_greedy ? Py_True : Py_False;
        PyObject *result =
            PyObject_CallFunction(done, "idO", (int)i, sum_of(text), is_greedy);
        if (!result)
            return -1;
        Py_DECREF(result);
    }
    return 0;
}

static int
run(PyObject *object, const text_list *list, const deal_controls *controls,
    PyObject *done)
{
    PySession *self = (PySession *)object;
    if (deal_py_lm_enter(&self->base) < 0)
        return -1;
    deal_lm *lm = deal_session_lm(self->session);
    deal_walk *walk = NULL;
    deal_error err;
    deal_status status;
    bool is_done = false;
    int32_t n_told = 0;
    int failed = 0;
    Py_BEGIN_ALLOW_THREADS
    status = deal_walk_new(lm, controls, list->text, list->n, &walk, &err);
    Py_END_ALLOW_THREADS
    while (status == DEAL_OK && !is_done && !failed) {
        Py_BEGIN_ALLOW_THREADS
        status = deal_walk_step(walk, &is_done, &err);
        Py_END_ALLOW_THREADS
        if (status == DEAL_OK && done)
            failed = tell(list, walk, &n_told, done) < 0;
    }
    deal_walk_free(walk);
    deal_py_lm_leave(&self->base);
    if (status != DEAL_OK)
        deal_py_raise(PyType_GetModule(Py_TYPE(object)), &err);
    return status == DEAL_OK && !failed ? 0 : -1;
}

// --- log-probs -----------------------------------------------------------------------

static int
reserve_logprobs(text_list *list, PyObject *n_prompts)
{
    if (PyList_GET_SIZE(n_prompts) != list->n) {
        PyErr_Format(PyExc_ValueError, "n_prompts: expected %d, got %zd", (int)list->n,
                     PyList_GET_SIZE(n_prompts));
        return -1;
    }
    for (int32_t i = 0; i < list->n; i++) {
        deal_walk_text *text = &list->text[i];
        long n = PyLong_AsLong(PyList_GET_ITEM(n_prompts, i));
        if (n == -1 && PyErr_Occurred())
            return -1;
        if (n < 1 || n > text->n_token) {
            PyErr_Format(PyExc_ValueError, "n_prompts[%d]: expected 1 to %d, got %ld",
                         (int)i, (int)text->n_token, n);
            return -1;
        }
        text->n_prompt = (int32_t)n;
        text->logprob =
            deal_alloc((size_t)(text->n_token - text->n_prompt), sizeof *text->logprob);
        if (!text->logprob) {
            PyErr_NoMemory();
            return -1;
        }
    }
    return 0;
}

static PyObject *
logprob_lists(const text_list *list)
{
    PyObject *result = PyList_New(list->n);
    for (int32_t i = 0; result && i < list->n; i++) {
        const deal_walk_text *text = &list->text[i];
        int32_t n = text->n_token - text->n_prompt;
        PyObject *row = PyList_New(n);
        for (int32_t t = 0; row && t < n; t++) {
            PyObject *number = PyFloat_FromDouble(text->logprob[t]);
            if (!number)
                Py_CLEAR(row);
            else
                PyList_SET_ITEM(row, t, number);
        }
        if (!row)
            Py_CLEAR(result);
        else
            PyList_SET_ITEM(result, i, row);
    }
    return result;
}

PyObject *
deal_py_session_logprobs(PyObject *object, PyObject *args)
{
    PyObject *sequences, *n_prompts, *given = Py_None, *result = NULL;
    const deal_controls *controls;
    text_list list = {0};
    if (!PyArg_ParseTuple(args, "O!O!|O:logprobs", &PyList_Type, &sequences,
                          &PyList_Type, &n_prompts, &given) ||
        deal_py_controls_get(PyType_GetModule(Py_TYPE(object)), given, &controls) < 0)
        return NULL;
    if (read_texts(sequences, &list) == 0 && reserve_logprobs(&list, n_prompts) == 0 &&
        run(object, &list, controls, NULL) == 0)
        result = logprob_lists(&list);
    free_texts(&list);
    return result;
}

static int
reserve_is_greedy(text_list *list)
{
    list->is_greedy = deal_alloc((size_t)list->n, sizeof *list->is_greedy);
    if (!list->is_greedy) {
        PyErr_NoMemory();
        return -1;
    }
    for (int32_t i = 0; i < list->n; i++) {
        list->is_greedy[i] = true;
        list->text[i].is_greedy = &list->is_greedy[i];
    }
    return 0;
}

static PyObject *
likelihood_pairs(const text_list *list)
{
    PyObject *result = PyList_New(list->n);
    for (int32_t i = 0; result && i < list->n; i++) {
        PyObject *is_greedy = list->is_greedy[i] ? Py_True : Py_False;
        PyObject *pair = Py_BuildValue("(dO)", sum_of(&list->text[i]), is_greedy);
        if (!pair)
            Py_CLEAR(result);
        else
            PyList_SET_ITEM(result, i, pair);
    }
    return result;
}

PyObject *
deal_py_session_likelihoods(PyObject *object, PyObject *args)
{
    PyObject *sequences, *n_prompts, *given = Py_None, *done = Py_None, *result = NULL;
    const deal_controls *controls;
    text_list list = {0};
    if (!PyArg_ParseTuple(args, "O!O!|OO:likelihoods", &PyList_Type, &sequences,
                          &PyList_Type, &n_prompts, &given, &done) ||
        deal_py_controls_get(PyType_GetModule(Py_TYPE(object)), given, &controls) < 0)
        return NULL;
    if (read_texts(sequences, &list) == 0 && reserve_logprobs(&list, n_prompts) == 0 &&
        reserve_is_greedy(&list) == 0 &&
        run(object, &list, controls, done == Py_None ? NULL : done) == 0)
        result = likelihood_pairs(&list);
    free_texts(&list);
    return result;
}

// --- states --------------------------------------------------------------------------

// The array of one text, and where the walk writes to.
static PyObject *
make_states(text_list *list, int32_t i, PyObject *slots, size_t tap_len)
{
    deal_walk_text *text = &list->text[i];
    int32_t n_slot = 1, n = 0;
    if (slots == Py_None) {
        text->sum = deal_alloc_zero(tap_len, sizeof *text->sum);
        if (!text->sum)
            return PyErr_NoMemory();
    } else {
        if (deal_py_ids(PyList_GET_ITEM(slots, i), "slots", &list->slot[i], &n) < 0)
            return NULL;
        n_slot = 0;
        text->slot = list->slot[i];
        for (int32_t t = 0; t < n; t++)
            n_slot = text->slot[t] >= n_slot ? text->slot[t] + 1 : n_slot;
        if (n != text->n_token || n_slot > n)
            return PyErr_Format(PyExc_ValueError,
                                "slots[%d]: expected %d rows below %d, got %d up to %d",
                                (int)i, (int)text->n_token, (int)text->n_token, (int)n,
                                (int)n_slot - 1);
    }
    float *data;
    PyObject *array = deal_py_new_f32(n_slot, (int64_t)tap_len, &data);
    if (array && slots != Py_None)
        text->states = data;
    for (size_t j = 0; array && j < (size_t)n_slot * tap_len; j++)
        data[j] = 0.0f;
    return array;
}

static void
write_means(const text_list *list, PyObject *arrays, size_t tap_len)
{
    for (int32_t i = 0; i < list->n; i++) {
        const deal_walk_text *text = &list->text[i];
        float *data = deal_py_f32_data(PyList_GET_ITEM(arrays, i));
        for (size_t j = 0; text->sum && j < tap_len; j++)
            data[j] = (float)(text->sum[j] / (double)text->n_token);
    }
}

PyObject *
deal_py_session_states(PyObject *object, PyObject *args)
{
    PyObject *sequences, *slots, *given;
    const deal_controls *controls;
    text_list list = {0};
    if (!PyArg_ParseTuple(args, "O!OO:states", &PyList_Type, &sequences, &slots,
                          &given) ||
        deal_py_controls_get(PyType_GetModule(Py_TYPE(object)), given, &controls) < 0)
        return NULL;
    if (!controls ||
        (slots != Py_None && (!PyList_Check(slots) ||
                              PyList_GET_SIZE(slots) != PyList_GET_SIZE(sequences))))
        return PyErr_Format(PyExc_ValueError,
                            "states: expected controls, and slots for each sequence");
    PyObject *arrays = PyList_New(PyList_GET_SIZE(sequences));
    int failed = !arrays || read_texts(sequences, &list) < 0;
    for (int32_t i = 0; !failed && i < list.n; i++) {
        PyObject *array = make_states(&list, i, slots, controls->tap_len);
        failed = !array;
        if (array)
            PyList_SET_ITEM(arrays, i, array);
    }
    if (failed || run(object, &list, controls, NULL) < 0)
        Py_CLEAR(arrays);
    else
        write_means(&list, arrays, controls->tap_len);
    free_texts(&list);
    return arrays;
}
