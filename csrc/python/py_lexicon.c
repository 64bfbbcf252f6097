#include "python/py_lexicon.h"

#include <string.h>

#include "common/alloc.h"
#include "common/clock.h"
#include "python/py_reward.h"
#include "python/py_status.h"
#include "python/py_texts.h"
#include "reward/lexicon.h"

static void
destroy_lexicon(PyObject *capsule)
{
    deal_reward_lexicon_free(PyCapsule_GetPointer(capsule, DEAL_REWARD_CAPSULE));
}

static PyObject *
make_lexicon(PyObject *module, PyObject *args)
{
    PyObject *entries, *weights, *negators, *capsule = NULL;
    int window, per;
    double negation, alpha;
    if (!PyArg_ParseTuple(args, "OOOidid:lexicon", &entries, &weights, &negators,
                          &window, &negation, &per, &alpha))
        return NULL;
    deal_py_texts entry = {0}, negator = {0};
    double *weight = NULL;
    if (deal_py_texts_init(&entry, entries, "entries") < 0 ||
        deal_py_texts_init(&negator, negators, "negators") < 0 ||
        !(weight = deal_py_doubles(weights, entry.n, "weights")))
        goto done;
    const deal_lexicon_params params = {
        .n_entry = entry.n,
        .n_negator = negator.n,
        .entry = entry.text,
        .entry_size = entry.size,
        .weight = weight,
        .negator = negator.text,
        .negator_size = negator.size,
        .window = window,
        .negation = negation,
        .per = (deal_lexicon_per)per,
        .alpha = alpha,
    };
    deal_reward *reward;
    deal_error err;
    if (deal_reward_lexicon_new(&params, &reward, &err) != DEAL_OK)
        deal_py_raise(module, &err);
    else
        capsule =
            deal_py_reward_wrap(reward, destroy_lexicon, deal_reward_lexicon_free);
done:
    deal_free(weight);
    deal_py_texts_free(&negator);
    deal_py_texts_free(&entry);
    return capsule;
}

// ---- Time ---------------------------------------------------------------------------

// Bytes from `at` on of a token of about `token_size`, which ends with a character.
static size_t
size_of_token(const char *text, size_t size, size_t at, size_t token_size)
{
    size_t end = token_size < size - at ? at + token_size : size;
    while (end < size && ((unsigned char)text[end] & 0xC0) == 0x80)
        end++;
    return end - at;
}

// Reads one text token by token and scores its end.
static int
read_text(const deal_reward *r, void *state, const char *text, size_t size,
          size_t token_size, char *message)
{
    const deal_reward_prompt prompt = {
        .text = "", .n_new_max = INT32_MAX, .token_size_max = (int32_t)token_size};
    int code = r->init(r->self, state, &prompt, message);
    if (code != 0)
        return code;
    for (size_t at = 0, n; at < size && code == 0; at += n) {
        n = size_of_token(text, size, at, token_size);
        code = r->advance(r->self, state, 1, text + at, n, message);
    }
    double score;
    if (code == 0)
        code = r->score(r->self, state, 1, &score, message);
    if (r->drop)
        r->drop(r->self, state);
    return code;
}

static PyObject *
reward_seconds(PyObject *module, PyObject *args)
{
    PyObject *capsule, *list, *result = NULL;
    int token_size, n_times, code = 0;
    if (!PyArg_ParseTuple(args, "OOii:reward_seconds", &capsule, &list, &token_size,
                          &n_times))
        return NULL;
    const deal_reward *r = deal_py_reward_get(capsule);
    if (!r)
        return NULL;
    if (r->score_texts || token_size < 1)
        return PyErr_Format(PyExc_ValueError, "reward '%s': expected %s", r->name,
                            r->score_texts ? "an incremental one"
                                           : "token_size of at least 1");
    char message[DEAL_REWARD_MESSAGE_SIZE + 2] = "";
    deal_py_texts texts = {0};
    void *state = deal_alloc(r->state_size, 1);
    if (!state) {
        PyErr_NoMemory();
    } else if (deal_py_texts_init(&texts, list, "texts") == 0) {
        double before, after;
        Py_BEGIN_ALLOW_THREADS
        before = deal_clock_thread_seconds();
        for (int k = 0; k < n_times; k++)
            for (int32_t i = 0; i < texts.n && code == 0; i++)
                code = read_text(r, state, texts.text[i], texts.size[i],
                                 (size_t)token_size, message);
        after = deal_clock_thread_seconds();
        Py_END_ALLOW_THREADS
        if (code == 0) {
            result = PyFloat_FromDouble(after - before);
        } else {
            deal_error err;
            deal_fail(&err, DEAL_ERR_REWARD, "reward '%s': %s", r->name, message);
            deal_py_raise(module, &err);
        }
    }
    deal_py_texts_free(&texts);
    deal_free(state);
    return result;
}

PyMethodDef deal_py_lexicon_methods[] = {
    {"lexicon", make_lexicon, METH_VARARGS,
     "lexicon(entries, weights, negators, window, negation, per, alpha, /)\n--\n\n"
     "Capsule of the lexicon reward. per: 0 text, 1 word, 2 match."},
    {"reward_seconds", reward_seconds, METH_VARARGS,
     "reward_seconds(capsule, texts, token_size, n_times, /)\n--\n\n"
     "Processor seconds in which an incremental reward reads texts, n_times over, in\n"
     "tokens of token_size bytes, and scores each at its end; on one core, without\n"
     "the GIL."},
    {NULL, NULL, 0, NULL},
};
