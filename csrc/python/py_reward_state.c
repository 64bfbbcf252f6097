/* deal._core.RewardState: any reward, advanced by hand. For scoring outside of a
 * search, and for tests: it does what a search does with the same capsule.
 */
#include "python/py_reward.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/alloc.h"
#include "common/bytes.h"
#include "python/module.h"
#include "python/py_status.h"

typedef struct PyRewardState {
    PyObject_HEAD
    PyObject *capsule; // strong reference; owns `reward`
    const deal_reward *reward;
    PyObject *prompt; // str
    void *state;      // incremental form: (reward->state_size,); else NULL
    deal_bytes text;  // form on texts: the completion
    int32_t n_tokens;
    int32_t
        n_told;   // tokens whose hidden states it was told, the prompt's last included
    bool is_live; // `state` was made by init or fork and needs drop
    bool is_busy; // inside a function of the reward, which may be Python code
} PyRewardState;

static PyObject *
module_of(PyObject *self)
{
    return PyType_GetModule(Py_TYPE(self));
}

// Calls of one reward function; the message buffer is larger than the contract asks, so
// that a message without its end cannot leave it.
typedef struct call {
    PyRewardState *self;
    char message[DEAL_REWARD_MESSAGE_SIZE + 2];
} call;

static int
begin(PyRewardState *self, call *c)
{
    if (self->is_busy) {
        PyErr_SetString(PyExc_RuntimeError,
                        "reward state: used again from inside its reward");
        return -1;
    }
    self->is_busy = true;
    memset(c, 0, sizeof *c);
    c->self = self;
    return 0;
}

// Turns what the function returned into 0, or -1 with an exception set.
static int
finish(call *c, int result)
{
    c->self->is_busy = false;
    if (result == 0)
        return 0;
    if (result == DEAL_REWARD_RAISED && PyErr_Occurred())
        return -1;
    c->message[sizeof c->message - 1] = 0;
    deal_error err;
    deal_fail(&err, DEAL_ERR_REWARD, "reward '%s': %s", c->self->reward->name,
              c->message[0] ? c->message : "failed without a message");
    deal_py_raise(module_of((PyObject *)c->self), &err);
    return -1;
}

static PyRewardState *
make(PyTypeObject *type, PyObject *capsule, PyObject *prompt)
{
    const deal_reward *reward = deal_py_reward_get(capsule);
    PyRewardState *self = reward ? (PyRewardState *)type->tp_alloc(type, 0) : NULL;
    if (!self)
        return NULL;
    self->capsule = Py_NewRef(capsule);
    self->reward = reward;
    self->prompt = Py_NewRef(prompt);
    if (!reward->score_texts && !(self->state = deal_alloc(reward->state_size, 1))) {
        PyErr_NoMemory();
        Py_CLEAR(self);
    }
    return self;
}

static PyObject *
state_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keyword[] = {"capsule", "prompt", "n_new_max", "token_size_max", NULL};
    PyObject *capsule, *prompt;
    int n_new_max = INT32_MAX, token_size_max = INT32_MAX;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OU|ii:RewardState", keyword,
                                     &capsule, &prompt, &n_new_max, &token_size_max))
        return NULL;
    Py_ssize_t size;
    const char *utf8 = PyUnicode_AsUTF8AndSize(prompt, &size);
    PyRewardState *self = utf8 ? make(type, capsule, prompt) : NULL;
    if (!self || self->reward->score_texts)
        return (PyObject *)self;
    const deal_reward_prompt request = {.text = utf8,
                                        .size = (size_t)size,
                                        .n_new_max = n_new_max,
                                        .token_size_max = token_size_max};
    call c;
    if (begin(self, &c) < 0 ||
        finish(&c, self->reward->init(self->reward->self, self->state, &request,
                                      c.message)) < 0)
        Py_CLEAR(self);
    else
        self->is_live = true;
    return (PyObject *)self;
}

static int
state_traverse(PyObject *object, visitproc visit, void *arg)
{
    PyRewardState *self = (PyRewardState *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->capsule);
    Py_VISIT(self->prompt);
    return 0;
}

