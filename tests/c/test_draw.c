/* Sampling against a plain twin that sorts, filters and sums as transformers does:
 * one draw, frequencies, and whole searches over the table LM.
 */
#include <stdbool.h>

#include "check.h"
#include "common/rng.h"
#include "search/draw.h"
#include "search/search.h"
#include "table_lm.h"

#define N_VOCAB 12
#define N_NEW 5
#define N_STREAM 2000

static deal_error err;

// Settings under test, alone and together.
static const deal_search_params setting[] = {
    {.temperature = 1.0, .repetition_penalty = 1.0, .top_p = 1.0},
    {.temperature = 0.3, .repetition_penalty = 1.0, .top_p = 1.0},
    {.temperature = 2.5, .repetition_penalty = 1.0, .top_p = 1.0},
    {.temperature = 1.0, .repetition_penalty = 1.0, .top_p = 1.0, .top_k = 1},
    {.temperature = 1.0, .repetition_penalty = 1.0, .top_p = 1.0, .top_k = 4},
    {.temperature = 1.0, .repetition_penalty = 1.0, .top_p = 1.0, .top_k = 100},
    {.temperature = 1.0, .repetition_penalty = 1.0, .top_p = 0.6},
    {.temperature = 1.0, .repetition_penalty = 1.0, .top_p = 1e-9},
    {.temperature = 1.0, .repetition_penalty = 1.0, .top_p = 1.0, .min_p = 0.1},
    {.temperature = 1.0, .repetition_penalty = 1.0, .top_p = 1.0, .min_p = 1.0},
    {.temperature = 1.0, .repetition_penalty = 1.7, .top_p = 1.0},
    {.temperature = 1.0, .repetition_penalty = 0.6, .top_p = 1.0},
    {.temperature = 0.7,
     .repetition_penalty = 1.3,
     .top_p = 0.9,
     .top_k = 8,
     .min_p = 0.02},
    {.temperature = 1.6,
     .repetition_penalty = 1.1,
     .top_p = 0.8,
     .top_k = 6,
     .min_p = 0.3},
};
#define N_SETTING ((int)(sizeof setting / sizeof *setting))

// --- the twin ------------------------------------------------------------------------

typedef struct distribution {
    int32_t token[N_VOCAB]; // by falling probability, equal ones by rising id
    double prob[N_VOCAB];   // 0 from n_kept on
    int32_t n_kept;
} distribution;

static void
normalise(distribution *d)
{
    double sum = 0.0;
    for (int i = 0; i < d->n_kept; i++)
        sum += d->prob[i];
    for (int i = 0; i < N_VOCAB; i++)
        d->prob[i] = i < d->n_kept ? d->prob[i] / sum : 0.0;
}

static void
sort(distribution *d, const double *x)
{
    for (int32_t i = 0; i < N_VOCAB; i++) {
        int j = i;
        for (; j > 0 && x[d->token[j - 1]] < x[i]; j--)
            d->token[j] = d->token[j - 1];
        d->token[j] = i;
    }
}

static distribution
twin(const float *logits, const deal_search_params *params, const bool *is_used)
{
    distribution d = {.n_kept = N_VOCAB};
    double x[N_VOCAB];
    for (int i = 0; i < N_VOCAB; i++) {
        x[i] = (double)logits[i];
        if (is_used[i])
            x[i] *= x[i] < 0 ? params->repetition_penalty
                             : 1.0 / params->repetition_penalty;
        x[i] /= params->temperature;
    }
    sort(&d, x);
    if (params->top_k > 0)
        while (d.n_kept > params->top_k &&
               x[d.token[d.n_kept - 1]] < x[d.token[params->top_k - 1]])
            d.n_kept--;
    for (int i = 0; i < d.n_kept; i++)
        d.prob[i] = exp(x[d.token[i]] - x[d.token[0]]);
    normalise(&d);
    double reached = d.prob[0];
    int n = 1;
    for (; n < d.n_kept && reached < params->top_p; n++)
        reached += d.prob[n];
    if (params->top_p < 1.0)
        d.n_kept = n;
    while (d.prob[d.n_kept - 1] < params->min_p * d.prob[0])
        d.n_kept--;
    normalise(&d);
    return d;
}

