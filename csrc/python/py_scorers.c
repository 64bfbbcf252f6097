#include "python/py_scorers.h"

#include "common/alloc.h"
#include "common/reward.h"
#include "python/module.h"
#include "python/py_reward.h"
#include "python/py_status.h"
#include "reward/format.h"
#include "reward/keywords.h"
#include "reward/length.h"
#include "reward/repetition.h"

// A capsule that frees `reward` with `destroy`; frees it at once where there is none.
static void
destroy_keywords(PyObject *capsule)
{
    deal_reward_keywords_free(PyCapsule_GetPointer(capsule, DEAL_REWARD_CAPSULE));
}

static void
destroy_length(PyObject *capsule)
{
    deal_reward_length_free(PyCapsule_GetPointer(capsule, DEAL_REWARD_CAPSULE));
}

static void
destroy_repetition(PyObject *capsule)
{
    deal_reward_repetition_free(PyCapsule_GetPointer(capsule, DEAL_REWARD_CAPSULE));
}

static void
destroy_format(PyObject *capsule)
{
    deal_reward_format_free(PyCapsule_GetPointer(capsule, DEAL_REWARD_CAPSULE));
}

// ---- Keywords -----------------------------------------------------------------------

// Forms as C arrays; `row` holds the references that keep the strings alive.
typedef struct form_list {
    PyObject **row; // (n_concept,) sequences from PySequence_Fast
    const char **form;
    size_t *size;
    int32_t *i_concept;
    int32_t n_concept, n_form;
} form_list;

static void
free_forms(form_list *list)
{
    for (int32_t c = 0; list->row && c < list->n_concept; c++)
        Py_XDECREF(list->row[c]);
    deal_free(list->row);
    deal_free(list->form);
    deal_free(list->size);
    deal_free(list->i_concept);
}

// Takes references to every concept's forms and counts them.
static int
read_rows(PyObject *concepts, form_list *list)
{
    Py_ssize_t n_form = 0;
    for (int32_t c = 0; c < list->n_concept; c++) {
        PyObject *row = PySequence_Tuple(PyList_GET_ITEM(concepts, c));
        if (!row)
            return -1;
        list->row[c] = row;
        n_form += PyTuple_GET_SIZE(row);
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(row); i++)
            if (!PyUnicode_Check(PyTuple_GET_ITEM(row, i))) {
                PyErr_Format(PyExc_TypeError, "concepts[%d]: expected str, got %s",
                             (int)c, Py_TYPE(PyTuple_GET_ITEM(row, i))->tp_name);
                return -1;
            }
    }
    if (n_form > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "concepts: too many forms");
        return -1;
    }
    list->n_form = (int32_t)n_form;
    return 0;
}

static int
read_forms(PyObject *concepts, form_list *list)
{
    if (PyList_GET_SIZE(concepts) > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "concepts: too many");
        return -1;
    }
    list->n_concept = (int32_t)PyList_GET_SIZE(concepts);
    list->row = deal_alloc_zero((size_t)list->n_concept, sizeof *list->row);
    if (!list->row) {
        PyErr_NoMemory();
        return -1;
    }
    if (read_rows(concepts, list) < 0)
        return -1;
    list->form = deal_alloc((size_t)list->n_form, sizeof *list->form);
    list->size = deal_alloc((size_t)list->n_form, sizeof *list->size);
    list->i_concept = deal_alloc((size_t)list->n_form, sizeof *list->i_concept);
    if (!list->form || !list->size || !list->i_concept) {
        PyErr_NoMemory();
        return -1;
    }
    int32_t n = 0;
    for (int32_t c = 0; c < list->n_concept; c++)
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(list->row[c]); i++, n++) {
            Py_ssize_t size;
            list->form[n] =
                PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(list->row[c], i), &size);
            if (!list->form[n])
                return -1;
            list->size[n] = (size_t)size;
            list->i_concept[n] = c;
        }
    return 0;
}

static PyObject *
keywords_of(PyObject *module, int mode, const form_list *list, int32_t n_forbidden)
{
    deal_reward *reward;
    deal_error err;
    if (deal_reward_keywords_new((deal_keywords_mode)mode,
                                 list->n_concept - n_forbidden, n_forbidden,
                                 list->n_form, list->form, list->size, list->i_concept,
                                 &reward, &err) != DEAL_OK)
        return deal_py_raise(module, &err);
    return deal_py_reward_wrap(reward, destroy_keywords, deal_reward_keywords_free);
}

