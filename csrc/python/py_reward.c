#include "python/py_reward.h"

#include <math.h>
#include <string.h>

#include "common/alloc.h"
#include "common/reward_check.h"
#include "python/module.h"
#include "python/py_status.h"

// ---- Capsules -----------------------------------------------------------------------

PyObject *
deal_py_reward_wrap(deal_reward *reward, PyCapsule_Destructor destroy,
                    void (*free_reward)(deal_reward *))
{
    PyObject *capsule = PyCapsule_New(reward, DEAL_REWARD_CAPSULE, destroy);
    if (!capsule)
        free_reward(reward);
    return capsule;
}

deal_reward *
deal_py_reward_get(PyObject *capsule)
{
    if (!PyCapsule_CheckExact(capsule)) {
        PyErr_Format(PyExc_TypeError, "reward: expected a capsule \"%s\", got %s",
                     DEAL_REWARD_CAPSULE, Py_TYPE(capsule)->tp_name);
        return NULL;
    }
    const char *name = PyCapsule_GetName(capsule);
    if (!name || strcmp(name, DEAL_REWARD_CAPSULE) != 0) {
        PyErr_Format(PyExc_TypeError, "reward: expected a capsule \"%s\", got \"%s\"",
                     DEAL_REWARD_CAPSULE, name ? name : "");
        return NULL;
    }
    deal_reward *r = PyCapsule_GetPointer(capsule, name);
    if (!r)
        return NULL;
    deal_error err;
    if (deal_reward_check(r, &err) == DEAL_OK)
        return r;
    PyObject *message =
        PyUnicode_DecodeUTF8(err.message, (Py_ssize_t)strlen(err.message), "replace");
    if (message)
        PyErr_SetObject(PyExc_ValueError, message);
    Py_XDECREF(message);
    return NULL;
}

static PyObject *
reward_info(PyObject *module, PyObject *capsule)
{
    (void)module;
    const deal_reward *r = deal_py_reward_get(capsule);
    if (!r)
        return NULL;
    size_t n_hidden = (size_t)r->n_hidden_layers * (size_t)r->n_embd;
    return Py_BuildValue("(sddNNn)", r->name, r->low, r->high,
                         PyBool_FromLong(!r->score_texts),
                         PyBool_FromLong(!r->is_impure), (Py_ssize_t)n_hidden);
}

// ---- What a Python reward returned --------------------------------------------------

// Raises `type` of deal._errors. `format` as in PyErr_Format.
static void
raise_reward(PyObject *errors, const char *type, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    PyObject *message = PyUnicode_FromFormatV(format, args);
    va_end(args);
    PyObject *error = message ? PyObject_GetAttrString(errors, type) : NULL;
    if (error)
        PyErr_SetObject(error, message);
    Py_XDECREF(error);
    Py_XDECREF(message);
}

// `result` as a tuple of n items, a new reference.
static PyObject *
result_items(PyObject *errors, PyObject *name, PyObject *result, Py_ssize_t n)
{
    PyObject *items = NULL;
    if (PySequence_Check(result) && !PyUnicode_Check(result) &&
        !PyBytes_Check(result) && !PyByteArray_Check(result)) {
        items = PySequence_Tuple(result);
        if (!items && !PyErr_ExceptionMatches(PyExc_TypeError))
            return NULL;
        PyErr_Clear(); // an array without dimensions
    }
    if (!items) {
        raise_reward(errors, "RewardTypeError",
                     "reward '%U': expected a list of %zd numbers, got %.200s %R", name,
                     n, Py_TYPE(result)->tp_name, result);
    } else if (PyTuple_GET_SIZE(items) != n) {
        raise_reward(errors, "RewardError", "reward '%U': expected %zd scores, got %zd",
                     name, n, PyTuple_GET_SIZE(items));
        Py_CLEAR(items);
    }
    return items;
}

static int
read_score(PyObject *errors, PyObject *name, PyObject *item, Py_ssize_t i, double low,
           double high, double *score)
{
    PyNumberMethods *number = Py_TYPE(item)->tp_as_number;
    int is_number = PyFloat_Check(item) || PyLong_Check(item) ||
                    (number && (number->nb_float || number->nb_index));
    double value = is_number ? PyFloat_AsDouble(item) : -1.0;
    if (!is_number || (value == -1.0 && PyErr_Occurred())) {
        if (is_number && PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Clear();
            raise_reward(
                errors, "RewardError",
                "reward '%U': score %zd: expected a finite number, got an integer "
                "too large for a float",
                name, i);
            return -1;
        }
        if (is_number && !PyErr_ExceptionMatches(PyExc_TypeError))
            return -1; // raised by the object's own __float__
        PyErr_Clear();
        raise_reward(errors, "RewardTypeError",
                     "reward '%U': score %zd: expected a number, got %.200s %R", name,
                     i, Py_TYPE(item)->tp_name, item);
        return -1;
    }
    if (isfinite(value) && value >= low && value <= high) {
        *score = value;
        return 0;
    }
    PyObject *shown = PyFloat_FromDouble(value), *from = PyFloat_FromDouble(low);
    PyObject *to = PyFloat_FromDouble(high);
    if (shown && from && to && !isfinite(value))
        raise_reward(errors, "RewardError",
                     "reward '%U': score %zd: expected a finite number, got %R", name,
                     i, shown);
    else if (shown && from && to)
        raise_reward(errors, "RewardError",
                     "reward '%U': score %zd: expected a number in its range [%R, %R], "
                     "got %R",
                     name, i, from, to, shown);
    Py_XDECREF(shown);
    Py_XDECREF(from);
    Py_XDECREF(to);
    return -1;
}

