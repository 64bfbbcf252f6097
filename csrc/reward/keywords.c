/* Fraction of concepts covered, by an Aho-Corasick automaton (A. V. Aho and M. J.
 * Corasick, "Efficient string matching", CACM 18(6), 1975) over case-folded UTF-8.
 *
 * Whole words are part of the patterns. Text is read as its folded bytes, with the
 * symbol EDGE, a byte that UTF-8 never uses, before every character and after the last,
 * unless it would stand between two word characters. A form becomes the same kind of
 * string, EDGE at both its ends, and so matches just where it cuts no word:
 *
 *     form "cat"          | c a t |
 *     text "Cat, catty"   | c a t | , |   | c a t t y |
 *
 * The last EDGE of a text is not fed before the next character is known; a score adds
 * the matches that it would give. Forms match as written, spaces included; nothing is
 * normalised.
 */
#include "reward/keywords.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/alloc.h"
#include "common/unicode.h"
#include "common/utf8.h"

#define EDGE 0xFFu
#define N_SYMBOL 256

// The whole pattern of one form, of `size` symbols at `first` in `symbol`.
typedef struct pattern {
    size_t first, size;
    int64_t n_raw_min; // fewest bytes of text that can spell it
    int32_t i_concept;
    bool begins_word; // its first character is a word character
} pattern;

// Every array is made once; nodes are numbered from the root, 0, parents first.
typedef struct keywords {
    deal_reward reward; // first: the public part
    int32_t n_concept, n_form;
    int32_t n_node, n_class;
    uint8_t class_of[N_SYMBOL]; // class of a symbol; 0: in no pattern
    int32_t *next;              // (n_node, n_class)
    int32_t *fail;              // (n_node,) longest proper suffix that is a node
    int32_t *depth;             // (n_node,) symbols
    int32_t *end;               // (n_node,) longest suffix that ends a form, or 0
    size_t *cover_first; // (n_node + 1,) rows of `cover`; empty unless end[i] == i
    int32_t *cover;      // (cover_first[n_node],) concepts, each once in a row
    pattern *form;       // (n_form,) by rising i_concept
    int32_t *form_first; // (n_concept + 1,) rows of `form`
    uint8_t *symbol;     // (n_symbol,) all patterns, end to end
    int32_t *path;       // (n_symbol,) node after each symbol
    uint8_t *raw_min;    // (n_symbol,) bytes still needed for it; 0 inside one
    size_t n_symbol;
    int64_t
        n_raw_min_max; // over concepts, of their shortest form, a separator included
} keywords;

typedef struct state {
    int32_t node;
    int32_t token_size_max;
    int32_t n_covered;
    int32_t is_word;    // the last character is a word character
    uint64_t covered[]; // ((n_concept + 63) / 64,) bit i: concept i
} state;

// ---- The automaton ------------------------------------------------------------------

// Folds `form` into `symbol`, whose capacity is 2 * size + 1: a character gets one EDGE
// at most, and folding only lengthens some of 2 bytes, to 3. `raw_min` counts, at the
// first symbol of each character, the fewest bytes that stand for it.
static void
spell(const char *form, size_t size, uint8_t *symbol, uint8_t *raw_min, pattern *out)
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
            symbol[n++] = EDGE;
        }
        size_t n_put = deal_unicode_put(code, symbol + n);
        memset(raw_min + n, 0, n_put);
        raw_min[n] = (uint8_t)deal_unicode_fold_size_min(code);
        out->n_raw_min += raw_min[n];
        n += n_put;
        was_word = is_word;
    }
    raw_min[n] = 0;
    symbol[n++] = EDGE;
    out->size = n;
}

static deal_status
check_forms(int32_t n_concept, int32_t n_form, const char *const *form,
            const size_t *form_size, const int32_t *i_concept, size_t *n_symbol_max,
            deal_error *err)
{
    if (n_concept < 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "keywords: expected at least 1 concept, got %d",
                         (int)n_concept);
    size_t total = 0;
    for (int32_t i = 0; i < n_form; i++) {
        if (i_concept[i] < 0 || i_concept[i] >= n_concept)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "keywords: form %d: expected a concept in [0, %d), got %d",
                             (int)i, (int)n_concept, (int)i_concept[i]);
        if (!form_size[i])
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "keywords: concept %d has an empty form",
                             (int)i_concept[i]);
        if (!deal_utf8_is_valid((const uint8_t *)form[i], form_size[i]))
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "keywords: a form of concept %d is not valid UTF-8",
                             (int)i_concept[i]);
        if (form_size[i] > INT32_MAX / 8 - total)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "keywords: all forms together pass %d bytes",
                             (int)(INT32_MAX / 8));
        total += form_size[i];
    }
    *n_symbol_max = 2 * total + (size_t)(n_form > 0 ? n_form : 0);
    return DEAL_OK;
}

