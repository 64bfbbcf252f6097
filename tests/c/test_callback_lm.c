/* The LM over a callback: the searches of every mode find over it what they find over
 * the table LM that its callback reads; and what it keeps, refuses and frees.
 */
#include <stdlib.h>

#include "common/alloc.h"
#include "model/callback_lm.h"
#include "search_world.h"

#define N_CTX 64
#define N_NUMBER 4096 // most numbers of nodes

// A forward pass that keeps a node's token under its number and reads the table.
typedef struct pass {
    const deal_table_lm *table;
    int32_t token[N_NUMBER];
    int n_call, n_row_most, fail_in;
    float first; // put in place of the first logit where it is not 0
} pass;

static deal_status
evaluate(void *user, const deal_callback_rows *rows, deal_error *err)
{
    pass *p = user;
    p->n_call++;
    if (p->fail_in && --p->fail_in == 0)
        return deal_fail(err, DEAL_ERR_IO, "pass: told to fail");
    p->n_row_most = rows->n_row > p->n_row_most ? rows->n_row : p->n_row_most;
    size_t n_vocab = (size_t)p->table->lm.n_vocab;
    for (int32_t r = 0; r < rows->n_row; r++) {
        int32_t context[2 * N_CTX], n = 0;
        for (int32_t i = 0; i < rows->n_past; i++) {
            int32_t node = rows->past[r * rows->n_past + i];
            CHECK(node >= 0 || n == 0);
            if (node >= 0)
                context[n++] = p->token[node];
        }
        for (int32_t i = 0; i < rows->n_new; i++) {
            int32_t at = r * rows->n_new + i, node = rows->node[at];
            float *logits = rows->logits[at];
            if (node < 0) {
                CHECK(!logits);
                continue;
            }
            CHECK(node < N_NUMBER);
            context[n++] = p->token[node] = rows->token[at];
            if (!logits)
                continue;
            size_t digit = n_vocab + 1, row = 0, place = 1;
            for (int32_t j = 0; j < p->table->n_back; j++, place *= digit)
                row += place * (n > j ? (size_t)context[n - 1 - j] : n_vocab);
            memcpy(logits, p->table->table + row * n_vocab, n_vocab * sizeof *logits);
            if (p->first != 0.0f)
                logits[0] = p->first;
        }
    }
    return DEAL_OK;
}

static deal_callback_lm *
make_lm(pass *p, const deal_table_lm *table, int32_t n_row_max, int32_t n_logits_max)
{
    const deal_callback_params params = {table->lm.n_vocab, table->lm.n_ctx, n_row_max,
                                         n_logits_max, 0};
    deal_callback_lm *lm = NULL;
    deal_error err;
    *p = (pass){.table = table};
    CHECK(deal_callback_lm_new(&params, evaluate, p, &lm, &err) == DEAL_OK);
    return lm;
}

static deal_search *
run(const deal_search_request *request)
{
    deal_search *search = NULL;
    deal_error err = {.message = ""};
    bool is_done = false;
    deal_status status = deal_search_new(request, &search, &err);
    while (status == DEAL_OK && !is_done)
        status = deal_search_step(search, &is_done, &err);
    CHECK_STR(err.message, "");
    return search;
}

static void
check_same(const deal_search *a, const deal_search *b)
{
    int32_t n = deal_search_n_result(a);
    CHECK(n > 0);
    if (!CHECK(n == deal_search_n_result(b)))
        return;
    for (int32_t i = 0; i < n; i++) {
        deal_search_result x, y;
        deal_search_result_get(a, i, &x);
        deal_search_result_get(b, i, &y);
        CHECK_EQ_INT(x.n_token, y.n_token);
        CHECK(x.n_token == y.n_token &&
              memcmp(x.token, y.token, (size_t)x.n_token * sizeof *x.token) == 0);
        CHECK_NEAR(x.logprob, y.logprob, 1e-4);
        CHECK_NEAR(x.score, y.score, 1e-4);
    }
}

// Rewards of hidden states are left out: a callback has none.
static void
test_searches(int i_mode, int32_t n_row_max, int32_t n_logits_max)
{
    world w;
    world_init(&w, i_mode);
    w.request.rollout_lm = NULL;
    w.request.n_reward = 0;
    for (int32_t i = 0; i < N_TOY; i++)
        if (w.reward[i]->n_hidden_layers == 0)
            w.reward[w.request.n_reward++] = w.reward[i];
    CHECK(w.request.n_reward >= 2);
    deal_search *expected = run(&w.request);
    pass *p = malloc(sizeof *p);
    deal_callback_lm *lm = make_lm(p, w.lm, n_row_max, n_logits_max);
    w.request.lm = deal_callback_lm_lm(lm);
    deal_search *found = run(&w.request);
    check_same(expected, found);
    CHECK(p->n_row_most <= n_row_max);
    CHECK_EQ_INT(p->n_call, w.request.lm->n_forward_passes);
    deal_search_free(found);
    deal_search_free(expected);
    CHECK_EQ_INT(deal_callback_lm_n_live(lm), 0);
    CHECK_EQ_INT(deal_callback_lm_n_logits(lm), 0);
    deal_callback_lm_free(lm);
    free(p);
    world_free(&w);
}

