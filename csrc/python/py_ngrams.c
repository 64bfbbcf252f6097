#include "python/py_ngrams.h"

#include <string.h>

#include "common/alloc.h"
#include "python/py_array.h"
#include "python/py_fit.h"
#include "python/py_reward.h"
#include "python/py_status.h"
#include "python/py_texts.h"
#include "reward/ngram_model.h"
#include "reward/ngram_rows.h"

// What is counted, and the strings that it points to.
typedef struct what {
    deal_ngrams_params params;
    deal_py_texts stop, term;
} what;

static void
free_what(what *w)
{
    deal_py_texts_free(&w->stop);
    deal_py_texts_free(&w->term);
}

static int
read_what(PyObject *tuple, what *w)
{
    PyObject *stop, *terms;
    int kind, n_slot, words[2], characters[2], flags[3], word_size_min;
    if (!PyTuple_Check(tuple) ||
        !PyArg_ParseTuple(tuple, "iiiiiipppiOO", &kind, &n_slot, &words[0], &words[1],
                          &characters[0], &characters[1], &flags[0], &flags[1],
                          &flags[2], &word_size_min, &stop, &terms)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "ngrams: expected a tuple");
        return -1;
    }
    if (deal_py_texts_init(&w->stop, stop, "stop words") < 0 ||
        deal_py_texts_init(&w->term, terms, "terms") < 0)
        return -1;
    if (kind == DEAL_NGRAMS_VOCABULARY && w->term.n != n_slot) {
        PyErr_Format(PyExc_ValueError, "terms: expected %d, got %d", n_slot,
                     (int)w->term.n);
        return -1;
    }
    w->params = (deal_ngrams_params){
        .kind = (deal_ngrams_kind)kind,
        .n_slot = n_slot,
        .words_min = words[0],
        .words_max = words[1],
        .characters_min = characters[0],
        .characters_max = characters[1],
        .is_within_words = flags[0],
        .is_folded = flags[1],
        .is_signed = flags[2],
        .word_size_min = word_size_min,
        .n_stop = w->stop.n,
        .stop = w->stop.text,
        .stop_size = w->stop.size,
        .term = w->term.text,
        .term_size = w->term.size,
    };
    return 0;
}

// ---- The reward ---------------------------------------------------------------------

static void
destroy_model(PyObject *capsule)
{
    deal_reward_ngram_model_free(PyCapsule_GetPointer(capsule, DEAL_REWARD_CAPSULE));
}

static int
check_size(const char *name, const Py_buffer *buffer, int32_t n)
{
    if (buffer->len == n * (Py_ssize_t)sizeof(float))
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected %d float32, got %zd bytes", name,
                 (int)n, buffer->len);
    return -1;
}

static PyObject *
make_model(PyObject *module, PyObject *args)
{
    PyObject *tuple, *capsule = NULL;
    Py_buffer weight, idf;
    double intercept;
    int tf, is_normed;
    if (!PyArg_ParseTuple(args, "Oy*z*dip:ngram_model", &tuple, &weight, &idf,
                          &intercept, &tf, &is_normed))
        return NULL;
    what w = {0};
    if (read_what(tuple, &w) < 0 ||
        check_size("weight", &weight, w.params.n_slot) < 0 ||
        (idf.buf && check_size("idf", &idf, w.params.n_slot) < 0))
        goto done;
    const deal_ngram_model_params params = {
        .ngrams = w.params,
        .weight = weight.buf,
        .idf = idf.buf,
        .intercept = intercept,
        .tf = (deal_ngram_tf)tf,
        .is_normed = is_normed,
    };
    deal_reward *reward;
    deal_error err;
    if (deal_reward_ngram_model_new(&params, &reward, &err) != DEAL_OK)
        deal_py_raise(module, &err);
    else
        capsule =
            deal_py_reward_wrap(reward, destroy_model, deal_reward_ngram_model_free);
done:
    free_what(&w);
    PyBuffer_Release(&weight);
    PyBuffer_Release(&idf);
    return capsule;
}

// ---- The fit ------------------------------------------------------------------------

// Everything that a fit needs, so that it can run without the GIL.
typedef struct job {
    what what;
    deal_py_texts text; // the training ones, then those held out
    int32_t n_train;
    float *label, *cost; // (n_text,)
    int has_idf, tf, is_normed;
    deal_fit_params params;
    double *weight; // (n_slot,)
    float *idf;     // (n_slot,)
    double intercept;
    deal_fit_report report;
    deal_ngrams *ngrams;
    deal_ngram_rows rows[2]; // to train on, held out
} job;

static void
free_job(job *j)
{
    free_what(&j->what);
    deal_py_texts_free(&j->text);
    deal_free(j->label);
    deal_free(j->cost);
    deal_free(j->weight);
    deal_free(j->idf);
    deal_ngrams_free(j->ngrams);
    deal_ngram_rows_free(&j->rows[0]);
    deal_ngram_rows_free(&j->rows[1]);
}

static float *
read_floats(PyObject *list, int32_t n, const char *name)
{
    double *value = deal_py_doubles(list, n, name);
    float *out = value ? deal_alloc((size_t)n, sizeof *out) : NULL;
    for (int32_t i = 0; out && i < n; i++)
        out[i] = (float)value[i];
    if (value && !out)
        PyErr_NoMemory();
    deal_free(value);
    return out;
}

