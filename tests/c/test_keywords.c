/* The keyword reward on cases worked out by hand, random text against a plain search
 * for whole words, bounds that hold, and allocations that fail.
 */
#include "check.h"
#include "common/alloc.h"
#include "common/rng.h"
#include "reward/keywords.h"

#define STATE_SIZE_MAX 256

static char message[DEAL_REWARD_MESSAGE_SIZE + 1];

// A reward over zero-terminated forms; `i_concept` as in keywords.h.
static deal_reward *
make(int32_t n_concept, int32_t n_form, const char *const *form,
     const int32_t *i_concept)
{
    size_t size[64];
    for (int32_t i = 0; i < n_form; i++)
        size[i] = strlen(form[i]);
    deal_reward *reward = NULL;
    deal_error err;
    CHECK_EQ_INT(deal_reward_keywords_new(DEAL_KEYWORDS_FRACTION, n_concept, 0, n_form,
                                          form, size, i_concept, &reward, &err),
                 DEAL_OK);
    return reward;
}

static void
start(const deal_reward *r, void *state, int32_t token_size_max)
{
    const deal_reward_prompt prompt = {
        .text = "", .n_new_max = 100, .token_size_max = token_size_max};
    CHECK(r->state_size <= STATE_SIZE_MAX);
    CHECK_EQ_INT(r->init(r->self, state, &prompt, message), 0);
}

static double
score_of(const deal_reward *r, const void *state)
{
    double score = -1.0;
    CHECK_EQ_INT(r->score(r->self, state, 1, &score, message), 0);
    return score;
}

// Score of a whole text in one token.
static double
score_text(const deal_reward *r, const char *text)
{
    _Alignas(16) char state[STATE_SIZE_MAX];
    start(r, state, 100);
    r->advance(r->self, state, 1, text, strlen(text), message);
    return score_of(r, state);
}

static void
test_one(const char *form, const char *text, int is_covered)
{
    const int32_t zero = 0;
    deal_reward *r = make(1, 1, &form, &zero);
    if (!CHECK(score_text(r, text) == (double)is_covered))
        printf("    form \"%s\", text \"%s\"\n", form, text);
    deal_reward_keywords_free(r);
}

static void
test_whole_words(void)
{
    test_one("cat", "cat", 1);
    test_one("cat", "The CAT, they say", 1);
    test_one("cat", "concat", 0);
    test_one("cat", "cats", 0);
    test_one("cat", "cat_", 0);
    test_one("cat", "cat2 2cat", 0);
    test_one("cat", "ca t", 0);
    test_one("cat", "cacat", 0);
    test_one("cat", "cat's", 1);
    test_one("cat", "tom-cat.", 1);
    test_one("cat", "", 0);
    test_one("cat", "cat\xC3\xA9", 0); // e acute
    test_one("cat", "cat\xCC\x81", 0); // a combining acute
    test_one("cat",
             "\xE2\x80\x9C"
             "cat\xE2\x80\x9D",
             1);                               // curly quotes
    test_one("cat", "cat\xF0\x9F\x90\x88", 1); // an emoji
    test_one("\xC3\x89T\xC3\x89", "l'\xC3\xA9t\xC3\xA9", 1);
    test_one("\xCE\xA3", "\xCF\x82", 1); // sigma and final sigma
    test_one("new york", "In New York.", 1);
    test_one("new york", "new yorkers", 0);
    test_one("new york", "new  york", 0);
    test_one("c++", "C++, C", 1);
    test_one("c++", "c+ +", 0);
    test_one("?", "why?", 1); // cuts no word
    test_one("cat",
             "\xFF"
             "cat\xFF",
             1); // bytes that are no text are no words
}

static void
test_pending(void)
{
    const char *form[] = {"cat", "cats", "dog"};
    const int32_t concept[] = {0, 1, 2};
    deal_reward *r = make(3, 3, form, concept);
    _Alignas(16) char state[STATE_SIZE_MAX];
    double low, high;
    start(r, state, 8);
    r->advance(r->self, state, 1, "a cat", 5, message);
    CHECK_NEAR(score_of(r, state), 1.0 / 3, 1e-15);
    r->bounds(r->self, state, 1, &low, &high, message);
    CHECK_NEAR(low, 0.0, 0.0); // "cat" may grow into "catty"
    CHECK_NEAR(high, 1.0, 0.0);
    r->bounds(r->self, state, 0, &low, &high, message);
    CHECK(low == high && low == score_of(r, state));
    r->advance(r->self, state, 2, "s", 1, message); // the pending match becomes another
    CHECK_NEAR(score_of(r, state), 1.0 / 3, 1e-15);
    r->advance(r->self, state, 3, "", 0, message);
    r->advance(r->self, state, 4, " Cat", 4, message);
    CHECK_NEAR(score_of(r, state), 2.0 / 3, 1e-15);
    r->advance(r->self, state, 5, "s", 1, message);
    CHECK_NEAR(score_of(r, state), 1.0 / 3, 1e-15);
    r->advance(r->self, state, 6, " dog cat ", 9, message);
    CHECK_NEAR(score_of(r, state), 1.0, 0.0);
    deal_reward_keywords_free(r);
}