static int32_t
twin_token(const distribution *d, double u)
{
    double reached = 0.0;
    for (int i = 0; i + 1 < d->n_kept; i++) {
        reached += d->prob[i];
        if (u < reached)
            return d->token[i];
    }
    return d->token[d->n_kept - 1];
}

// Whether counts (N_VOCAB,) of `n` draws fit; a chance of about 1e-6 to say no in vain.
static bool
counts_fit(const distribution *d, const int *count, int n)
{
    double chi_square = 0.0, n_free = -1.0;
    for (int i = 0; i < N_VOCAB; i++) {
        double expected = d->prob[i] * n, found = count[d->token[i]];
        if (d->prob[i] == 0.0 && found > 0)
            return false;
        if (d->prob[i] == 0.0)
            continue;
        chi_square += (found - expected) * (found - expected) / expected;
        n_free++;
    }
    return chi_square <= n_free + 7.0 * sqrt(2.0 * n_free) + 10.0;
}

// --- one draw ------------------------------------------------------------------------

static int32_t
draw_one(deal_draw *draw, const float *logits, const deal_search_params *params,
         const int32_t *used, int32_t n_used, double u)
{
    CHECK(deal_draw_load(draw, logits, &err) == DEAL_OK);
    // Twice, and in two parts, counts once.
    deal_draw_penalise(draw, params->repetition_penalty, used, n_used);
    deal_draw_penalise(draw, params->repetition_penalty, used, n_used / 2);
    return deal_draw_token(draw, params, u);
}

static void
test_setting(const deal_search_params *params, uint64_t seed)
{
    enum { N = 20000 };
    deal_draw draw;
    float logits[N_VOCAB];
    const int32_t used[] = {2, 5, 2, 9};
    bool is_used[N_VOCAB] = {[2] = true, [5] = true, [9] = true};
    for (int i = 0; i < N_VOCAB; i++)
        logits[i] = (float)(8.0 * deal_rng_uniform(seed, 7, (uint64_t)i) - 4.0);
    CHECK(deal_draw_init(&draw, N_VOCAB, &err) == DEAL_OK);
    distribution d = twin(logits, params, is_used);
    double reached = 0.0;
    for (int i = 0; i < d.n_kept; i++) { // the middle of every token's share
        double u = reached + d.prob[i] / 2.0;
        CHECK_EQ_INT(draw_one(&draw, logits, params, used, 4, u), d.token[i]);
        reached += d.prob[i];
    }
    CHECK_EQ_INT(draw_one(&draw, logits, params, used, 4, 0.0), d.token[0]);
    double last = 1.0 - 0x1p-53;
    CHECK_EQ_INT(draw_one(&draw, logits, params, used, 4, last), d.token[d.n_kept - 1]);
    int count[N_VOCAB] = {0};
    for (int i = 0; i < N; i++) {
        double u = deal_rng_uniform(seed, 8, (uint64_t)i);
        count[draw_one(&draw, logits, params, used, 4, u)]++;
    }
    CHECK(counts_fit(&d, count, N));
    deal_draw_free(&draw);
}

// Which tokens a draw can give, as a bit mask.
static int
support(const float *logits, const deal_search_params *params)
{
    deal_draw draw;
    int mask = 0;
    CHECK(deal_draw_init(&draw, N_VOCAB, &err) == DEAL_OK);
    for (int i = 0; i < 500; i++)
        mask |= 1 << draw_one(&draw, logits, params, NULL, 0, (i + 0.5) / 500);
    deal_draw_free(&draw);
    return mask;
}

