/* Bounds of rewards on texts, asked by a set: kept, narrowed, checked; faults; memory
 * that runs out.
 */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "check.h"
#include "common/alloc.h"
#include "search/reward_set.h"

typedef struct answer {
    double low, high;
    int code;
    int n_calls, n_texts;
} answer;

static int
score_texts(void *self, const char *prompt, size_t prompt_size,
            const deal_reward_text *texts, int32_t n_texts, double *scores,
            char *message)
{
    (void)prompt;
    (void)prompt_size;
    (void)texts;
    (void)message;
    ((answer *)self)->n_texts += n_texts;
    for (int32_t i = 0; i < n_texts; i++)
        scores[i] = 0.5;
    return 0;
}

static int
bounds_texts(void *self, const char *prompt, size_t prompt_size,
             const deal_reward_text *texts, const int32_t *n_tokens_left,
             int32_t n_texts, double *low, double *high, char *message)
{
    answer *a = self;
    a->n_calls++;
    CHECK(prompt_size == 1 && prompt[0] == 'p');
    for (int32_t i = 0; i < n_texts; i++) {
        CHECK(texts[i].size <= 3 && n_tokens_left[i] <= 9 && !texts[i].is_finished);
        low[i] = a->low;
        high[i] = a->high;
    }
    if (a->code == 1)
        strcpy(message, "told to fail");
    return a->code;
}

static const deal_reward sound = {
    .abi_version = DEAL_REWARD_ABI,
    .struct_size = sizeof(deal_reward),
    .name = "bounded",
    .low = 0.0,
    .high = 1.0,
    .score_texts = score_texts,
    .bounds_texts = bounds_texts,
};

static const double weight[] = {1.0};
static const deal_reward_prompt prompt = {.text = "p", .size = 1, .n_new_max = 9};

// One reward on texts that answers as told, the set that asks it, and what is known.
typedef struct world {
    answer answer;
    deal_reward reward, *list[1];
    deal_reward_set set;
    double low, high;
} world;

// Free with deal_reward_set_free(&w->set).
static void
world_init(world *w, answer a)
{
    deal_error err;
    *w = (world){.answer = a, .reward = sound, .list = {&w->reward}};
    w->reward.self = &w->answer;
    CHECK(deal_reward_set_init(&w->set, w->list, weight, 1, NULL, &prompt, &err) ==
          DEAL_OK);
    deal_reward_set_range(&w->set, &w->low, &w->high);
}

// Bounds the text "abc" of three tokens with `n_left` more.
static deal_status
bound(world *w, int32_t n_left, deal_error *err)
{
    const deal_reward_beginning one = {
        .text = {.text = "abc", .size = 3, .n_tokens = 3},
        .n_tokens_left = n_left,
        .low = &w->low,
        .high = &w->high,
    };
    return deal_reward_set_bound_texts(&w->set, 0, &one, 1, err);
}

static void
test_narrows(void)
{
    world w;
    deal_error err;
    world_init(&w, (answer){.low = -INFINITY, .high = 0.75});
    CHECK(deal_reward_set_bounds_texts(&w.set, 0) && deal_reward_set_is_pure(&w.set));
    CHECK(w.low == 0.0 && w.high == 1.0);
    CHECK(bound(&w, 9, &err) == DEAL_OK);
    CHECK(w.low == 0.0 && w.high == 0.75);
    w.answer.low = 0.25, w.answer.high = INFINITY;
    CHECK(bound(&w, 9, &err) == DEAL_OK); // known already
    CHECK(w.low == 0.0 && w.high == 0.75 && w.answer.n_calls == 1);
    CHECK(bound(&w, 8, &err) == DEAL_OK);
    CHECK(w.low == 0.25 && w.high == 0.75 && w.answer.n_calls == 2);
    // A score of the same text is another question.
    double score = NAN, h;
    const deal_reward_case one = {
        .text = {.text = "abc", .size = 3, .n_tokens = 3}, .reward = &score, .h = &h};
    CHECK(deal_reward_set_score(&w.set, &one, 1, &err) == DEAL_OK);
    CHECK(deal_reward_set_score(&w.set, &one, 1, &err) == DEAL_OK);
    CHECK(score == 0.5 && w.answer.n_texts == 1);
    w.reward.is_impure = 1;
    CHECK(!deal_reward_set_is_pure(&w.set));
    CHECK(deal_reward_set_score(&w.set, &one, 1, &err) == DEAL_OK);
    CHECK(w.answer.n_texts == 2);
    deal_reward_set_free(&w.set);
}

static void
test_faults(void)
{
    static const struct {
        answer answer;
        const char *part;
    } fault[] = {
        {{.low = NAN, .high = 1.0}, "expected bounds low <= high, got nan and 1"},
        {{.low = 0.0, .high = NAN}, "expected bounds low <= high, got 0 and nan"},
        {{.low = 1.0, .high = 0.5}, "expected bounds low <= high, got 1 and 0.5"},
        {{.low = 2.0, .high = 3.0}, "bounds [2, 3] do not meet [0, 1]"},
        {{.low = -3.0, .high = -2.0}, "bounds [-3, -2] do not meet [0, 1]"},
        {{.code = 1}, "told to fail"},
        {{.code = 7}, "expected 0 or 1 from its function, got 7"},
    };
    for (size_t i = 0; i < sizeof fault / sizeof *fault; i++) {
        world w;
        deal_error err;
        world_init(&w, fault[i].answer);
        CHECK(bound(&w, 3, &err) == DEAL_ERR_REWARD);
        CHECK_HAS(err.message, "reward \"bounded\" (0): ");
        CHECK_HAS(err.message, fault[i].part);
        CHECK(w.low == 0.0 && w.high == 1.0);
        deal_reward_set_free(&w.set);
    }
}

static void
test_out_of_memory(void)
{
    for (size_t n = 1;; n++) {
        world w;
        deal_error err;
        world_init(&w, (answer){.low = 0.25, .high = 0.5});
        deal_alloc_fail_at(n);
        deal_status status = bound(&w, 3, &err);
        deal_alloc_fail_at(0);
        deal_reward_set_free(&w.set);
        if (status == DEAL_OK) {
            CHECK(n > 5 && w.low == 0.25 && w.high == 0.5);
            return;
        }
        CHECK(status == DEAL_ERR_NO_MEMORY);
        CHECK(w.low == 0.0 && w.high == 1.0);
    }
}

int
main(void)
{
    test_narrows();
    test_faults();
    test_out_of_memory();
    return check_report("test_bounds");
}
