/* One pass over the text. A state holds two cores, what was counted so far: in `base`
 * as of the beginning of the chunk being read, where that may still turn out to be an
 * entry as a whole, and in `now` with the words in it. Words that may yet be part of a
 * longer phrase wait in a core; a score settles them on a copy.
 *
 * Bounds: whatever is not counted for good lies in the last `tail` bytes. With n bytes
 * to come, what the tail and they can add is what entries that fit into tail + n bytes
 * can add, with a byte between two of them (lexicon_entries.h). Sums are integers, so
 * that this holds to the last bit; ratios are widened by their rounding.
 */
#include "reward/lexicon.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/alloc.h"
#include "common/unicode.h"
#include "reward/hash.h"
#include "reward/lexicon_entries.h"

#define SUM_MAX (INT64_C(1) << 61)
#define ROUNDING 1e-14 // of a score in [-1, 1]; relative to the weights otherwise

typedef struct lexicon {
    deal_reward reward; // first: the public part
    deal_lexicon_entries entries;
    int32_t window;
    deal_lexicon_per per;
    double alpha;
    double value_low, value_high; // of one match
} lexicon;

typedef struct core {
    int64_t sum; // fixed point
    int64_t n_word, n_match;
    int64_t n_since; // words since the last negator
    int32_t n_pending;
    int32_t unit[DEAL_LEXICON_UNITS_MAX];  // (n_pending,) words that wait
    int64_t start[DEAL_LEXICON_UNITS_MAX]; // (n_pending,) bytes before each
} core;

typedef struct state {
    core now, base;
    int64_t n_byte;       // read
    uint64_t word, chunk; // hashes of what is being read
    uint64_t cut;         // of the chunk without the punctuation at its end
    int64_t word_start, chunk_start;
    int32_t chunk_size, cut_size; // characters; chunk_size 0: between chunks
    int32_t token_size_max;
    bool is_word;       // a word is being read
    bool is_apostrophe; // and an apostrophe after it, which may be inside
    bool has_symbols;   // the chunk is not one word
    bool has_base;      // `base` is in use
} state;

// ---- Counting -----------------------------------------------------------------------

static void
pass_word(const lexicon *l, core *c, int32_t unit)
{
    c->n_word++;
    c->n_since++;
    if (unit >= 0 && l->entries.unit[unit].is_negator)
        c->n_since = 0;
}

static void
add_match(const lexicon *l, core *c, const deal_lexicon_node *node)
{
    c->sum += c->n_since < l->window ? node->negated : node->value;
    if (c->sum > SUM_MAX)
        c->sum = SUM_MAX;
    if (c->sum < -SUM_MAX)
        c->sum = -SUM_MAX;
    c->n_match++;
}

// Counts the words that wait, from the left, as far as what follows cannot change it.
static void
settle(const lexicon *l, core *c, bool is_end)
{
    int32_t first = 0;
    while (first < c->n_pending) {
        const deal_lexicon_node *match = NULL;
        int32_t node = l->entries.unit[c->unit[first]].node, n_taken = 1, i = first;
        while (node >= 0) {
            const deal_lexicon_node *at = &l->entries.node[node];
            i++;
            if (at->is_entry) {
                match = at;
                n_taken = i - first;
            }
            if (i == c->n_pending) {
                if (at->has_children && !is_end)
                    goto done;
                break;
            }
            node = at->has_children ? deal_lexicon_child(&l->entries, node, c->unit[i])
                                    : -1;
        }
        if (match)
            add_match(l, c, match);
        for (int32_t end = first + n_taken; first < end; first++)
            pass_word(l, c, c->unit[first]);
    }
done:
    c->n_pending -= first;
    if (first > 0 && c->n_pending > 0) {
        size_t n = (size_t)c->n_pending;
        memmove(c->unit, c->unit + first, n * sizeof *c->unit);
        memmove(c->start, c->start + first, n * sizeof *c->start);
    }
}

