/* The length reward: counts by hand, grading, bounds on random text, faults. */
#include "check.h"
#include "common/alloc.h"
#include "common/rng.h"
#include "reward/length.h"

static char message[DEAL_REWARD_MESSAGE_SIZE + 1];

typedef union state_bytes {
    char bytes[64];
    long double align;
} state_bytes;

static deal_reward *
make(deal_length_unit unit, int64_t min, int64_t max)
{
    deal_reward *reward = NULL;
    deal_error err;
    CHECK_EQ_INT(deal_reward_length_new(unit, min, max, &reward, &err), DEAL_OK);
    CHECK(reward->state_size <= sizeof(state_bytes));
    return reward;
}

static void
start(const deal_reward *r, state_bytes *state, int32_t token_size_max)
{
    const deal_reward_prompt prompt = {
        .text = "", .n_new_max = 100, .token_size_max = token_size_max};
    CHECK_EQ_INT(r->init(r->self, state, &prompt, message), 0);
}

static double
score_of(const deal_reward *r, const state_bytes *state)
{
    double score = -1.0;
    CHECK_EQ_INT(r->score(r->self, state, 0, &score, message), 0);
    return score;
}

// Length of `text` in `unit`: with min = max = 1000 the score tells it.
static long
count(deal_length_unit unit, const char *text)
{
    deal_reward *r = make(unit, 1000, 1000);
    state_bytes state;
    start(r, &state, 100);
    r->advance(r->self, &state, 5, text, strlen(text), message);
    double distance = (1.0 / score_of(r, &state) - 1.0) * 1000.0;
    deal_reward_length_free(r);
    return 1000 - lround(distance);
}

static void
test_counts(void)
{
    CHECK_EQ_INT(count(DEAL_LENGTH_TOKENS, "several words"), 1);
    CHECK_EQ_INT(count(DEAL_LENGTH_CHARACTERS, "na\xC3\xAFve \xF0\x9F\x90\x88"), 7);
    CHECK_EQ_INT(count(DEAL_LENGTH_WORDS, ""), 0);
    CHECK_EQ_INT(count(DEAL_LENGTH_WORDS, " \n"), 0);
    CHECK_EQ_INT(count(DEAL_LENGTH_WORDS, "one  two\nthree - four"), 5);
    CHECK_EQ_INT(count(DEAL_LENGTH_WORDS, "a\xC2\xA0"
                                          "b\xE3\x80\x80"
                                          "c"),
                 3);
    CHECK_EQ_INT(count(DEAL_LENGTH_SENTENCES, "One. Two! Three?"), 3);
    CHECK_EQ_INT(count(DEAL_LENGTH_SENTENCES, "One... Two?! Three"), 2);
    CHECK_EQ_INT(count(DEAL_LENGTH_SENTENCES, "It is 3.5 at example.com."), 1);
    CHECK_EQ_INT(count(DEAL_LENGTH_SENTENCES, "\"Yes.\" He left. ..."), 2);
    CHECK_EQ_INT(count(DEAL_LENGTH_SENTENCES, "... !"), 0);
    CHECK_EQ_INT(count(DEAL_LENGTH_SENTENCES,
                       "\xE5\xA5\xBD\xE3\x80\x82\xE5\xA5\xBD\xEF\xBC\x81"),
                 2);
    CHECK_EQ_INT(count(DEAL_LENGTH_LINES, ""), 0);
    CHECK_EQ_INT(count(DEAL_LENGTH_LINES, "\n \n"), 0);
    CHECK_EQ_INT(count(DEAL_LENGTH_LINES, "one\r\n\n two\nthree\n"), 3);
    CHECK_EQ_INT(count(DEAL_LENGTH_PARAGRAPHS, "\n\n"), 0);
    CHECK_EQ_INT(count(DEAL_LENGTH_PARAGRAPHS, "\n\none\ntwo\n \n\nthree"), 2);
    CHECK_EQ_INT(count(DEAL_LENGTH_PARAGRAPHS, "one\n\ntwo\n\n"), 2);
}

static double
score_at(deal_length_unit unit, int64_t min, int64_t max, int n)
{
    deal_reward *r = make(unit, min, max);
    state_bytes state;
    start(r, &state, 4);
    for (int i = 0; i < n; i++)
        r->advance(r->self, &state, i, "w ", 2, message);
    double score = score_of(r, &state);
    deal_reward_length_free(r);
    return score;
}

static void
test_grading(void)
{
    CHECK_NEAR(score_at(DEAL_LENGTH_WORDS, 4, 8, 3), 1.0 / (1.0 + 1.0 / 4), 1e-15);
    CHECK_NEAR(score_at(DEAL_LENGTH_WORDS, 4, 8, 4), 1.0, 0.0);
    CHECK_NEAR(score_at(DEAL_LENGTH_WORDS, 4, 8, 8), 1.0, 0.0);
    CHECK_NEAR(score_at(DEAL_LENGTH_WORDS, 4, 8, 10), 1.0 / (1.0 + 2.0 / 8), 1e-15);
    CHECK_NEAR(score_at(DEAL_LENGTH_TOKENS, 0, 0, 3), 1.0 / 4.0, 1e-15);
    CHECK_NEAR(score_at(DEAL_LENGTH_TOKENS, 2, -1, 100), 1.0, 0.0);
    CHECK_NEAR(score_at(DEAL_LENGTH_CHARACTERS, 5, 5, 5), 0.5, 1e-15);
}

