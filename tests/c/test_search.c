/* Searches over the table LM where things go wrong: memory, the model, rewards; and what
 * a search allocates once it runs. Bad requests are in test_request.c. That it decides as
 * it should is tests/unit/test_search_twin.py's to check.
 */
#include <stdlib.h>

#include "check.h"
#include "common/alloc.h"
#include "search_world.h"

#define N_MODE 10

static const char *const mode_name[] = {"sample",
                                        "greedy",
                                        "beam",
                                        "naive",
                                        "segment",
                                        "segment beams",
                                        "exact",
                                        "naive of two models",
                                        "exact of two models",
                                        "exact with all tricks"};

// Runs to the end or the first failure; `n_step_max` steps at most.
static deal_status
run(const world *w, int n_step_max, deal_error *err)
{
    deal_search *search;
    err->message[0] = '\0';
    DEAL_TRY(deal_search_new(&w->request, &search, err));
    deal_status status = DEAL_OK;
    bool is_done = false;
    for (int i = 0; i < n_step_max && status == DEAL_OK && !is_done; i++)
        status = deal_search_step(search, &is_done, err);
    if (status != DEAL_OK) {
        deal_error again;
        is_done = false;
        CHECK(deal_search_step(search, &is_done, &again) == DEAL_ERR_INVALID_ARG);
        CHECK_HAS(again.message, "has failed");
        CHECK(!is_done);
        CHECK_EQ_INT(deal_search_n_result(search), 0);
    }
    deal_search_free(search);
    return status;
}

// --- faults --------------------------------------------------------------------------

static void
test_out_of_memory(int i_mode)
{
    int n_failed = 0;
    bool was_reached = true;
    for (size_t n = 1; was_reached; n++) {
        world w;
        deal_error err;
        world_init(&w, i_mode);
        size_t n_before = deal_alloc_count();
        deal_alloc_fail_at(n);
        deal_status status = run(&w, 1000, &err);
        was_reached = deal_alloc_count() - n_before >= n;
        deal_alloc_fail_at(0);
        n_failed += was_reached;
        CHECK(status == (was_reached ? DEAL_ERR_NO_MEMORY : DEAL_OK));
        if (was_reached)
            CHECK_HAS(err.message, "memory");
        world_free(&w);
    }
    CHECK(n_failed > 15);
}

static void
test_model_fails(int i_mode, bool is_rollout)
{
    for (int is_nan = 0; is_nan < 2; is_nan++) {
        int n_failed = 0;
        bool was_reached = true;
        for (int32_t n = 1; was_reached; n++) {
            world w;
            deal_error err;
            world_init(&w, i_mode);
            deal_table_lm *lm = is_rollout ? w.rollout_lm : w.lm;
            *(is_nan ? &lm->nan_in : &lm->fail_in) = n;
            deal_status status = run(&w, 1000, &err);
            was_reached = lm->n_extend >= n;
            n_failed += was_reached;
            if (!was_reached) {
                CHECK(status == DEAL_OK);
            } else if (is_nan) {
                CHECK(status == DEAL_ERR_FORMAT);
                CHECK_HAS(err.message, "NaN");
            } else {
                CHECK(status == DEAL_ERR_IO);
                CHECK_HAS(err.message, "told to fail");
            }
            if (was_reached && is_rollout)
                CHECK_HAS(err.message, "rollout_model: ");
            world_free(&w);
        }
        CHECK(n_failed >= 4);
    }
}

// Makes call `n` of one reward go wrong; whether it came to that.
static bool
fault_is_found(int i_mode, int i_toy, int fault, int32_t n)
{
    static const char *const part[] = {
        "told to fail", "not finite", "not finite", "range", "not finite", "got 7",
        "told to fail", // of init or fork
    };
    world w;
    deal_error err;
    world_init(&w, i_mode);
    toy_reward *toy = &w.toy[i_toy];
    bool is_fork = fault > TOY_BAD_CODE;
    int32_t *fault_in = is_fork ? &toy->fork_fault_in : &toy->fault_in;
    toy->fault = is_fork ? TOY_FAILS : (toy_fault)fault;
    *fault_in = n;
    deal_status status = run(&w, 1000, &err);
    bool was_reached = *fault_in == 0;
    CHECK(status == (was_reached ? DEAL_ERR_REWARD : DEAL_OK));
    if (was_reached) {
        char name[40];
        snprintf(name, sizeof name, "reward \"%s\" (%d)", toy->reward.name, i_toy);
        CHECK_HAS(err.message, name);
        CHECK_HAS(err.message, part[fault]);
    }
    world_free(&w);
    return was_reached;
}

