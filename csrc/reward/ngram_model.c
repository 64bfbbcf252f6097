/* The state keeps two sums, of w_j v_j and of v_j^2, of integers; where an n-gram adds
 * something else the second time (tf that is not linear, or a norm) it keeps counts
 * too, shared by forks. What the end of the text would add is scored and not kept.
 *
 * Bounds: each n-gram to come, of which there are at most deal_ngrams_reach(), adds to
 * the first sum at most the greatest weight and at least the least one, if those are of
 * that sign. Where counts cannot fall, neither can |v|; and whatever comes, z - b lies
 * between the norm of the positive weights and minus that of the negative ones.
 */
#include "reward/ngram_model.h"

#include <math.h>
#include <string.h>

#include "common/alloc.h"
#include "common/compiler.h"
#include "reward/counts.h"

#define N_BUFFER 128 // slots that are read at once
#define N_STEP 256   // counts whose step is kept
#define TF_ONE 65536 // tf of LOG is a multiple of 1 / TF_ONE
#define ROUNDING 1e-12
// log2 of the places that counts begin with: 8 KB for words; a text has more n-grams of
// characters, and 32 KB still fit into the first cache.
#define BITS_WORDS 10
#define BITS_CHARACTERS 12
#define N_BYTE_MAX (INT64_C(1) << 40)

// What one slot adds to the sums; together, since both are far from what was read last.
typedef struct slot_weight {
    int32_t weight; // w_j idf_j * scale
    int32_t square; // idf_j^2 * square_scale
} slot_weight;

// What one more occurrence of a slot adds, in multiples of its weight and square.
typedef struct tf_step {
    int64_t sum; // times TF_ONE
    double square;
} tf_step;

typedef struct ngram_model {
    deal_reward reward; // first: the public part
    deal_ngrams *ngrams;
    slot_weight *slot; // (n_slot,)
    double scale, square_scale;
    double intercept;
    deal_ngram_tf tf;
    bool is_normed, is_signed, has_counts;
    int32_t count_bits;  // places of an empty table of counts, log2
    int32_t least, most; // weights, and 0
    double idf_max;
    double norm_low, norm_high; // where z - b lies, if normed
    tf_step step[N_STEP];       // after so many occurrences; counts without a sign
} ngram_model;

typedef struct state {
    deal_ngrams_state reading;
    int64_t sum;
    double square;       // an integer too, as long as it is below 2^53
    deal_counts *counts; // a share; NULL where none are kept
    int32_t token_size_max;
} state;

double
deal_ngram_tf_of(deal_ngram_tf tf, int32_t count)
{
    switch (tf) {
    case DEAL_NGRAM_TF_BINARY:
        return count != 0;
    case DEAL_NGRAM_TF_LOG:
        return count > 0 ? 1.0 + log((double)count) : 0.0;
    case DEAL_NGRAM_TF_COUNT:
        break;
    }
    return (double)count;
}

// ---- Sums ---------------------------------------------------------------------------

// tf times TF_ONE, to the nearest integer.
static int64_t
fixed_tf(deal_ngram_tf tf, int32_t count)
{
    return (int64_t)rint(deal_ngram_tf_of(tf, count) * TF_ONE);
}

static tf_step
find_step(deal_ngram_tf tf, int32_t before, int32_t after)
{
    double was = (double)fixed_tf(tf, before), is = (double)fixed_tf(tf, after);
    double grown = (is * is - was * was) / ((double)TF_ONE * TF_ONE);
    return (tf_step){(int64_t)(is - was), grown};
}

static inline void
add_step(const slot_weight *slot, const tf_step *step, int64_t *sum, double *square)
{
    *sum += slot->weight * step->sum / TF_ONE;
    *square += slot->square * step->square;
}

// One more occurrence of `slot`, or one of the other sign, after `before` of them.
static void
add(const ngram_model *m, int32_t slot, int32_t before, int64_t *sum, double *square)
{
    tf_step step = find_step(m->tf, before, before + (slot < 0 ? -1 : 1));
    add_step(&m->slot[slot < 0 ? ~slot : slot], &step, sum, square);
}

