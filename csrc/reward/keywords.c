/* Keywords over the automaton of automaton.h.
 *
 * The last EDGE of a text is not fed before the next character is known; a score adds
 * the matches that it would give.
 *
 * Concepts in order are taken greedily, each at the first end of a match that begins at
 * or after the end of the one before it: no choice reaches further. Where a match
 * begins is told by its length and by how many symbols came since.
 */
#include "reward/keywords.h"

#include <stdbool.h>
#include <string.h>

#include "common/alloc.h"
#include "common/compiler.h"
#include "common/unicode.h"
#include "common/utf8.h"
#include "reward/automaton.h"

typedef struct keywords {
    deal_reward reward; // first: the public part
    deal_keywords_mode mode;
    int32_t n_wanted, n_forbidden;
    deal_automaton automaton;
    // Over concepts, the bytes of their shortest form, a separator included.
    int64_t n_raw_min_max;
    // (n_wanted,) fewest bytes of a concept's form after one of the concept before it.
    int64_t *n_raw_next;
} keywords;

// How far the text has been read.
typedef struct cursor {
    int32_t node;
    int32_t is_word;  // the last character is a word character
    int64_t n_symbol; // fed to the automaton
} cursor;

typedef struct state {
    cursor at;
    int32_t token_size_max;
    int32_t n_met;      // wanted concepts; ORDERED: those taken
    int32_t n_hit;      // forbidden ones
    int64_t i_taken;    // ORDERED: symbols up to the end of the last concept taken
    uint64_t covered[]; // ((n_concept + 63) / 64,) bit i: concept i
} state;

// ---- The state ----------------------------------------------------------------------

