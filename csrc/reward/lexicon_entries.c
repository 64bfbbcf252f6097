#include "reward/lexicon_entries.h"

#include <math.h>
#include <string.h>

#include "common/alloc.h"
#include "common/unicode.h"
#include "common/utf8.h"
#include "reward/hash.h"

#define REACH_MIN 256 // bytes

uint32_t
deal_lexicon_fold(uint32_t code)
{
    return code == 0x2019 ? '\'' : deal_unicode_fold(code);
}

// ---- Entries as units ---------------------------------------------------------------

// The characters of one entry, folded, and its units by their hashes.
typedef struct spelling {
    uint32_t code[DEAL_LEXICON_CHARACTERS_MAX];
    int32_t n_code;
    uint64_t unit[DEAL_LEXICON_UNITS_MAX];
    int32_t n_unit;
    int32_t size_min;       // fewest bytes that spell it
    int32_t chunk_size_max; // characters; 0: no unit is a chunk
} spelling;

// Bytes of a text that a message shows.
static int
shown(size_t size)
{
    return size < 80 ? (int)size : 80;
}

static deal_status
read_characters(const char *text, size_t size, spelling *s, deal_error *err)
{
    s->n_code = 0;
    s->size_min = 0;
    if (!deal_utf8_is_valid((const uint8_t *)text, size))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "lexicon: an entry is not valid UTF-8");
    size_t n_byte;
    for (size_t i = 0; i < size; i += n_byte) {
        uint32_t code = deal_unicode_next((const uint8_t *)text + i, size - i, &n_byte);
        if (s->n_code == DEAL_LEXICON_CHARACTERS_MAX)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "lexicon: expected entries of at most %d characters, got "
                             "%zu bytes",
                             DEAL_LEXICON_CHARACTERS_MAX, size);
        s->code[s->n_code++] = deal_lexicon_fold(code);
    }
    return DEAL_OK;
}

// Whether word characters begin and go on at i, an inner apostrophe included.
static bool
is_in_word(const uint32_t *code, int32_t i, int32_t n)
{
    if (code[i] == '\'')
        return i > 0 && i + 1 < n && deal_unicode_is_word(code[i - 1]) &&
               deal_unicode_is_word(code[i + 1]);
    return deal_unicode_is_word(code[i]);
}

// Whether a chunk is nothing but words, with a hyphen between two. A hyphen between
// single characters and pairs of them is an emoticon ("x-d").
static bool
is_words(const uint32_t *code, int32_t n)
{
    int32_t n_run = 0, n_run_max = 0;
    bool has_hyphen = false;
    for (int32_t i = 0; i < n; i++) {
        if (is_in_word(code, i, n)) {
            n_run++;
            n_run_max = n_run > n_run_max ? n_run : n_run_max;
        } else if (code[i] == '-' && n_run > 0 && i + 1 < n) {
            n_run = 0;
            has_hyphen = true;
        } else {
            return false;
        }
    }
    return !has_hyphen || n_run_max > 2;
}

static bool
add_unit(spelling *s, uint64_t hash)
{
    if (s->n_unit == DEAL_LEXICON_UNITS_MAX)
        return false;
    s->unit[s->n_unit++] = deal_hash_end(hash);
    return true;
}

static bool
add_chunk(spelling *s, const uint32_t *code, int32_t n)
{
    if (!is_words(code, n)) {
        uint64_t hash = DEAL_LEXICON_CHUNK;
        for (int32_t i = 0; i < n; i++)
            hash = deal_hash_put(hash, code[i]);
        s->chunk_size_max = n > s->chunk_size_max ? n : s->chunk_size_max;
        return add_unit(s, hash);
    }
    for (int32_t i = 0; i < n; i++) {
        uint64_t hash = DEAL_LEXICON_WORD;
        for (; i < n && code[i] != '-'; i++)
            hash = deal_hash_put(hash, code[i]);
        if (!add_unit(s, hash))
            return false;
    }
    return true;
}

static deal_status
spell(const char *text, size_t size, spelling *s, deal_error *err)
{
    DEAL_TRY(read_characters(text, size, s, err));
    s->n_unit = s->chunk_size_max = 0;
    bool is_short = true;
    for (int32_t i = 0; i < s->n_code && is_short;) {
        if (deal_unicode_is_space(s->code[i])) {
            i++;
            continue;
        }
        int32_t begin = i;
        s->size_min += s->size_min > 0; // one character between two chunks
        while (i < s->n_code && !deal_unicode_is_space(s->code[i]))
            s->size_min += (int32_t)deal_unicode_fold_size_min(s->code[i++]);
        is_short = add_chunk(s, s->code + begin, i - begin);
    }
    if (!is_short)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "lexicon: expected entries of at most %d words, got \"%.*s\"",
                         DEAL_LEXICON_UNITS_MAX, shown(size), text);
    if (!s->n_unit)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "lexicon: expected entries with text, got \"%.*s\"",
                         shown(size), text);
    return DEAL_OK;
}

// ---- Tables -------------------------------------------------------------------------