// --- one batch -----------------------------------------------------------------------

typedef struct bench {
    deal_table_lm *table;
    pass p;
    deal_callback_lm *callback;
    deal_lm *lm;
    deal_node root;
} bench;

static bench *
make_bench(int32_t n_row_max, int32_t n_logits_max)
{
    bench *b = malloc(sizeof *b);
    deal_error err;
    CHECK(deal_table_lm_new(N_VOCAB, N_CTX, 2, NULL, 3, &b->table, &err) == DEAL_OK);
    b->callback = make_lm(&b->p, b->table, n_row_max, n_logits_max);
    b->lm = deal_callback_lm_lm(b->callback);
    CHECK(b->lm->ops->root(b->lm, &b->root, &err) == DEAL_OK);
    return b;
}

static void
free_bench(bench *b)
{
    b->lm->ops->release(b->lm, b->root);
    CHECK_EQ_INT(deal_callback_lm_n_live(b->callback), 0);
    CHECK_EQ_INT(deal_callback_lm_n_logits(b->callback), 0);
    deal_callback_lm_free(b->callback);
    deal_table_lm_free(b->table);
    free(b);
}

static void
release_all(bench *b, deal_lm_item *items, int n)
{
    for (int i = n; i-- > 0;)
        b->lm->ops->release(b->lm, items[i].node);
}

// A chain is one row; what branches off in its middle comes in a second call.
static void
test_waves(void)
{
    bench *b = make_bench(8, 8);
    deal_error err;
    deal_lm_item items[] = {
        {.parent = b->root, .i_parent = -1, .token = 1},
        {.i_parent = 0, .token = 2},
        {.i_parent = 1, .token = 3, .want = DEAL_WANT_LOG_Z},
        {.i_parent = 0, .token = 4, .want = DEAL_WANT_LOG_Z},
        {.i_parent = 3, .token = 5, .want = DEAL_WANT_LOG_Z},
        {.parent = b->root, .i_parent = -1, .token = 6, .want = DEAL_WANT_LOG_Z},
        {.i_parent = 1, .token = 3, .want = DEAL_WANT_LOG_Z}, // once more
    };
    CHECK(b->lm->ops->extend(b->lm, items, 7, &err) == DEAL_OK);
    CHECK_EQ_INT(b->p.n_call, 2);
    CHECK_EQ_INT(b->p.n_row_most, 2);
    CHECK_EQ_INT(b->lm->n_forward_tokens, 6);
    CHECK_EQ_INT(items[2].node, items[6].node);
    CHECK(items[2].log_z == items[6].log_z);
    CHECK_EQ_INT(deal_callback_lm_n_logits(b->callback), 4);
    CHECK_EQ_INT(b->lm->ops->child(b->lm, items[0].node, 4), items[3].node);
    release_all(b, items, 7);
    free_bench(b);
}

// What was not kept is evaluated again, and gives the same.
static void
test_dropped_logits(void)
{
    bench *b = make_bench(8, 2);
    deal_error err;
    deal_lm_item first[N_VOCAB], again[N_VOCAB];
    for (int32_t i = 0; i < N_VOCAB; i++)
        first[i] = again[i] = (deal_lm_item){.parent = b->root,
                                             .i_parent = -1,
                                             .token = i,
                                             .want = DEAL_WANT_LOG_Z | DEAL_WANT_TARGET,
                                             .target = i};
    for (int32_t i = 0; i < N_VOCAB; i++)
        CHECK(b->lm->ops->extend(b->lm, &first[i], 1, &err) == DEAL_OK);
    CHECK_EQ_INT(deal_callback_lm_n_logits(b->callback), 2);
    CHECK(b->lm->ops->extend(b->lm, again, N_VOCAB, &err) == DEAL_OK);
    CHECK_EQ_INT(b->lm->n_forward_tokens, 2 * N_VOCAB - 2);
    for (int32_t i = 0; i < N_VOCAB; i++) {
        CHECK_EQ_INT(first[i].node, again[i].node);
        CHECK(first[i].log_z == again[i].log_z);
        CHECK(first[i].target_logit == again[i].target_logit);
    }
    release_all(b, again, N_VOCAB);
    release_all(b, first, N_VOCAB);
    free_bench(b);
}