static void
add_unit(const lexicon *l, core *c, int32_t unit, int64_t start)
{
    if (c->n_pending == 0) {
        int32_t node = unit < 0 ? -1 : l->entries.unit[unit].node;
        const deal_lexicon_node *at = node < 0 ? NULL : &l->entries.node[node];
        if (!at || !at->has_children) {
            if (at)
                add_match(l, c, at);
            pass_word(l, c, unit);
            return;
        }
    }
    if (unit < 0) {
        settle(l, c, true);
        pass_word(l, c, unit);
        return;
    }
    c->unit[c->n_pending] = unit;
    c->start[c->n_pending++] = start;
    settle(l, c, false);
}

// ---- Reading ------------------------------------------------------------------------

static void
end_word(const lexicon *l, state *s)
{
    add_unit(l, &s->now, deal_lexicon_find(&l->entries, deal_hash_end(s->word)),
             s->word_start);
    s->is_word = s->is_apostrophe = false;
}

// Keeps what was counted before the chunk, which may be an entry as a whole.
static void
keep_base(const lexicon *l, state *s)
{
    if (!s->has_base && l->entries.has_chunks &&
        s->cut_size <= l->entries.chunk_size_max) {
        s->base = s->now;
        s->has_base = true;
    }
}

static int32_t
find_chunk(const lexicon *l, const state *s)
{
    const deal_lexicon_entries *e = &l->entries;
    if (!e->has_chunks || s->cut_size > e->chunk_size_max)
        return -1;
    int32_t unit = deal_lexicon_find(e, deal_hash_end(s->chunk));
    if (unit < 0 && s->cut_size > 0 && s->cut_size < s->chunk_size)
        unit = deal_lexicon_find(e, deal_hash_end(s->cut));
    return unit;
}

static void
end_chunk(const lexicon *l, state *s)
{
    int32_t unit = -1;
    if (s->has_symbols || s->is_apostrophe)
        unit = find_chunk(l, s);
    if (unit >= 0) {
        if (s->has_base)
            s->now = s->base;
        add_unit(l, &s->now, unit, s->chunk_start);
        s->is_word = s->is_apostrophe = false;
    } else if (s->is_word) {
        end_word(l, s);
    }
    s->has_base = s->has_symbols = false;
    s->chunk_size = 0;
}

static bool
is_cut_off(uint32_t code)
{
    return code == '.' || code == ',' || code == ';' || code == ':' || code == '!' ||
           code == '?' || code == '"' || code == 0x201D;
}

// One folded character that is not white space, at byte `at`.
static void
put_character(const lexicon *l, state *s, uint32_t code, bool is_word, int64_t at)
{
    if (!s->chunk_size) {
        s->chunk = DEAL_LEXICON_CHUNK;
        s->chunk_start = at;
        s->cut_size = 0;
    }
    if (is_word) {
        if (!s->is_word) {
            s->word = DEAL_LEXICON_WORD;
            s->word_start = at;
            s->is_word = true;
        } else if (s->is_apostrophe) {
            s->word = deal_hash_put(s->word, '\'');
            s->is_apostrophe = false;
        }
        s->word = deal_hash_put(s->word, code);
    } else if (code == '\'' && s->is_word && !s->is_apostrophe) {
        s->is_apostrophe = true;
    } else {
        if (s->is_word) {
            keep_base(l, s);
            end_word(l, s);
        }
        s->has_symbols = true;
    }
    s->chunk = deal_hash_put(s->chunk, code);
    s->chunk_size += s->chunk_size < INT32_MAX;
    if (!is_cut_off(code)) {
        s->cut = s->chunk;
        s->cut_size = s->chunk_size;
        if (s->cut_size > l->entries.chunk_size_max)
            s->has_base = false; // too long: its words are what it is
    }
}