// Counts slots without a sign, up to N_BUFFER, in a table that has room for them; then
// adds what they weigh, which is on its way into the cache by then.
static void
count_plain(const ngram_model *m, state *s, const int32_t *slot, size_t n)
{
    int32_t before[N_BUFFER], bits = s->counts->bits;
    deal_counts_item *place = s->counts->place;
    size_t n_item = s->counts->n_item;
    for (size_t i = 0; i < n; i++)
        before[i] = deal_counts_add(place, bits, slot[i], 1, &n_item);
    s->counts->n_item = n_item;
    int64_t sum = s->sum;
    double square = s->square;
    for (size_t i = 0; i < n; i++) {
        const tf_step *step = &m->step[before[i]];
        tf_step far;
        if (DEAL_UNLIKELY(before[i] >= N_STEP)) {
            far = find_step(m->tf, before[i], before[i] + 1);
            step = &far;
        }
        add_step(&m->slot[slot[i]], step, &sum, &square);
    }
    s->sum = sum;
    s->square = square;
}

static void
count_signed(const ngram_model *m, state *s, const int32_t *slot, size_t n)
{
    deal_counts *c = s->counts;
    for (size_t i = 0; i < n; i++) {
        int32_t sign = slot[i] < 0 ? -1 : 1, at = sign < 0 ? ~slot[i] : slot[i];
        int32_t before = deal_counts_add(c->place, c->bits, at, sign, &c->n_item);
        add(m, slot[i], before, &s->sum, &s->square);
    }
}

static int
count(const ngram_model *m, state *s, const int32_t *slot, size_t n)
{
    for (size_t i = 0; i < n; i++)
        DEAL_PREFETCH(&m->slot[slot[i] < 0 ? ~slot[i] : slot[i]]);
    if (!m->has_counts) {
        for (size_t i = 0; i < n; i++)
            s->sum += slot[i] < 0 ? -(int64_t)m->slot[~slot[i]].weight
                                  : m->slot[slot[i]].weight;
        return 0;
    }
    if (!deal_counts_reserve(&s->counts, n))
        return 1;
    if (m->is_signed)
        count_signed(m, s, slot, n);
    else
        count_plain(m, s, slot, n);
    return 0;
}

// What the end of the text adds.
static void
add_end(const ngram_model *m, const state *s, int64_t *sum, double *square)
{
    int32_t slot[DEAL_NGRAMS_SLOTS_MAX];
    size_t n = deal_ngrams_finish(m->ngrams, &s->reading, slot);
    for (size_t i = 0; i < n; i++) {
        int32_t at = slot[i] < 0 ? ~slot[i] : slot[i];
        int32_t before = m->has_counts ? deal_counts_get(s->counts, at) : 0;
        for (size_t j = 0; j < i; j++)
            before += slot[j] == at ? 1 : slot[j] == ~at ? -1 : 0;
        add(m, slot[i], before, sum, square);
    }
}

// ---- The reward ---------------------------------------------------------------------

static int
model_init(void *self, void *state_bytes, const deal_reward_prompt *prompt,
           char *message)
{
    const ngram_model *m = self;
    state *s = state_bytes;
    memset(s, 0, sizeof *s);
    s->token_size_max = prompt->token_size_max;
    if (m->has_counts && !(s->counts = deal_counts_new(m->count_bits))) {
        strcpy(message, "out of memory");
        return 1;
    }
    return 0;
}

static int
model_fork(void *self, void *to, const void *from, char *message)
{
    (void)self;
    (void)message;
    *(state *)to = *(const state *)from;
    deal_counts_share(((state *)to)->counts);
    return 0;
}

static void
model_drop(void *self, void *state_bytes)
{
    (void)self;
    deal_counts_release(((state *)state_bytes)->counts);
}

static int
model_advance(void *self, void *state_bytes, int32_t token, const char *bytes,
              size_t size, char *message)
{
    (void)token;
    const ngram_model *m = self;
    state *s = state_bytes;
    int32_t slot[N_BUFFER];
    for (size_t i = 0; i < size;) {
        size_t n_slot;
        i += deal_ngrams_read(m->ngrams, &s->reading, (const uint8_t *)bytes + i,
                              size - i, slot, N_BUFFER, &n_slot);
        if (count(m, s, slot, n_slot) != 0) {
            strcpy(message, "out of memory");
            return 1;
        }
    }
    return 0;
}

