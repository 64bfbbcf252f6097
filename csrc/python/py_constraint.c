#include "python/py_constraint.h"

#include <string.h>

#include "common/alloc.h"

// ---- Capsules -----------------------------------------------------------------------

int
deal_py_constraint_get(PyObject *capsule, const deal_constraint **out)
{
    *out = NULL;
    if (capsule == Py_None)
        return 0;
    const char *name =
        PyCapsule_CheckExact(capsule) ? PyCapsule_GetName(capsule) : NULL;
    if (!name || strcmp(name, DEAL_CONSTRAINT_CAPSULE) != 0) {
        PyErr_Format(PyExc_TypeError, "constraint: expected a capsule \"%s\", got %s",
                     DEAL_CONSTRAINT_CAPSULE, name ? name : Py_TYPE(capsule)->tp_name);
        return -1;
    }
    *out = PyCapsule_GetPointer(capsule, name);
    return *out ? 0 : -1;
}

// ---- Matchers in Python -------------------------------------------------------------
//
// A state is a reference to an object with the methods of llguidance's LLMatcher:
//
//     deep_copy() -> matcher             consume_token(id) -> bool
//     compute_bitmask() -> bytes         is_accepting() -> bool
//     is_error() -> bool, get_error() -> str, compute_ff_tokens() -> list of int,
//     which may be missing

typedef struct matcher_constraint {
    deal_constraint constraint; // first: the public part
    PyObject *name;             // str; constraint.name points into it
    PyObject *start;            // the matcher of the empty completion, never advanced
    int has_error;              // it has is_error and get_error
} matcher_constraint;

typedef struct matcher_state {
    PyObject *matcher;
} matcher_state;

// The first line of what the matcher says is wrong.
static int
tell_error(PyObject *matcher, char *message)
{
    PyObject *error = PyObject_CallMethod(matcher, "get_error", NULL);
    const char *text = error && PyUnicode_Check(error) ? PyUnicode_AsUTF8(error) : NULL;
    if (text)
        PyOS_snprintf(message, DEAL_CONSTRAINT_MESSAGE_SIZE, "%.*s",
                      (int)strcspn(text, "\n"), text);
    else if (error && !PyErr_Occurred())
        PyErr_Format(PyExc_TypeError, "get_error: expected a str, got %.200s",
                     Py_TYPE(error)->tp_name);
    Py_XDECREF(error);
    return text ? 1 : DEAL_CONSTRAINT_RAISED;
}

// The truth of what a method without arguments returns; -1 where it raised.
static int
ask_truth(PyObject *matcher, const char *method)
{
    PyObject *answer = PyObject_CallMethod(matcher, method, NULL);
    int truth = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return truth;
}

// 0 where the matcher is sound.
static int
check_matcher(const matcher_constraint *c, PyObject *matcher, char *message)
{
    int is_error = c->has_error ? ask_truth(matcher, "is_error") : 0;
    if (is_error < 0)
        return DEAL_CONSTRAINT_RAISED;
    return is_error ? tell_error(matcher, message) : 0;
}

static int
copy_matcher(PyObject *from, matcher_state *to)
{
    to->matcher = PyObject_CallMethod(from, "deep_copy", NULL);
    return to->matcher ? 0 : DEAL_CONSTRAINT_RAISED;
}

// These run on the thread of the search, which has released the GIL.

static int
matcher_init(void *self, void *state, char *message)
{
    (void)message;
    PyGILState_STATE gil = PyGILState_Ensure();
    int code = copy_matcher(((matcher_constraint *)self)->start, state);
    PyGILState_Release(gil);
    return code;
}

static int
matcher_fork(void *self, void *to, const void *from, char *message)
{
    (void)self;
    (void)message;
    PyGILState_STATE gil = PyGILState_Ensure();
    int code = copy_matcher(((const matcher_state *)from)->matcher, to);
    PyGILState_Release(gil);
    return code;
}

static void
matcher_drop(void *self, void *state)
{
    (void)self;
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback); // a drop after an exception keeps it
    Py_DECREF(((matcher_state *)state)->matcher);
    PyErr_Restore(type, value, traceback);
    PyGILState_Release(gil);
}

static int
matcher_advance(void *self, void *state, int32_t token, char *message)
{
    const matcher_constraint *c = self;
    PyObject *matcher = ((matcher_state *)state)->matcher;
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *answer = PyObject_CallMethod(matcher, "consume_token", "i", (int)token);
    int is_taken = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    int code = is_taken < 0 ? DEAL_CONSTRAINT_RAISED : 0;
    if (is_taken == 0) {
        PyOS_snprintf(message, DEAL_CONSTRAINT_MESSAGE_SIZE,
                      "it does not take token %d, which its mask allows", (int)token);
        code = c->has_error ? check_matcher(c, matcher, message) : 1;
        code = code == 0 ? 1 : code;
    }
    PyGILState_Release(gil);
    return code;
}