static void
test_rewards_fail(int i_mode)
{
    for (int i_toy = 0; i_toy < n_toy_of(i_mode); i_toy++)
        for (int fault = 0; fault <= TOY_BAD_CODE + 1; fault++) {
            int32_t n = 1;
            while (fault_is_found(i_mode, i_toy, fault, n))
                n++;
            bool has_none = i_toy == TOY_TEXTS && fault > TOY_BAD_CODE;
            CHECK(has_none ? n == 1 : n > 1);
        }
}

static void
test_infinite_sum(void)
{
    static const double large[] = {1e308, 1e308, 1e308, 1e308};
    world w;
    deal_error err;
    world_init(&w, 3);
    w.request.params.reward_weight = 1e308;
    CHECK(run(&w, 1000, &err) == DEAL_ERR_REWARD);
    CHECK_HAS(err.message, "reward_weight");
    w.request.params.reward_weight = 1.0;
    w.request.weight = large;
    for (int i = 0; i < N_TOY; i++)
        w.reward[i] = &w.toy[0].reward; // so that the sum has terms of one sign
    CHECK(run(&w, 1000, &err) == DEAL_ERR_REWARD);
    CHECK_HAS(err.message, "weighted sum");
    world_free(&w);
}

// --- the life of a search ------------------------------------------------------------

static void
test_half_way(int i_mode)
{
    for (int n_step = 0; n_step < 6; n_step++) {
        world w;
        deal_error err;
        world_init(&w, i_mode);
        CHECK(run(&w, n_step, &err) == DEAL_OK);
        world_free(&w);
    }
}

static void
test_step_after_done(int i_mode)
{
    world w;
    deal_error err;
    deal_search *search;
    deal_search_stats before, after;
    world_init(&w, i_mode);
    CHECK(deal_search_new(&w.request, &search, &err) == DEAL_OK);
    const char *text;
    size_t size = 1;
    deal_search_text(search, &text, &size);
    CHECK(size == 0);
    CHECK_EQ_INT(w.lm->n_extend, 0); // new evaluates nothing
    bool is_done = false;
    while (!is_done) {
        CHECK_EQ_INT(deal_search_n_result(search), 0);
        CHECK(deal_search_step(search, &is_done, &err) == DEAL_OK);
    }
    CHECK_EQ_INT(deal_search_n_result(search), w.request.params.n_return);
    CHECK_EQ_INT(w.lm->n_live, 0); // the trie is given back before the end
    CHECK(!w.rollout_lm || w.rollout_lm->n_live == 0);
    deal_search_stats_get(search, &before);
    is_done = false;
    CHECK(deal_search_step(search, &is_done, &err) == DEAL_OK);
    CHECK(is_done);
    deal_search_stats_get(search, &after);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    deal_search_free(search);
    deal_search_free(NULL);
    world_free(&w);
}

// Two searches over one LM take turns and get what each gets alone.
static void
test_two_at_once(int i_mode)
{
    world w;
    deal_error err;
    deal_search *search[3];
    world_init(&w, i_mode);
    for (int i = 0; i < 3; i++)
        CHECK(deal_search_new(&w.request, &search[i], &err) == DEAL_OK);
    bool is_done = false;
    while (!is_done)
        CHECK(deal_search_step(search[0], &is_done, &err) == DEAL_OK);
    for (is_done = false; !is_done;) {
        CHECK(deal_search_step(search[1], &is_done, &err) == DEAL_OK);
        CHECK(deal_search_step(search[2], &is_done, &err) == DEAL_OK);
    }
    for (int i = 1; i < 3; i++) {
        deal_search_result a, b;
        deal_search_stats before, after;
        deal_search_result_get(search[0], 0, &a);
        deal_search_result_get(search[i], 0, &b);
        CHECK(a.n_token == b.n_token && a.logprob == b.logprob && a.h == b.h);
        CHECK(memcmp(a.token, b.token, (size_t)a.n_token * sizeof *a.token) == 0);
        deal_search_stats_get(search[0], &before);
        deal_search_stats_get(search[i], &after);
        if (i_mode < 9) // else it goes by the clock
            CHECK_EQ_INT(before.n_forward_tokens, after.n_forward_tokens);
        CHECK_EQ_INT(before.n_rollout_model_tokens, after.n_rollout_model_tokens);
    }
    for (int i = 0; i < 3; i++)
        deal_search_free(search[i]);
    world_free(&w);
}

