#include "python/py_head.h"

#include <stdbool.h>
#include <string.h>

#include "common/alloc.h"
#include "python/py_array.h"
#include "python/py_fit.h"
#include "python/py_reward.h"
#include "python/py_status.h"
#include "reward/head.h"
#include "reward/head_fit.h"

static int
check_size(const char *name, const Py_buffer *buffer, size_t n, size_t size)
{
    if (buffer->len >= 0 && (size_t)buffer->len == n * size)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected %zu bytes, got %zd", name, n * size,
                 buffer->len);
    return -1;
}

// ---- The reward ---------------------------------------------------------------------

static void
destroy_head(PyObject *capsule)
{
    deal_reward_head_free(PyCapsule_GetPointer(capsule, DEAL_REWARD_CAPSULE));
}

static PyObject *
make_head(PyObject *module, PyObject *args)
{
    Py_buffer weight, hidden_weight, hidden_bias;
    PyObject *layers, *capsule = NULL;
    int pooling, activation, n_embd;
    deal_head_params params = {0};
    int32_t *layer = NULL;
    if (!PyArg_ParseTuple(args, "y*dOiiy*y*i:head", &weight, &params.bias, &layers,
                          &n_embd, &pooling, &hidden_weight, &hidden_bias, &activation))
        return NULL;
    if (deal_py_ids(layers, "layers", &layer, &params.n_layer) < 0)
        goto done;
    size_t n_hidden = (size_t)hidden_bias.len / sizeof(double);
    size_t n_in = (size_t)params.n_layer * (size_t)(n_embd > 0 ? n_embd : 0);
    if (check_size("weight", &weight, n_hidden ? n_hidden : n_in, sizeof(double)) < 0 ||
        check_size("hidden_weight", &hidden_weight, n_hidden * n_in, sizeof(double)) <
            0)
        goto done;
    params.weight = weight.buf;
    params.layer = layer;
    params.n_embd = n_embd;
    params.pooling = (deal_pooling)pooling;
    params.n_hidden = n_hidden > DEAL_LAYER_MAX ? DEAL_LAYER_MAX + 1 : (int)n_hidden;
    params.hidden_weight = hidden_weight.buf;
    params.hidden_bias = hidden_bias.buf;
    params.activation = (deal_activation)activation;
    deal_reward *reward;
    deal_error err;
    if (deal_reward_head_new(&params, &reward, &err) != DEAL_OK)
        deal_py_raise(module, &err);
    else
        capsule = deal_py_reward_wrap(reward, destroy_head, deal_reward_head_free);
done:
    deal_free(layer);
    PyBuffer_Release(&weight);
    PyBuffer_Release(&hidden_weight);
    PyBuffer_Release(&hidden_bias);
    return capsule;
}

static PyObject *
decide(PyObject *module, PyObject *args)
{
    PyObject *capsule, *result = NULL;
    Py_buffer x;
    int n;
    if (!PyArg_ParseTuple(args, "Oy*i:head_decide", &capsule, &x, &n))
        return NULL;
    const deal_reward *reward = deal_py_reward_get(capsule);
    if (!reward)
        goto done;
    size_t n_in = (size_t)reward->n_hidden_layers * (size_t)reward->n_embd;
    if (n < 0 || check_size("x", &x, (size_t)n * n_in, sizeof(float)) < 0)
        goto done;
    result =
        PyBytes_FromStringAndSize(NULL, (Py_ssize_t)n * (Py_ssize_t)sizeof(double));
    if (!result)
        goto done;
    double *out = (double *)(void *)PyBytes_AS_STRING(result);
    deal_error err;
    deal_status status;
    Py_BEGIN_ALLOW_THREADS
    status = deal_reward_head_decide(reward, x.buf, n, out, &err);
    Py_END_ALLOW_THREADS
    if (status != DEAL_OK) {
        Py_CLEAR(result);
        deal_py_raise(module, &err);
    }
done:
    PyBuffer_Release(&x);
    return result;
}

// ---- The fit ------------------------------------------------------------------------

typedef struct job {
    Py_buffer x, target, cost;
    deal_head_data data;
    deal_head_fit_params params;
    deal_head_weights weights;
    deal_fit_report report;
} job;

static void
free_job(job *j)
{
    PyBuffer_Release(&j->x);
    PyBuffer_Release(&j->target);
    PyBuffer_Release(&j->cost);
    deal_free(j->data.x);
    deal_free(j->weights.weight);
    deal_free(j->weights.hidden_weight);
    deal_free(j->weights.hidden_bias);
}

// Checks the buffers against each other and copies the states, which a fit overwrites.
static int
prepare(job *j, int n_in, int n_train, int n_hidden)
{
    bool is_pairs = !j->target.buf;
    size_t row = (size_t)(n_in > 0 ? n_in : 1) * sizeof(float) * (is_pairs ? 2 : 1);
    size_t n = (size_t)j->x.len / row;
    if (n_in < 1 || n > INT32_MAX || n_hidden < 0 || n_hidden > DEAL_LAYER_MAX) {
        PyErr_Format(PyExc_ValueError,
                     "expected features, at most %d texts and 0 to %d hidden units, "
                     "got %d, %zu and %d",
                     INT32_MAX, DEAL_LAYER_MAX, n_in, n, n_hidden);
        return -1;
    }
    if (check_size("states", &j->x, n, row) < 0 ||
        (!is_pairs && check_size("labels", &j->target, n, sizeof(float)) < 0) ||
        (j->cost.buf && check_size("costs", &j->cost, n, sizeof(float)) < 0))
        return -1;
    size_t n_first = (size_t)n_hidden * (size_t)n_in;
    j->data = (deal_head_data){.n_item = (int32_t)n,
                               .n_train = n_train,
                               .n_in = n_in,
                               .target = j->target.buf,
                               .cost = j->cost.buf};
    j->data.x = deal_alloc(n, row);
    j->weights.weight =
        deal_alloc((size_t)(n_hidden ? n_hidden : n_in), sizeof(double));
    j->weights.hidden_weight = deal_alloc(n_first, sizeof(double));
    j->weights.hidden_bias = deal_alloc((size_t)n_hidden, sizeof(double));
    if (!j->data.x || !j->weights.weight || !j->weights.hidden_weight ||
        !j->weights.hidden_bias) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(j->data.x, j->x.buf, (size_t)j->x.len);
    j->params.n_hidden = n_hidden;
    return 0;
}

