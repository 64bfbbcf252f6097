/* Repeated n-grams, with a rolling hash over the last n words: each word's hash times
 * BASE to the power of its distance from the last one. Those of all n-grams so far are
 * in a trie that forks share (hash_trie.h), in a pool that all states of one
 * completion's tree own together.
 */
#include "reward/repetition.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/alloc.h"
#include "common/compiler.h"
#include "common/unicode.h"
#include "common/utf8.h"
#include "reward/hash_trie.h"

// Odd, bits at random; otherwise arbitrary.
#define BASE UINT64_C(0x9FB21C651E98DF25)
#define STEP UINT64_C(0xD6E8FEB86659FD93)
#define START UINT64_C(0xA0761D6478BD642F)

typedef struct repetition {
    deal_reward reward; // first: the public part
    deal_repetition_measure measure;
    int32_t n;
    int64_t allowed;
    uint64_t base_n; // BASE to the power of n
} repetition;

typedef struct shared {
    deal_hash_pool pool;
    size_t n_state;
} shared;

// What is counted of the n-grams.
typedef struct counts {
    int64_t n_gram, n_repeated;
    int64_t n_run, n_run_max; // repeated ones in a row: up to the last n-gram, anywhere
} counts;

typedef struct state {
    shared *shared; // owned together with the other states of the tree
    uint32_t set;   // n-grams so far
    int32_t token_size_max;
    counts counts; // of whole words: the last one may yet grow
    int64_t n_word;
    uint64_t rolled;   // hash of the last n words
    uint64_t word;     // hash of the last word so far
    int64_t is_inside; // a word
    uint64_t ring[];   // (n,) hash of word i at i % n
} state;

// ---- States -------------------------------------------------------------------------

static int
out_of_memory(char *message)
{
    snprintf(message, DEAL_REWARD_MESSAGE_SIZE, "out of memory");
    return 1;
}

static int
repetition_init(void *self, void *state_bytes, const deal_reward_prompt *prompt,
                char *message)
{
    const repetition *r = self;
    state *s = state_bytes;
    memset(s, 0, sizeof *s + (size_t)r->n * sizeof s->ring[0]);
    s->shared = deal_alloc_zero(1, sizeof *s->shared);
    if (!s->shared)
        return out_of_memory(message);
    s->shared->n_state = 1;
    s->token_size_max = prompt->token_size_max;
    s->word = START;
    return 0;
}

static int
repetition_fork(void *self, void *to, const void *from, char *message)
{
    (void)message;
    const repetition *r = self;
    const state *s = from;
    memcpy(to, from, sizeof *s + (size_t)r->n * sizeof s->ring[0]);
    s->shared->n_state++;
    deal_hash_trie_share(&s->shared->pool, s->set);
    return 0;
}

static void
repetition_drop(void *self, void *state_bytes)
{
    (void)self;
    state *s = state_bytes;
    if (--s->shared->n_state) {
        deal_hash_trie_drop(&s->shared->pool, s->set);
        return;
    }
    deal_hash_pool_free(&s->shared->pool);
    deal_free(s->shared);
}

// ---- Words --------------------------------------------------------------------------

// Spreads every bit over all (D. Stafford, "Better bit mixing", variant 13).
static uint64_t
mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

// Hash of the n-gram that ends with a further word.
static uint64_t
roll(const repetition *r, const state *s, uint64_t word)
{
    return s->rolled * BASE + word - s->ring[s->n_word % r->n] * r->base_n;
}

static void
count_gram(counts *c, bool is_repeated)
{
    c->n_gram++;
    c->n_repeated += is_repeated;
    c->n_run = is_repeated ? c->n_run + 1 : 0;
    c->n_run_max = c->n_run > c->n_run_max ? c->n_run : c->n_run_max;
}

// Takes the word that has ended into account; false where memory is short.
static bool
end_word(const repetition *r, state *s)
{
    uint64_t word = mix(s->word);
    s->rolled = roll(r, s, word);
    s->ring[s->n_word % r->n] = word;
    s->word = START;
    if (++s->n_word < r->n)
        return true;
    uint64_t gram = mix(s->rolled);
    bool is_repeated = deal_hash_trie_has(&s->shared->pool, s->set, gram);
    if (!is_repeated && !deal_hash_trie_add(&s->shared->pool, &s->set, gram))
        return false;
    count_gram(&s->counts, is_repeated);
    return true;
}

// A character that is not ASCII: whether it is of a word, and the hash with it.
static bool
advance_other(uint64_t *word, const uint8_t *text, size_t size, size_t *n_byte)
{
    uint32_t code = deal_unicode_next(text, size, n_byte);
    if (code == DEAL_UNICODE_INVALID)
        return false;
    code = deal_unicode_fold(code);
    if (!deal_unicode_is_word(code))
        return false;
    uint8_t folded[DEAL_UTF8_SIZE_MAX];
    size_t n_folded = deal_unicode_put(code, folded);
    for (size_t i = 0; i < n_folded; i++)
        *word = (*word ^ folded[i]) * STEP;
    return true;
}

