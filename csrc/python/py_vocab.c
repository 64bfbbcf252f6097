/* deal._core.Vocab, the piece table, and deal._core.Detokenizer, one text in the
 * making. Both only wrap tokenizer/; the tables themselves come from deal/tokenizer.py.
 */
#include "python/py_vocab.h"

#include "common/alloc.h"
#include "python/module.h"
#include "python/py_array.h"
#include "python/py_status.h"
#include "tokenizer/detok.h"

typedef struct PyDetokenizer {
    PyObject_HEAD
    PyVocab *vocab;
    deal_detok detok;
    int32_t *tokens; // (tokens_cap,) of which n_tokens are used
    size_t n_tokens, tokens_cap;
    deal_bytes out; // scratch, kept between calls
} PyDetokenizer;

// ---- Vocab
// ---------------------------------------------------------------------------

// Lays the pieces of a list of bytes end to end; the caller frees both arrays.
static int
join_pieces(PyObject *pieces, uint8_t **bytes, int64_t **offset)
{
    Py_ssize_t n = PyList_GET_SIZE(pieces);
    *offset = deal_alloc((size_t)n + 1, sizeof **offset);
    if (!*offset) {
        PyErr_NoMemory();
        return -1;
    }
    (*offset)[0] = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *piece = PyList_GET_ITEM(pieces, i);
        if (!PyBytes_Check(piece)) {
            PyErr_Format(PyExc_TypeError, "pieces[%zd]: expected bytes, got %s", i,
                         Py_TYPE(piece)->tp_name);
            return -1;
        }
        (*offset)[i + 1] = (*offset)[i] + PyBytes_GET_SIZE(piece);
    }
    *bytes = deal_alloc((size_t)(*offset)[n], 1);
    if (!*bytes) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *piece = PyList_GET_ITEM(pieces, i);
        memcpy(*bytes + (*offset)[i], PyBytes_AS_STRING(piece),
               (size_t)PyBytes_GET_SIZE(piece));
    }
    return 0;
}

static PyObject *
vocab_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keyword[] = {"pieces", "kinds", "byte_rule", "strips_leading_space",
                              NULL};
    PyObject *pieces, *kinds;
    int byte_rule, leading_space;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!Sii:Vocab", keyword, &PyList_Type,
                                     &pieces, &kinds, &byte_rule, &leading_space))
        return NULL;
    Py_ssize_t n = PyList_GET_SIZE(pieces);
    if (n != PyBytes_GET_SIZE(kinds) || n > INT32_MAX)
        return PyErr_Format(PyExc_ValueError,
                            "kinds: expected one byte for each of %zd pieces, got %zd",
                            n, PyBytes_GET_SIZE(kinds));
    PyVocab *self = (PyVocab *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    uint8_t *bytes = NULL;
    int64_t *offset = NULL;
    int failed = join_pieces(pieces, &bytes, &offset);
    if (!failed) {
        deal_error err;
        failed =
            deal_vocab_new((int32_t)n, bytes, (size_t)offset[n], offset,
                           (const uint8_t *)PyBytes_AS_STRING(kinds),
                           (deal_byte_rule)byte_rule, (deal_leading_space)leading_space,
                           &self->vocab, &err) != DEAL_OK;
        if (failed)
            deal_py_raise(PyType_GetModule(type), &err);
    }
    deal_free(bytes);
    deal_free(offset);
    if (failed)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int
vocab_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void
vocab_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    deal_vocab_free(((PyVocab *)self)->vocab);
    type->tp_free(self);
    Py_DECREF(type);
}

static Py_ssize_t
vocab_len(PyObject *self)
{
    return deal_vocab_size(((PyVocab *)self)->vocab);
}

// The id in `arg`, or -1 with an exception that names it and the vocabulary's size.
static int32_t
read_id(const deal_vocab *vocab, PyObject *arg)
{
    if (!PyIndex_Check(arg)) {
        PyErr_Format(PyExc_TypeError, "token id: expected an integer, got %s",
                     Py_TYPE(arg)->tp_name);
        return -1;
    }
    Py_ssize_t id =
        PyNumber_AsSsize_t(arg, NULL); // clips, so that the check below sees it
    if (id == -1 && PyErr_Occurred())
        return -1;
    int32_t n_vocab = deal_vocab_size(vocab);
    if (id < 0 || id >= n_vocab) {
        PyErr_Format(PyExc_ValueError,
                     "token id: expected 0 to %d (vocabulary of %d), got %R",
                     (int)n_vocab - 1, (int)n_vocab, arg);
        return -1;
    }
    return (int32_t)id;
}

