#include "reward/automaton.h"

#include <string.h>

#include "common/alloc.h"
#include "common/unicode.h"
#include "common/utf8.h"

// Folds `form` into `symbol`, whose capacity is 2 * size + 1: a character gets one EDGE
// at most, and folding only lengthens some of 2 bytes, to 3. `raw_min` counts, at the
// first symbol of each character, the fewest bytes that stand for it.
static void
spell(const char *form, size_t size, uint8_t *symbol, uint8_t *raw_min,
      deal_automaton_pattern *out)
{
    size_t n = 0, n_byte;
    bool was_word = false;
    out->n_raw_min = 0;
    for (size_t i = 0; i < size; i += n_byte) {
        uint32_t code = deal_unicode_fold(
            deal_unicode_next((const uint8_t *)form + i, size - i, &n_byte));
        bool is_word = deal_unicode_is_word(code);
        if (i == 0)
            out->begins_word = is_word;
        if (!(was_word && is_word)) {
            raw_min[n] = 0;
            symbol[n++] = DEAL_AUTOMATON_EDGE;
        }
        size_t n_put = deal_unicode_put(code, symbol + n);
        memset(raw_min + n, 0, n_put);
        raw_min[n] = (uint8_t)deal_unicode_fold_size_min(code);
        out->n_raw_min += raw_min[n];
        n += n_put;
        was_word = is_word;
    }
    out->ends_word = was_word;
    raw_min[n] = 0;
    symbol[n++] = DEAL_AUTOMATON_EDGE;
    out->size = n;
}

static deal_status
check_forms(const char *what, int32_t n_concept, int32_t n_form,
            const char *const *form, const size_t *form_size, const int32_t *i_concept,
            size_t *n_symbol_max, deal_error *err)
{
    if (n_concept < 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "%s: expected at least 1 concept, got %d", what,
                         (int)n_concept);
    size_t total = 0;
    for (int32_t i = 0; i < n_form; i++) {
        if (i_concept[i] < 0 || i_concept[i] >= n_concept)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "%s: form %d: expected a concept in [0, %d), got %d", what,
                             (int)i, (int)n_concept, (int)i_concept[i]);
        if (!form_size[i])
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "%s: concept %d has an empty form", what,
                             (int)i_concept[i]);
        if (!deal_utf8_is_valid((const uint8_t *)form[i], form_size[i]))
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "%s: a form of concept %d is not valid UTF-8", what,
                             (int)i_concept[i]);
        if (form_size[i] > INT32_MAX / 8 - total)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "%s: all forms together pass %d bytes", what,
                             (int)(INT32_MAX / 8));
        total += form_size[i];
    }
    *n_symbol_max = 2 * total + (size_t)(n_form > 0 ? n_form : 0);
    return DEAL_OK;
}

// Spells the forms concept by concept.
static deal_status
spell_all(deal_automaton *a, const char *what, const char *const *form,
          const size_t *form_size, const int32_t *i_concept, size_t n_symbol_max,
          deal_error *err)
{
    size_t n_form = (size_t)a->n_form, n_concept = (size_t)a->n_concept;
    a->form = deal_alloc(n_form, sizeof *a->form);
    a->form_first = deal_alloc_zero(n_concept + 1, sizeof *a->form_first);
    a->symbol = deal_alloc(n_symbol_max, 1);
    a->raw_min = deal_alloc(n_symbol_max, 1);
    a->path = deal_alloc(n_symbol_max, sizeof *a->path);
    if (!a->form || !a->form_first || !a->symbol || !a->raw_min || !a->path)
        return deal_fail_memory(err, what);
    for (size_t i = 0; i < n_form; i++)
        a->form_first[i_concept[i] + 1]++;
    for (size_t c = 0; c < n_concept; c++) {
        if (!a->form_first[c + 1])
            return deal_fail(err, DEAL_ERR_INVALID_ARG, "%s: concept %d has no form",
                             what, (int)c);
        a->form_first[c + 1] += a->form_first[c];
    }
    for (size_t i = n_form; i-- > 0;) // shifts each row's start to where it belongs
        a->form[--a->form_first[i_concept[i] + 1]].first = i;
    for (size_t c = 0; c < n_concept; c++)
        a->form_first[c] = a->form_first[c + 1];
    a->form_first[n_concept] = a->n_form;
    for (size_t i = 0; i < n_form; i++) {
        deal_automaton_pattern *p = &a->form[i];
        size_t i_given = p->first;
        p->first = a->n_symbol;
        p->i_concept = i_concept[i_given];
        spell(form[i_given], form_size[i_given], a->symbol + p->first,
              a->raw_min + p->first, p);
        a->n_symbol += p->size;
    }
    for (size_t i = 0; i < a->n_symbol; i++)
        if (!a->class_of[a->symbol[i]])
            a->class_of[a->symbol[i]] =
                (uint8_t)a->n_class++; // at most 1 + 245 of them
    return DEAL_OK;
}