// scores (n,) from what a reward returned.
static int
read_scores(PyObject *errors, PyObject *name, PyObject *result, Py_ssize_t n,
            double low, double high, double *scores)
{
    PyObject *items = result_items(errors, name, result, n);
    if (!items)
        return -1;
    int status = 0;
    for (Py_ssize_t i = 0; i < n && !status; i++)
        status = read_score(errors, name, PyTuple_GET_ITEM(items, i), i, low, high,
                            &scores[i]);
    Py_DECREF(items);
    return status;
}

static PyObject *
check_scores(PyObject *module, PyObject *args)
{
    PyObject *name, *result;
    Py_ssize_t n;
    double low, high;
    if (!PyArg_ParseTuple(args, "UOndd:check_scores", &name, &result, &n, &low, &high))
        return NULL;
    if (n < 0)
        return PyErr_Format(PyExc_ValueError, "n: expected at least 0, got %zd", n);
    double *scores = deal_alloc((size_t)n, sizeof *scores);
    if (!scores)
        return PyErr_NoMemory();
    PyObject *list = NULL;
    if (read_scores(deal_module_state_get(module)->errors, name, result, n, low, high,
                    scores) == 0)
        list = PyList_New(n);
    for (Py_ssize_t i = 0; list && i < n; i++) {
        PyObject *score = PyFloat_FromDouble(scores[i]);
        if (!score)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, score);
    }
    deal_free(scores);
    return list;
}

// ---- The trampoline -----------------------------------------------------------------

typedef struct python_reward {
    deal_reward reward; // first: the public part
    PyObject *name;     // str; reward.name points into it
    PyObject *fn;
    PyObject *bounds; // or NULL
    PyObject *errors; // the module deal._errors
} python_reward;

static void
destroy_python(PyObject *capsule)
{
    python_reward *p = PyCapsule_GetPointer(capsule, DEAL_REWARD_CAPSULE);
    Py_DECREF(p->name);
    Py_DECREF(p->fn);
    Py_XDECREF(p->bounds);
    Py_DECREF(p->errors);
    deal_free(p);
}

static PyObject *
text_list(const deal_reward_text *texts, int32_t n_texts)
{
    PyObject *list = PyList_New(n_texts);
    for (int32_t i = 0; list && i < n_texts; i++) {
        PyObject *text =
            PyUnicode_DecodeUTF8(texts[i].text, (Py_ssize_t)texts[i].size, "replace");
        if (!text)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, text);
    }
    return list;
}

static PyObject *
int_list(const int32_t *values, int32_t n)
{
    PyObject *list = PyList_New(n);
    for (int32_t i = 0; list && i < n; i++) {
        PyObject *value = PyLong_FromLong(values[i]);
        if (!value)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, value);
    }
    return list;
}

// fn(prompt, texts), or fn(prompt, texts, n_tokens_left) where these are not NULL.
static PyObject *
call_on_texts(PyObject *fn, const char *prompt, size_t prompt_size,
              const deal_reward_text *texts, const int32_t *n_tokens_left,
              int32_t n_texts)
{
    PyObject *text = NULL, *list = NULL, *left = NULL, *result = NULL;
    if (PyErr_CheckSignals() == 0)
        text = PyUnicode_DecodeUTF8(prompt, (Py_ssize_t)prompt_size, "replace");
    if (text)
        list = text_list(texts, n_texts);
    if (list && n_tokens_left)
        left = int_list(n_tokens_left, n_texts);
    if (list && (left || !n_tokens_left))
        result = PyObject_CallFunctionObjArgs(fn, text, list, left, NULL);
    Py_XDECREF(left);
    Py_XDECREF(list);
    Py_XDECREF(text);
    return result;
}

// Runs on the thread of the search, which has released the GIL.
static int
call_python(void *self, const char *prompt, size_t prompt_size,
            const deal_reward_text *texts, int32_t n_texts, double *scores,
            char *message)
{
    (void)message;
    const python_reward *p = self;
    PyGILState_STATE gil = PyGILState_Ensure();
    int status = DEAL_REWARD_RAISED;
    PyObject *result = call_on_texts(p->fn, prompt, prompt_size, texts, NULL, n_texts);
    if (result && read_scores(p->errors, p->name, result, n_texts, p->reward.low,
                              p->reward.high, scores) == 0)
        status = 0;
    Py_XDECREF(result);
    PyGILState_Release(gil);
    return status;
}

