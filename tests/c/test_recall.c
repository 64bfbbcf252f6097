/* Searches of one prompt through a recall: each decides as it does alone, with any
 * settings before it, and is spared what was evaluated; faults and memory.
 */
#include <stdlib.h>

#include "check.h"
#include "common/alloc.h"
#include "search/recall.h"
#include "search_world.h"

#define N_POINT 6
#define N_TOP 5
#define N_NODE_MAX 1000

// Settings of the searches, one after the other.
static const struct point {
    deal_search_mode mode;
    int32_t top_k, lookahead, commit, beam_size;
    double reward_weight, weight[N_TOY];
} point[N_POINT] = {
    {DEAL_SEARCH_EXACT, 4, 3, 2, 3, 2.0, {1.0, -0.5, 2.0, 1.0}},
    {DEAL_SEARCH_EXACT, 4, 3, 2, 3, 2.0, {1.0, -0.5, 2.0, 1.0}}, // the same
    {DEAL_SEARCH_NAIVE, 5, 2, 1, 2, 1.0, {0.0, 1.0, 1.0, 1.0}},
    {DEAL_SEARCH_EXACT, 5, 4, 1, 1, 6.0, {3.0, -2.0, 0.5, 0.0}},
    {DEAL_SEARCH_EXACT, 2, 0, 1, 2, -1.0, {1.0, 1.0, 1.0, 1.0}},
    {DEAL_SEARCH_EXACT, 6, 3, 1, 1, 0.5, {1.0, 1.0, 1.0, 1.0}}, // more than N_TOP
};

typedef struct outcome {
    int32_t token[16], n_token;
    double logprob, h, score, trace; // `trace`: a sum over what was chosen
    deal_search_stats stats;
} outcome;

typedef struct recalls {
    deal_recall *lm, *rollout_lm;
    deal_memo memo;
} recalls;

static deal_status
recalls_init(recalls *r, const world *w, deal_error *err)
{
    *r = (recalls){0};
    DEAL_TRY(deal_recall_new(&w->lm->lm, N_TOP, N_NODE_MAX, &r->lm, err));
    return w->rollout_lm
               ? deal_recall_new(&w->rollout_lm->lm, 1, N_NODE_MAX, &r->rollout_lm, err)
               : DEAL_OK;
}

static void
recalls_free(recalls *r)
{
    deal_recall_free(r->lm);
    deal_recall_free(r->rollout_lm);
    deal_memo_free(&r->memo);
}

static deal_search_request
request_of(const world *w, const struct point *p, recalls *r)
{
    deal_search_request request = w->request;
    request.weight = p->weight;
    request.params.mode = p->mode;
    request.params.top_k = p->top_k;
    request.params.lookahead_len = p->lookahead;
    request.params.commit = p->commit;
    request.params.beam_size = p->beam_size;
    request.params.n_return = 1;
    request.params.reward_weight = p->reward_weight;
    if (!r)
        return request;
    request.lm = deal_recall_lm(r->lm);
    if (r->rollout_lm)
        request.rollout_lm = deal_recall_lm(r->rollout_lm);
    request.memo = &r->memo;
    return request;
}

static deal_status
run(const deal_search_request *request, outcome *out, deal_error *err)
{
    deal_search *search;
    *out = (outcome){0};
    DEAL_TRY(deal_search_new(request, &search, err));
    deal_status status = DEAL_OK;
    for (bool is_done = false; !is_done && status == DEAL_OK;)
        status = deal_search_step(search, &is_done, err);
    if (status == DEAL_OK) {
        deal_search_result result;
        deal_trace trace;
        deal_search_result_get(search, 0, &result);
        deal_search_trace_get(search, &trace);
        deal_search_stats_get(search, &out->stats);
        memcpy(out->token, result.token, (size_t)result.n_token * sizeof *out->token);
        out->n_token = result.n_token;
        out->logprob = result.logprob;
        out->h = result.h;
        out->score = result.score;
        for (size_t i = 0; i < trace.n_row; i++)
            if (trace.row[i].is_chosen)
                out->trace += trace.row[i].logprob * (double)(trace.row[i].token + 1);
    }
    deal_search_free(search);
    return status;
}

static void
check_same(const outcome *a, const outcome *b)
{
    CHECK_EQ_INT(a->n_token, b->n_token);
    CHECK(memcmp(a->token, b->token, sizeof a->token) == 0);
    CHECK(a->logprob == b->logprob && a->h == b->h && a->score == b->score);
    CHECK(a->trace == b->trace);
}

// `i_mode` of search_world.h: 6 one model, 8 two.
static void
test_same_as_alone(int i_mode)
{
    world w;
    recalls r;
    deal_error err;
    world_init(&w, i_mode);
    CHECK(recalls_init(&r, &w, &err) == DEAL_OK);
    int64_t n_alone = 0, n_together = 0, n_texts_alone = 0, n_texts_together = 0;
    for (int i = 0; i < N_POINT; i++) {
        outcome alone, together;
        deal_search_request request = request_of(&w, &point[i], NULL);
        int64_t n_before = w.toy[0].n_texts;
        CHECK(run(&request, &alone, &err) == DEAL_OK);
        n_texts_alone += w.toy[0].n_texts - n_before;
        request = request_of(&w, &point[i], &r);
        n_before = w.toy[0].n_texts;
        CHECK(run(&request, &together, &err) == DEAL_OK);
        n_texts_together += w.toy[0].n_texts - n_before;
        check_same(&alone, &together);
        CHECK_EQ_INT(alone.stats.n_recalled_tokens, 0);
        CHECK((together.stats.n_recalled_tokens > 0) == (i > 0)); // the prompt at least
        if (i == 1) {
            CHECK_EQ_INT(together.stats.n_forward_tokens, 0);
            CHECK_EQ_INT(together.stats.n_rollout_model_tokens, 0);
            CHECK((w.toy[0].n_texts - n_before) * 4 < n_texts_alone);
        }
        n_alone += alone.stats.n_forward_tokens + alone.stats.n_rollout_model_tokens;
        n_together +=
            together.stats.n_forward_tokens + together.stats.n_rollout_model_tokens;
    }
    CHECK(n_together * 3 < n_alone * 2);
    CHECK(n_texts_together < n_texts_alone);
    recalls_free(&r);
    world_free(&w);
}