// Spells the forms concept by concept.
static deal_status
spell_all(keywords *k, const char *const *form, const size_t *form_size,
          const int32_t *i_concept, size_t n_symbol_max, deal_error *err)
{
    size_t n_form = (size_t)k->n_form, n_concept = (size_t)k->n_concept;
    k->form = deal_alloc(n_form, sizeof *k->form);
    k->form_first = deal_alloc_zero(n_concept + 1, sizeof *k->form_first);
    k->symbol = deal_alloc(n_symbol_max, 1);
    k->raw_min = deal_alloc(n_symbol_max, 1);
    k->path = deal_alloc(n_symbol_max, sizeof *k->path);
    if (!k->form || !k->form_first || !k->symbol || !k->raw_min || !k->path)
        return deal_fail_memory(err, "keywords");
    for (size_t i = 0; i < n_form; i++)
        k->form_first[i_concept[i] + 1]++;
    for (size_t c = 0; c < n_concept; c++) {
        if (!k->form_first[c + 1])
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "keywords: concept %d has no form", (int)c);
        k->form_first[c + 1] += k->form_first[c];
    }
    for (size_t i = n_form;
         i-- > 0;) // shifts each row's start down to where it belongs
        k->form[--k->form_first[i_concept[i] + 1]].first = i;
    for (size_t c = 0; c < n_concept; c++)
        k->form_first[c] = k->form_first[c + 1];
    k->form_first[n_concept] = k->n_form;
    for (size_t i = 0; i < n_form; i++) {
        pattern *p = &k->form[i];
        size_t i_given = p->first;
        p->first = k->n_symbol;
        p->i_concept = i_concept[i_given];
        spell(form[i_given], form_size[i_given], k->symbol + p->first,
              k->raw_min + p->first, p);
        k->n_symbol += p->size;
    }
    for (size_t i = 0; i < k->n_symbol; i++)
        if (!k->class_of[k->symbol[i]])
            k->class_of[k->symbol[i]] =
                (uint8_t)k->n_class++; // at most 1 + 245 of them
    return DEAL_OK;
}

static int32_t *
next_of(const keywords *k, int32_t node, uint8_t symbol)
{
    return &k->next[(size_t)node * (size_t)k->n_class + k->class_of[symbol]];
}

static deal_status
grow_trie(keywords *k, deal_error *err)
{
    size_t n_node_max = k->n_symbol + 1;
    if (n_node_max > SIZE_MAX / (size_t)k->n_class)
        return deal_fail_memory(err, "keywords");
    k->next = deal_alloc_zero(n_node_max * (size_t)k->n_class, sizeof *k->next);
    k->fail = deal_alloc_zero(n_node_max, sizeof *k->fail);
    k->depth = deal_alloc_zero(n_node_max, sizeof *k->depth);
    k->end = deal_alloc_zero(n_node_max, sizeof *k->end);
    k->cover_first = deal_alloc_zero(n_node_max + 1, sizeof *k->cover_first);
    if (!k->next || !k->fail || !k->depth || !k->end || !k->cover_first)
        return deal_fail_memory(err, "keywords");
    k->n_node = 1;
    for (int32_t i = 0; i < k->n_form; i++) {
        const pattern *p = &k->form[i];
        int32_t node = 0;
        for (size_t j = p->first; j < p->first + p->size; j++) {
            int32_t *next = next_of(k, node, k->symbol[j]);
            if (!*next) {
                k->depth[k->n_node] = k->depth[node] + 1;
                *next = k->n_node++;
            }
            node = k->path[j] = *next;
        }
        k->end[node] = node;
    }
    return DEAL_OK;
}