static int
repetition_advance(void *self, void *state_bytes, int32_t token, const char *bytes,
                   size_t size, char *message)
{
    (void)token;
    const repetition *r = self;
    state *s = state_bytes;
    const uint8_t *text = (const uint8_t *)bytes;
    bool is_inside = s->is_inside;
    for (size_t i = 0; i < size;) {
        uint8_t byte = text[i], kind = deal_unicode_ascii[byte];
        bool was_inside = is_inside;
        if (DEAL_UNLIKELY(kind & DEAL_ASCII_NOT)) {
            size_t n_byte;
            is_inside = advance_other(&s->word, text + i, size - i, &n_byte);
            i += n_byte;
        } else {
            is_inside = kind & DEAL_ASCII_WORD;
            if (is_inside) // capital letters lack the bit of 32
                s->word = (s->word ^ (byte | (kind & DEAL_ASCII_UPPER) << 3)) * STEP;
            i++;
        }
        if (was_inside && !is_inside && !end_word(r, s)) {
            s->is_inside = false;
            return out_of_memory(message);
        }
    }
    s->is_inside = is_inside;
    return 0;
}

// ---- Scores -------------------------------------------------------------------------

static double
share_of(int64_t n_gram, int64_t n_repeated)
{
    return n_gram ? (double)(n_gram - n_repeated) / (double)n_gram : 1.0;
}

static double
score_of_run(const repetition *r, int64_t n_run)
{
    int64_t n_word = n_run ? n_run + r->n - 1 : 0;
    if (n_word <= r->allowed)
        return 1.0;
    double allowed = r->allowed > 1 ? (double)r->allowed : 1.0;
    return 1.0 / (1.0 + (double)(n_word - r->allowed) / allowed);
}

static double
value_of(const repetition *r, const counts *c)
{
    return r->measure == DEAL_REPETITION_SHARE ? share_of(c->n_gram, c->n_repeated)
                                               : score_of_run(r, c->n_run_max);
}

// With the last word as it stands.
static double
value_at_end(const repetition *r, const state *s)
{
    counts c = s->counts;
    if (s->is_inside && s->n_word + 1 >= r->n) {
        uint64_t gram = mix(roll(r, s, mix(s->word)));
        count_gram(&c, deal_hash_trie_has(&s->shared->pool, s->set, gram));
    }
    return value_of(r, &c);
}

static int
repetition_score(void *self, const void *state_bytes, int32_t is_finished,
                 double *score, char *message)
{
    (void)is_finished;
    (void)message;
    *score = value_at_end(self, state_bytes);
    return 0;
}

static int
repetition_bounds(void *self, const void *state_bytes, int32_t n_tokens_left,
                  double *low, double *high, char *message)
{
    (void)message;
    const repetition *r = self;
    const state *s = state_bytes;
    if (n_tokens_left <= 0) {
        *low = *high = value_at_end(r, s);
        return 0;
    }
    // The word that is begun, and a separator and one character for each other one.
    int64_t n_left =
        (int64_t)(s->token_size_max > 0 ? s->token_size_max : 0) * n_tokens_left;
    int64_t n_word = s->n_word + (s->is_inside ? 1 + n_left / 2 : (n_left + 1) / 2);
    int64_t n_gram = n_word < r->n ? 0 : n_word - r->n + 1; // at most
    int64_t n_distinct = s->counts.n_gram - s->counts.n_repeated;
    int64_t n_new = n_gram - s->counts.n_gram;
    n_new -= n_new && !n_distinct; // the first one repeats nothing
    if (r->measure == DEAL_REPETITION_SHARE) {
        *low = share_of(n_gram, s->counts.n_repeated + n_new);
        *high = share_of(n_gram, s->counts.n_repeated);
    } else {
        int64_t n_run = s->counts.n_run + n_new;
        *low =
            score_of_run(r, n_run > s->counts.n_run_max ? n_run : s->counts.n_run_max);
        *high = score_of_run(r, s->counts.n_run_max);
    }
    return 0;
}

// ---- Public -------------------------------------------------------------------------

deal_status
deal_reward_repetition_new(deal_repetition_measure measure, int32_t n, int64_t allowed,
                           deal_reward **reward, deal_error *err)
{
    if ((int)measure < DEAL_REPETITION_SHARE || (int)measure > DEAL_REPETITION_LONGEST)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "repetition: measure: expected 0 to %d, got %d",
                         (int)DEAL_REPETITION_LONGEST, (int)measure);
    if (n < 1 || n > DEAL_REPETITION_N_MAX)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "repetition: n: expected 1 to %d, got %d",
                         DEAL_REPETITION_N_MAX, (int)n);
    if (allowed < 0)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "repetition: longest: expected at least 0, got %lld",
                         (long long)allowed);
    repetition *r = deal_alloc_zero(1, sizeof *r);
    if (!r)
        return deal_fail_memory(err, "repetition");
    r->measure = measure;
    r->n = n;
    r->allowed = allowed;
    r->base_n = 1;
    for (int32_t i = 0; i < n; i++)
        r->base_n *= BASE;
    r->reward = (deal_reward){
        .abi_version = DEAL_REWARD_ABI,
        .struct_size = sizeof(deal_reward),
        .self = r,
        .name = "repetition",
        .low = 0.0,
        .high = 1.0,
        .state_size = sizeof(state) + (size_t)n * sizeof(uint64_t),
        .init = repetition_init,
        .fork = repetition_fork,
        .drop = repetition_drop,
        .advance = repetition_advance,
        .score = repetition_score,
        .bounds = repetition_bounds,
    };
    *reward = &r->reward;
    return DEAL_OK;
}

void
deal_reward_repetition_free(deal_reward *reward)
{
    deal_free(reward); // the first member of the block
}