static void
test_reach(void)
{
    const char *form[] = {"cat", "elephant"};
    const int32_t concept[] = {0, 1};
    deal_reward *r = make(2, 2, form, concept);
    _Alignas(16) char state[STATE_SIZE_MAX];
    double low, high;
    start(r, state, 1);
    const double at_start[] = {0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0};
    for (int32_t n_left = 0; n_left < 10; n_left++) {
        r->bounds(r->self, state, n_left, &low, &high, message);
        CHECK_NEAR(low, 0.0, 0.0);
        CHECK_NEAR(high, at_start[n_left], 0.0);
    }
    r->advance(r->self, state, 1, "an eleph", 8, message);
    const double inside[] = {0.0, 0.0, 0.0, 0.5, 1.0}; // "ant", or " cat"
    for (int32_t n_left = 0; n_left < 5; n_left++) {
        r->bounds(r->self, state, n_left, &low, &high, message);
        CHECK_NEAR(high, inside[n_left], 0.0);
    }
    deal_reward_keywords_free(r);
}

// ---- Random text over a small alphabet, against a plain search ----------------------

static uint64_t n_draw;

static int
draw(int n)
{
    return (int)(deal_rng_uniform(7, 1, n_draw++) * n);
}

static int
is_word_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int
has_form(const char *text, const char *form)
{
    char lower[256];
    for (size_t i = 0; i <= strlen(text); i++)
        lower[i] = text[i] >= 'A' && text[i] <= 'Z' ? (char)(text[i] + 32) : text[i];
    size_t size = strlen(form);
    for (const char *at = lower; (at = strstr(at, form)) != NULL; at++) {
        int cut_before = at > lower && is_word_byte(at[-1]) && is_word_byte(form[0]);
        int cut_after = is_word_byte(form[size - 1]) && is_word_byte(at[size]);
        if (!cut_before && !cut_after)
            return 1;
    }
    return 0;
}

static void
random_form(char *out)
{
    int size = 1 + draw(5);
    for (int i = 0; i < size; i++)
        out[i] = "aab b."[draw(6)];
    out[size] = 0;
}

static void
test_random(void)
{
    int n_partly = 0, n_tight = 0;
    for (int i_case = 0; i_case < 400; i_case++) {
        char store[12][8];
        const char *form[12];
        int32_t concept[12], n_concept = 1 + draw(6);
        int32_t n_form = n_concept + draw(6);
        for (int32_t i = 0; i < n_form; i++) {
            random_form(store[i]);
            form[i] = store[i];
            concept[i] = i < n_concept ? i : draw(n_concept);
        }
        deal_reward *r = make(n_concept, n_form, form, concept);
        _Alignas(16) char state[STATE_SIZE_MAX];
        enum { N_TOKEN = 12, TOKEN_SIZE = 3 };
        double score[N_TOKEN + 1], low[N_TOKEN + 1][N_TOKEN + 1];
        double high[N_TOKEN + 1][N_TOKEN + 1];
        char text[64] = "";
        start(r, state, TOKEN_SIZE);
        for (int t = 0; t <= N_TOKEN; t++) {
            int n_covered = 0;
            for (int32_t c = 0; c < n_concept; c++) {
                int is_covered = 0;
                for (int32_t i = 0; i < n_form; i++)
                is_covered |= concept[i] == c && has_form(text, form[i]);
                n_covered += is_covered;
            }
            score[t] = score_of(r, state);
            if (!CHECK(score[t] == (double)n_covered / n_concept))
                printf("    text \"%s\"\n", text);
            n_partly += score[t] > 0.0 && score[t] < 1.0;
            for (int n_left = 0; n_left + t <= N_TOKEN; n_left++) {
                r->bounds(r->self, state, n_left, &low[t][n_left], &high[t][n_left],
                          message);
                n_tight += n_left > 0 && high[t][n_left] < 1.0;
            }
            char token[TOKEN_SIZE + 1] = "";
            int size = draw(TOKEN_SIZE + 1);
            for (int i = 0; i < size; i++)
                token[i] = "aaAbB ."[draw(7)];
            r->advance(r->self, state, t, token, (size_t)size, message);
            strcat(text, token);
        }
        for (int t = 0; t <= N_TOKEN; t++)
            for (int n_left = 0; n_left + t <= N_TOKEN; n_left++)
                for (int later = t; later <= t + n_left; later++)
                    CHECK(low[t][n_left] <= score[later] &&
                          score[later] <= high[t][n_left]);
        deal_reward_keywords_free(r);
    }
    CHECK(n_partly > 500);
    CHECK(n_tight > 500);
}