static deal_status
grow_trie(deal_automaton *a, const char *what, deal_error *err)
{
    size_t n_node_max = a->n_symbol + 1;
    if (n_node_max > SIZE_MAX / (size_t)a->n_class)
        return deal_fail_memory(err, what);
    a->next = deal_alloc_zero(n_node_max * (size_t)a->n_class, sizeof *a->next);
    a->fail = deal_alloc_zero(n_node_max, sizeof *a->fail);
    a->depth = deal_alloc_zero(n_node_max, sizeof *a->depth);
    a->end = deal_alloc_zero(n_node_max, sizeof *a->end);
    a->cover_first = deal_alloc_zero(n_node_max + 1, sizeof *a->cover_first);
    if (!a->next || !a->fail || !a->depth || !a->end || !a->cover_first)
        return deal_fail_memory(err, what);
    a->n_node = 1;
    for (int32_t i = 0; i < a->n_form; i++) {
        const deal_automaton_pattern *p = &a->form[i];
        int32_t node = 0;
        for (size_t j = p->first; j < p->first + p->size; j++) {
            int32_t *next =
                &a->next[(size_t)node * (size_t)a->n_class + a->class_of[a->symbol[j]]];
            if (!*next) {
                a->depth[a->n_node] = a->depth[node] + 1;
                *next = a->n_node++;
            }
            node = a->path[j] = *next;
        }
        a->end[node] = node;
    }
    return DEAL_OK;
}

// Breadth first: failure links, the nearest end on each one's suffixes, and transitions
// of every node for every class.
static deal_status
link_nodes(deal_automaton *a, const char *what, deal_error *err)
{
    int32_t *queue = deal_alloc((size_t)a->n_node, sizeof *queue);
    if (!queue)
        return deal_fail_memory(err, what);
    int32_t n_queue = 0;
    size_t n_class = (size_t)a->n_class;
    queue[n_queue++] = 0;
    for (int32_t i = 0; i < n_queue; i++) {
        int32_t node = queue[i];
        int32_t *row = a->next + (size_t)node * n_class;
        const int32_t *fail_row = a->next + (size_t)a->fail[node] * n_class;
        if (!a->end[node])
            a->end[node] = a->end[a->fail[node]];
        for (size_t c = 1; c < n_class; c++) {
            if (row[c]) {
                a->fail[row[c]] = node ? fail_row[c] : 0;
                queue[n_queue++] = row[c];
            } else if (node) {
                row[c] = fail_row[c];
            }
        }
    }
    deal_free(queue);
    return DEAL_OK;
}

// The concepts that each end node covers, by itself and by its suffixes. Two passes:
// the first counts, the second writes. `stamp` holds the last row a concept went into.
static deal_status
list_covers(deal_automaton *a, const char *what, deal_error *err)
{
    deal_status status = DEAL_OK;
    int32_t *stamp = deal_alloc_zero((size_t)a->n_concept, sizeof *stamp);
    int32_t *head = deal_alloc_zero((size_t)a->n_node, sizeof *head); // form + 1, or 0
    int32_t *more = deal_alloc_zero((size_t)a->n_form, sizeof *more); // same end node
    size_t *at = deal_alloc_zero((size_t)a->n_concept, sizeof *at);   // in `cover`
    if (!stamp || !head || !more || !at) {
        status = deal_fail_memory(err, what);
        goto done;
    }
    for (int32_t i = 0; i < a->n_form; i++) {
        int32_t node = a->path[a->form[i].first + a->form[i].size - 1];
        more[i] = head[node];
        head[node] = i + 1;
    }
    for (int pass = 0; pass < 2; pass++) {
        size_t n = 0;
        memset(stamp, 0, (size_t)a->n_concept * sizeof *stamp);
        for (int32_t node = 1; node < a->n_node; node++) {
            a->cover_first[node] = n;
            if (a->end[node] != node)
                continue;
            for (int32_t e = node; e; e = a->end[a->fail[e]])
                for (int32_t i = head[e]; i; i = more[i - 1]) {
                    int32_t concept = a->form[i - 1].i_concept;
                    if (stamp[concept] != node) {
                        stamp[concept] = node;
                        at[concept] = n++;
                    }
                    if (pass) { // the last one that comes by is the shortest
                        a->cover[at[concept]] = concept;
                        a->cover_size[at[concept]] = a->depth[e];
                    }
                }
        }
        a->cover_first[a->n_node] = n;
        if (pass)
            break;
        a->cover = deal_alloc(n, sizeof *a->cover);
        a->cover_size = deal_alloc(n, sizeof *a->cover_size);
        if (!a->cover || !a->cover_size) {
            status = deal_fail_memory(err, what);
            goto done;
        }
    }
done:
    deal_free(stamp);
    deal_free(head);
    deal_free(more);
    deal_free(at);
    return status;
}

void
deal_automaton_free(deal_automaton *a)
{
    deal_free(a->next);
    deal_free(a->fail);
    deal_free(a->depth);
    deal_free(a->end);
    deal_free(a->cover_first);
    deal_free(a->cover);
    deal_free(a->cover_size);
    deal_free(a->form);
    deal_free(a->form_first);
    deal_free(a->symbol);
    deal_free(a->path);
    deal_free(a->raw_min);
    *a = (deal_automaton){0};
}

deal_status
deal_automaton_init(deal_automaton *a, const char *what, int32_t n_concept,
                    int32_t n_form, const char *const *form, const size_t *form_size,
                    const int32_t *i_concept, deal_error *err)
{
    size_t n_symbol_max = 0;
    DEAL_TRY(check_forms(what, n_concept, n_form, form, form_size, i_concept,
                         &n_symbol_max, err));
    a->n_concept = n_concept;
    a->n_form = n_form > 0 ? n_form : 0;
    a->n_class = 1;
    DEAL_TRY(spell_all(a, what, form, form_size, i_concept, n_symbol_max, err));
    for (uint8_t c = 0; c < 128; c++)
        a->class_of_ascii[c] = a->class_of[deal_unicode_fold(c)];
    DEAL_TRY(grow_trie(a, what, err));
    DEAL_TRY(link_nodes(a, what, err));
    return list_covers(a, what, err);
}