// Breadth first: failure links, the nearest end on each one's suffixes, and transitions
// of every node for every class.
static deal_status
link_nodes(keywords *k, deal_error *err)
{
    int32_t *queue = deal_alloc((size_t)k->n_node, sizeof *queue);
    if (!queue)
        return deal_fail_memory(err, "keywords");
    int32_t n_queue = 0;
    size_t n_class = (size_t)k->n_class;
    queue[n_queue++] = 0;
    for (int32_t i = 0; i < n_queue; i++) {
        int32_t node = queue[i];
        int32_t *row = k->next + (size_t)node * n_class;
        const int32_t *fail_row = k->next + (size_t)k->fail[node] * n_class;
        if (!k->end[node])
            k->end[node] = k->end[k->fail[node]];
        for (size_t c = 1; c < n_class; c++) {
            if (row[c]) {
                k->fail[row[c]] = node ? fail_row[c] : 0;
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
list_covers(keywords *k, deal_error *err)
{
    deal_status status = DEAL_OK;
    int32_t *stamp = deal_alloc_zero((size_t)k->n_concept, sizeof *stamp);
    int32_t *head = deal_alloc_zero((size_t)k->n_node, sizeof *head); // form + 1, or 0
    int32_t *more = deal_alloc_zero((size_t)k->n_form, sizeof *more); // same end node
    if (!stamp || !head || !more) {
        status = deal_fail_memory(err, "keywords");
        goto done;
    }
    for (int32_t i = 0; i < k->n_form; i++) {
        int32_t node = k->path[k->form[i].first + k->form[i].size - 1];
        more[i] = head[node];
        head[node] = i + 1;
    }
    for (int pass = 0; pass < 2; pass++) {
        size_t n = 0;
        memset(stamp, 0, (size_t)k->n_concept * sizeof *stamp);
        for (int32_t node = 1; node < k->n_node; node++) {
            k->cover_first[node] = n;
            if (k->end[node] != node)
                continue;
            for (int32_t e = node; e; e = k->end[k->fail[e]])
                for (int32_t i = head[e]; i; i = more[i - 1]) {
                    int32_t concept = k->form[i - 1].i_concept;
                    if (stamp[concept] == node)
                        continue;
                    stamp[concept] = node;
                    if (pass)
                    k->cover[n] = concept;
                    n++;
                }
        }
        k->cover_first[k->n_node] = n;
        if (!pass && !(k->cover = deal_alloc(n, sizeof *k->cover))) {
            status = deal_fail_memory(err, "keywords");
            goto done;
        }
    }
done:
    deal_free(stamp);
    deal_free(head);
    deal_free(more);
    return status;
}

static void
find_longest_need(keywords *k)
{
    for (int32_t c = 0; c < k->n_concept; c++) {
        int64_t need = INT64_MAX;
        for (int32_t i = k->form_first[c]; i < k->form_first[c + 1]; i++)
            if (k->form[i].n_raw_min + 1 < need)
                need = k->form[i].n_raw_min + 1;
        if (need > k->n_raw_min_max)
            k->n_raw_min_max = need;
    }
}

// ---- The state ----------------------------------------------------------------------

static size_t
n_word_of(const keywords *k)
{
    return ((size_t)k->n_concept + 63) / 64;
}

static bool
is_covered(const state *s, int32_t concept)
{
    return s->covered[concept / 64] >> (concept % 64) & 1;
}

static int
keywords_init(void *self, void *state_bytes, const deal_reward_prompt *prompt,
              char *message)
{
    (void)message;
    state *s = state_bytes;
    memset(s, 0, sizeof *s + n_word_of(self) * sizeof s->covered[0]);
    s->token_size_max = prompt->token_size_max;
    return 0;
}

static void
cover(const keywords *k, state *s, int32_t end)
{
    for (size_t i = k->cover_first[end]; i < k->cover_first[end + 1]; i++) {
        int32_t concept = k->cover[i];
        s->n_covered += !is_covered(s, concept);
        s->covered[concept / 64] |= UINT64_C(1) << (concept % 64);
    }
}

static int
keywords_advance(void *self, void *state_bytes, int32_t token, const char *bytes,
                 size_t size, char *message)
{
    (void)token;
    (void)message;
    const keywords *k = self;
    state *s = state_bytes;
    uint8_t folded[DEAL_UTF8_SIZE_MAX];
    size_t n_byte;
    for (size_t i = 0; i < size; i += n_byte) {
        uint32_t code =
            deal_unicode_next((const uint8_t *)bytes + i, size - i, &n_byte);
        bool is_word = false;
        size_t n_folded = 1;
        folded[0] = 0xFE; // a byte that is no text: in no form, and no word
        if (code != DEAL_UNICODE_INVALID) {
            code = deal_unicode_fold(code);
            is_word = deal_unicode_is_word(code);
            n_folded = deal_unicode_put(code, folded);
        }
        if (!(s->is_word && is_word)) {
            s->node = *next_of(k, s->node, EDGE);
            if (k->end[s->node])
                cover(k, s, k->end[s->node]);
        }
        for (size_t j = 0; j < n_folded; j++)
            s->node = *next_of(k, s->node, folded[j]);
        s->is_word = is_word;
    }
    return 0;
}

// Covered now, were this the end of the text.
static int32_t
n_covered_at_end(const keywords *k, const state *s)
{
    int32_t n = s->n_covered, end = k->end[*next_of(k, s->node, EDGE)];
    if (end)
        for (size_t i = k->cover_first[end]; i < k->cover_first[end + 1]; i++)
            n += !is_covered(s, k->cover[i]);
    return n;
}

static int
keywords_score(void *self, const void *state_bytes, int32_t is_finished, double *score,
               char *message)
{
    (void)is_finished;
    (void)message;
    const keywords *k = self;
    *score = (double)n_covered_at_end(k, state_bytes) / k->n_concept;
    return 0;
}

static bool
is_suffix(const keywords *k, int32_t node, int32_t of)
{
    while (k->depth[of] > k->depth[node])
        of = k->fail[of];
    return of == node;
}

// Whether `n_left` more bytes of text can complete a form of `concept`: all of it, with
// a separator where it cannot follow the last character, or what is missing of a form
// whose beginning the text ends with.
static bool
is_within_reach(const keywords *k, const state *s, int32_t concept, int64_t n_left)
{
    for (int32_t i = k->form_first[concept]; i < k->form_first[concept + 1]; i++) {
        const pattern *p = &k->form[i];
        if (p->n_raw_min + (s->is_word && p->begins_word) <= n_left)
            return true;
        int64_t need = 0;
        for (size_t j = p->size - 1; j-- > 0 && need <= n_left;) {
            need += k->raw_min[p->first + j + 1];
            if (need <= n_left && is_suffix(k, k->path[p->first + j], s->node))
                return true;
        }
    }
    return false;
}

static int
keywords_bounds(void *self, const void *state_bytes, int32_t n_tokens_left, double *low,
                double *high, char *message)
{
    (void)message;
    const keywords *k = self;
    const state *s = state_bytes;
    if (n_tokens_left <= 0) {
        *low = *high = (double)n_covered_at_end(k, s) / k->n_concept;
        return 0;
    }
    *low = (double)s->n_covered / k->n_concept; // a match at the end may yet be undone
    int64_t n_left =
        (int64_t)(s->token_size_max > 0 ? s->token_size_max : 0) * n_tokens_left;
    int32_t n = k->n_concept;
    if (n_left < k->n_raw_min_max) {
        n = s->n_covered;
        for (int32_t c = 0; c < k->n_concept; c++)
            n += !is_covered(s, c) && is_within_reach(k, s, c, n_left);
    }
    *high = (double)n / k->n_concept;
    return 0;
}

// ---- Public -------------------------------------------------------------------------

void
deal_reward_keywords_free(deal_reward *reward)
{
    if (!reward)
        return;
    keywords *k = (keywords *)reward;
    deal_free(k->next);
    deal_free(k->fail);
    deal_free(k->depth);
    deal_free(k->end);
    deal_free(k->cover_first);
    deal_free(k->cover);
    deal_free(k->form);
    deal_free(k->form_first);
    deal_free(k->symbol);
    deal_free(k->path);
    deal_free(k->raw_min);
    deal_free(k);
}

deal_status
deal_reward_keywords_new(int32_t n_concept, int32_t n_form, const char *const *form,
                         const size_t *form_size, const int32_t *i_concept,
                         deal_reward **reward, deal_error *err)
{
    size_t n_symbol_max = 0;
    DEAL_TRY(
        check_forms(n_concept, n_form, form, form_size, i_concept, &n_symbol_max, err));
    keywords *k = deal_alloc_zero(1, sizeof *k);
    if (!k)
        return deal_fail_memory(err, "keywords");
    k->n_concept = n_concept;
    k->n_form = n_form > 0 ? n_form : 0;
    k->n_class = 1;
    deal_status status;
    DEAL_TRY_GOTO(spell_all(k, form, form_size, i_concept, n_symbol_max, err), failed);
    DEAL_TRY_GOTO(grow_trie(k, err), failed);
    DEAL_TRY_GOTO(link_nodes(k, err), failed);
    DEAL_TRY_GOTO(list_covers(k, err), failed);
    find_longest_need(k);
    k->reward = (deal_reward){
        .abi_version = DEAL_REWARD_ABI,
        .struct_size = sizeof(deal_reward),
        .self = k,
        .name = "keywords",
        .low = 0.0,
        .high = 1.0,
        .state_size = sizeof(state) + n_word_of(k) * sizeof(uint64_t),
        .init = keywords_init,
        .advance = keywords_advance,
        .score = keywords_score,
        .bounds = keywords_bounds,
    };
    *reward = &k->reward;
    return DEAL_OK;
failed:
    deal_reward_keywords_free(&k->reward);
    return status;
}