static void
state_dealloc(PyObject *object)
{
    PyRewardState *self = (PyRewardState *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->is_live && self->reward->drop)
        self->reward->drop(self->reward->self, self->state);
    deal_free(self->state);
    deal_bytes_free(&self->text);
    Py_XDECREF(self->capsule);
    Py_XDECREF(self->prompt);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *
state_advance(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *keyword[] = {"bytes", "token", NULL};
    PyRewardState *self = (PyRewardState *)object;
    PyObject *bytes;
    int token = -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "S|i:advance", keyword, &bytes,
                                     &token))
        return NULL;
    const char *data = PyBytes_AS_STRING(bytes);
    size_t size = (size_t)PyBytes_GET_SIZE(bytes);
    const deal_reward *r = self->reward;
    call c;
    if (self->n_tokens == INT32_MAX)
        return PyErr_Format(PyExc_OverflowError, "reward state: too many tokens");
    if (begin(self, &c) < 0)
        return NULL;
    int result = 0;
    if (r->score_texts) {
        deal_error err;
        if (deal_bytes_append(&self->text, data, size, &err) != DEAL_OK) {
            self->is_busy = false;
            return deal_py_raise(module_of(object), &err);
        }
    } else {
        result = r->advance(r->self, self->state, token, data, size, c.message);
    }
    if (finish(&c, result) < 0)
        return NULL;
    self->n_tokens++;
    Py_RETURN_NONE;
}

static deal_reward_text
text_of(const PyRewardState *self, int is_finished)
{
    return (deal_reward_text){
        .text = self->text.size ? (const char *)self->text.data : "",
        .size = self->text.size,
        .n_tokens = self->n_tokens,
        .is_finished = is_finished,
    };
}

static PyObject *
state_observe(PyObject *object, PyObject *args)
{
    PyRewardState *self = (PyRewardState *)object;
    const deal_reward *r = self->reward;
    Py_buffer states;
    if (!PyArg_ParseTuple(args, "y*:observe", &states))
        return NULL;
    size_t size = (size_t)r->n_hidden_layers * (size_t)r->n_embd * sizeof(float);
    call c;
    int status = -1;
    if (r->n_hidden_layers == 0)
        PyErr_Format(PyExc_ValueError, "reward '%s': it asks for no hidden states",
                     r->name);
    else if ((size_t)states.len != size)
        PyErr_Format(PyExc_ValueError,
                     "reward '%s': hidden states: expected %zu bytes of float32 "
                     "(n_layers, n_embd), got %zd",
                     r->name, size, states.len);
    else if (self->n_told == INT32_MAX)
        PyErr_SetString(PyExc_OverflowError, "reward state: too many tokens");
    else if (begin(self, &c) == 0)
        status = finish(
            &c, r->observe(r->self, self->state, self->n_told, states.buf, c.message));
    PyBuffer_Release(&states);
    if (status < 0)
        return NULL;
    self->n_told++;
    Py_RETURN_NONE;
}

static int
call_score(PyRewardState *self, int is_finished, double *score, char *message)
{
    const deal_reward *r = self->reward;
    if (!r->score_texts)
        return r->score(r->self, self->state, is_finished, score, message);
    Py_ssize_t size;
    const char *prompt = PyUnicode_AsUTF8AndSize(self->prompt, &size);
    const deal_reward_text text = text_of(self, is_finished);
    if (!prompt)
        return DEAL_REWARD_RAISED;
    return r->score_texts(r->self, prompt, (size_t)size, &text, 1, score, message);
}

static PyObject *
state_score(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *keyword[] = {"is_finished", NULL};
    PyRewardState *self = (PyRewardState *)object;
    int is_finished = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p:score", keyword, &is_finished))
        return NULL;
    if (self->reward->n_hidden_layers > 0 && self->n_told == 0)
        return PyErr_Format(PyExc_ValueError,
                            "reward '%s': it scores a model's hidden states; a text "
                            "alone has none",
                            self->reward->name);
    call c;
    double score = NAN;
    if (begin(self, &c) < 0 ||
        finish(&c, call_score(self, is_finished, &score, c.message)) < 0)
        return NULL;
    if (isfinite(score) && score >= self->reward->low && score <= self->reward->high)
        return PyFloat_FromDouble(score);
    deal_error err;
    deal_fail(&err, DEAL_ERR_REWARD,
              "reward '%s': expected a score in its range [%g, %g], got %g",
              self->reward->name, self->reward->low, self->reward->high, score);
    return deal_py_raise(module_of(object), &err);
}