static void
test_ties(void)
{
    const float low = -INFINITY;
    const float four[N_VOCAB] = {low, 1, low, 1, 1, low, low, 1, low, low, low, low};
    deal_search_params p = setting[0];
    CHECK_EQ_INT(support(four, &p), 1 << 1 | 1 << 3 | 1 << 4 | 1 << 7);
    deal_draw draw;
    CHECK(deal_draw_init(&draw, N_VOCAB, &err) == DEAL_OK);
    CHECK_EQ_INT(draw_one(&draw, four, &p, NULL, 0, 0.25), 3); // shares are half open
    CHECK_EQ_INT(draw_one(&draw, four, &p, NULL, 0, 0.25 - 0x1p-53), 1);
    deal_draw_free(&draw);
    p.top_k = 2; // equals of the second stay
    CHECK_EQ_INT(support(four, &p), 1 << 1 | 1 << 3 | 1 << 4 | 1 << 7);
    p.top_p = 0.5; // reached by two of them
    CHECK_EQ_INT(support(four, &p), 1 << 1 | 1 << 3);
    p.top_p = 0.51;
    CHECK_EQ_INT(support(four, &p), 1 << 1 | 1 << 3 | 1 << 4);
    p.min_p = 1.0; // equals of the most likely stay
    CHECK_EQ_INT(support(four, &p), 1 << 1 | 1 << 3 | 1 << 4);
    p.top_p = 0.1;
    CHECK_EQ_INT(support(four, &p), 1 << 1);
}

static void
test_bad_logits(void)
{
    deal_draw draw;
    float logits[N_VOCAB] = {0};
    CHECK(deal_draw_init(&draw, N_VOCAB, &err) == DEAL_OK);
    logits[7] = NAN;
    CHECK(deal_draw_load(&draw, logits, &err) == DEAL_ERR_FORMAT);
    CHECK_HAS(err.message, "token 7");
    logits[7] = INFINITY;
    CHECK(deal_draw_load(&draw, logits, &err) == DEAL_ERR_FORMAT);
    for (int i = 0; i < N_VOCAB; i++)
        logits[i] = -INFINITY;
    CHECK(deal_draw_load(&draw, logits, &err) == DEAL_ERR_FORMAT);
    deal_draw_free(&draw);
}

// --- searches ------------------------------------------------------------------------

static const int32_t prompt[] = {3, 8};

static deal_vocab *
make_vocab(void)
{
    int64_t offset[N_VOCAB + 1];
    uint8_t kind[N_VOCAB] = {0};
    for (int i = 0; i <= N_VOCAB; i++)
        offset[i] = i;
    deal_vocab *vocab = NULL;
    CHECK(deal_vocab_new(N_VOCAB, (const uint8_t *)"abcdefghijkl", N_VOCAB, offset,
                         kind, DEAL_BYTE_RULE_STREAM, DEAL_LEADING_SPACE_KEEP, &vocab,
                         &err) == DEAL_OK);
    return vocab;
}

typedef struct streams {
    int32_t token[N_STREAM][N_NEW];
    double logprob[N_STREAM];
} streams;

static void
sample(deal_table_lm *lm, const deal_search_params *setting_of, uint64_t seed,
       int32_t n_stream, streams *out)
{
    deal_vocab *vocab = make_vocab();
    deal_search_request request = {
        .lm = &lm->lm,
        .vocab = vocab,
        .prompt = prompt,
        .n_prompt = 2,
        .params = *setting_of,
    };
    request.params.mode = DEAL_SEARCH_SAMPLE;
    request.params.n_new_max = N_NEW;
    request.params.n_return = n_stream;
    request.params.seed = seed;
    deal_search *search = NULL;
    if (!CHECK(deal_search_new(&request, &search, &err) == DEAL_OK))
        return;
    for (bool is_done = false; !is_done;)
        CHECK(deal_search_step(search, &is_done, &err) == DEAL_OK);
    CHECK_EQ_INT(deal_search_n_result(search), n_stream);
    for (int32_t i = 0; i < n_stream; i++) {
        deal_search_result result;
        deal_search_result_get(search, i, &result);
        CHECK_EQ_INT(result.n_token, N_NEW);
        CHECK(result.score == result.logprob);
        memcpy(out->token[i], result.token, sizeof out->token[i]);
        out->logprob[i] = result.logprob;
    }
    deal_search_free(search);
    deal_vocab_free(vocab);
    CHECK_EQ_INT(lm->n_live, 0);
}