static PyObject *
bytes_of(const double *value, size_t n)
{
    return PyBytes_FromStringAndSize((const char *)value,
                                     (Py_ssize_t)(n * sizeof *value));
}

static PyObject *
head_fit(PyObject *module, PyObject *args)
{
    job j = {0};
    PyObject *on_step, *result = NULL;
    int n_in, n_train, n_hidden, activation, steps, patience;
    unsigned long long seed;
    if (!PyArg_ParseTuple(args, "y*iz*z*iiididiKO:head_fit", &j.x, &n_in, &j.target,
                          &j.cost, &n_train, &n_hidden, &activation, &j.params.fit.l2,
                          &steps, &j.params.fit.tolerance, &patience, &seed, &on_step))
        return NULL;
    j.params.activation = (deal_activation)activation;
    j.params.seed = seed;
    j.params.fit.n_step_max = steps;
    j.params.fit.n_patience = patience;
    j.params.fit.on_step = deal_py_fit_step;
    j.params.fit.context = on_step;
    if (prepare(&j, n_in, n_train, n_hidden) == 0) {
        deal_error err;
        deal_status status;
        Py_BEGIN_ALLOW_THREADS
        status = deal_head_fit(&j.data, &j.params, &j.weights, &j.report, &err);
        Py_END_ALLOW_THREADS
        size_t n_last = (size_t)(n_hidden ? n_hidden : n_in);
        size_t n_first = (size_t)n_hidden * (size_t)n_in;
        if (status != DEAL_OK)
            deal_py_raise(module, &err);
        else
            result = Py_BuildValue("(NdNNN)", bytes_of(j.weights.weight, n_last),
                                   j.weights.bias,
                                   bytes_of(j.weights.hidden_weight, n_first),
                                   bytes_of(j.weights.hidden_bias, (size_t)n_hidden),
                                   deal_py_fit_report(&j.report));
    }
    free_job(&j);
    return result;
}

static PyObject *
head_fit_loss(PyObject *module, PyObject *args)
{
    job j = {0};
    Py_buffer point;
    PyObject *result = NULL;
    int n_in, n_train, n_hidden, activation;
    if (!PyArg_ParseTuple(args, "y*iz*z*iiidy*:head_fit_loss", &j.x, &n_in, &j.target,
                          &j.cost, &n_train, &n_hidden, &activation, &j.params.fit.l2,
                          &point))
        return NULL;
    j.params.activation = (deal_activation)activation;
    double *gradient = NULL, loss;
    if (prepare(&j, n_in, n_train, n_hidden) < 0)
        goto done;
    size_t n = (size_t)n_hidden * (size_t)(n_in + 2) + 1;
    if (n_hidden < 1 || check_size("point", &point, n, sizeof(double)) < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "n_hidden: expected at least 1, got 0");
        goto done;
    }
    deal_error err;
    gradient = deal_alloc(n, sizeof *gradient);
    if (!gradient)
        PyErr_NoMemory();
    else if (deal_head_fit_loss(&j.data, &j.params, point.buf, &loss, gradient, &err) !=
             DEAL_OK)
        deal_py_raise(module, &err);
    else
        result = Py_BuildValue("(dN)", loss, bytes_of(gradient, n));
done:
    deal_free(gradient);
    PyBuffer_Release(&point);
    free_job(&j);
    return result;
}

PyMethodDef deal_py_head_methods[] = {
    {"head", make_head, METH_VARARGS,
     "head(weight, bias, layers, n_embd, pooling, hidden_weight, hidden_bias,\n"
     "     activation, /)\n--\n\n"
     "Capsule of a head over hidden states: float64 weight (n_layers, n_embd), or "
     "with\n"
     "a hidden layer (n_hidden,) and hidden_weight (n_hidden, n_layers, n_embd).\n"
     "pooling: 0 last, 1 mean; activation: 0 tanh, 1 relu, 2 gelu."},
    {"head_decide", decide, METH_VARARGS,
     "head_decide(capsule, x, n, /)\n--\n\n"
     "float64 (n,) before the sigmoid, of pooled states, float32 (n, n_layers, "
     "n_embd)."},
    {"head_fit", head_fit, METH_VARARGS,
     "head_fit(x, n_in, target, cost, n_train, n_hidden, activation, l2, steps,\n"
     "         tolerance, patience, seed, on_step, /)\n--\n\n"
     "(weight, bias, hidden_weight, hidden_bias, (steps, best step, loss, held-out "
     "loss,\nconverged)), float64; target None: x is of pairs; items from n_train on "
     "are held out."},
    {"head_fit_loss", head_fit_loss, METH_VARARGS,
     "head_fit_loss(x, n_in, target, cost, n_train, n_hidden, activation, l2, point, /)"
     "\n--\n\n"
     "(loss, gradient) of a head with a hidden layer at a point, float64."},
    {NULL, NULL, 0, NULL},
};