static PyObject *
vocab_piece(PyObject *self, PyObject *arg)
{
    const deal_vocab *vocab = ((PyVocab *)self)->vocab;
    int32_t id = read_id(vocab, arg);
    if (id < 0)
        return NULL;
    size_t size;
    const uint8_t *piece = deal_vocab_piece(vocab, id, &size);
    return PyBytes_FromStringAndSize((const char *)piece, (Py_ssize_t)size);
}

static PyObject *
vocab_kind(PyObject *self, PyObject *arg)
{
    const deal_vocab *vocab = ((PyVocab *)self)->vocab;
    int32_t id = read_id(vocab, arg);
    return id < 0 ? NULL : PyLong_FromLong((long)deal_vocab_piece_kind(vocab, id));
}

// Everything `tokens` decode to, emitted and pending.
static deal_status
decode_all(const deal_vocab *vocab, const int32_t *tokens, int32_t n_tokens,
           bool continues, deal_bytes *out, deal_error *err)
{
    deal_detok detok;
    deal_detok_init(&detok, vocab, continues);
    for (int32_t i = 1; i <= n_tokens; i++)
        DEAL_TRY(deal_detok_push(vocab, &detok, tokens, i, out, err));
    return deal_detok_pending(vocab, &detok, tokens, n_tokens, out, err);
}

static PyObject *
text_of(const deal_bytes *bytes)
{
    return PyUnicode_DecodeUTF8(bytes->size ? (const char *)bytes->data : "",
                                (Py_ssize_t)bytes->size, "strict");
}

static PyObject *
vocab_decode(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keyword[] = {"ids", "continues", NULL};
    PyObject *object;
    int continues = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|p:decode", keyword, &object,
                                     &continues))
        return NULL;
    int32_t *ids, n_ids;
    if (deal_py_ids(object, "ids", &ids, &n_ids) < 0)
        return NULL;
    deal_bytes out = {0};
    deal_error err;
    PyObject *text = NULL;
    if (decode_all(((PyVocab *)self)->vocab, ids, n_ids, continues != 0, &out, &err) ==
        DEAL_OK)
        text = text_of(&out);
    else
        deal_py_raise(PyType_GetModule(Py_TYPE(self)), &err);
    deal_bytes_free(&out);
    deal_free(ids);
    return text;
}

static PyObject *
vocab_detokenizer(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keyword[] = {"continues", NULL};
    int continues = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p:detokenizer", keyword,
                                     &continues))
        return NULL;
    PyObject *module = PyType_GetModule(Py_TYPE(self));
    if (!module)
        return NULL;
    PyTypeObject *type = deal_module_state_get(module)->detokenizer_type;
    PyDetokenizer *made = (PyDetokenizer *)type->tp_alloc(type, 0);
    if (!made)
        return NULL;
    made->vocab = (PyVocab *)Py_NewRef(self);
    deal_detok_init(&made->detok, made->vocab->vocab, continues != 0);
    return (PyObject *)made;
}

PyDoc_STRVAR(vocab_doc,
             "Vocab(pieces, kinds, byte_rule, strips_leading_space)\n--\n\n"
             "What every token id stands for, as bytes. `pieces` is a list of bytes,\n"
             "`kinds` has one deal_piece_kind each; the rules are those of vocab.h.");