static int
lexicon_advance(void *self, void *state_bytes, int32_t token, const char *bytes,
                size_t size, char *message)
{
    (void)token;
    (void)message;
    const lexicon *l = self;
    state *s = state_bytes;
    const uint8_t *text = (const uint8_t *)bytes;
    size_t n_byte;
    for (size_t i = 0; i < size; i += n_byte) {
        uint32_t code = deal_unicode_next(text + i, size - i, &n_byte);
        if (deal_unicode_is_space(code)) {
            if (s->chunk_size)
                end_chunk(l, s);
        } else if (code < 0x80) {
            code += code >= 'A' && code <= 'Z' ? 32 : 0;
            put_character(l, s, code, deal_unicode_is_word(code), s->n_byte);
        } else if (code == DEAL_UNICODE_INVALID) {
            put_character(l, s, code, false, s->n_byte);
        } else {
            code = deal_lexicon_fold(code);
            put_character(l, s, code, deal_unicode_is_word(code), s->n_byte);
        }
        s->n_byte += (int64_t)n_byte;
    }
    return 0;
}

static int
lexicon_init(void *self, void *state_bytes, const deal_reward_prompt *prompt,
             char *message)
{
    (void)message;
    const lexicon *l = self;
    state *s = state_bytes;
    memset(s, 0, sizeof *s);
    s->token_size_max = prompt->token_size_max;
    s->now.n_since = l->window;
    return 0;
}

// ---- Scores -------------------------------------------------------------------------

static double
score_of(const lexicon *l, int64_t sum, int64_t n_word, int64_t n_match)
{
    double x = (double)sum / DEAL_LEXICON_SCALE;
    if (l->per == DEAL_LEXICON_PER_TEXT)
        return x / sqrt(x * x + l->alpha);
    int64_t n = l->per == DEAL_LEXICON_PER_WORD ? n_word : n_match;
    return n ? x / (double)n : 0.0;
}

static double
clip(const lexicon *l, double score)
{
    return fmax(l->reward.low, fmin(l->reward.high, score));
}

static int
lexicon_score(void *self, const void *state_bytes, int32_t is_finished, double *score,
              char *message)
{
    (void)is_finished;
    (void)message;
    const lexicon *l = self;
    state s = *(const state *)state_bytes;
    if (s.chunk_size)
        end_chunk(l, &s);
    settle(l, &s.now, true);
    *score = clip(l, score_of(l, s.now.sum, s.now.n_word, s.now.n_match));
    return 0;
}

// Bytes at the end that are not counted for good in `c`.
static int64_t
tail_of(const lexicon *l, const state *s, const core *c)
{
    int64_t start = s->n_byte;
    if (c->n_pending > 0)
        start = c->start[0];
    else if (s->chunk_size && l->entries.has_chunks &&
             (s->has_base || s->cut_size <= l->entries.chunk_size_max))
        start = s->chunk_start;
    else if (s->is_word)
        start = s->word_start;
    return s->n_byte - start;
}

// Sum over n with n_max more, each in [low, high] and high >= sum / n >= low.
static void
mean_bounds(const lexicon *l, double sum, double n, double n_more, double *low,
            double *high)
{
    double least = fmin(l->value_low, 0.0), most = fmax(l->value_high, 0.0);
    if (l->per == DEAL_LEXICON_PER_MATCH && n > 0) {
        least = l->value_low;
        most = l->value_high;
    }
    if (n > 0 || n_more > 0) {
        *low = (sum + n_more * least) / (n + n_more);
        *high = (sum + n_more * most) / (n + n_more);
    }
    if (n == 0) { // none may come
        *low = n_more > 0 ? least : 0.0;
        *high = n_more > 0 ? most : 0.0;
    }
}