// Score of `text` where "a", "b c" and "c" are wanted and "no" and "never" forbidden.
static double
score_mode(deal_keywords_mode mode, const char *text)
{
    const char *form[] = {"a", "b c", "c", "no", "never"};
    const size_t size[] = {1, 3, 1, 2, 5};
    const int32_t concept[] = {0, 1, 2, 3, 4};
    deal_reward *r = NULL;
    deal_error err;
    CHECK_EQ_INT(deal_reward_keywords_new(mode, 3, 2, 5, form, size, concept, &r, &err),
                 DEAL_OK);
    double score = score_text(r, text);
    deal_reward_keywords_free(r);
    return score;
}

static void
test_modes(void)
{
    CHECK_NEAR(score_mode(DEAL_KEYWORDS_FRACTION, "c a"), 2.0 / 3, 1e-15);
    CHECK_NEAR(score_mode(DEAL_KEYWORDS_FRACTION, "c a no"), 1.0 / 3, 1e-15);
    CHECK_NEAR(score_mode(DEAL_KEYWORDS_FRACTION, "a b c no never"), 0.0, 0.0);
    CHECK_NEAR(score_mode(DEAL_KEYWORDS_ALL, "b c a"), 1.0, 0.0);
    CHECK_NEAR(score_mode(DEAL_KEYWORDS_ALL, "b c"), 0.0, 0.0);
    CHECK_NEAR(score_mode(DEAL_KEYWORDS_ALL, "b c a no"), 0.0, 0.0);
    CHECK_NEAR(score_mode(DEAL_KEYWORDS_ANY, "x c"), 1.0, 0.0);
    CHECK_NEAR(score_mode(DEAL_KEYWORDS_ANY, "x"), 0.0, 0.0);
    CHECK_NEAR(score_mode(DEAL_KEYWORDS_ANY, "c, never"), 0.0, 0.0);
    CHECK_NEAR(score_mode(DEAL_KEYWORDS_ORDERED, "c b c a"), 1.0 / 3, 1e-15);
    CHECK_NEAR(score_mode(DEAL_KEYWORDS_ORDERED, "a b c"), 2.0 / 3, 1e-15);
    CHECK_NEAR(score_mode(DEAL_KEYWORDS_ORDERED, "a c b c c"), 1.0, 0.0);
    CHECK_NEAR(score_mode(DEAL_KEYWORDS_ORDERED, "a c b c c no"), 0.5, 0.0);
}

static void
test_faults(void)
{
    const char *form[] = {"cat", "", "\xC3"};
    const size_t size[] = {3, 0, 1};
    const int32_t zero[] = {0, 0, 0}, high[] = {0, 5};
    deal_reward *const untouched = (deal_reward *)(void *)&message;
    deal_reward *reward = untouched;
    deal_error err;
    CHECK_EQ_INT(deal_reward_keywords_new(DEAL_KEYWORDS_FRACTION, 0, 0, 0, NULL, NULL,
                                          NULL, &reward, &err),
                 DEAL_ERR_INVALID_ARG);
    CHECK_EQ_INT(deal_reward_keywords_new(DEAL_KEYWORDS_FRACTION, 1, 0, 2, form, size,
                                          zero, &reward, &err),
                 DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "empty");
    CHECK_EQ_INT(deal_reward_keywords_new(DEAL_KEYWORDS_FRACTION, 1, 0, 1, form + 2,
                                          size + 2, zero, &reward, &err),
                 DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "UTF-8");
    CHECK_EQ_INT(deal_reward_keywords_new(DEAL_KEYWORDS_FRACTION, 2, 0, 1, form, size,
                                          zero, &reward, &err),
                 DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "concept 1 has no form");
    CHECK_EQ_INT(deal_reward_keywords_new(DEAL_KEYWORDS_FRACTION, 1, 0, 2, form, size,
                                          high, &reward, &err),
                 DEAL_ERR_INVALID_ARG);
    CHECK(reward == untouched);
    CHECK_EQ_INT(deal_reward_keywords_new((deal_keywords_mode)4, 1, 0, 1, form, size,
                                          zero, &reward, &err),
                 DEAL_ERR_INVALID_ARG);
    int n_failed = 0;
    for (size_t n = 1;; n++) {
        deal_alloc_fail_at(n);
        deal_status status = deal_reward_keywords_new(DEAL_KEYWORDS_FRACTION, 1, 0, 1,
                                                      form, size, zero, &reward, &err);
        deal_alloc_fail_at(0);
        if (status == DEAL_OK)
            break;
        CHECK_EQ_INT(status, DEAL_ERR_NO_MEMORY);
        CHECK(reward == untouched);
        n_failed++;
    }
    CHECK(n_failed > 10);
    CHECK(score_text(reward, "cat") == 1.0);
    deal_reward_keywords_free(reward);
    deal_reward_keywords_free(NULL);
}

int
main(void)
{
    test_whole_words();
    test_pending();
    test_reach();
    test_random();
    test_modes();
    test_faults();
    return check_report("test_keywords");
}