static size_t
n_word_of(const keywords *k)
{
    return ((size_t)k->automaton.n_concept + 63) / 64;
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

// Counts of wanted and forbidden concepts with the matches of node `end`, whose EDGE is
// the `i_end`-th symbol.
static void
count_met(const keywords *k, const state *s, int32_t end, int64_t i_end, int32_t *n_met,
          int32_t *n_hit)
{
    const deal_automaton *a = &k->automaton;
    *n_met = s->n_met;
    *n_hit = s->n_hit;
    for (size_t i = a->cover_first[end]; i < a->cover_first[end + 1]; i++) {
        int32_t concept = a->cover[i];
        if (concept >= k->n_wanted)
            *n_hit += !is_covered(s, concept);
        else if (k->mode == DEAL_KEYWORDS_ORDERED)
        *n_met += concept == s->n_met && i_end - s->i_taken >= a->cover_size[i] - 1;
        else *n_met += !is_covered(s, concept);
    }
}

static void
cover(const keywords *k, state *s, int32_t end, int64_t i_end)
{
    const deal_automaton *a = &k->automaton;
    int32_t n_met, n_hit;
    count_met(k, s, end, i_end, &n_met, &n_hit);
    if (n_met > s->n_met)
        s->i_taken = i_end;
    s->n_met = n_met;
    s->n_hit = n_hit;
    for (size_t i = a->cover_first[end]; i < a->cover_first[end + 1]; i++)
        s->covered[a->cover[i] / 64] |= UINT64_C(1) << (a->cover[i] % 64);
}

// One character that is not ASCII, or a byte that is no text; returns its bytes.
static size_t
advance_other(const keywords *k, state *s, cursor *at, const uint8_t *text, size_t size)
{
    const deal_automaton *a = &k->automaton;
    uint8_t folded[DEAL_UTF8_SIZE_MAX] = {DEAL_AUTOMATON_NO_TEXT};
    size_t n_byte, n_folded = 1;
    bool is_word = false;
    uint32_t code = deal_unicode_next(text, size, &n_byte);
    if (code != DEAL_UNICODE_INVALID) {
        code = deal_unicode_fold(code);
        is_word = deal_unicode_is_word(code);
        n_folded = deal_unicode_put(code, folded);
    }
    if (!(at->is_word && is_word)) {
        at->node = deal_automaton_edge(a, at->node);
        at->n_symbol++;
        if (a->end[at->node])
            cover(k, s, a->end[at->node], at->n_symbol);
    }
    for (size_t j = 0; j < n_folded; j++)
        at->node = deal_automaton_step(a, at->node, a->class_of[folded[j]]);
    at->n_symbol += (int64_t)n_folded;
    at->is_word = is_word;
    return n_byte;
}

static int
keywords_advance(void *self, void *state_bytes, int32_t token, const char *bytes,
                 size_t size, char *message)
{
    (void)token;
    (void)message;
    const keywords *k = self;
    const deal_automaton *a = &k->automaton;
    state *s = state_bytes;
    const uint8_t *text = (const uint8_t *)bytes;
    cursor at = s->at;
    for (size_t i = 0; i < size;) {
        uint8_t kind = deal_unicode_ascii[text[i]];
        if (DEAL_UNLIKELY(kind & DEAL_ASCII_NOT)) {
            cursor other = at; // so that `at` stays in registers
            i += advance_other(k, s, &other, text + i, size - i);
            at = other;
            continue;
        }
        int32_t was_word = at.is_word;
        at.is_word = kind & DEAL_ASCII_WORD;
        if (!(was_word & at.is_word)) {
            at.node = deal_automaton_edge(a, at.node);
            at.n_symbol++;
            if (DEAL_UNLIKELY(a->end[at.node]))
                cover(k, s, a->end[at.node], at.n_symbol);
        }
        at.node = deal_automaton_step(a, at.node, a->class_of_ascii[text[i++]]);
        at.n_symbol++;
    }
    s->at = at;
    return 0;
}

// ---- Scores -------------------------------------------------------------------------

static double
value_of(const keywords *k, int32_t n_met, int32_t n_hit)
{
    switch (k->mode) {
    case DEAL_KEYWORDS_ALL:
        return n_met == k->n_wanted && !n_hit;
    case DEAL_KEYWORDS_ANY:
        return (n_met || !k->n_wanted) && !n_hit;
    case DEAL_KEYWORDS_FRACTION:
    case DEAL_KEYWORDS_ORDERED:
        break;
    }
    double value = k->n_wanted ? (double)n_met / k->n_wanted : 1.0;
    return n_hit ? value * ((double)(k->n_forbidden - n_hit) / k->n_forbidden) : value;
}

// The score, were this the end of the text.
static double
value_at_end(const keywords *k, const state *s)
{
    const deal_automaton *a = &k->automaton;
    int32_t end = a->end[deal_automaton_edge(a, s->at.node)], n_met, n_hit;
    count_met(k, s, end, s->at.n_symbol + 1, &n_met, &n_hit); // node 0 has no matches
    return value_of(k, n_met, n_hit);
}

static int
keywords_score(void *self, const void *state_bytes, int32_t is_finished, double *score,
               char *message)
{
    (void)is_finished;
    (void)message;
    *score = value_at_end(self, state_bytes);
    return 0;
}

// Fewest bytes of text that complete a form of `concept`, up to `n_left`; more where
// that is not enough. All of a form, with a separator where it cannot follow the last
// character, or what is missing of one whose first symbols, at most `n_begun_max`, the
// text ends with.
static int64_t
n_raw_needed(const keywords *k, const state *s, int32_t concept, int64_t n_left,
             int64_t n_begun_max)
{
    const deal_automaton *a = &k->automaton;
    int64_t least = INT64_MAX;
    for (int32_t i = a->form_first[concept]; i < a->form_first[concept + 1]; i++) {
        const deal_automaton_pattern *p = &a->form[i];
        int64_t whole = p->n_raw_min + (s->at.is_word && p->begins_word), need = 0;
        least = whole < least ? whole : least;
        for (size_t j = p->size - 1; j-- > 0;) {
            need += a->raw_min[p->first + j + 1];
            if (need > n_left || need >= least)
                break;
            if ((int64_t)j < n_begun_max &&
                deal_automaton_is_suffix(a, a->path[p->first + j], s->at.node))
                least = need;
        }
    }
    return least;
}

static bool
is_within_reach(const keywords *k, const state *s, int32_t concept, int64_t n_left)
{
    return n_raw_needed(k, s, concept, n_left, INT64_MAX) <= n_left;
}

// Most wanted concepts that can be met after `n_left` more bytes.
static int32_t
n_met_max(const keywords *k, const state *s, int64_t n_left)
{
    int32_t n = s->n_met;
    if (k->mode != DEAL_KEYWORDS_ORDERED) {
        if (n_left >= k->n_raw_min_max)
            return k->n_wanted;
        for (int32_t c = 0; c < k->n_wanted; c++)
            n += !is_covered(s, c) && is_within_reach(k, s, c, n_left);
        return n;
    }
    if (n == k->n_wanted)
        return n;
    // The EDGE that ended the last one may begin this one.
    int64_t need = n_raw_needed(k, s, n, n_left, s->at.n_symbol - s->i_taken + 1);
    while (need <= n_left && ++n < k->n_wanted)
        need += k->n_raw_next[n];
    return n;
}

static int32_t
n_hit_max(const keywords *k, const state *s, int64_t n_left)
{
    if (n_left >= k->n_raw_min_max)
        return k->n_forbidden;
    int32_t n = s->n_hit;
    for (int32_t c = k->n_wanted; c < k->automaton.n_concept; c++)
        n += !is_covered(s, c) && is_within_reach(k, s, c, n_left);
    return n;
}

static int
keywords_bounds(void *self, const void *state_bytes, int32_t n_tokens_left, double *low,
                double *high, char *message)
{
    (void)message;
    const keywords *k = self;
    const state *s = state_bytes;
    if (n_tokens_left <= 0) {
        *low = *high = value_at_end(k, s);
        return 0;
    }
    int64_t n_left =
        (int64_t)(s->token_size_max > 0 ? s->token_size_max : 0) * n_tokens_left;
    // What has matched stays, but a match at the end may yet be undone.
    *low = value_of(k, s->n_met, n_hit_max(k, s, n_left));
    *high = value_of(k, n_met_max(k, s, n_left), s->n_hit);
    return 0;
}

// ---- Public -------------------------------------------------------------------------

// What the bounds ask of whole forms.
static void
find_needs(keywords *k)
{
    const deal_automaton *a = &k->automaton;
    bool ends_word = false; // every form of the concept before ends with a word's end
    for (int32_t c = 0; c < a->n_concept; c++) {
        int64_t least = INT64_MAX;
        bool begins = true, ends = true;
        for (int32_t i = a->form_first[c]; i < a->form_first[c + 1]; i++) {
            const deal_automaton_pattern *p = &a->form[i];
            least = p->n_raw_min < least ? p->n_raw_min : least;
            begins = begins && p->begins_word;
            ends = ends && p->ends_word;
        }
        if (least + 1 > k->n_raw_min_max)
            k->n_raw_min_max = least + 1;
        if (c < k->n_wanted)
            k->n_raw_next[c] = least + (ends_word && begins);
        ends_word = ends;
    }
}

void
deal_reward_keywords_free(deal_reward *reward)
{
    if (!reward)
        return;
    keywords *k = (keywords *)reward;
    deal_automaton_free(&k->automaton);
    deal_free(k->n_raw_next);
    deal_free(k);
}

deal_status
deal_reward_keywords_new(deal_keywords_mode mode, int32_t n_wanted, int32_t n_forbidden,
                         int32_t n_form, const char *const *form,
                         const size_t *form_size, const int32_t *i_concept,
                         deal_reward **reward, deal_error *err)
{
    if ((int)mode < DEAL_KEYWORDS_FRACTION || (int)mode > DEAL_KEYWORDS_ORDERED)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "keywords: mode: expected 0 to %d, got %d",
                         (int)DEAL_KEYWORDS_ORDERED, (int)mode);
    if (n_wanted < 0 || n_forbidden < 0 || n_forbidden > INT32_MAX - n_wanted)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "keywords: expected numbers of concepts, got %d and %d",
                         (int)n_wanted, (int)n_forbidden);
    keywords *k = deal_alloc_zero(1, sizeof *k);
    if (!k)
        return deal_fail_memory(err, "keywords");
    k->mode = mode;
    k->n_wanted = n_wanted;
    k->n_forbidden = n_forbidden;
    deal_status status;
    DEAL_TRY_GOTO(deal_automaton_init(&k->automaton, "keywords", n_wanted + n_forbidden,
                                      n_form, form, form_size, i_concept, err),
                  failed);
    if (!(k->n_raw_next = deal_alloc((size_t)n_wanted, sizeof *k->n_raw_next))) {
        status = deal_fail_memory(err, "keywords");
        goto failed;
    }
    find_needs(k);
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