static int
read_mask(const matcher_constraint *c, PyObject *matcher, uint32_t *bits)
{
    PyObject *mask = PyObject_CallMethod(matcher, "compute_bitmask", NULL);
    if (!mask)
        return -1;
    size_t n_vocab = (size_t)c->constraint.n_vocab;
    size_t size = (n_vocab + 31) / 32 * sizeof *bits;
    size_t more = (n_vocab + 32) / 32 * sizeof *bits; // llguidance has a bit to spare
    int status = -1;
    if (!PyBytes_Check(mask)) {
        PyErr_Format(PyExc_TypeError,
                     "constraint %U: compute_bitmask: expected bytes, got %.200s",
                     c->name, Py_TYPE(mask)->tp_name);
    } else if ((size_t)PyBytes_GET_SIZE(mask) != size &&
               (size_t)PyBytes_GET_SIZE(mask) != more) {
        PyErr_Format(PyExc_ValueError,
                     "constraint %U: compute_bitmask: expected %zu bytes for %d tokens "
                     "in words of 32 bits, got %zd",
                     c->name, size, (int)c->constraint.n_vocab, PyBytes_GET_SIZE(mask));
    } else {
        const unsigned char *byte = (const unsigned char *)PyBytes_AS_STRING(mask);
        for (size_t i = 0; i < size; i++) // little-endian words, on any machine
            bits[i / 4] |= (uint32_t)byte[i] << (8 * (i % 4));
        status = 0;
    }
    Py_DECREF(mask);
    return status;
}

static int
matcher_mask(void *self, void *state, uint32_t *bits, int32_t *is_accepting,
             char *message)
{
    const matcher_constraint *c = self;
    PyObject *matcher = ((matcher_state *)state)->matcher;
    PyGILState_STATE gil = PyGILState_Ensure();
    int code = DEAL_CONSTRAINT_RAISED;
    if (PyErr_CheckSignals() == 0 && read_mask(c, matcher, bits) == 0) {
        int truth = ask_truth(matcher, "is_accepting");
        *is_accepting = truth;
        if (truth >= 0)
            code = check_matcher(c, matcher, message);
    }
    PyGILState_Release(gil);
    return code;
}

static int
read_tokens(PyObject *tokens, int32_t *token, int32_t n_max, int32_t *n)
{
    PyObject *items = PySequence_Tuple(tokens);
    if (!items)
        return -1;
    Py_ssize_t size = PyTuple_GET_SIZE(items);
    *n = size < n_max ? (int32_t)size : n_max;
    for (int32_t i = 0; i < *n && !PyErr_Occurred(); i++) {
        long id = PyLong_AsLong(PyTuple_GET_ITEM(items, i));
        token[i] = id < 0 || id > INT32_MAX ? -1 : (int32_t)id;
    }
    Py_DECREF(items);
    return PyErr_Occurred() ? -1 : 0;
}

static int
matcher_guess(void *self, void *state, int32_t *token, int32_t n_max, int32_t *n,
              char *message)
{
    (void)self;
    (void)message;
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *tokens = PyObject_CallMethod(((matcher_state *)state)->matcher,
                                           "compute_ff_tokens", NULL);
    int status = tokens ? read_tokens(tokens, token, n_max, n) : -1;
    Py_XDECREF(tokens);
    PyGILState_Release(gil);
    return status == 0 ? 0 : DEAL_CONSTRAINT_RAISED;
}

static void
destroy_matcher(PyObject *capsule)
{
    matcher_constraint *c = PyCapsule_GetPointer(capsule, DEAL_CONSTRAINT_CAPSULE);
    Py_DECREF(c->name);
    Py_DECREF(c->start);
    deal_free(c);
}

static int
check_methods(PyObject *name, PyObject *matcher)
{
    static const char *const method[] = {"deep_copy", "consume_token",
                                         "compute_bitmask", "is_accepting"};
    for (size_t i = 0; i < sizeof method / sizeof *method; i++)
        if (!PyObject_HasAttrString(matcher, method[i])) {
            PyErr_Format(PyExc_TypeError,
                         "constraint %U: expected a matcher with the method %s, got "
                         "%.200s",
                         name, method[i], Py_TYPE(matcher)->tp_name);
            return -1;
        }
    return 0;
}

static PyObject *
make_matcher(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *name, *matcher;
    int n_vocab;
    if (!PyArg_ParseTuple(args, "UOi:matcher_constraint", &name, &matcher, &n_vocab) ||
        check_methods(name, matcher) < 0)
        return NULL;
    const char *utf8 = PyUnicode_AsUTF8(name);
    matcher_constraint *c = utf8 ? deal_alloc_zero(1, sizeof *c) : NULL;
    if (!c)
        return utf8 ? PyErr_NoMemory() : NULL;
    c->constraint = (deal_constraint){
        .abi_version = DEAL_CONSTRAINT_ABI,
        .struct_size = sizeof(deal_constraint),
        .self = c,
        .name = utf8,
        .n_vocab = n_vocab,
        .state_size = sizeof(matcher_state),
        .init = matcher_init,
        .fork = matcher_fork,
        .drop = matcher_drop,
        .advance = matcher_advance,
        .mask = matcher_mask,
        .guess =
            PyObject_HasAttrString(matcher, "compute_ff_tokens") ? matcher_guess : NULL,
    };
    c->has_error = PyObject_HasAttrString(matcher, "is_error") &&
                   PyObject_HasAttrString(matcher, "get_error");
    PyObject *capsule = PyCapsule_New(c, DEAL_CONSTRAINT_CAPSULE, NULL);
    if (!capsule) {
        deal_free(c);
        return NULL;
    }
    c->name = Py_NewRef(name);
    c->start = Py_NewRef(matcher);
    if (PyCapsule_SetDestructor(capsule, destroy_matcher) < 0)
        Py_CLEAR(capsule); // cannot happen: the capsule is valid
    return capsule;
}

PyMethodDef deal_py_constraint_methods[] = {
    {"matcher_constraint", make_matcher, METH_VARARGS,
     "matcher_constraint(name, matcher, n_vocab, /)\n--\n\n"
     "Capsule of a constraint that asks copies of a matcher, an object with the\n"
     "methods of llguidance's LLMatcher."},
    {NULL, NULL, 0, NULL},
};