// Adds the unit where it is not there yet. There is room.
static int32_t
put_unit(deal_lexicon_entries *e, uint64_t hash)
{
    size_t mask = e->n_unit_place - 1, i = hash & mask;
    while (e->unit[i].is_used && e->unit[i].hash != hash)
        i = (i + 1) & mask;
    if (!e->unit[i].is_used)
        e->unit[i] = (deal_lexicon_unit){.hash = hash, .node = -1, .is_used = true};
    return (int32_t)i;
}

static size_t
edge_place(const deal_lexicon_entries *e, int32_t parent, int32_t unit)
{
    uint64_t key = (uint64_t)(uint32_t)parent << 32 | (uint32_t)unit;
    size_t mask = e->n_edge_place - 1;
    size_t i = deal_hash_end(key * DEAL_HASH_PRIME) & mask;
    while (e->edge[i].parent >= 0 &&
           (e->edge[i].parent != parent || e->edge[i].unit != unit))
        i = (i + 1) & mask;
    return i;
}

int32_t
deal_lexicon_child(const deal_lexicon_entries *e, int32_t parent, int32_t unit)
{
    const deal_lexicon_edge *edge = &e->edge[edge_place(e, parent, unit)];
    return edge->parent < 0 ? -1 : edge->child;
}

// The node that the units of an entry lead to, made where it is not there yet.
static int32_t
put_path(deal_lexicon_entries *e, const spelling *s)
{
    int32_t node = -1;
    for (int32_t i = 0; i < s->n_unit; i++) {
        int32_t unit = put_unit(e, s->unit[i]), *next = &e->unit[unit].node;
        if (i > 0) {
            deal_lexicon_edge *edge = &e->edge[edge_place(e, node, unit)];
            if (edge->parent < 0)
                *edge = (deal_lexicon_edge){node, unit, -1};
            e->node[node].has_children = true;
            next = &edge->child;
        }
        if (*next < 0) {
            e->node[e->n_node] = (deal_lexicon_node){0};
            *next = e->n_node++;
        }
        node = *next;
    }
    return node;
}

static size_t
n_place_for(size_t n)
{
    size_t place = 16;
    while (place < 2 * n)
        place *= 2;
    return place;
}

static int64_t
fixed(double value)
{
    return (int64_t)rint(value * DEAL_LEXICON_SCALE);
}

static int64_t
greater(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t
lesser(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static deal_status
put_entry(deal_lexicon_entries *e, const spelling *s, double weight, double negation,
          deal_error *err)
{
    if (!(fabs(weight) <= DEAL_LEXICON_WEIGHT_MAX) ||
        !(fabs(weight * negation) <= DEAL_LEXICON_WEIGHT_MAX))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "lexicon: expected weights within %g, negated or not, got %g",
                         DEAL_LEXICON_WEIGHT_MAX, weight);
    deal_lexicon_node *node = &e->node[put_path(e, s)];
    node->is_entry = true;
    node->value = fixed(weight);
    node->negated = fixed(weight * negation);
    e->has_chunks |= s->chunk_size_max > 0;
    if (s->chunk_size_max > e->chunk_size_max)
        e->chunk_size_max = s->chunk_size_max;
    if (!e->size_min || s->size_min < e->size_min)
        e->size_min = s->size_min;
    return DEAL_OK;
}

// ---- Reach --------------------------------------------------------------------------

// most[n] is the most that entries can add whose sizes, each with a byte more, sum up
// to at most n: an unbounded knapsack. gain[s] and loss[s]: of entries of s bytes.
static deal_status
fill_reach(deal_lexicon_entries *e, const int64_t *gain, const int64_t *loss,
           int32_t n_size, deal_error *err)
{
    size_t n = (size_t)e->n_reach + 1;
    e->most = deal_alloc_zero(n, sizeof *e->most);
    e->least = deal_alloc_zero(n, sizeof *e->least);
    if (!e->most || !e->least)
        return deal_fail_memory(err, "lexicon");
    for (int32_t i = 1; i <= e->n_reach; i++) {
        e->most[i] = e->most[i - 1];
        e->least[i] = e->least[i - 1];
        for (int32_t s = 1; s < n_size && s < i; s++) {
            if (gain[s] > 0)
                e->most[i] = greater(e->most[i], gain[s] + e->most[i - s - 1]);
            if (loss[s] < 0)
                e->least[i] = lesser(e->least[i], loss[s] + e->least[i - s - 1]);
        }
    }
    for (int32_t s = 1; s < n_size; s++) {
        double most = (double)gain[s] / (s + 1), least = (double)loss[s] / (s + 1);
        e->rate_most = most > e->rate_most ? most : e->rate_most;
        e->rate_least = least < e->rate_least ? least : e->rate_least;
    }
    return DEAL_OK;
}

int64_t
deal_lexicon_most(const deal_lexicon_entries *e, int64_t n)
{
    if (n <= e->n_reach)
        return n < 0 ? 0 : e->most[n];
    return (int64_t)fmin(ceil(e->rate_most * (double)n), 0x1p61);
}

int64_t
deal_lexicon_least(const deal_lexicon_entries *e, int64_t n)
{
    if (n <= e->n_reach)
        return n < 0 ? 0 : e->least[n];
    return (int64_t)fmax(floor(e->rate_least * (double)n), -0x1p61);
}

// ---- Public -------------------------------------------------------------------------

static deal_status
make_tables(deal_lexicon_entries *e, size_t n_unit, size_t n_negator, deal_error *err)
{
    e->n_unit_place = n_place_for(n_unit + n_negator);
    e->n_edge_place = n_place_for(n_unit);
    e->unit = deal_alloc_zero(e->n_unit_place, sizeof *e->unit);
    e->edge = deal_alloc(e->n_edge_place, sizeof *e->edge);
    e->node = deal_alloc(n_unit, sizeof *e->node);
    if (!e->unit || !e->edge || !e->node)
        return deal_fail_memory(err, "lexicon");
    for (size_t i = 0; i < e->n_edge_place; i++)
        e->edge[i] = (deal_lexicon_edge){-1, -1, -1};
    return DEAL_OK;
}

static deal_status
put_negators(deal_lexicon_entries *e, int32_t n, const char *const *text,
             const size_t *size, deal_error *err)
{
    for (int32_t i = 0; i < n; i++) {
        spelling s;
        DEAL_TRY(spell(text[i], size[i], &s, err));
        if (s.n_unit != 1 || s.chunk_size_max)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "lexicon: negators: expected single words, got \"%.*s\"",
                             shown(size[i]), text[i]);
        e->unit[put_unit(e, s.unit[0])].is_negator = true;
    }
    return DEAL_OK;
}