// Where the LM has no room once, what is remembered makes way.
static void
test_makes_way(void)
{
    bool was_reached = true;
    int n_tried = 0;
    for (int32_t n = 2; was_reached; n++, n_tried++) { // 1: nothing to forget yet
        world w;
        recalls r;
        deal_error err;
        outcome alone, together;
        world_init(&w, 6);
        for (int i = 0; i < 2; i++) {
            deal_search_request request = request_of(&w, &point[2 * i + 1], NULL);
            CHECK(run(&request, i == 0 ? &together : &alone, &err) == DEAL_OK);
        }
        CHECK(recalls_init(&r, &w, &err) == DEAL_OK);
        w.lm->is_full = true;
        w.lm->fail_in = n;
        w.lm->n_extend = 0;
        for (int i = 0; i < 2; i++) {
            deal_search_request request = request_of(&w, &point[2 * i + 1], &r);
            CHECK(run(&request, &together, &err) == DEAL_OK);
        }
        check_same(&alone, &together);
        was_reached = w.lm->n_extend >= n;
        recalls_free(&r);
        world_free(&w);
    }
    CHECK(n_tried > 10);
}

// Holding few nodes costs evaluations, never a decision.
static void
test_few_nodes(void)
{
    world w;
    deal_error err;
    world_init(&w, 6);
    recalls r = {0};
    CHECK(deal_recall_new(&w.lm->lm, N_TOP, 4, &r.lm, &err) == DEAL_OK);
    for (int i = 0; i < N_POINT; i++) {
        outcome alone, together;
        deal_search_request request = request_of(&w, &point[i], NULL);
        CHECK(run(&request, &alone, &err) == DEAL_OK);
        request = request_of(&w, &point[i], &r);
        CHECK(run(&request, &together, &err) == DEAL_OK);
        check_same(&alone, &together);
        CHECK(w.lm->n_live < 100);
    }
    recalls_free(&r);
    world_free(&w);
}

// A search that fails leaves nothing wrong behind.
static void
test_after_a_failure(void)
{
    for (int32_t n = 1; n < 12; n++) {
        world w;
        recalls r;
        deal_error err;
        outcome alone, together;
        world_init(&w, 6);
        deal_search_request request = request_of(&w, &point[0], NULL);
        CHECK(run(&request, &alone, &err) == DEAL_OK);
        CHECK(recalls_init(&r, &w, &err) == DEAL_OK);
        request = request_of(&w, &point[0], &r);
        w.toy[0].fault = TOY_FAILS;
        w.toy[0].fault_in = n;
        deal_status status = run(&request, &together, &err);
        CHECK(status == DEAL_ERR_REWARD || w.toy[0].fault_in > 0);
        w.toy[0].fault_in = 0;
        CHECK(run(&request, &together, &err) == DEAL_OK);
        check_same(&alone, &together);
        recalls_free(&r);
        world_free(&w);
    }
}

static void
test_out_of_memory(void)
{
    bool was_reached = true;
    for (size_t n = 1; was_reached; n++) {
        world w;
        recalls r = {0};
        deal_error err;
        outcome together;
        world_init(&w, 6);
        size_t n_before = deal_alloc_count();
        deal_alloc_fail_at(n);
        deal_status status = recalls_init(&r, &w, &err);
        for (int i = 0; i < 2 && status == DEAL_OK; i++) {
            deal_search_request request = request_of(&w, &point[2 * i], &r);
            status = run(&request, &together, &err);
        }
        was_reached = deal_alloc_count() - n_before >= n;
        deal_alloc_fail_at(0);
        CHECK(status == (was_reached ? DEAL_ERR_NO_MEMORY : DEAL_OK));
        recalls_free(&r);
        world_free(&w);
    }
}

static void
test_bad_arguments(void)
{
    world w;
    deal_error err;
    deal_recall *recall = NULL;
    world_init(&w, 6);
    CHECK(deal_recall_new(&w.lm->lm, 0, 9, &recall, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "top_k");
    CHECK(deal_recall_new(&w.lm->lm, N_VOCAB + 1, 9, &recall, &err) ==
          DEAL_ERR_INVALID_ARG);
    CHECK(deal_recall_new(&w.lm->lm, 1, 0, &recall, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "n_node_max");
    CHECK(recall == NULL);
    world_free(&w);
}

int
main(void)
{
    test_same_as_alone(6);
    test_same_as_alone(8);
    test_makes_way();
    test_few_nodes();
    test_after_a_failure();
    test_out_of_memory();
    test_bad_arguments();
    return check_report("test_recall");
}