static PyObject *
make_keywords(PyObject *module, PyObject *args)
{
    PyObject *wanted, *forbidden = NULL;
    int mode = DEAL_KEYWORDS_FRACTION;
    if (!PyArg_ParseTuple(args, "O|O!i:keywords", &wanted, &PyList_Type, &forbidden,
                          &mode))
        return NULL;
    if (!PyList_Check(wanted))
        return PyErr_Format(PyExc_TypeError, "concepts: expected a list, got %s",
                            Py_TYPE(wanted)->tp_name);
    // One list, and a copy, since reading a row may run Python code that changes it.
    Py_ssize_t n_forbidden = forbidden ? PyList_GET_SIZE(forbidden) : 0;
    PyObject *concepts = PyList_GetSlice(wanted, 0, PyList_GET_SIZE(wanted));
    if (!concepts)
        return NULL;
    if (n_forbidden && PyList_SetSlice(concepts, PyList_GET_SIZE(concepts),
                                       PyList_GET_SIZE(concepts), forbidden) < 0) {
        Py_DECREF(concepts);
        return NULL;
    }
    form_list list = {0};
    PyObject *capsule = NULL;
    if (read_forms(concepts, &list) == 0)
        capsule = keywords_of(module, mode, &list, (int32_t)n_forbidden);
    free_forms(&list);
    Py_DECREF(concepts);
    return capsule;
}

// ---- Length -------------------------------------------------------------------------

static PyObject *
make_length(PyObject *module, PyObject *args)
{
    int unit;
    long long min, max;
    if (!PyArg_ParseTuple(args, "iLL:length", &unit, &min, &max))
        return NULL;
    deal_reward *reward;
    deal_error err;
    if (deal_reward_length_new((deal_length_unit)unit, min, max, &reward, &err) !=
        DEAL_OK)
        return deal_py_raise(module, &err);
    return deal_py_reward_wrap(reward, destroy_length, deal_reward_length_free);
}

// ---- Repetition and format ----------------------------------------------------------

static PyObject *
make_repetition(PyObject *module, PyObject *args)
{
    int measure, n;
    long long allowed;
    if (!PyArg_ParseTuple(args, "iiL:repetition", &measure, &n, &allowed))
        return NULL;
    deal_reward *reward;
    deal_error err;
    if (deal_reward_repetition_new((deal_repetition_measure)measure, n, allowed,
                                   &reward, &err) != DEAL_OK)
        return deal_py_raise(module, &err);
    return deal_py_reward_wrap(reward, destroy_repetition, deal_reward_repetition_free);
}

static PyObject *
make_format(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keyword[] = {
        "starts_with", "ends_with",   "bullets",    "paragraphs", "placeholders",
        "highlights",  "letter_case", "postscript", "no_commas",  "quoted",
        "title",       "is_all",      NULL};
    Py_ssize_t starts_size, ends_size;
    long long bullets = -1, paragraphs = -1, placeholders = -1, highlights = -1;
    int letter_case = 0, postscript = 0, no_commas = 0, quoted = 0, title = 0;
    int is_all = 0;
    deal_format_options options = {0};
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "|z#z#LLLLiipppp:format", keyword, &options.starts_with,
            &starts_size, &options.ends_with, &ends_size, &bullets, &paragraphs,
            &placeholders, &highlights, &letter_case, &postscript, &no_commas, &quoted,
            &title, &is_all))
        return NULL;
    options.starts_size = options.starts_with ? (size_t)starts_size : 0;
    options.ends_size = options.ends_with ? (size_t)ends_size : 0;
    options.n_bullets = bullets;
    options.n_paragraphs = paragraphs;
    options.n_placeholders = placeholders;
    options.n_highlights = highlights;
    options.letter_case = (deal_format_case)letter_case;
    options.postscript = (deal_format_postscript)postscript;
    options.has_no_commas = no_commas;
    options.is_quoted = quoted;
    options.has_title = title;
    options.is_all = is_all;
    deal_reward *reward;
    deal_error err;
    if (deal_reward_format_new(&options, &reward, &err) != DEAL_OK)
        return deal_py_raise(module, &err);
    return deal_py_reward_wrap(reward, destroy_format, deal_reward_format_free);
}

PyMethodDef deal_py_scorer_methods[] = {
    {"keywords", make_keywords, METH_VARARGS,
     "keywords(concepts, forbidden=[], mode=0, /)\n--\n\n"
     "Capsule of the keyword reward; concepts and forbidden are lists of lists of "
     "str.\n"
     "mode: 0 fraction, 1 all, 2 any, 3 ordered."},
    {"length", make_length, METH_VARARGS,
     "length(unit, min, max, /)\n--\n\n"
     "Capsule of the length reward. unit: 0 tokens, 1 characters, 2 words, 3 "
     "sentences,\n"
     "4 lines, 5 paragraphs; max < 0: no upper limit."},
    {"repetition", make_repetition, METH_VARARGS,
     "repetition(measure, n, allowed, /)\n--\n\n"
     "Capsule of the repetition reward. measure: 0 share of n-grams, 1 longest "
     "stretch."},
    {"format", (PyCFunction)(void (*)(void))make_format, METH_VARARGS | METH_KEYWORDS,
     "format(starts_with=None, ends_with=None, bullets=-1, paragraphs=-1, "
     "placeholders=-1,\nhighlights=-1, letter_case=0, postscript=0, no_commas=False, "
     "quoted=False,\ntitle=False, is_all=False)\n--\n\n"
     "Capsule of the format reward. Counts < 0: not checked. letter_case: 1 lower, 2 "
     "upper;\npostscript: 1 P.S., 2 P.P.S."},
    {NULL, NULL, 0, NULL},
};