// low and high (n,) from a sequence of n pairs; what they say is checked by who asked.
static int
read_pairs(PyObject *result, Py_ssize_t n, double *low, double *high)
{
    PyObject *items = PySequence_Tuple(result);
    if (!items)
        return -1;
    int status = 0;
    if (PyTuple_GET_SIZE(items) != n) {
        PyErr_Format(PyExc_ValueError, "bounds: expected %zd, got %zd", n,
                     PyTuple_GET_SIZE(items));
        status = -1;
    }
    for (Py_ssize_t i = 0; i < n && !status; i++) {
        PyObject *pair = PyTuple_GET_ITEM(items, i);
        if (!PyTuple_Check(pair)) {
            PyErr_Format(PyExc_TypeError, "bounds[%zd]: expected a tuple, got %.200s",
                         i, Py_TYPE(pair)->tp_name);
            status = -1;
        } else if (!PyArg_ParseTuple(pair, "dd", &low[i], &high[i])) {
            status = -1;
        }
    }
    Py_DECREF(items);
    return status;
}

// Runs on the thread of the search, which has released the GIL.
static int
call_bounds(void *self, const char *prompt, size_t prompt_size,
            const deal_reward_text *texts, const int32_t *n_tokens_left,
            int32_t n_texts, double *low, double *high, char *message)
{
    (void)message;
    const python_reward *p = self;
    PyGILState_STATE gil = PyGILState_Ensure();
    int status = DEAL_REWARD_RAISED;
    PyObject *result =
        call_on_texts(p->bounds, prompt, prompt_size, texts, n_tokens_left, n_texts);
    if (result && read_pairs(result, n_texts, low, high) == 0)
        status = 0;
    Py_XDECREF(result);
    PyGILState_Release(gil);
    return status;
}

static PyObject *
make_python(PyObject *module, PyObject *args)
{
    PyObject *name, *fn, *bounds = Py_None;
    double low, high;
    int is_pure = 1;
    if (!PyArg_ParseTuple(args, "UOdd|Op:python_reward", &name, &fn, &low, &high,
                          &bounds, &is_pure))
        return NULL;
    if (!PyCallable_Check(fn) || (bounds != Py_None && !PyCallable_Check(bounds)))
        return PyErr_Format(PyExc_TypeError, "reward '%U': expected a callable, got %s",
                            name, Py_TYPE(PyCallable_Check(fn) ? bounds : fn)->tp_name);
    if (!(low <= high))
        return PyErr_Format(PyExc_ValueError, "reward '%U': expected low <= high",
                            name);
    const char *utf8 = PyUnicode_AsUTF8(name);
    python_reward *p = utf8 ? deal_alloc_zero(1, sizeof *p) : NULL;
    if (!p)
        return utf8 ? PyErr_NoMemory() : NULL;
    p->reward = (deal_reward){
        .abi_version = DEAL_REWARD_ABI,
        .struct_size = sizeof(deal_reward),
        .self = p,
        .name = utf8,
        .low = low,
        .high = high,
        .score_texts = call_python,
        .bounds_texts = bounds == Py_None ? NULL : call_bounds,
        .is_impure = !is_pure,
        .is_text_alone = 1,
    };
    PyObject *capsule = PyCapsule_New(p, DEAL_REWARD_CAPSULE, NULL);
    if (!capsule) {
        deal_free(p);
        return NULL;
    }
    p->name = Py_NewRef(name);
    p->fn = Py_NewRef(fn);
    p->bounds = bounds == Py_None ? NULL : Py_NewRef(bounds);
    p->errors = Py_NewRef(deal_module_state_get(module)->errors);
    if (PyCapsule_SetDestructor(capsule, destroy_python) < 0)
        Py_CLEAR(capsule); // cannot happen: the capsule is valid
    return capsule;
}

PyMethodDef deal_py_reward_methods[] = {
    {"python_reward", make_python, METH_VARARGS,
     "python_reward(name, fn, low, high, bounds=None, is_pure=True, /)\n--\n\n"
     "Capsule of a reward on texts that calls fn(prompt, texts) for n scores and\n"
     "bounds(prompt, texts, tokens_left) for n tuples (low, high)."},
    {"reward_info", reward_info, METH_O,
     "reward_info(capsule, /)\n--\n\n"
     "(name, low, high, is_incremental, is_pure, n_hidden) of a capsule, checked;\n"
     "n_hidden: numbers that it asks for of a token's hidden states."},
    {"check_scores", check_scores, METH_VARARGS,
     "check_scores(name, result, n, low, high, /)\n--\n\n"
     "What a Python reward returned, as a list of n floats, or RewardError."},
    {NULL, NULL, 0, NULL},
};
