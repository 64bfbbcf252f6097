/* Requests that a search refuses, each with the name of what is wrong. */
#include <math.h>

#include "check.h"
#include "search_world.h"

static void
expect_bad(const deal_search_request *request, deal_status expected, const char *part)
{
    deal_error err = {.message = ""};
    deal_search *search = NULL;
    deal_status status = deal_search_new(request, &search, &err);
    CHECK_EQ_INT(status, expected);
    CHECK(search == NULL);
    CHECK_HAS(err.message, part);
    if (status == DEAL_OK)
        deal_search_free(search);
}

// Runs to the end.
static void
expect_good(const deal_search_request *request)
{
    deal_error err;
    deal_search *search;
    bool is_done = false;
    CHECK(deal_search_new(request, &search, &err) == DEAL_OK);
    while (!is_done)
        CHECK(deal_search_step(search, &is_done, &err) == DEAL_OK);
    deal_search_free(search);
}

#define BAD(field, value, part)                                                        \
    do {                                                                               \
        deal_search_request bad_ = w.request;                                          \
        bad_.field = (value);                                                          \
        expect_bad(&bad_, DEAL_ERR_INVALID_ARG, part);                                 \
    } while (0)

static void
test_bad_params(void)
{
    world w;
    world_init(&w, 0);
    BAD(params.mode, (deal_search_mode)7, "mode: expected 0 to 4, got 7");
    BAD(params.n_new_max, 0, "max_new_tokens: expected at least 1, got 0");
    BAD(params.n_return, 0, "num_return_sequences: expected 1 to 4096, got 0");
    BAD(params.temperature, 0.0, "num_return_sequences: greedy");
    BAD(params.temperature, -0.5, "temperature: expected a number of at least 0");
    BAD(params.temperature, NAN, "temperature");
    BAD(params.repetition_penalty, 0.0, "repetition_penalty");
    BAD(params.repetition_penalty, INFINITY, "repetition_penalty");
    BAD(params.top_k, -1, "top_k: expected at least 0, got -1");
    BAD(params.top_p, 0.0, "top_p: expected a number in (0, 1], got 0");
    BAD(params.top_p, 1.5, "top_p");
    BAD(params.min_p, -0.1, "min_p");
    BAD(params.min_p, 1.1, "min_p: expected a number in [0, 1], got 1.1");
    world_free(&w);
    world_init(&w, 2);
    BAD(params.beam_size, 0, "num_beams: expected 1 to 4096, got 0");
    BAD(params.beam_size, 5000, "num_beams");
    BAD(params.n_return, 4, "num_return_sequences: expected 1 to 3, got 4");
    BAD(params.length_penalty, NAN, "length_penalty");
    world_free(&w);
    world_init(&w, 3);
    BAD(params.top_k, 0, "top_k: expected 1 to 7, got 0");
    BAD(params.top_k, 8, "top_k");
    BAD(params.lookahead_len, -1, "lookahead: expected at least 0, got -1");
    BAD(params.commit, 0, "commit: expected 1 to 4, got 0");
    BAD(params.commit, 5, "commit");
    BAD(params.reward_weight, INFINITY, "reward_weight: expected a finite number");
    world_free(&w);
}

static void
test_bad_request(void)
{
    static const int32_t high[] = {0, 7}, low[] = {-1};
    static const char *const empty[] = {"a", ""}, *const latin[] = {"\xe9"},
                             *const null[] = {NULL};
    world w;
    world_init(&w, 3);
    BAD(n_prompt, 0, "prompt: expected at least 1 token");
    BAD(prompt, low, "prompt: expected ids in [0, 7), got -1 at position 0");
    BAD(end_token, low, "eos_token_id: expected ids in [0, 7), got -1");
    BAD(n_stop, -1, "stop: expected at least 0, got -1");
    BAD(stop, empty, "stop[1]: expected a non-empty string");
    BAD(n_reward, -1, "rewards: expected at least 0, got -1");
    deal_search_request bad = w.request;
    bad.prompt = high;
    bad.n_prompt = 2;
    expect_bad(&bad, DEAL_ERR_INVALID_ARG, "got 7 at position 1");
    bad = w.request;
    bad.n_stop = 1;
    bad.stop = latin;
    expect_bad(&bad, DEAL_ERR_INVALID_ARG, "stop[0]: expected UTF-8");
    bad.stop = null;
    expect_bad(&bad, DEAL_ERR_INVALID_ARG, "stop[0]");
    w.lm->lm.n_ctx = 3;
    expect_bad(&w.request, DEAL_ERR_CONTEXT_FULL, "context of 3");
    w.lm->lm.n_ctx = 1000;
    w.lm->lm.n_vocab = 8;
    expect_bad(&w.request, DEAL_ERR_INVALID_ARG, "vocabulary: expected a piece");
    w.lm->lm.n_vocab = N_VOCAB;
    world_free(&w);
}