// --- the steady state ----------------------------------------------------------------

// Grows the LM's own trie beforehand, so that only the search can allocate.
static void
warm_up(deal_table_lm *table)
{
    enum { N = 900 };
    static deal_lm_item item[N];
    deal_lm *lm = &table->lm;
    deal_error err;
    deal_node root;
    CHECK(lm->ops->root(lm, &root, &err) == DEAL_OK);
    for (int i = 0; i < N; i++)
        item[i] = (deal_lm_item){.parent = root, .i_parent = i - 1, .token = 0};
    CHECK(lm->ops->extend(lm, item, N, &err) == DEAL_OK);
    for (int i = 0; i < N; i++)
        lm->ops->release(lm, item[i].node);
    lm->ops->release(lm, root);
    CHECK_EQ_INT(table->n_live, 0);
}

// Allocations of every step after the first `n_first`.
static size_t
count_allocations(const world *w, int n_first, int *n_step)
{
    deal_error err;
    deal_search *search;
    CHECK(deal_search_new(&w->request, &search, &err) == DEAL_OK);
    bool is_done = false;
    size_t n_before = 0;
    for (*n_step = 0; !is_done; ++*n_step) {
        if (*n_step == n_first)
            n_before = deal_alloc_count();
        CHECK(deal_search_step(search, &is_done, &err) == DEAL_OK);
    }
    size_t n_after = deal_alloc_count();
    deal_search_free(search);
    return n_after - n_before;
}

static void
test_steady_state(int i_mode, deal_byte_rule rule, uint64_t seed)
{
    static const int64_t offset[] = {0, 1, 3, 4, 5, 6, 8, 11};
    static const uint8_t kind[] = {0, 0, 0, 2, 2, 0, 1};
    world w;
    deal_error err;
    int n_step;
    world_init(&w, i_mode);
    deal_table_lm_free(w.lm);
    CHECK(deal_table_lm_new(N_VOCAB, 1000, 2, NULL, seed, &w.lm, &err) == DEAL_OK);
    deal_table_lm_set_states(w.lm, 2);
    w.request.lm = &w.lm->lm;
    warm_up(w.lm);
    if (w.rollout_lm)
        warm_up(w.rollout_lm);
    deal_vocab_free(w.vocab);
    CHECK(deal_vocab_new(N_VOCAB, (const uint8_t *)"a b.\xc3\xa9zz<s>", 11, offset,
                         kind, rule, DEAL_LEADING_SPACE_KEEP, &w.vocab,
                         &err) == DEAL_OK);
    w.request.vocab = w.vocab;
    w.request.n_end = w.request.n_stop = 0;
    w.request.params.n_new_max = 200;
    w.request.reward = w.reward + 1; // those on texts fill a memo
    w.request.n_reward = i_mode < 3 ? 0 : n_toy_of(i_mode) - 1;
    // Segments pass their buffers round; each gets its states when it is first used.
    int n_first = i_mode < 4 ? 3 : 30;
    if (i_mode >= 4)
        w.request.params.n_new_max = 600;
    CHECK_EQ_INT(count_allocations(&w, n_first, &n_step), 0);
    CHECK(n_step >= 100);
    world_free(&w);
}

// The memo grows by doubling: its entries, its slots and its text.
static void
test_memo_grows_by_doubling(void)
{
    world w;
    int n_step;
    world_init(&w, 3);
    warm_up(w.lm);
    w.request.n_end = w.request.n_stop = 0;
    w.request.params.n_new_max = 200;
    size_t n = count_allocations(&w, 3, &n_step);
    CHECK(n_step >= 100);
    CHECK(n > 0 && n <= 3 * 10);
    world_free(&w);
}

int
main(void)
{
    for (int i_mode = 0; i_mode < N_MODE; i_mode++) {
        int n_failed = check_n_failed;
        test_out_of_memory(i_mode);
        test_model_fails(i_mode, false);
        if (i_mode == 7 || i_mode == 8)
            test_model_fails(i_mode, true);
        test_rewards_fail(i_mode);
        test_half_way(i_mode);
        test_step_after_done(i_mode);
        test_two_at_once(i_mode);
        for (int i = 0; i < 30 && i_mode < 9; i++)
            test_steady_state(i_mode, (deal_byte_rule)(i % 3), (uint64_t)i);
        if (check_n_failed > n_failed)
            printf("    in mode %s\n", mode_name[i_mode]);
    }
    test_infinite_sum();
    test_memo_grows_by_doubling();
    return check_report("test_search");
}
