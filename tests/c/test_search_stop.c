/* Searches that are stopped before their time, after every number of steps. */
#include "common/alloc.h"
#include "search_world.h"

#define N_TOKEN_MAX 16

typedef struct stopped {
    int32_t token[N_TOKEN_MAX], n_token;
    double logprob, h, score;
    deal_finish_reason finish;
    bool is_done; // before it was stopped
} stopped;

// One hypothesis, one token a step.
static void
make_single(world *w)
{
    w->request.params.n_return = 1;
    w->request.params.beam_size = 1;
    w->request.params.commit = 1;
}

static deal_status
run(const world *w, int n_step, deal_search **search, bool *is_done, deal_error *err)
{
    deal_status status = deal_search_new(&w->request, search, err);
    *is_done = false;
    for (int i = 0; i < n_step && status == DEAL_OK && !*is_done; i++)
        status = deal_search_step(*search, is_done, err);
    return status;
}

// Stops after `n_step` steps; what was decided until then is the result.
static stopped
stop_after(int i_mode, int n_step)
{
    world w;
    deal_error err = {.message = ""};
    deal_search *search = NULL;
    stopped found = {0};
    world_init(&w, i_mode);
    make_single(&w);
    CHECK(run(&w, n_step, &search, &found.is_done, &err) == DEAL_OK);
    const int32_t *token;
    deal_search_tokens(search, &token, &found.n_token);
    CHECK(found.n_token >= 1 && found.n_token <= N_TOKEN_MAX);
    memcpy(found.token, token, (size_t)found.n_token * sizeof *token);
    CHECK(deal_search_stop(search, &err) == DEAL_OK);
    CHECK(deal_search_stop(search, &err) == DEAL_OK); // once more does nothing
    bool is_done = false;
    CHECK(deal_search_step(search, &is_done, &err) == DEAL_OK);
    CHECK(is_done);
    CHECK_STR(err.message, "");
    CHECK_EQ_INT(deal_search_n_result(search), 1);
    deal_search_result result;
    deal_search_result_get(search, 0, &result);
    CHECK_EQ_INT(result.n_token, found.n_token);
    CHECK(memcmp(result.token, found.token, (size_t)found.n_token * sizeof *token) ==
          0);
    CHECK(isfinite(result.h) && isfinite(result.score));
    found.logprob = result.logprob;
    found.h = result.h;
    found.score = result.score;
    found.finish = result.finish_reason;
    deal_search_free(search);
    world_free(&w);
    return found;
}

static void
test_every_step(int i_mode, bool is_steered)
{
    int n_stopped = 0;
    for (int n_step = 1; n_step < 12; n_step++) {
        stopped found = stop_after(i_mode, n_step);
        if (found.is_done)
            break;
        n_stopped++;
        CHECK_EQ_INT(found.n_token, n_step);
        CHECK_EQ_INT(found.finish, DEAL_FINISH_STOP);
        double h = is_steered ? 2.0 * found.h : 0.0; // reward_weight
        CHECK_NEAR(found.score, found.logprob + h, 1e-9);
    }
    CHECK(n_stopped >= 2);
}

static void
test_exact_is_naive(int i_exact)
{
    for (int n_step = 1; n_step < 12; n_step++) {
        stopped a = stop_after(3, n_step), b = stop_after(i_exact, n_step);
        CHECK_EQ_INT(a.n_token, b.n_token);
        CHECK(memcmp(a.token, b.token, sizeof a.token) == 0);
        CHECK(a.logprob == b.logprob);
        CHECK(a.h == b.h);
        CHECK(a.score == b.score);
    }
}

static void
test_refusals(int i_mode)
{
    world w;
    deal_error err;
    deal_search *search = NULL;
    bool is_done;
    world_init(&w, i_mode);
    bool is_single =
        w.request.params.mode == DEAL_SEARCH_SAMPLE && w.request.params.n_return == 1;
    for (int n_step = 0; n_step < 2; n_step++) {
        CHECK(run(&w, n_step, &search, &is_done, &err) == DEAL_OK);
        const int32_t *token;
        int32_t n_token;
        deal_search_tokens(search, &token, &n_token);
        CHECK_EQ_INT(n_token, is_single && n_step > 0);
        bool is_fine = n_step > 0 && is_single;
        CHECK(deal_search_stop(search, &err) ==
              (is_fine ? DEAL_OK : DEAL_ERR_INVALID_ARG));
        if (!is_fine)
            CHECK_HAS(err.message, "of one hypothesis");
        deal_search_free(search);
    }
    world_free(&w);
}

static void
test_out_of_memory(int i_mode)
{
    int n_failed = 0;
    for (size_t n = 1;; n++) {
        world w;
        deal_error err;
        deal_search *search = NULL;
        bool is_done;
        world_init(&w, i_mode);
        make_single(&w);
        CHECK(run(&w, 2, &search, &is_done, &err) == DEAL_OK);
        size_t n_before = deal_alloc_count();
        deal_alloc_fail_at(n);
        deal_status status = deal_search_stop(search, &err);
        bool was_reached = deal_alloc_count() - n_before >= n;
        deal_alloc_fail_at(0);
        CHECK(status == (was_reached ? DEAL_ERR_NO_MEMORY : DEAL_OK));
        if (was_reached)
            CHECK(deal_search_step(search, &is_done, &err) == DEAL_ERR_INVALID_ARG);
        deal_search_free(search);
        world_free(&w);
        n_failed += was_reached;
        if (!was_reached)
            break;
    }
    CHECK(n_failed > 0);
}

int
main(void)
{
    static const struct {
        int i_mode;
        bool is_steered;
    } single[] = {{0, false}, {1, false}, {3, true}, {6, true}, {9, true}};
    for (size_t i = 0; i < sizeof single / sizeof *single; i++) {
        test_every_step(single[i].i_mode, single[i].is_steered);
        test_out_of_memory(single[i].i_mode);
    }
    test_exact_is_naive(6);
    test_exact_is_naive(9);
    for (int i_mode = 0; i_mode < 10; i_mode++)
        test_refusals(i_mode);
    return check_report("search_stop");
}