// Half a character: its token adds nothing, what is pending is no further token.
static void
test_pending_text(void)
{
    static const deal_length_unit unit[] = {DEAL_LENGTH_TOKENS, DEAL_LENGTH_CHARACTERS};
    for (int i = 0; i < 2; i++) {
        deal_reward *r = make(unit[i], 1, 1);
        state_bytes state;
        start(r, &state, 4);
        r->advance(r->self, &state, 5, "", 0, message);
        CHECK_NEAR(score_of(r, &state), i == 0 ? 1.0 : 0.5, 0.0);
        r->advance(r->self, &state, -1, "\xEF\xBF\xBD", 3, message);
        CHECK_NEAR(score_of(r, &state), 1.0, 0.0);
        deal_reward_length_free(r);
    }
}

static void
test_bounds(deal_length_unit unit)
{
    enum { N_TOKEN = 10, TOKEN_SIZE = 3 };
    uint64_t n_draw = 0;
    int n_tight = 0;
    for (int i_case = 0; i_case < 300; i_case++) {
        int64_t min = (int64_t)(8.0 * deal_rng_uniform(1, unit, n_draw++));
        int64_t max = min + (int64_t)(4.0 * deal_rng_uniform(1, unit, n_draw++)) - 1;
        deal_reward *r = make(unit, min, max < min ? -1 : max);
        state_bytes state;
        double score[N_TOKEN + 1], low[N_TOKEN + 1][N_TOKEN + 1];
        double high[N_TOKEN + 1][N_TOKEN + 1];
        start(r, &state, TOKEN_SIZE);
        for (int t = 0; t <= N_TOKEN; t++) {
            score[t] = score_of(r, &state);
            for (int n_left = 0; n_left + t <= N_TOKEN; n_left++) {
                r->bounds(r->self, &state, n_left, &low[t][n_left], &high[t][n_left],
                          message);
                n_tight +=
                    n_left > 0 && (high[t][n_left] < 1.0 || low[t][n_left] > 0.5);
            }
            char token[TOKEN_SIZE];
            size_t size = (size_t)(4.0 * deal_rng_uniform(1, unit, n_draw++));
            for (size_t i = 0; i < size; i++)
                token[i] =
                    "ab .!\n\n"[(int)(7.0 * deal_rng_uniform(1, unit, n_draw++))];
            r->advance(r->self, &state, t, token, size, message);
        }
        for (int t = 0; t <= N_TOKEN; t++)
            for (int n_left = 0; n_left + t <= N_TOKEN; n_left++) {
                if (!n_left)
                    CHECK(low[t][0] == score[t] && high[t][0] == score[t]);
                for (int later = t; later <= t + n_left; later++)
                    CHECK(low[t][n_left] <= score[later] &&
                          score[later] <= high[t][n_left]);
            }
        deal_reward_length_free(r);
    }
    CHECK(n_tight > 1000);
}

// Text that gains as fast as any can, so that a bound one byte too low shows.
static void
test_fastest(deal_length_unit unit, const char *text)
{
    deal_reward *r = make(unit, 1000, 1000);
    for (size_t from = 0; from < strlen(text); from++)
        for (size_t to = from; to <= strlen(text); to++) {
            state_bytes state;
            double low, high;
            start(r, &state, 1);
            r->advance(r->self, &state, 0, text, from, message);
            r->bounds(r->self, &state, (int32_t)(to - from), &low, &high, message);
            r->advance(r->self, &state, 0, text + from, to - from, message);
            CHECK(score_of(r, &state) <= high);
        }
    deal_reward_length_free(r);
}

static void
test_faults(void)
{
    deal_reward *reward = NULL;
    deal_error err;
    CHECK_EQ_INT(deal_reward_length_new(DEAL_LENGTH_WORDS, -1, 5, &reward, &err),
                 DEAL_ERR_INVALID_ARG);
    CHECK_EQ_INT(deal_reward_length_new(DEAL_LENGTH_WORDS, 6, 5, &reward, &err),
                 DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "6");
    CHECK_EQ_INT(deal_reward_length_new((deal_length_unit)6, 1, 5, &reward, &err),
                 DEAL_ERR_INVALID_ARG);
    deal_alloc_fail_at(1);
    CHECK_EQ_INT(deal_reward_length_new(DEAL_LENGTH_WORDS, 1, 5, &reward, &err),
                 DEAL_ERR_NO_MEMORY);
    deal_alloc_fail_at(0);
    CHECK(reward == NULL);
    deal_reward_length_free(NULL);
}

int
main(void)
{
    test_counts();
    test_grading();
    test_pending_text();
    for (int unit = DEAL_LENGTH_TOKENS; unit <= DEAL_LENGTH_PARAGRAPHS; unit++)
        test_bounds((deal_length_unit)unit);
    test_fastest(DEAL_LENGTH_WORDS, "a b c d e f g");
    test_fastest(DEAL_LENGTH_CHARACTERS, "abcdefg");
    test_fastest(DEAL_LENGTH_SENTENCES, "a. b. c. d. e.");
    test_fastest(DEAL_LENGTH_SENTENCES, "a! b? 3.4.5.6. c");
    test_fastest(DEAL_LENGTH_LINES, "a\nb\nc\nd");
    test_fastest(DEAL_LENGTH_PARAGRAPHS, "a\n\nb\n \nc\n\n\nd\n\ne");
    test_faults();
    return check_report("test_length");
}
