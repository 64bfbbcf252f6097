// few_digits: a reward that is 1 without digits, and falls to 0 at ten of them.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <deal/reward.h>

typedef struct { double n_digit, token_size_max; } state;

static double
worth(double n_digit)
{
    return n_digit < 10.0 ? 1.0 - n_digit / 10.0 : 0.0;
}

static int
init(void *self, void *s, const deal_reward_prompt *prompt, char *message)
{
    *(state *)s = (state){0.0, prompt->token_size_max};
    return 0;
}

static int
advance(void *self, void *s, int32_t token, const char *bytes, size_t size, char *message)
{
    for (size_t i = 0; i < size; i++)
        ((state *)s)->n_digit += bytes[i] >= '0' && bytes[i] <= '9';
    return 0;
}

static int
score(void *self, const void *s, int32_t is_finished, double *out, char *message)
{
    *out = worth(((const state *)s)->n_digit);
    return 0;
}

static int // no digit goes away, and every byte to come may be one
bounds(void *self, const void *s, int32_t n_left, double *low, double *high, char *message)
{
    const state *now = s;
    *low = worth(now->n_digit + n_left * now->token_size_max);
    *high = worth(now->n_digit);
    return 0;
}

static deal_reward reward = {
    .abi_version = DEAL_REWARD_ABI, .struct_size = sizeof(deal_reward),
    .name = "few_digits", .low = 0.0, .high = 1.0, .state_size = sizeof(state),
    .init = init, .advance = advance, .score = score, .bounds = bounds};

static PyObject *
few_digits(PyObject *module, PyObject *unused)
{
    return PyCapsule_New(&reward, DEAL_REWARD_CAPSULE, NULL);
}

static PyMethodDef methods[] = {{"few_digits", few_digits, METH_NOARGS, NULL}, {NULL}};
static PyModuleDef module = {.m_name = "few_digits", .m_methods = methods};

PyMODINIT_FUNC
PyInit_few_digits(void)
{
    return PyModuleDef_Init(&module);
}
