/* Searches on several threads over one LM: each decides as it does alone and counts its
 * own tokens, also where others fail, join, leave or are cancelled.
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "check.h"
#include "common/alloc.h"
#include "search/batch.h"
#include "search_world.h"

#define N_THREAD 5
#define N_SEARCH 4 // of a thread, one after the other
#define N_MODE 10

typedef struct outcome {
    deal_status status;
    int32_t token[16], n_token;
    double logprob, h, score;
    deal_search_stats stats;
} outcome;

// A thread, with rewards of its own and a model to be alone with.
typedef struct runner {
    world w;
    deal_batch *batch;         // NULL: alone
    deal_batch_member *member; // of its first search, or NULL
    int32_t prompt[N_SEARCH][3];
    outcome out[N_SEARCH];
    deal_error err;
} runner;

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
        deal_search_result_get(search, 0, &result);
        deal_search_stats_get(search, &out->stats);
        memcpy(out->token, result.token, (size_t)result.n_token * sizeof *out->token);
        out->n_token = result.n_token;
        out->logprob = result.logprob;
        out->h = result.h;
        out->score = result.score;
    }
    deal_search_free(search);
    return status;
}

static void
run_one(runner *r, int i)
{
    deal_search_request request = r->w.request;
    deal_batch_member *member = r->member;
    request.prompt = r->prompt[i];
    r->out[i].status = DEAL_OK;
    r->member = NULL;
    if (r->batch && !member)
        r->out[i].status = deal_batch_join(r->batch, &member, &r->err);
    if (member) {
        request.lm = deal_batch_lm(member, 0);
        if (request.rollout_lm)
            request.rollout_lm = deal_batch_lm(member, 1);
    }
    if (r->out[i].status == DEAL_OK) {
        deal_status status = run(&request, &r->out[i], &r->err);
        r->out[i].status = status;
    }
    deal_batch_leave(member);
}

static void *
run_all(void *arg)
{
    for (int i = 0; i < N_SEARCH; i++)
        run_one(arg, i);
    return NULL;
}

static void
init_runners(runner *r, int i_mode)
{
    for (int t = 0; t < N_THREAD; t++) {
        r[t] = (runner){0};
        world_init(&r[t].w, i_mode);
        for (int i = 0; i < N_SEARCH; i++) {
            r[t].prompt[i][0] = 0; // what all have in common
            r[t].prompt[i][1] = t % 3;
            r[t].prompt[i][2] = (t + i) % N_VOCAB;
        }
        r[t].w.request.prompt_text = "p";
    }
}

static void
free_runners(runner *r)
{
    for (int t = 0; t < N_THREAD; t++)
        world_free(&r[t].w);
}

static deal_batch *
open_batch(const world *w)
{
    deal_batch *batch = NULL;
    deal_error err;
    deal_lm *lm[2] = {&w->lm->lm, w->rollout_lm ? &w->rollout_lm->lm : NULL};
    CHECK(deal_batch_new(lm, lm[1] ? 2 : 1, &batch, &err) == DEAL_OK);
    return batch;
}

// All have joined before the first one asks.
static void
run_threads(runner *r, deal_batch *batch)
{
    pthread_t thread[N_THREAD];
    for (int t = 0; t < N_THREAD; t++) {
        r[t].batch = batch;
        CHECK(deal_batch_join(batch, &r[t].member, &r[t].err) == DEAL_OK);
    }
    for (int t = 0; t < N_THREAD; t++)
        CHECK(pthread_create(&thread[t], NULL, run_all, &r[t]) == 0);
    for (int t = 0; t < N_THREAD; t++)
        pthread_join(thread[t], NULL);
}

static bool
is_same(const outcome *a, const outcome *b)
{
    return a->n_token == b->n_token &&
           memcmp(a->token, b->token, sizeof a->token) == 0 &&
           a->logprob == b->logprob && a->h == b->h && a->score == b->score;
}

// What each search finds alone.
static void
run_alone(runner *r, outcome alone[N_THREAD][N_SEARCH])
{
    for (int t = 0; t < N_THREAD; t++) {
        r[t].batch = NULL;
        run_all(&r[t]);
        for (int i = 0; i < N_SEARCH; i++) {
            CHECK(r[t].out[i].status == DEAL_OK);
            alone[t][i] = r[t].out[i];
        }
    }
}

static void
test_same_as_alone(int i_mode)
{
    static runner r[N_THREAD];
    static outcome alone[N_THREAD][N_SEARCH];
    world w;
    world_init(&w, i_mode);
    init_runners(r, i_mode);
    run_alone(r, alone);
    deal_batch *batch = open_batch(&w);
    run_threads(r, batch);
    int64_t n_tokens = 0, n_passes = 0, n_alone = 0;
    for (int t = 0; t < N_THREAD; t++)
        for (int i = 0; i < N_SEARCH; i++) {
            const deal_search_stats *stats = &r[t].out[i].stats;
            CHECK(r[t].out[i].status == DEAL_OK);
            CHECK(is_same(&alone[t][i], &r[t].out[i]));
            n_tokens += stats->n_forward_tokens;
            n_passes += stats->n_forward_passes;
            n_alone += alone[t][i].stats.n_forward_tokens;
        }
    CHECK_EQ_INT(n_tokens, w.lm->lm.n_forward_tokens);
    CHECK(w.lm->lm.n_forward_passes * 5 < n_passes * 4); // shared
    if (i_mode != 9)               // what is guessed there goes by the clock
        CHECK(n_tokens < n_alone); // a prompt's beginning is evaluated once
    deal_batch_free(batch);
    free_runners(r);
    world_free(&w);
}

// A call that fails is asked again, one search at a time.
static void
test_model_fails_once(int i_mode)
{
    static runner r[N_THREAD];
    static outcome alone[N_THREAD][N_SEARCH];
    init_runners(r, i_mode);
    run_alone(r, alone);
    for (int32_t n = 1; n < 24; n += 3) {
        world w;
        world_init(&w, i_mode);
        deal_batch *batch = open_batch(&w);
        w.lm->fail_in = n;
        run_threads(r, batch);
        int n_failed = 0;
        for (int t = 0; t < N_THREAD; t++)
            for (int i = 0; i < N_SEARCH; i++) {
                bool is_ok = r[t].out[i].status == DEAL_OK;
                n_failed += !is_ok;
                CHECK(!is_ok || is_same(&alone[t][i], &r[t].out[i]));
            }
        CHECK(n_failed <= 1); // one that asked alone
        CHECK(n_failed == 0 || n > 3);
        deal_batch_free(batch);
        world_free(&w);
    }
    free_runners(r);
}

// One search's own fault is nobody else's.
static void
test_one_fails(int i_mode)
{
    static runner r[N_THREAD];
    static outcome alone[N_THREAD][N_SEARCH];
    world w;
    world_init(&w, i_mode);
    init_runners(r, i_mode);
    run_alone(r, alone);
    deal_batch *batch = open_batch(&w);
    r[1].w.toy[0].fault = TOY_FAILS;
    r[1].w.toy[0].fault_in = 3;
    run_threads(r, batch);
    int n_failed = 0;
    for (int t = 0; t < N_THREAD; t++)
        for (int i = 0; i < N_SEARCH; i++) {
            bool is_ok = r[t].out[i].status == DEAL_OK;
            n_failed += !is_ok;
            CHECK(is_ok || (t == 1 && r[t].out[i].status == DEAL_ERR_REWARD));
            CHECK(!is_ok || is_same(&alone[t][i], &r[t].out[i]));
        }
    CHECK_EQ_INT(n_failed, 1);
    deal_batch_free(batch);
    free_runners(r);
    world_free(&w);
}

// Nobody is left waiting, neither for a search that does not ask nor later.
static void
test_cancel(void)
{
    static runner r[N_THREAD];
    pthread_t thread[N_THREAD];
    world w;
    deal_error err;
    deal_batch_member *idle = NULL;
    world_init(&w, 6);
    init_runners(r, 6);
    deal_batch *batch = open_batch(&w);
    CHECK(deal_batch_join(batch, &idle, &err) == DEAL_OK);
    for (int t = 0; t < N_THREAD; t++) {
        r[t].batch = batch;
        CHECK(pthread_create(&thread[t], NULL, run_all, &r[t]) == 0);
    }
    deal_batch_cancel(batch);
    for (int t = 0; t < N_THREAD; t++)
        pthread_join(thread[t], NULL);
    for (int t = 0; t < N_THREAD; t++)
        for (int i = 0; i < N_SEARCH; i++)
            CHECK_EQ_INT(r[t].out[i].status, DEAL_ERR_INTERRUPTED);
    CHECK_EQ_INT(w.lm->lm.n_forward_passes, 0);
    deal_batch_leave(idle);
    deal_batch_free(batch);
    free_runners(r);
    world_free(&w);
}

// --- a pass that takes its time ------------------------------------------------------

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    const deal_lm_ops *inner;
    bool is_begun, is_let_go, was_late;
} held = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void
set_held(bool *flag)
{
    pthread_mutex_lock(&held.mutex);
    *flag = true;
    pthread_cond_broadcast(&held.changed);
    pthread_mutex_unlock(&held.mutex);
}

// Goes on once it is let go, or after some seconds.
static deal_status
held_extend(deal_lm *lm, deal_lm_item *items, int32_t n_items, deal_error *err)
{
    struct timespec end;
    set_held(&held.is_begun);
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 5;
    pthread_mutex_lock(&held.mutex);
    while (!held.is_let_go && !held.was_late)
        held.was_late = pthread_cond_timedwait(&held.changed, &held.mutex, &end) != 0;
    pthread_mutex_unlock(&held.mutex);
    return held.inner->extend(lm, items, n_items, err);
}

// A search that ends before it has asked may have a lock that the pass of others needs.
static void
test_no_node_waits_for_no_pass(void)
{
    static runner r[N_THREAD];
    pthread_t thread;
    deal_error err;
    deal_batch_member *late = NULL;
    world w;
    world_init(&w, 6);
    init_runners(r, 6);
    held.inner = w.lm->lm.ops;
    deal_lm_ops ops = *held.inner;
    ops.extend = held_extend;
    w.lm->lm.ops = &ops;
    deal_batch *batch = r[0].batch = open_batch(&w);
    CHECK(pthread_create(&thread, NULL, run_all, &r[0]) == 0);
    pthread_mutex_lock(&held.mutex);
    while (!held.is_begun)
        pthread_cond_wait(&held.changed, &held.mutex);
    pthread_mutex_unlock(&held.mutex);
    CHECK(deal_batch_join(batch, &late, &err) == DEAL_OK);
    deal_lm *lm = deal_batch_lm(late, 0);
    lm->ops->release(lm, DEAL_NODE_NONE);
    set_held(&held.is_let_go);
    deal_batch_leave(late);
    pthread_join(thread, NULL);
    CHECK(!held.was_late);
    CHECK(r[0].out[0].status == DEAL_OK);
    deal_batch_free(batch);
    w.lm->lm.ops = held.inner;
    free_runners(r);
    world_free(&w);
}

// States of a layer go to nobody who has room for others.
static void
test_layers_of_one_batch(void)
{
    deal_table_lm *lm = NULL;
    deal_error err;
    CHECK(deal_table_lm_new(4, 8, 1, NULL, 1, &lm, &err) == DEAL_OK);
    deal_table_lm_set_states(lm, 2);
    deal_lm *inner = &lm->lm;
    deal_batch *batch = NULL;
    deal_batch_member *member[2];
    deal_node root[2];
    CHECK(deal_batch_new(&inner, 1, &batch, &err) == DEAL_OK);
    for (int i = 0; i < 2; i++) {
        CHECK(deal_batch_join(batch, &member[i], &err) == DEAL_OK);
        deal_lm *own = deal_batch_lm(member[i], 0);
        CHECK(own->ops->root(own, &root[i], &err) == DEAL_OK);
    }
    const int32_t kept[] = {0, 1};
    deal_lm *first = deal_batch_lm(member[0], 0), *second = deal_batch_lm(member[1], 0);
    CHECK(first->ops->keep_layers(first, root[0], kept, 2, &err) == DEAL_OK);
    CHECK(second->ops->keep_layers(second, root[1], kept, 1, &err) ==
          DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "other searches of the batch");
    CHECK_EQ_INT(lm->n_kept, 2);
    first->ops->release(first, root[0]);
    deal_batch_leave(member[0]);
    float state[2] = {0.0f, 0.0f};
    deal_lm_item item = {.parent = root[1],
                         .i_parent = -1,
                         .token = 1,
                         .want = DEAL_WANT_HIDDEN,
                         .hidden = state};
    CHECK(second->ops->extend(second, &item, 1, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "other searches of the batch");
    second->ops->release(second, root[1]);
    deal_batch_leave(member[1]);
    deal_batch_free(batch);
    deal_table_lm_free(lm);
}

static void
test_out_of_memory(void)
{
    bool was_reached = true;
    for (size_t n = 1; was_reached; n++) {
        world w;
        outcome out;
        deal_error err;
        deal_batch *batch = NULL;
        deal_batch_member *member = NULL;
        world_init(&w, 6);
        size_t n_before = deal_alloc_count();
        deal_lm *lm = &w.lm->lm;
        deal_alloc_fail_at(n);
        deal_status status = deal_batch_new(&lm, 1, &batch, &err);
        if (status == DEAL_OK)
            status = deal_batch_join(batch, &member, &err);
        if (status == DEAL_OK) {
            deal_search_request request = w.request;
            request.lm = deal_batch_lm(member, 0);
            status = run(&request, &out, &err);
        }
        was_reached = deal_alloc_count() - n_before >= n;
        deal_alloc_fail_at(0);
        CHECK(status == (was_reached ? DEAL_ERR_NO_MEMORY : DEAL_OK));
        deal_batch_leave(member);
        deal_batch_free(batch);
        world_free(&w);
    }
}

static void
test_bad_arguments(void)
{
    deal_batch *batch = NULL;
    deal_error err;
    deal_lm *lm[3] = {NULL, NULL, NULL};
    CHECK(deal_batch_new(lm, 0, &batch, &err) == DEAL_ERR_INVALID_ARG);
    CHECK(deal_batch_new(lm, 3, &batch, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "models");
    CHECK(batch == NULL);
}

int
main(void)
{
    for (int i_mode = 0; i_mode < N_MODE; i_mode++)
        test_same_as_alone(i_mode);
    test_model_fails_once(3);
    test_model_fails_once(6);
    test_model_fails_once(8);
    test_one_fails(6);
    test_one_fails(4);
    test_cancel();
    test_no_node_waits_for_no_pass();
    test_layers_of_one_batch();
    test_out_of_memory();
    test_bad_arguments();
    return check_report("test_batch");
}