static int
lexicon_bounds(void *self, const void *state_bytes, int32_t n_tokens_left, double *low,
               double *high, char *message)
{
    const lexicon *l = self;
    const state *s = state_bytes;
    if (n_tokens_left <= 0) {
        lexicon_score(self, state_bytes, 1, low, message);
        *high = *low;
        return 0;
    }
    const core *c = s->has_base ? &s->base : &s->now;
    int64_t n_left = (s->token_size_max > 0 ? s->token_size_max : 0);
    n_left = n_left * n_tokens_left + tail_of(l, s, c) + 1;
    double rounding = ROUNDING;
    if (l->per == DEAL_LEXICON_PER_TEXT) {
        *low = score_of(l, c->sum + deal_lexicon_least(&l->entries, n_left), 1, 1);
        *high = score_of(l, c->sum + deal_lexicon_most(&l->entries, n_left), 1, 1);
    } else {
        double sum = (double)c->sum / DEAL_LEXICON_SCALE;
        bool is_word = l->per == DEAL_LEXICON_PER_WORD;
        int64_t size = is_word ? 1 : l->entries.size_min;
        mean_bounds(l, sum, (double)(is_word ? c->n_word : c->n_match),
                    (double)(n_left / (size + 1)), low, high);
        rounding *= fmax(fabs(l->value_low), fabs(l->value_high));
    }
    *low = clip(l, *low - rounding);
    *high = clip(l, *high + rounding);
    if (l->per == DEAL_LEXICON_PER_MATCH && c->n_match > 0) {
        *low = fmax(*low, l->value_low);
        *high = fmin(*high, l->value_high);
    }
    return 0;
}

// ---- Public -------------------------------------------------------------------------

void
deal_reward_lexicon_free(deal_reward *reward)
{
    if (!reward)
        return;
    lexicon *l = (lexicon *)reward;
    deal_lexicon_entries_free(&l->entries);
    deal_free(l);
}

static deal_status
check_params(const deal_lexicon_params *p, deal_error *err)
{
    if ((int)p->per < DEAL_LEXICON_PER_TEXT || (int)p->per > DEAL_LEXICON_PER_MATCH)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "lexicon: per: expected 0 to %d, got %d",
                         (int)DEAL_LEXICON_PER_MATCH, (int)p->per);
    if (p->window < 0)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "lexicon: window: expected at least 0, got %d",
                         (int)p->window);
    if (!isfinite(p->negation))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "lexicon: negation: expected a finite number, got %g",
                         p->negation);
    if (!(p->alpha > 0.0) || !isfinite(p->alpha))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "lexicon: alpha: expected a finite number > 0, got %g",
                         p->alpha);
    return DEAL_OK;
}

deal_status
deal_reward_lexicon_new(const deal_lexicon_params *params, deal_reward **reward,
                        deal_error *err)
{
    DEAL_TRY(check_params(params, err));
    lexicon *l = deal_alloc_zero(1, sizeof *l);
    if (!l)
        return deal_fail_memory(err, "lexicon");
    deal_status status = deal_lexicon_entries_init(
        &l->entries, params->n_entry, params->entry, params->entry_size, params->weight,
        params->n_negator, params->negator, params->negator_size,
        params->n_negator > 0 && params->window > 0 ? params->negation : 1.0, err);
    if (status != DEAL_OK) {
        deal_reward_lexicon_free(&l->reward);
        return status;
    }
    l->window = params->window;
    l->per = params->per;
    l->alpha = params->alpha;
    l->value_low = (double)l->entries.value_min / DEAL_LEXICON_SCALE;
    l->value_high = (double)l->entries.value_max / DEAL_LEXICON_SCALE;
    bool is_text = l->per == DEAL_LEXICON_PER_TEXT;
    double low = fmin(l->value_low, 0.0), high = fmax(l->value_high, 0.0);
    l->reward = (deal_reward){
        .abi_version = DEAL_REWARD_ABI,
        .struct_size = sizeof(deal_reward),
        .self = l,
        .name = "lexicon",
        .low = is_text && low < 0.0 ? -1.0 : low,
        .high = is_text && high > 0.0 ? 1.0 : high,
        .state_size = sizeof(state),
        .init = lexicon_init,
        .advance = lexicon_advance,
        .score = lexicon_score,
        .bounds = lexicon_bounds,
    };
    *reward = &l->reward;
    return DEAL_OK;
}