static int
call_bounds(PyRewardState *self, int32_t n_tokens_left, double *low, double *high,
            char *message)
{
    const deal_reward *r = self->reward;
    if (!r->score_texts)
        return r->bounds(r->self, self->state, n_tokens_left, low, high, message);
    Py_ssize_t size;
    const char *prompt = PyUnicode_AsUTF8AndSize(self->prompt, &size);
    const deal_reward_text text = text_of(self, 0);
    if (!prompt)
        return DEAL_REWARD_RAISED;
    return r->bounds_texts(r->self, prompt, (size_t)size, &text, &n_tokens_left, 1, low,
                           high, message);
}

static PyObject *
state_bounds(PyObject *object, PyObject *args)
{
    PyRewardState *self = (PyRewardState *)object;
    const deal_reward *r = self->reward;
    int n_tokens_left;
    if (!PyArg_ParseTuple(args, "i:bounds", &n_tokens_left))
        return NULL;
    double low = r->low, high = r->high;
    if (r->score_texts ? r->bounds_texts != NULL : r->bounds != NULL) {
        call c;
        if (begin(self, &c) < 0 ||
            finish(&c, call_bounds(self, n_tokens_left, &low, &high, c.message)) < 0)
            return NULL;
    }
    return Py_BuildValue("(dd)", low, high);
}

static PyObject *
state_fork(PyObject *object, PyObject *unused)
{
    (void)unused;
    PyRewardState *self = (PyRewardState *)object;
    const deal_reward *r = self->reward;
    PyRewardState *made = make(Py_TYPE(object), self->capsule, self->prompt);
    if (!made)
        return NULL;
    made->n_tokens = self->n_tokens;
    made->n_told = self->n_told;
    call c;
    if (begin(self, &c) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    int result = 0;
    deal_error err = {.code = DEAL_OK};
    if (r->score_texts)
        deal_bytes_append(&made->text, self->text.data, self->text.size, &err);
    else if (r->fork)
        result = r->fork(r->self, made->state, self->state, c.message);
    else
        memcpy(made->state, self->state, r->state_size);
    made->is_live = made->state && result == 0;
    if (finish(&c, result) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    if (err.code != DEAL_OK) {
        Py_DECREF(made);
        return deal_py_raise(module_of(object), &err);
    }
    return (PyObject *)made;
}

static PyMethodDef state_methods[] = {
    {"advance", (PyCFunction)(void (*)(void))state_advance,
     METH_VARARGS | METH_KEYWORDS,
     "advance($self, /, bytes, token=-1)\n--\n\nAdds one token and the whole "
     "characters it "
     "brings."},
    {"observe", state_observe, METH_VARARGS,
     "observe($self, states, /)\n--\n\nTells the hidden states of one token, float32 "
     "(n_layers, n_embd):\nfirst those of the prompt's last."},
    {"score", (PyCFunction)(void (*)(void))state_score, METH_VARARGS | METH_KEYWORDS,
     "score($self, /, is_finished=False)\n--\n\nScore of the completion so far."},
    {"bounds", state_bounds, METH_VARARGS,
     "bounds($self, n_tokens_left, /)\n--\n\n(low, high) of the scores it can still "
     "get."},
    {"fork", state_fork, METH_NOARGS,
     "fork($self, /)\n--\n\nA copy that advances on its own."},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(state_doc, "RewardState(capsule, prompt, n_new_max=2147483647, "
                        "token_size_max=2147483647)\n--\n\n"
                        "The state of one completion under one reward.");

static PyType_Slot state_slots[] = {
    {Py_tp_doc, (void *)state_doc}, {Py_tp_new, state_new},
    {Py_tp_dealloc, state_dealloc}, {Py_tp_traverse, state_traverse},
    {Py_tp_methods, state_methods}, {0, NULL},
};

static PyType_Spec state_spec = {
    .name = "deal._core.RewardState",
    .basicsize = sizeof(PyRewardState),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = state_slots,
};

int
deal_py_reward_register(PyObject *module)
{
    deal_module_state *state = deal_module_state_get(module);
    return deal_py_add_type(module, &state_spec, &state->reward_state_type);
}
