/* Native rewards of a third party: C, the installed header, and nothing else of deal.
 *
 *     vowels()    capsule: vowels among the ASCII letters of the text, in [0, 1]
 *     letters()   capsule: distinct ASCII letters / 26; its states own memory
 *     shortness() capsule: the form on texts, 1 / (1 + bytes of the text)
 *     n_live()    states of letters() that were made and not dropped
 *
 * and capsules that break the contract, each in one way: see bad().
 */
#include <Python.h>

#include <deal/reward.h>

#include <stdlib.h>
#include <string.h>

static int
is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* ---- vowels: a state of plain bytes ------------------------------------------------- */

typedef struct vowels_state {
    long n_letter, n_vowel;
} vowels_state;

static int
vowels_init(void *self, void *state, const deal_reward_prompt *prompt, char *message)
{
    (void)self;
    (void)prompt;
    (void)message;
    memset(state, 0, sizeof(vowels_state));
    return 0;
}

static int
vowels_advance(void *self, void *state, int32_t token, const char *bytes, size_t size,
               char *message)
{
    vowels_state *s = state;
    (void)self;
    (void)token;
    (void)message;
    for (size_t i = 0; i < size; i++) {
        s->n_letter += is_letter(bytes[i]);
        s->n_vowel += bytes[i] && strchr("aeiouAEIOU", bytes[i]) != NULL;
    }
    return 0;
}

static int
vowels_score(void *self, const void *state, int32_t is_finished, double *score,
             char *message)
{
    const vowels_state *s = state;
    (void)self;
    (void)is_finished;
    (void)message;
    *score = s->n_letter ? (double)s->n_vowel / (double)s->n_letter : 0.0;
    return 0;
}

static const deal_reward vowels = {
    .abi_version = DEAL_REWARD_ABI,
    .struct_size = sizeof(deal_reward),
    .name = "vowels",
    .low = 0.0,
    .high = 1.0,
    .state_size = sizeof(vowels_state),
    .init = vowels_init,
    .advance = vowels_advance,
    .score = vowels_score,
};

/* ---- letters: a state that owns memory ---------------------------------------------- */

static long n_live_states;

static int
letters_init(void *self, void *state, const deal_reward_prompt *prompt, char *message)
{
    char **seen = state;
    (void)self;
    (void)prompt;
    *seen = calloc(26, 1);
    if (!*seen) {
        strcpy(message, "out of memory");
        return 1;
    }
    n_live_states++;
    return 0;
}

static int
letters_fork(void *self, void *to, const void *from, char *message)
{
    if (letters_init(self, to, NULL, message))
        return 1;
    memcpy(*(char **)to, *(char *const *)from, 26);
    return 0;
}

static void
letters_drop(void *self, void *state)
{
    (void)self;
    free(*(char **)state);
    n_live_states--;
}

static int
letters_advance(void *self, void *state, int32_t token, const char *bytes, size_t size,
                char *message)
{
    (void)self;
    (void)token;
    (void)message;
    for (size_t i = 0; i < size; i++)
        if (is_letter(bytes[i]))
            (*(char **)state)[(bytes[i] | 32) - 'a'] = 1;
    return 0;
}

static int
count_seen(const void *state)
{
    int n = 0;
    for (int i = 0; i < 26; i++)
        n += (*(char *const *)state)[i];
    return n;
}

static int
letters_score(void *self, const void *state, int32_t is_finished, double *score,
              char *message)
{
    (void)self;
    (void)is_finished;
    (void)message;
    *score = count_seen(state) / 26.0;
    return 0;
}

static int
letters_bounds(void *self, const void *state, int32_t n_tokens_left, double *low,
               double *high, char *message)
{
    (void)self;
    (void)message;
    *low = count_seen(state) / 26.0;
    *high = n_tokens_left > 0 ? 1.0 : *low;
    return 0;
}

static const deal_reward letters = {
    .abi_version = DEAL_REWARD_ABI,
    .struct_size = sizeof(deal_reward),
    .name = "letters",
    .low = 0.0,
    .high = 1.0,
    .state_size = sizeof(char *),
    .init = letters_init,
    .fork = letters_fork,
    .drop = letters_drop,
    .advance = letters_advance,
    .score = letters_score,
    .bounds = letters_bounds,
};

/* ---- shortness: the form on texts --------------------------------------------------- */

static int
shortness_score_texts(void *self, const char *prompt, size_t prompt_size,
                      const deal_reward_text *texts, int32_t n_texts, double *scores,
                      char *message)
{
    (void)self;
    (void)prompt;
    (void)prompt_size;
    (void)message;
    for (int32_t i = 0; i < n_texts; i++)
        scores[i] = 1.0 / (1.0 + (double)texts[i].size);
    return 0;
}

/* More text is never shorter. */
static int
shortness_bounds_texts(void *self, const char *prompt, size_t prompt_size,
                       const deal_reward_text *texts, const int32_t *n_tokens_left,
                       int32_t n_texts, double *low, double *high, char *message)
{
    (void)self;
    (void)prompt;
    (void)prompt_size;
    (void)message;
    for (int32_t i = 0; i < n_texts; i++) {
        high[i] = 1.0 / (1.0 + (double)texts[i].size);
        low[i] = n_tokens_left[i] ? 0.0 : high[i];
    }
    return 0;
}

static const deal_reward shortness = {
    .abi_version = DEAL_REWARD_ABI,
    .struct_size = sizeof(deal_reward),
    .name = "shortness",
    .low = 0.0,
    .high = 1.0,
    .score_texts = shortness_score_texts,
    .bounds_texts = shortness_bounds_texts,
};