static double
log_softmax(const float *logits, int32_t token)
{
    double sum = 0.0;
    for (int i = 0; i < N_VOCAB; i++)
        sum += exp((double)logits[i]);
    return (double)logits[token] - log(sum);
}

// Every token of every stream is the twin's for the same uniform number, and its
// log-prob is the model's own, whatever was filtered.
static void
test_streams(deal_table_lm *lm, const deal_search_params *params, uint64_t seed)
{
    static streams out;
    int count[N_VOCAB] = {0}, n_different = 0;
    const int32_t n_stream = N_STREAM;
    sample(lm, params, seed, n_stream, &out);
    for (int32_t i = 0; i < n_stream; i++) {
        bool is_used[N_VOCAB] = {[3] = true, [8] = true};
        const float *logits = lm->table + 8 * N_VOCAB;
        double logprob = 0.0;
        for (int j = 0; j < N_NEW; j++) {
            distribution d = twin(logits, params, is_used);
            double u = deal_rng_uniform(seed, (uint64_t)i, (uint64_t)j);
            int32_t token = out.token[i][j];
            n_different += token != twin_token(&d, u);
            logprob += log_softmax(logits, token);
            is_used[token] = true;
            logits = lm->table + token * N_VOCAB;
        }
        CHECK_NEAR(out.logprob[i], logprob, 1e-5); // log Z is a float
        count[out.token[i][0]]++;
    }
    CHECK_EQ_INT(n_different, 0);
    bool is_used[N_VOCAB] = {[3] = true, [8] = true};
    distribution d = twin(lm->table + 8 * N_VOCAB, params, is_used);
    CHECK(counts_fit(&d, count, n_stream));
}

static void
test_seeds(deal_table_lm *lm)
{
    static streams a, b;
    sample(lm, &setting[0], 1, N_STREAM, &a);
    sample(lm, &setting[0], 1, 5, &b); // a stream does not depend on the others
    CHECK(memcmp(a.token, b.token, 5 * sizeof *a.token) == 0);
    sample(lm, &setting[0], 1, N_STREAM, &b);
    CHECK(memcmp(&a, &b, sizeof a) == 0);
    sample(lm, &setting[0], 2, N_STREAM, &b);
    int n_equal = 0;
    for (int i = 0; i < N_STREAM; i++)
        n_equal += memcmp(a.token[i], b.token[i], sizeof a.token[i]) == 0;
    CHECK(n_equal < N_STREAM / 10);
}

// Temperature 0 takes the best after the penalty; of equals the lowest id.
static void
test_penalised_greedy(deal_table_lm *lm)
{
    static streams out;
    deal_search_params params = {.repetition_penalty = 3.0, .top_p = 1.0};
    deal_search_params cold = params;
    cold.temperature = 1.0;
    sample(lm, &params, 0, 1, &out);
    bool is_used[N_VOCAB] = {[3] = true, [8] = true};
    const float *logits = lm->table + 8 * N_VOCAB;
    for (int j = 0; j < N_NEW; j++) {
        distribution d = twin(logits, &cold, is_used);
        CHECK_EQ_INT(out.token[0][j], d.token[0]);
        is_used[out.token[0][j]] = true;
        logits = lm->table + out.token[0][j] * N_VOCAB;
    }
}

int
main(void)
{
    for (int i = 0; i < N_SETTING; i++)
        test_setting(&setting[i], (uint64_t)i + 1);
    test_ties();
    test_bad_logits();
    float table[(N_VOCAB + 1) * N_VOCAB];
    for (int i = 0; i < (N_VOCAB + 1) * N_VOCAB; i++)
        table[i] = (float)(5.0 * deal_rng_uniform(4, 4, (uint64_t)i) - 2.5);
    deal_table_lm *lm;
    CHECK(deal_table_lm_new(N_VOCAB, 100, 1, table, 0, &lm, &err) == DEAL_OK);
    for (int i = 0; i < N_SETTING; i++)
        test_streams(lm, &setting[i], (uint64_t)i);
    test_seeds(lm);
    test_penalised_greedy(lm);
    deal_table_lm_free(lm);
    return check_report("test_draw");
}