static PyMethodDef vocab_methods[] = {
    {"piece", vocab_piece, METH_O, "piece($self, id, /)\n--\n\nBytes of a piece."},
    {"kind", vocab_kind, METH_O,
     "kind($self, id, /)\n--\n\n0 text, 1 special, 2 byte, 3 literal text."},
    {"decode", (PyCFunction)(void (*)(void))vocab_decode, METH_VARARGS | METH_KEYWORDS,
     "decode($self, /, ids, continues=False)\n--\n\n"
     "Text of a list or array of ids, without special tokens. `continues` keeps a\n"
     "leading space that the tokenizer would drop at the start of a text."},
    {"detokenizer", (PyCFunction)(void (*)(void))vocab_detokenizer,
     METH_VARARGS | METH_KEYWORDS,
     "detokenizer($self, /, continues=False)\n--\n\nA Detokenizer at the start of a "
     "text."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot vocab_slots[] = {
    {Py_tp_doc, (void *)vocab_doc},
    {Py_tp_new, vocab_new},
    {Py_tp_dealloc, vocab_dealloc},
    {Py_tp_traverse, vocab_traverse},
    {Py_sq_length, vocab_len},
    {Py_tp_methods, vocab_methods},
    {0, NULL},
};

static PyType_Spec vocab_spec = {
    .name = "deal._core.Vocab",
    .basicsize = sizeof(PyVocab),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = vocab_slots,
};

// ---- Detokenizer
// ---------------------------------------------------------------------

static int
detokenizer_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((PyDetokenizer *)self)->vocab);
    return 0;
}

// No clear: the only reference leads to an immutable object that refers to nothing
// back.
static void
detokenizer_dealloc(PyObject *object)
{
    PyDetokenizer *self = (PyDetokenizer *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_XDECREF(self->vocab);
    deal_free(self->tokens);
    deal_bytes_free(&self->out);
    type->tp_free(object);
    Py_DECREF(type);
}

static int
append_token(PyDetokenizer *self, int32_t token)
{
    if (self->n_tokens == INT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "detokenizer: too many tokens");
        return -1;
    }
    if (!deal_reserve(&self->tokens, &self->tokens_cap, self->n_tokens,
                      self->n_tokens + 1, sizeof *self->tokens)) {
        PyErr_NoMemory();
        return -1;
    }
    self->tokens[self->n_tokens++] = token;
    return 0;
}

static PyObject *
detokenizer_push(PyObject *object, PyObject *arg)
{
    PyDetokenizer *self = (PyDetokenizer *)object;
    const deal_vocab *vocab = self->vocab->vocab;
    int32_t token = read_id(vocab, arg);
    if (token < 0 || append_token(self, token) < 0)
        return NULL;
    self->out.size = 0;
    deal_error err;
    if (deal_detok_push(vocab, &self->detok, self->tokens, (int32_t)self->n_tokens,
                        &self->out, &err) != DEAL_OK) {
        self->n_tokens--;
        return deal_py_raise(PyType_GetModule(Py_TYPE(object)), &err);
    }
    return text_of(&self->out);
}

static PyObject *
detokenizer_pending(PyObject *object, PyObject *unused)
{
    (void)unused;
    PyDetokenizer *self = (PyDetokenizer *)object;
    self->out.size = 0;
    deal_error err;
    if (deal_detok_pending(self->vocab->vocab, &self->detok, self->tokens,
                           (int32_t)self->n_tokens, &self->out, &err) != DEAL_OK)
        return deal_py_raise(PyType_GetModule(Py_TYPE(object)), &err);
    return text_of(&self->out);
}

static PyMethodDef detokenizer_methods[] = {
    {"push", detokenizer_push, METH_O,
     "push($self, id, /)\n--\n\nAdds a token; the text that became final, whole "
     "characters."},
    {"pending", detokenizer_pending, METH_NOARGS,
     "pending($self, /)\n--\n\nWhat is not final yet, as decode would show it were "
     "this the "
     "end."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot detokenizer_slots[] = {
    {Py_tp_doc, (void *)"One text in the making; made by Vocab.detokenizer()."},
    {Py_tp_dealloc, detokenizer_dealloc},
    {Py_tp_traverse, detokenizer_traverse},
    {Py_tp_methods, detokenizer_methods},
    {0, NULL},
};

static PyType_Spec detokenizer_spec = {
    .name = "deal._core.Detokenizer",
    .basicsize = sizeof(PyDetokenizer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = detokenizer_slots,
};

int
deal_py_vocab_register(PyObject *module)
{
    deal_module_state *state = deal_module_state_get(module);
    if (deal_py_add_type(module, &vocab_spec, &state->vocab_type) < 0)
        return -1;
    return deal_py_add_type(module, &detokenizer_spec, &state->detokenizer_type);
}