static int
read_job(PyObject *args, job *j)
{
    PyObject *tuple, *texts, *labels, *costs, *on_step;
    int n_train, steps, patience;
    if (!PyArg_ParseTuple(args, "OOOOipipdidiO:ngram_fit", &tuple, &texts, &labels,
                          &costs, &n_train, &j->has_idf, &j->tf, &j->is_normed,
                          &j->params.l2, &steps, &j->params.tolerance, &patience,
                          &on_step))
        return -1;
    if (read_what(tuple, &j->what) < 0 ||
        deal_py_texts_init(&j->text, texts, "texts") < 0 ||
        !(j->label = read_floats(labels, j->text.n, "labels")) ||
        !(j->cost = read_floats(costs, j->text.n, "costs")))
        return -1;
    if (n_train < 1 || n_train > j->text.n) {
        PyErr_Format(PyExc_ValueError, "n_train: expected 1 to %d, got %d",
                     (int)j->text.n, n_train);
        return -1;
    }
    j->n_train = n_train;
    j->params.has_intercept = true;
    j->params.n_step_max = steps;
    j->params.n_patience = patience;
    j->params.on_step = deal_py_fit_step;
    j->params.context = on_step;
    return 0;
}

static deal_fit_rows
fit_rows(const job *j, int part)
{
    const deal_ngram_rows *r = &j->rows[part];
    int32_t begin = part ? j->n_train : 0;
    return (deal_fit_rows){
        .n_row = r->n_row,
        .n_col = r->n_col,
        .first = r->first,
        .column = r->column,
        .value = r->value,
        .target = j->label + begin,
        .cost = j->cost + begin,
    };
}

// Runs without the GIL.
static deal_status
run_job(job *j, deal_error *err)
{
    DEAL_TRY(deal_ngrams_new(&j->what.params, &j->ngrams, err));
    size_t n_slot = (size_t)j->what.params.n_slot;
    j->weight = deal_alloc_zero(n_slot, sizeof *j->weight);
    j->idf = deal_alloc_zero(n_slot, sizeof *j->idf);
    if (!j->weight || !j->idf)
        return deal_fail_memory(err, "ngram fit");
    for (int part = 0; part < 2; part++) {
        int32_t begin = part ? j->n_train : 0, end = part ? j->text.n : j->n_train;
        DEAL_TRY(deal_ngram_rows_init(&j->rows[part], j->ngrams, end - begin,
                                      j->text.text + begin, j->text.size + begin, err));
        if (!part && j->has_idf) // the weights are still free
            deal_ngram_rows_idf(&j->rows[0], j->weight, j->idf);
        deal_ngram_rows_weigh(&j->rows[part], (deal_ngram_tf)j->tf,
                              j->has_idf ? j->idf : NULL, j->is_normed);
    }
    memset(j->weight, 0, n_slot * sizeof *j->weight);
    deal_fit_rows train = fit_rows(j, 0), held_out = fit_rows(j, 1);
    return deal_fit_logistic(&train, held_out.n_row ? &held_out : NULL, &j->params,
                             j->weight, &j->intercept, &j->report, err);
}

static PyObject *
ngram_fit(PyObject *module, PyObject *args)
{
    job j = {0};
    PyObject *result = NULL;
    if (read_job(args, &j) == 0) {
        deal_error err;
        deal_status status;
        Py_BEGIN_ALLOW_THREADS
        status = run_job(&j, &err);
        Py_END_ALLOW_THREADS
        float *weight, *idf;
        int32_t n = j.what.params.n_slot;
        PyObject *weights = NULL, *idfs = NULL;
        if (status != DEAL_OK) {
            deal_py_raise(module, &err);
        } else if ((weights = deal_py_new_f32(1, n, &weight)) &&
                   (idfs = deal_py_new_f32(1, n, &idf))) {
            for (int32_t i = 0; i < n; i++) {
                weight[i] = (float)j.weight[i];
                idf[i] = j.idf[i];
            }
            result = Py_BuildValue("(OOdN)", weights, idfs, j.intercept,
                                   deal_py_fit_report(&j.report));
        }
        Py_XDECREF(weights);
        Py_XDECREF(idfs);
    }
    free_job(&j);
    return result;
}

PyMethodDef deal_py_ngrams_methods[] = {
    {"ngram_model", make_model, METH_VARARGS,
     "ngram_model(what, weight, idf, intercept, tf, is_normed, /)\n--\n\n"
     "Capsule of a linear model over n-grams: float32 weight and idf (n_slot,), idf\n"
     "None: 1. tf: 0 count, 1 binary, 2 log."},
    {"ngram_fit", ngram_fit, METH_VARARGS,
     "ngram_fit(what, texts, labels, costs, n_train, has_idf, tf, is_normed, l2,\n"
     "          steps, tolerance, patience, on_step, /)\n--\n\n"
     "(weight, idf, intercept, (steps, best step, loss, held-out loss, converged)); "
     "the\n"
     "texts from n_train on are held out."},
    {NULL, NULL, 0, NULL},
};