static double
logistic(const ngram_model *m, double z)
{
    return 1.0 / (1.0 + exp(-(z + m->intercept)));
}

// Scaled sums as z without the intercept; 0 where nothing was counted.
static double
decision(const ngram_model *m, double sum, double square)
{
    double z = sum / m->scale;
    if (!m->is_normed)
        return z;
    return square > 0.0 ? z / sqrt(square / m->square_scale) : 0.0;
}

static int
model_score(void *self, const void *state_bytes, int32_t is_finished, double *score,
            char *message)
{
    (void)is_finished;
    (void)message;
    const ngram_model *m = self;
    const state *s = state_bytes;
    int64_t sum = s->sum;
    double square = s->square;
    add_end(m, s, &sum, &square);
    *score = logistic(m, decision(m, (double)sum, square));
    return 0;
}

// The greatest z, without the intercept, with sums that only grow: `most` is what the
// first one can get to. The least one is minus that of minus the sums.
static double
greatest(const ngram_model *m, double most, double square, double n_more, double limit)
{
    if (!m->is_normed)
        return most / m->scale;
    double z = limit;
    if (!m->is_signed && most <= 0.0) {
        double norm = sqrt(square / m->square_scale) + n_more * m->idf_max;
        z = norm > 0.0 ? most / m->scale / norm : 0.0;
    } else if (!m->is_signed && square > 0.0) {
        z = decision(m, most, square);
    }
    return fmin(z, limit);
}

static int
model_bounds(void *self, const void *state_bytes, int32_t n_tokens_left, double *low,
             double *high, char *message)
{
    const ngram_model *m = self;
    const state *s = state_bytes;
    if (n_tokens_left <= 0) {
        model_score(self, state_bytes, 1, low, message);
        *high = *low;
        return 0;
    }
    int64_t n_byte = s->token_size_max > 0 ? s->token_size_max : 0;
    n_byte *= n_tokens_left;
    if (n_byte > N_BYTE_MAX)
        n_byte = N_BYTE_MAX;
    double n = deal_ngrams_reach(m->ngrams, &s->reading, n_byte);
    double sum = (double)s->sum, square = s->square;
    double z_high = greatest(m, sum + n * m->most, square, n, m->norm_high);
    double z_low = -greatest(m, -(sum + n * m->least), square, n, -m->norm_low);
    *low = fmax(0.0, logistic(m, z_low) - ROUNDING);
    *high = fmin(1.0, logistic(m, z_high) + ROUNDING);
    return 0;
}

// ---- Construction -------------------------------------------------------------------

// The power of two that makes the greatest of numbers up to `most` 2^29 to 2^30.
static double
scale_for(double most)
{
    int exponent;
    frexp(most, &exponent);
    return ldexp(1.0, 30 - exponent);
}

static deal_status
check_params(const deal_ngram_model_params *p, deal_error *err)
{
    if ((int)p->tf < DEAL_NGRAM_TF_COUNT || (int)p->tf > DEAL_NGRAM_TF_LOG)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "ngram model: tf: expected 0 to 2, got %d", (int)p->tf);
    if (p->ngrams.is_signed && p->tf != DEAL_NGRAM_TF_COUNT)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "ngram model: signed counts have no other tf than the count");
    if (!isfinite(p->intercept))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "ngram model: intercept: expected a finite number, got %g",
                         p->intercept);
    for (int32_t i = 0; i < p->ngrams.n_slot; i++) {
        double idf = p->idf ? (double)p->idf[i] : 1.0, weight = (double)p->weight[i];
        if (!(fabs(weight * idf) <= 1e9) || !(idf > 0.0) || !(idf <= 1e4))
            return deal_fail(
                err, DEAL_ERR_INVALID_ARG,
                "ngram model: slot %d: expected a weight within 1e9 and an "
                "idf in (0, 1e4], got %g and %g",
                (int)i, weight, idf);
    }
    return DEAL_OK;
}