static void
find_values(deal_lexicon_entries *e)
{
    e->value_min = INT64_MAX;
    e->value_max = INT64_MIN;
    for (int32_t i = 0; i < e->n_node; i++) {
        const deal_lexicon_node *node = &e->node[i];
        if (!node->is_entry)
            continue;
        e->value_min = lesser(e->value_min, lesser(node->value, node->negated));
        e->value_max = greater(e->value_max, greater(node->value, node->negated));
    }
}

// Gains and losses by size, from the nodes: of an entry given twice the last counts.
static deal_status
find_reach(deal_lexicon_entries *e, int32_t n_entry, const char *const *entry,
           const size_t *size, deal_error *err)
{
    int32_t n_size = 4 * DEAL_LEXICON_CHARACTERS_MAX + 1;
    e->n_reach = n_size > REACH_MIN ? n_size : REACH_MIN;
    int64_t *gain = deal_alloc_zero((size_t)n_size, sizeof *gain);
    int64_t *loss = deal_alloc_zero((size_t)n_size, sizeof *loss);
    deal_status status = DEAL_OK;
    if (!gain || !loss)
        DEAL_TRY_GOTO(deal_fail_memory(err, "lexicon"), done);
    int32_t longest = 0;
    for (int32_t i = 0; i < n_entry; i++) {
        spelling s;
        DEAL_TRY_GOTO(spell(entry[i], size[i], &s, err), done);
        const deal_lexicon_node *node = &e->node[put_path(e, &s)];
        int64_t *g = &gain[s.size_min], *l = &loss[s.size_min];
        *g = greater(*g, greater(node->value, node->negated));
        *l = lesser(*l, lesser(node->value, node->negated));
        longest = s.size_min > longest ? s.size_min : longest;
    }
    DEAL_TRY_GOTO(fill_reach(e, gain, loss, longest + 1, err), done);
done:
    deal_free(gain);
    deal_free(loss);
    return status;
}

deal_status
deal_lexicon_entries_init(deal_lexicon_entries *e, int32_t n_entry,
                          const char *const *entry, const size_t *size,
                          const double *weight, int32_t n_negator,
                          const char *const *negator, const size_t *negator_size,
                          double negation, deal_error *err)
{
    if (n_entry < 1 || n_entry > INT32_MAX / 64)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "lexicon: expected 1 to %d entries, got %d", INT32_MAX / 64,
                         (int)n_entry);
    size_t n_unit = 0;
    for (int32_t i = 0; i < n_entry; i++) {
        spelling s;
        DEAL_TRY(spell(entry[i], size[i], &s, err));
        n_unit += (size_t)s.n_unit;
    }
    DEAL_TRY(make_tables(e, n_unit, (size_t)n_negator, err));
    for (int32_t i = 0; i < n_entry; i++) {
        spelling s;
        DEAL_TRY(spell(entry[i], size[i], &s, err));
        DEAL_TRY(put_entry(e, &s, weight[i], negation, err));
    }
    DEAL_TRY(put_negators(e, n_negator, negator, negator_size, err));
    find_values(e);
    return find_reach(e, n_entry, entry, size, err);
}

void
deal_lexicon_entries_free(deal_lexicon_entries *e)
{
    deal_free(e->unit);
    deal_free(e->edge);
    deal_free(e->node);
    deal_free(e->most);
    deal_free(e->least);
    *e = (deal_lexicon_entries){0};
}