static void
test_bad_logits(void)
{
    const float value[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        bench *b = make_bench(8, 8);
        deal_error err;
        int32_t token[N_VOCAB];
        float logit[N_VOCAB];
        deal_lm_item item = {.parent = b->root,
                             .i_parent = -1,
                             .want = DEAL_WANT_TOP_K | DEAL_WANT_LOG_Z,
                             .top_k = N_VOCAB,
                             .top_token = token,
                             .top_logit = logit};
        b->p.first = value[i];
        deal_status status = b->lm->ops->extend(b->lm, &item, 1, &err);
        CHECK(status == (i < 2 ? DEAL_ERR_FORMAT : DEAL_OK));
        if (i < 2) {
            CHECK_HAS(err.message, "token 0");
        } else { // ruled out, and still a number
            CHECK_EQ_INT(token[N_VOCAB - 1], 0);
            CHECK(isfinite(logit[N_VOCAB - 1]) && logit[N_VOCAB - 1] < -1e29f);
            b->lm->ops->release(b->lm, item.node);
        }
        free_bench(b);
    }
}

// Bad items, a full context, no room, a pass that fails: nothing is left behind.
static void
test_refusals(void)
{
    const struct {
        deal_lm_item item;
        deal_status status;
        const char *message;
    } bad[] = {
        {{.i_parent = 1}, DEAL_ERR_INVALID_ARG, "parent"},
        {{.i_parent = -1, .parent = 99}, DEAL_ERR_INVALID_ARG, "parent"},
        {{.token = N_VOCAB}, DEAL_ERR_INVALID_ARG, "token: expected 0 to 6 (vocabulary), got 7"},
        {{.want = DEAL_WANT_TOP_K}, DEAL_ERR_INVALID_ARG, "top_k"},
        {{.want = DEAL_WANT_TARGET, .target = -1}, DEAL_ERR_INVALID_ARG, "target"},
        {{.want = DEAL_WANT_HIDDEN}, DEAL_ERR_UNSUPPORTED, "hidden states"},
        {{.want = DEAL_WANT_LOG_Z}, DEAL_ERR_IO, "told to fail"},
        {{.token = 5}, DEAL_ERR_KV_BUDGET, "at most 1 tokens"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bench *b = make_bench(8, 8);
        deal_error err;
        deal_lm_item items[] = {{.parent = b->root, .i_parent = -1, .token = 1},
                                bad[i].item};
        b->p.fail_in = bad[i].status == DEAL_ERR_IO;
        if (bad[i].status == DEAL_ERR_KV_BUDGET)
            deal_callback_lm_set_node_max(b->callback, 2);
        CHECK(b->lm->ops->extend(b->lm, items, 2, &err) == bad[i].status);
        CHECK_HAS(err.message, bad[i].message);
        CHECK_EQ_INT(deal_callback_lm_n_live(b->callback), 1);
        free_bench(b);
    }
}

static void
test_context(void)
{
    bench *b = make_bench(8, 8);
    deal_error err;
    deal_lm_item items[N_CTX + 1] = {{.parent = b->root, .i_parent = -1}};
    for (int32_t i = 1; i <= N_CTX; i++)
        items[i].i_parent = i - 1;
    CHECK(b->lm->ops->extend(b->lm, items, N_CTX + 1, &err) == DEAL_ERR_CONTEXT_FULL);
    CHECK_EQ_INT(deal_callback_lm_n_live(b->callback), 1);
    CHECK(b->lm->ops->extend(b->lm, items, N_CTX, &err) == DEAL_OK);
    CHECK_EQ_INT(b->p.n_call, 1); // one row
    release_all(b, items, N_CTX);
    CHECK_EQ_INT(deal_callback_lm_n_node_cap(b->callback), N_CTX + 1);
    free_bench(b);
}

static void
test_out_of_memory(void)
{
    int n_failed = 0;
    for (size_t n = 1;; n++) {
        bench *b = make_bench(8, 8);
        deal_error err;
        deal_lm_item items[40] = {{.parent = b->root, .i_parent = -1, .want = 2}};
        for (int32_t i = 1; i < 40; i++) // twenty chains
            items[i] = (deal_lm_item){.parent = b->root,
                                      .i_parent = i % 2 ? i - 1 : -1,
                                      .token = i / 2 % N_VOCAB,
                                      .want = DEAL_WANT_LOG_Z};
        deal_alloc_fail_at(n);
        deal_status status = b->lm->ops->extend(b->lm, items, 40, &err);
        deal_alloc_fail_at(0);
        if (status == DEAL_OK) {
            release_all(b, items, 40);
            free_bench(b);
            break;
        }
        n_failed++;
        CHECK(status == DEAL_ERR_NO_MEMORY);
        CHECK_EQ_INT(deal_callback_lm_n_live(b->callback), 1);
        free_bench(b);
    }
    CHECK(n_failed > 5);
}

int
main(void)
{
    for (int i_mode = 0; i_mode < 10; i_mode++) {
        test_searches(i_mode, 64, 4096);
        test_searches(i_mode, 2, 1);
    }
    test_waves();
    test_dropped_logits();
    test_bad_logits();
    test_refusals();
    test_context();
    test_out_of_memory();
    return check_report("callback_lm");
}
