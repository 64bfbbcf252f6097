/* The lexicon reward on cases worked out by hand, and allocations that fail. Random
 * text against a twin, and bounds: tests/unit/test_lexicon.py.
 */
#include "check.h"
#include "common/alloc.h"
#include "reward/lexicon.h"

#define STATE_SIZE_MAX 512
#define N_ENTRY 6

static char message[DEAL_REWARD_MESSAGE_SIZE + 1];
static const char *const entry[N_ENTRY] = {"good", "bad", "fed up", "up", ":)", "f*k"};
static const size_t entry_size[N_ENTRY] = {4, 3, 6, 2, 2, 3};
static const double weight[N_ENTRY] = {2.0, -2.0, -1.5, 0.25, 1.0, -3.0};
static const char *const negator[] = {"not", "don't"};
static const size_t negator_size[] = {3, 5};

static const deal_lexicon_params plain = {.n_entry = N_ENTRY,
                                          .n_negator = 2,
                                          .entry = entry,
                                          .entry_size = entry_size,
                                          .weight = weight,
                                          .negator = negator,
                                          .negator_size = negator_size,
                                          .window = 2,
                                          .negation = -0.5,
                                          .alpha = 15.0};

static deal_reward *
make(const deal_lexicon_params *params)
{
    deal_reward *r = NULL;
    deal_error err;
    CHECK(deal_reward_lexicon_new(params, &r, &err) == DEAL_OK);
    CHECK(r->state_size <= STATE_SIZE_MAX);
    return r;
}

static double
score_text(const deal_reward *r, const char *text)
{
    _Alignas(16) char state[STATE_SIZE_MAX];
    const deal_reward_prompt prompt = {.text = "", .token_size_max = 100};
    double score = NAN;
    r->init(r->self, state, &prompt, message);
    r->advance(r->self, state, 1, text, strlen(text), message);
    CHECK(r->score(r->self, state, 1, &score, message) == 0);
    return score;
}

// The sum of weights that a score per text comes from.
static double
sum_of(const deal_reward *r, const char *text)
{
    double score = score_text(r, text);
    return score * sqrt(15.0) / sqrt(1.0 - score * score);
}

static void
test_by_hand(void)
{
    static const struct {
        const char *text;
        double sum;
    } row[] = {
        {"", 0.0},
        {"GOOD.", 2.0},
        {"goods", 0.0},
        {"good good bad", 2.0},
        {"not good", -1.0},
        {"not so good", -1.0},
        {"not so very good", 2.0},
        {"don\xE2\x80\x99t. Good", -1.0},
        {"fed up", -1.5},
        {"fed-up, up", -1.25},
        {"fed down up", 0.25},
        {"not fed up", 0.75},
        {"fed", 0.0},
        {":)", 1.0},
        {"a:)", 0.0},
        {":).", 1.0},
        {":)) :( :", 0.0},
        {"f*k!!", -3.0},
        {"(f*k)", 0.0},
        {"(good)/bad", 0.0},
        {"good\xFF"
         "bad",
         0.0},
        {"good\xC3", 2.0},
    };
    deal_reward *r = make(&plain);
    CHECK(r->low == -1.0 && r->high == 1.0);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (!CHECK(fabs(sum_of(r, row[i].text) - row[i].sum) < 1e-6))
            printf("    \"%s\": %g\n", row[i].text, sum_of(r, row[i].text));
    deal_reward_lexicon_free(r);
}

static void
test_means(void)
{
    deal_lexicon_params params = plain;
    params.per = DEAL_LEXICON_PER_WORD;
    deal_reward *r = make(&params);
    CHECK(r->low == -3.0 && r->high == 2.0);
    CHECK(score_text(r, "a good day, :)") == 0.75);
    CHECK(score_text(r, " ") == 0.0);
    deal_reward_lexicon_free(r);
    params.per = DEAL_LEXICON_PER_MATCH;
    r = make(&params);
    CHECK(score_text(r, "a good day, :)") == 1.5);
    CHECK(score_text(r, "a day") == 0.0);
    deal_reward_lexicon_free(r);
}

// ":)" in 2 bytes, a negated "f*k" in 3, "good" in 4; a space before the next one.
static void
test_bounds(void)
{
    const double highest[] = {0, 0, 1, 1.5, 2, 2, 2.5, 3, 3.5, 4};
    deal_reward *r = make(&plain);
    _Alignas(16) char state[STATE_SIZE_MAX];
    const deal_reward_prompt prompt = {.text = "", .token_size_max = 1};
    r->init(r->self, state, &prompt, message);
    for (int n = 0; n < 10; n++) {
        double low, high;
        r->bounds(r->self, state, n, &low, &high, message);
        CHECK_NEAR(high * sqrt(15.0) / sqrt(1.0 - high * high), highest[n], 1e-9);
        CHECK(low <= 0.0);
    }
    deal_reward_lexicon_free(r);
}

static void
test_faults(void)
{
    deal_reward *const untouched = (deal_reward *)(void *)message;
    deal_reward *r = untouched;
    deal_error err;
    deal_lexicon_params params = plain;
    params.n_entry = 0;
    CHECK(deal_reward_lexicon_new(&params, &r, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "entries");
    params = plain;
    params.alpha = 0.0;
    CHECK(deal_reward_lexicon_new(&params, &r, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "alpha");
    const char *const bad[] = {"\xC3"};
    const size_t bad_size[] = {1};
    params = plain;
    params.n_entry = 1;
    params.entry = bad;
    params.entry_size = bad_size;
    CHECK(deal_reward_lexicon_new(&params, &r, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "UTF-8");
    CHECK(r == untouched);
    int n_failed = 0;
    for (size_t n = 1;; n++, n_failed++) {
        deal_alloc_fail_at(n);
        deal_status status = deal_reward_lexicon_new(&plain, &r, &err);
        deal_alloc_fail_at(0);
        if (status == DEAL_OK)
            break;
        CHECK(status == DEAL_ERR_NO_MEMORY && r == untouched);
    }
    CHECK(n_failed > 6);
    size_t before = deal_alloc_count(); // reading text allocates nothing
    CHECK(score_text(r, "not good, fed up :) f*k") < 0.0);
    CHECK(deal_alloc_count() == before);
    deal_reward_lexicon_free(r);
    deal_reward_lexicon_free(NULL);
}

int
main(void)
{
    test_by_hand();
    test_means();
    test_bounds();
    test_faults();
    return check_report("test_lexicon");
}