static void
test_bad_rollout_lm(void)
{
    world w;
    deal_error err;
    for (int i_mode = 0; i_mode < 3; i_mode++) {
        world_init(&w, i_mode);
        CHECK(deal_table_lm_new(N_VOCAB, 1000, 2, NULL, 17, &w.rollout_lm, &err) ==
              DEAL_OK);
        BAD(rollout_lm, &w.rollout_lm->lm, "rollout_model: only modes");
        world_free(&w);
    }
    world_init(&w, 8);
    deal_lm *other = &w.rollout_lm->lm;
    BAD(rollout_lm, &w.lm->lm, "rollout_model: expected another session");
    deal_search_request controlled = w.request;
    controlled.rollout_controls = (const deal_controls *)&w; // not looked into
    expect_bad(&controlled, DEAL_ERR_UNSUPPORTED, "controls: the language model of");
    other->n_vocab = 8;
    BAD(rollout_lm, other, "rollout_model: expected the model's 7 tokens, got 8");
    other->n_vocab = N_VOCAB;
    other->n_ctx = 11;
    expect_bad(&w.request, DEAL_ERR_CONTEXT_FULL,
               "rollout_model: its context of 11 does not hold the prompt's 3 tokens "
               "and 9 new ones");
    other->n_ctx = 12;
    expect_good(&w.request);
    w.lm->lm.n_ctx = 8; // the search goes no further
    other->n_ctx = 8;
    expect_good(&w.request);
    world_free(&w);
}

static void
test_bad_rewards(void)
{
    static const double bad_weight[] = {1.0, NAN, 1.0};
    world w;
    world_init(&w, 3);
    deal_reward *one = w.reward[1], sound = *one;
    BAD(weight, bad_weight, "reward \"toy\" (1): weight: expected a finite number");
    w.reward[1] = NULL;
    expect_bad(&w.request, DEAL_ERR_INVALID_ARG, "reward 1: expected one, got NULL");
    w.reward[1] = one;
    one->abi_version = 9;
    expect_bad(&w.request, DEAL_ERR_INVALID_ARG, "abi_version: expected 1, got 9");
    *one = sound;
    one->struct_size = 8;
    expect_bad(&w.request, DEAL_ERR_INVALID_ARG, "struct_size");
    *one = sound;
    one->name = NULL;
    expect_bad(&w.request, DEAL_ERR_INVALID_ARG, "expected a name");
    *one = sound;
    one->score = NULL;
    expect_bad(&w.request, DEAL_ERR_INVALID_ARG, "expected init, advance and score");
    *one = sound;
    one->score_texts = w.reward[0]->score_texts;
    expect_bad(&w.request, DEAL_ERR_INVALID_ARG, "score_texts alone");
    *one = sound;
    one->low = 2.0;
    expect_bad(&w.request, DEAL_ERR_INVALID_ARG, "expected low <= high, got 2 and 1");
    *one = sound;
    one->low = NAN;
    expect_bad(&w.request, DEAL_ERR_INVALID_ARG, "expected low <= high");
    *one = sound;
    one->is_text_alone = 1;
    expect_bad(&w.request, DEAL_ERR_INVALID_ARG, "is_text_alone: expected 0 without");
    *one = sound;
    one->state_size = SIZE_MAX - 64;
    expect_bad(&w.request, DEAL_ERR_NO_MEMORY, "states of the rewards");
    *one = sound;
    world_free(&w);
}

int
main(void)
{
    test_bad_params();
    test_bad_request();
    test_bad_rollout_lm();
    test_bad_rewards();
    return check_report("test_request");
}