/* ---- positive: share of positive features of the hidden states ----------------------- */

typedef struct positive_state {
    long n_positive, n_all;
} positive_state;

static const int32_t positive_layers[] = {1, -1};

static int
positive_init(void *self, void *state, const deal_reward_prompt *prompt, char *message)
{
    (void)self;
    (void)prompt;
    (void)message;
    *(positive_state *)state = (positive_state){0, 0};
    return 0;
}

static int
positive_advance(void *self, void *state, int32_t token, const char *bytes, size_t size,
                 char *message)
{
    (void)self;
    (void)state;
    (void)token;
    (void)bytes;
    (void)size;
    (void)message;
    return 0;
}

static int
positive_observe(void *self, void *state, int32_t n_tokens, const float *hidden,
                 char *message)
{
    positive_state *s = state;
    (void)self;
    if (s->n_all != n_tokens * 2L * 64) {
        snprintf(message, DEAL_REWARD_MESSAGE_SIZE, "states out of order");
        return 1;
    }
    for (int i = 0; i < 2 * 64; i++)
        s->n_positive += hidden[i] > 0.0f;
    s->n_all += 2 * 64;
    return 0;
}

static int
positive_score(void *self, const void *state, int32_t is_finished, double *score,
               char *message)
{
    const positive_state *s = state;
    (void)self;
    (void)is_finished;
    (void)message;
    *score = (double)s->n_positive / (double)s->n_all;
    return 0;
}

static const deal_reward positive = {
    .abi_version = DEAL_REWARD_ABI,
    .struct_size = sizeof(deal_reward),
    .name = "positive",
    .low = 0.0,
    .high = 1.0,
    .state_size = sizeof(positive_state),
    .init = positive_init,
    .advance = positive_advance,
    .score = positive_score,
    .n_hidden_layers = 2,
    .hidden_layers = positive_layers,
    .n_embd = 64,
    .observe = positive_observe,
};

/* ---- Capsules ----------------------------------------------------------------------- */

static int
failing_advance(void *self, void *state, int32_t token, const char *bytes, size_t size,
                char *message)
{
    (void)self;
    (void)state;
    (void)bytes;
    (void)size;
    snprintf(message, DEAL_REWARD_MESSAGE_SIZE, "no opinion on token %d", (int)token);
    return 1;
}

static int
nan_score(void *self, const void *state, int32_t is_finished, double *score,
          char *message)
{
    (void)self;
    (void)state;
    (void)is_finished;
    (void)message;
    *score = Py_NAN;
    return 0;
}

static void
destroy(PyObject *capsule)
{
    free(PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule)));
}

static PyObject *
capsule_of(const deal_reward *reward, const char *name)
{
    deal_reward *copy = malloc(sizeof *copy);
    if (!copy)
        return PyErr_NoMemory();
    *copy = *reward;
    PyObject *capsule = PyCapsule_New(copy, name, destroy);
    if (!capsule)
        free(copy);
    return capsule;
}

static PyObject *
make_vowels(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return capsule_of(&vowels, DEAL_REWARD_CAPSULE);
}

static PyObject *
make_letters(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return capsule_of(&letters, DEAL_REWARD_CAPSULE);
}

static PyObject *
make_shortness(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return capsule_of(&shortness, DEAL_REWARD_CAPSULE);
}

static PyObject *
make_positive(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return capsule_of(&positive, DEAL_REWARD_CAPSULE);
}

static PyObject *
n_live(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromLong(n_live_states);
}

static PyObject *
make_bad(PyObject *module, PyObject *arg)
{
    const char *how = PyUnicode_AsUTF8(arg);
    const char *name = DEAL_REWARD_CAPSULE;
    deal_reward reward = vowels;
    (void)module;
    if (!how)
        return NULL;
    if (!strcmp(how, "capsule name"))
        name = "deal.reward.v0";
    else if (!strcmp(how, "abi_version"))
        reward.abi_version = DEAL_REWARD_ABI + 1;
    else if (!strcmp(how, "struct_size"))
        reward.struct_size = 8;
    else if (!strcmp(how, "name"))
        reward.name = NULL;
    else if (!strcmp(how, "low <= high"))
        reward.high = Py_NAN;
    else if (!strcmp(how, "score_texts alone"))
        reward.score_texts = shortness_score_texts;
    else if (!strcmp(how, "init, advance and score"))
        reward.advance = NULL;
    else if (!strcmp(how, "hidden states"))
        reward.observe = positive_observe;
    else if (!strcmp(how, "n_hidden_layers"))
        reward.n_hidden_layers = 1;
    else if (!strcmp(how, "is_text_alone"))
        reward.is_text_alone = 1;
    else if (!strcmp(how, "message"))
        reward.advance = failing_advance;
    else if (!strcmp(how, "nan"))
        reward.score = nan_score;
    else
        return PyErr_Format(PyExc_ValueError, "bad: unknown way %R", arg);
    return capsule_of(&reward, name);
}

static PyMethodDef methods[] = {
    {"vowels", make_vowels, METH_NOARGS, NULL},
    {"letters", make_letters, METH_NOARGS, NULL},
    {"shortness", make_shortness, METH_NOARGS, NULL},
    {"positive", make_positive, METH_NOARGS, NULL},
    {"n_live", n_live, METH_NOARGS, NULL},
    {"bad", make_bad, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "scorer_example",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit_scorer_example(void)
{
    return PyModule_Create(&definition);
}