static void
find_norms(ngram_model *m, const deal_ngram_model_params *p)
{
    double positive = 0.0, negative = 0.0;
    for (int32_t i = 0; i < p->ngrams.n_slot; i++) {
        double w = (double)p->weight[i];
        *(w > 0.0 ? &positive : &negative) += w * w;
    }
    if (m->is_signed)
        positive = negative = positive + negative;
    // Weights were rounded to 2^-30 of the greatest one since.
    m->norm_high = sqrt(positive) * (1.0 + 1e-6) + 1e-6;
    m->norm_low = -sqrt(negative) * (1.0 + 1e-6) - 1e-6;
}

static deal_status
set_weights(ngram_model *m, const deal_ngram_model_params *p, deal_error *err)
{
    size_t n = (size_t)p->ngrams.n_slot;
    double most = 0.0;
    m->idf_max = p->idf ? 0.0 : 1.0;
    for (size_t i = 0; i < n; i++) {
        double idf = p->idf ? (double)p->idf[i] : 1.0;
        most = fmax(most, fabs((double)p->weight[i] * idf));
        m->idf_max = fmax(m->idf_max, idf);
    }
    m->scale = scale_for(most > 0.0 ? most : 1.0);
    m->square_scale = scale_for(m->idf_max * m->idf_max);
    m->slot = deal_alloc(n, sizeof *m->slot);
    if (!m->slot)
        return deal_fail_memory(err, "ngram model");
    for (size_t i = 0; i < n; i++) {
        double idf = p->idf ? (double)p->idf[i] : 1.0;
        int32_t weight = (int32_t)rint((double)p->weight[i] * idf * m->scale);
        m->slot[i] = (slot_weight){weight, (int32_t)rint(idf * idf * m->square_scale)};
        m->most = weight > m->most ? weight : m->most;
        m->least = weight < m->least ? weight : m->least;
    }
    if (m->is_signed) {
        m->most = m->most > -m->least ? m->most : -m->least;
        m->least = -m->most;
    }
    for (int32_t i = 0; i < N_STEP; i++)
        m->step[i] = find_step(m->tf, i, i + 1);
    find_norms(m, p);
    return DEAL_OK;
}

void
deal_reward_ngram_model_free(deal_reward *reward)
{
    if (!reward)
        return;
    ngram_model *m = (ngram_model *)reward;
    deal_ngrams_free(m->ngrams);
    deal_free(m->slot);
    deal_free(m);
}

deal_status
deal_reward_ngram_model_new(const deal_ngram_model_params *params, deal_reward **reward,
                            deal_error *err)
{
    ngram_model *m = deal_alloc_zero(1, sizeof *m);
    if (!m)
        return deal_fail_memory(err, "ngram model");
    deal_status status;
    DEAL_TRY_GOTO(deal_ngrams_new(&params->ngrams, &m->ngrams, err), failed);
    DEAL_TRY_GOTO(check_params(params, err), failed);
    m->intercept = params->intercept;
    m->tf = params->tf;
    m->is_normed = params->is_normed;
    m->is_signed = params->ngrams.is_signed;
    m->count_bits = params->ngrams.characters_max ? BITS_CHARACTERS : BITS_WORDS;
    m->has_counts = m->is_normed || m->tf != DEAL_NGRAM_TF_COUNT;
    DEAL_TRY_GOTO(set_weights(m, params, err), failed);
    m->reward = (deal_reward){
        .abi_version = DEAL_REWARD_ABI,
        .struct_size = sizeof(deal_reward),
        .self = m,
        .name = "ngram_model",
        .low = 0.0,
        .high = 1.0,
        .state_size = sizeof(state),
        .init = model_init,
        .fork = m->has_counts ? model_fork : NULL,
        .drop = m->has_counts ? model_drop : NULL,
        .advance = model_advance,
        .score = model_score,
        .bounds = model_bounds,
    };
    *reward = &m->reward;
    return DEAL_OK;
failed:
    deal_reward_ngram_model_free(&m->reward);
    return status;
}
