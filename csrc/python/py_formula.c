#include "python/py_formula.h"

#include "common/alloc.h"
#include "python/py_status.h"
#include "python/py_texts.h"

typedef struct PyFormula {
    PyObject_HEAD
    deal_formula formula; // of the arrays below
    deal_term *term;
    double *number;
    int32_t n_reward;
} PyFormula;

static int
read_terms(PyFormula *self, PyObject *terms)
{
    Py_ssize_t n = PyTuple_GET_SIZE(terms);
    self->term = deal_alloc_zero((size_t)n, sizeof *self->term);
    if (n > INT32_MAX || !self->term) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t t = 0; t < n; t++) {
        PyObject *row = PyTuple_GET_ITEM(terms, t);
        int kind;
        deal_term *term = &self->term[t];
        if (!PyTuple_Check(row)) {
            PyErr_SetString(PyExc_TypeError, "terms: expected (kind, i, n, x)");
            return -1;
        }
        if (!PyArg_ParseTuple(row, "iiid;terms: expected (kind, i, n, x)", &kind,
                              &term->i, &term->n, &term->x))
            return -1;
        term->kind = (deal_term_kind)kind;
    }
    self->formula.term = self->term;
    self->formula.n_term = (int32_t)n;
    return 0;
}

static int
read_numbers(PyFormula *self, PyObject *numbers)
{
    Py_ssize_t n = PySequence_Size(numbers);
    if (n < 0)
        return -1;
    if (n > INT32_MAX) {
        PyErr_NoMemory();
        return -1;
    }
    self->number = deal_py_doubles(numbers, (int32_t)n, "numbers");
    self->formula.number = self->number;
    self->formula.n_number = (int32_t)n;
    return self->number ? 0 : -1;
}

static PyObject *
formula_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keyword[] = {"terms", "numbers", "n_reward", NULL};
    PyObject *terms, *numbers;
    int n_reward;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!Oi:Formula", keyword,
                                     &PyTuple_Type, &terms, &numbers, &n_reward))
        return NULL;
    PyFormula *self = (PyFormula *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->n_reward = n_reward > 0 ? n_reward : 0;
    deal_error err;
    if (read_terms(self, terms) < 0 || read_numbers(self, numbers) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    if (deal_formula_check(&self->formula, n_reward, &err) != DEAL_OK) {
        Py_DECREF(self);
        return deal_py_raise(PyType_GetModule(type), &err);
    }
    return (PyObject *)self;
}

static PyObject *
formula_value(PyObject *object, PyObject *args)
{
    const PyFormula *self = (const PyFormula *)object;
    PyObject *scores;
    double *score;
    int position;
    if (!PyArg_ParseTuple(args, "Oi:value", &scores, &position) ||
        !(score = deal_py_doubles(scores, self->n_reward, "scores")))
        return NULL;
    double value =
        deal_formula_value(&self->formula, score, position < 0 ? 0 : position);
    deal_free(score);
    return PyFloat_FromDouble(value);
}

static PyObject *
formula_range(PyObject *object, PyObject *args)
{
    const PyFormula *self = (const PyFormula *)object;
    PyObject *lows, *highs;
    double *low, *high, from, to;
    int position;
    if (!PyArg_ParseTuple(args, "OOi:range", &lows, &highs, &position) ||
        !(low = deal_py_doubles(lows, self->n_reward, "low")))
        return NULL;
    high = deal_py_doubles(highs, self->n_reward, "high");
    if (!high) {
        deal_free(low);
        return NULL;
    }
    deal_formula_range(&self->formula, low, high, position < 0 ? 0 : position, &from,
                       &to);
    deal_free(low);
    deal_free(high);
    return Py_BuildValue("dd", from, to);
}

int
deal_py_formula_get(PyObject *module, PyObject *object, deal_formula *formula)
{
    PyTypeObject *type = deal_module_state_get(module)->formula_type;
    if (object != Py_None && !PyObject_TypeCheck(object, type)) {
        PyErr_Format(PyExc_TypeError, "formula: expected Formula or None, got %s",
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    *formula = object == Py_None ? (deal_formula){0} : ((PyFormula *)object)->formula;
    return 0;
}

static void
formula_dealloc(PyObject *object)
{
    PyFormula *self = (PyFormula *)object;
    PyTypeObject *type = Py_TYPE(object);
    deal_free(self->term);
    deal_free(self->number);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef formula_methods[] = {
    {"value", formula_value, METH_VARARGS,
     "value($self, scores, position, /)\n--\n\nOf these scores (n_reward,), in a "
     "decision "
     "before which\nthe text had `position` tokens."},
    {"range", formula_range, METH_VARARGS,
     "range($self, low, high, position, /)\n--\n\n(low, high) of that, where scores "
     "lie in "
     "these ranges."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot formula_slots[] = {
    {Py_tp_doc, (void *)"Formula(terms, numbers, n_reward)\n--\n\nTerms (kind, i, n, "
                        "x) in postfix order, as in search/formula.h."},
    {Py_tp_new, formula_new},
    {Py_tp_dealloc, formula_dealloc},
    {Py_tp_methods, formula_methods},
    {0, NULL},
};

static PyType_Spec formula_spec = {
    .name = "deal._core.Formula",
    .basicsize = sizeof(PyFormula),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = formula_slots,
};

int
deal_py_formula_register(PyObject *module)
{
    return deal_py_add_type(module, &formula_spec,
                            &deal_module_state_get(module)->formula_type);
}
