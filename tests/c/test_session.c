/* The trie LM over a random model: batch invariance bit for bit, references, errors. */
#define _DEFAULT_SOURCE // setenv

#include <stdlib.h>

#include "check.h"
#include "common/alloc.h"
#include "common/clock.h"
#include "tiny_weights.h"

#define N_VOCAB 50
#define N_NODE 300

typedef struct tree {
    int parent[N_NODE]; // -1: the root
    int32_t token[N_NODE];
} tree;

static float logits[2][N_NODE][N_VOCAB];
static deal_kv_type kv_type; // of all sessions

// A random trie with long chains and bushes; siblings have different tokens.
static void
make_tree(tree *t, uint64_t seed)
{
    for (int i = 0; i < N_NODE; i++) {
        double u = deal_rng_uniform(seed, 1, (uint64_t)i);
        t->parent[i] = i == 0 || u < 0.6
                           ? i - 1
                           : (int)(deal_rng_uniform(seed, 2, (uint64_t)i) * i);
        for (int32_t token = i % N_VOCAB, is_free = 0; !is_free;
             token = (token + 1) % N_VOCAB) {
            is_free = 1;
            for (int j = 0; j < i; j++)
                if (t->parent[j] == t->parent[i] && t->token[j] == token)
                    is_free = 0;
            t->token[i] = token;
        }
    }
}

// A random order in which every node comes after its parent: i_order (N_NODE,) tells
// where node i comes.
static void
make_order(const tree *t, uint64_t seed, int *order, int *i_order)
{
    bool is_placed[N_NODE] = {false};
    for (int k = 0; k < N_NODE; k++) {
        int ready[N_NODE], n_ready = 0;
        for (int i = 0; i < N_NODE; i++)
            if (!is_placed[i] && (t->parent[i] < 0 || is_placed[t->parent[i]]))
                ready[n_ready++] = i;
        order[k] = ready[(int)(deal_rng_uniform(seed, 5, (uint64_t)k) * n_ready)];
        i_order[order[k]] = k;
        is_placed[order[k]] = true;
    }
}

// Extends the tree in a random order, and so with its paths scattered over the cells,
// in batches of random sizes up to `n_max`, reading all logits.
static void
run_tree(const deal_model *model, const tree *t, int n_max, int n_thread, uint64_t seed,
         float (*out)[N_VOCAB])
{
    int order[N_NODE], i_order[N_NODE];
    make_order(t, seed, order, i_order);
    deal_error err;
    deal_session *session;
    if (!CHECK(tiny_session(model, 600, n_thread, kv_type, &session, &err) == DEAL_OK))
        return;
    deal_lm *lm = deal_session_lm(session);
    deal_node root, node[N_NODE];
    CHECK(lm->ops->root(lm, &root, &err) == DEAL_OK);
    for (int i = 0; i < N_NODE;) {
        int n = 1 + (int)(deal_rng_uniform(seed, 3, (uint64_t)i) * n_max);
        n = n < N_NODE - i ? n : N_NODE - i;
        deal_lm_item item[N_NODE];
        for (int j = 0; j < n; j++) {
            int i_node = order[i + j], parent = t->parent[i_node];
            int is_here = parent >= 0 && i_order[parent] >= i;
            item[j] = (deal_lm_item){.parent = parent < 0 ? root : node[parent],
                                     .i_parent = is_here ? i_order[parent] - i : -1,
                                     .token = t->token[i_node],
                                     .want = DEAL_WANT_LOGITS,
                                     .logits = out[i_node]};
            if (is_here)
                item[j].parent = DEAL_NODE_NONE;
        }
        if (!CHECK(lm->ops->extend(lm, item, n, &err) == DEAL_OK))
            return;
        for (int j = 0; j < n; j++)
            node[order[i + j]] = item[j].node;
        i += n;
    }
    CHECK_EQ_INT(lm->n_forward_tokens, N_NODE);
    CHECK_EQ_INT(deal_session_n_live(session), N_NODE + 1);
    for (int i = 0; i < N_NODE; i++)
        lm->ops->release(lm, node[i]);
    lm->ops->release(lm, root);
    CHECK_EQ_INT(deal_session_n_live(session), 0);
    deal_session_free(session);
}

static void
test_batch_invariance(const deal_model *model)
{
    for (uint64_t seed = 1; seed <= 3; seed++) {
        static tree t;
        make_tree(&t, seed);
        run_tree(model, &t, 1, 1, seed, logits[0]);
        const int n_max[] = {2, 9, 40, N_NODE};
        for (int i = 0; i < 4; i++) {
            run_tree(model, &t, n_max[i], 1 + i % 3, seed + 10 * (1 + (uint64_t)i),
                     logits[1]);
            CHECK(memcmp(logits[0], logits[1], sizeof logits[0]) == 0);
        }
    }
}

static void
test_answers(const deal_model *model)
{
    deal_error err;
    deal_session *session;
    CHECK(tiny_session(model, 600, 2, kv_type, &session, &err) == DEAL_OK);
    deal_lm *lm = deal_session_lm(session);
    deal_node root;
    CHECK(lm->ops->root(lm, &root, &err) == DEAL_OK);
    int32_t top[N_VOCAB], one;
    float top_logit[N_VOCAB], one_logit, all[N_VOCAB], hidden[64];
    deal_lm_item item = {.parent = root,
                         .i_parent = -1,
                         .token = 3,
                         .want = DEAL_WANT_TOP_K | DEAL_WANT_LOG_Z | DEAL_WANT_LOGITS |
                                 DEAL_WANT_HIDDEN | DEAL_WANT_TARGET,
                         .top_k = N_VOCAB,
                         .target = 7,
                         .top_token = top,
                         .top_logit = top_logit,
                         .logits = all,
                         .hidden = hidden};
    CHECK(lm->ops->extend(lm, &item, 1, &err) == DEAL_OK);
    double sum = 0.0;
    for (int i = 0; i < N_VOCAB; i++) {
        sum += exp((double)all[i]);
        CHECK(top_logit[i] == all[top[i]]);
        CHECK(i == 0 || top_logit[i] < top_logit[i - 1] ||
              (top_logit[i] == top_logit[i - 1] && top[i] > top[i - 1]));
    }
    CHECK_NEAR(item.log_z, log(sum), 1e-5);
    CHECK(item.target_logit == all[7]);
    // Asked again: no forward pass, the same node, the same answer.
    deal_lm_item again = {.parent = root,
                          .i_parent = -1,
                          .token = 3,
                          .want = DEAL_WANT_TOP_K,
                          .top_k = 1,
                          .top_token = &one,
                          .top_logit = &one_logit};
    CHECK(lm->ops->extend(lm, &again, 1, &err) == DEAL_OK);
    CHECK_EQ_INT(again.node, item.node);
    CHECK_EQ_INT(lm->n_forward_tokens, 1);
    CHECK_EQ_INT(one, top[0]);
    CHECK_EQ_INT(lm->ops->child(lm, root, 3), item.node);
    CHECK_EQ_INT(lm->ops->child(lm, root, 4), DEAL_NODE_NONE);
    lm->ops->release(lm, again.node);
    lm->ops->release(lm, item.node);
    CHECK_EQ_INT(lm->ops->child(lm, root, 3), DEAL_NODE_NONE);
    lm->ops->release(lm, root);
    CHECK_EQ_INT(deal_session_n_live(session), 0);
    deal_session_free(session);
}

static void
test_errors(const deal_model *model)
{
    deal_error err;
    deal_session *session;
    CHECK(tiny_session(model, 601, 1, kv_type, &session, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "601");
    CHECK(tiny_session(model, 4, 0, kv_type, &session, &err) == DEAL_ERR_INVALID_ARG);
    CHECK(tiny_session(model, 4, 1, kv_type, &session, &err) == DEAL_OK);
    deal_lm *lm = deal_session_lm(session);
    deal_node root;
    CHECK(lm->ops->root(lm, &root, &err) == DEAL_OK);
    deal_lm_item item[5];
    for (int i = 0; i < 5; i++)
        item[i] = (deal_lm_item){.parent = root, .i_parent = i - 1, .token = i};
    CHECK(lm->ops->extend(lm, item, 5, &err) == DEAL_ERR_CONTEXT_FULL);
    CHECK_HAS(err.message, "4 tokens, got 5");
    CHECK_EQ_INT(deal_session_n_live(session), 1); // all or nothing
    item[2].token = N_VOCAB;
    CHECK(lm->ops->extend(lm, item, 3, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "got 50");
    item[2].token = 2;
    item[2].i_parent = 2;
    CHECK(lm->ops->extend(lm, item, 3, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_EQ_INT(deal_session_n_live(session), 1);
    item[0].want = DEAL_WANT_TOP_K;
    item[0].top_k = N_VOCAB + 1;
    CHECK(lm->ops->extend(lm, item, 1, &err) == DEAL_ERR_INVALID_ARG);
    lm->ops->release(lm, root);
    deal_session_free(session);
}

// Reads all logits of a chain of `n` tokens, `n_batch` at a time.
static void
run_chain(const deal_model *model, const int32_t *token, int n, int n_batch,
          float (*out)[N_VOCAB])
{
    deal_error err;
    deal_session *session;
    CHECK(tiny_session(model, 600, 2, kv_type, &session, &err) == DEAL_OK);
    deal_lm *lm = deal_session_lm(session);
    deal_node node[N_NODE + 1];
    CHECK(lm->ops->root(lm, &node[0], &err) == DEAL_OK);
    for (int i = 0; i < n; i += n_batch) {
        deal_lm_item item[N_NODE];
        int n_item = n - i < n_batch ? n - i : n_batch;
        for (int j = 0; j < n_item; j++)
            item[j] = (deal_lm_item){.parent = node[i],
                                     .i_parent = j - 1,
                                     .token = token[i + j],
                                     .want = DEAL_WANT_LOGITS,
                                     .logits = out[i + j]};
        if (!CHECK(lm->ops->extend(lm, item, n_item, &err) == DEAL_OK))
            return;
        for (int j = 0; j < n_item; j++)
            node[i + j + 1] = item[j].node;
    }
    for (int i = n; i >= 0; i--)
        lm->ops->release(lm, node[i]);
    deal_session_free(session);
}

// A window that cuts some blocks of attention and skips others.
static void
test_window(deal_model *model)
{
    int32_t token[N_NODE], n_swa = model->hparams.n_swa;
    for (int i = 0; i < N_NODE; i++)
        token[i] = (int32_t)(deal_rng_uniform(3, 4, (uint64_t)i) * N_VOCAB);
    run_chain(model, token, N_NODE, N_NODE, logits[0]);
    const int n_batch[] = {1, 7, 64, 65};
    for (int i = 0; i < 4; i++) {
        run_chain(model, token, N_NODE, n_batch[i], logits[1]);
        CHECK(memcmp(logits[0], logits[1], sizeof logits[0]) == 0);
    }
    model->hparams.n_swa = N_NODE; // the window begins to count where it is full
    run_chain(model, token, N_NODE, N_NODE, logits[1]);
    CHECK(memcmp(logits[0], logits[1], sizeof logits[0][0] * (size_t)n_swa) == 0);
    CHECK(memcmp(logits[0][n_swa], logits[1][n_swa], sizeof logits[0][0]) != 0);
    // With one in every layer, the first token reaches n_layer (n_swa - 1) further.
    model->hparams.n_swa = n_swa;
    model->hparams.swa_period = 0;
    int n_reach = TINY_N_LAYER * (n_swa - 1);
    run_chain(model, token, N_NODE, N_NODE, logits[0]);
    token[0] = (token[0] + 1) % N_VOCAB;
    run_chain(model, token, N_NODE, N_NODE, logits[1]);
    CHECK(memcmp(logits[0][n_reach], logits[1][n_reach], sizeof logits[0][0]) != 0);
    for (int i = n_reach + 1; i < N_NODE; i++)
        CHECK(memcmp(logits[0][i], logits[1][i], sizeof logits[0][0]) == 0);
    model->hparams.swa_period = 2;
}

// Every allocation fails once; nothing leaks (under ASan) and the session stays usable.
static void
test_out_of_memory(const deal_model *model)
{
    for (size_t n = 1, is_over = 0; !is_over; n++) {
        deal_error err;
        deal_session *session = NULL;
        deal_node root = DEAL_NODE_NONE;
        deal_lm_item item[130]; // in three pages of cells
        for (int i = 0; i < 130; i++)
            item[i] = (deal_lm_item){.i_parent = i - 1, .token = 1};
        deal_alloc_fail_at(n);
        deal_status status = tiny_session(model, 130, 2, kv_type, &session, &err);
        if (status == DEAL_OK) {
            deal_lm *lm = deal_session_lm(session);
            status = lm->ops->root(lm, &root, &err);
            if (status == DEAL_OK) {
                item[0].parent = root;
                status = lm->ops->extend(lm, item, 130, &err);
                for (int i = 0; status == DEAL_OK && i < 130; i++)
                    lm->ops->release(lm, item[i].node);
                lm->ops->release(lm, root);
            }
            is_over = status == DEAL_OK;
            CHECK_EQ_INT(deal_session_n_live(session), 0);
        }
        CHECK(status == DEAL_OK || status == DEAL_ERR_NO_MEMORY);
        deal_alloc_fail_at(0);
        deal_session_free(session);
    }
}

static deal_status
stop_at_third(void *user, deal_error *err)
{
    int *n_asked = user;
    return ++*n_asked < 3 ? DEAL_OK
                          : deal_fail(err, DEAL_ERR_INTERRUPTED, "interrupted");
}

// A long batch asks now and then; what it is told ends it and leaves no node.
static void
test_poll(const deal_model *model)
{
    deal_error err;
    deal_session *session;
    CHECK(tiny_session(model, 600, 1, kv_type, &session, &err) == DEAL_OK);
    deal_lm *lm = deal_session_lm(session);
    int n_asked = 0;
    deal_session_set_poll(session, stop_at_third, &n_asked);
    deal_status status = DEAL_OK;
    deal_node root;
    double start = deal_clock_seconds();
    while (status == DEAL_OK && deal_clock_seconds() - start < 20.0) {
        deal_lm_item item = {.i_parent = -1, .token = 1};
        CHECK(lm->ops->root(lm, &root, &err) == DEAL_OK);
        item.parent = root;
        status = lm->ops->extend(lm, &item, 1, &err);
        if (status == DEAL_OK)
            lm->ops->release(lm, item.node);
        lm->ops->release(lm, root);
    }
    CHECK_EQ_INT(status, DEAL_ERR_INTERRUPTED);
    CHECK_EQ_INT(n_asked, 3);
    CHECK_EQ_INT(deal_session_n_live(session), 0);
    deal_session_set_poll(session, NULL, NULL);
    deal_session_free(session);
}

// After a first run over the same shape, extending allocates nothing.
static void
test_steady_state(const deal_model *model)
{
    deal_error err;
    deal_session *session;
    CHECK(tiny_session(model, 600, 2, kv_type, &session, &err) == DEAL_OK);
    deal_lm *lm = deal_session_lm(session);
    size_t n_alloc = 0;
    for (int i_run = 0; i_run < 2; i_run++) {
        if (i_run == 1)
            n_alloc = deal_alloc_count();
        deal_node root;
        CHECK(lm->ops->root(lm, &root, &err) == DEAL_OK);
        static deal_lm_item item[200];
        for (int i = 0; i < 200; i++)
            item[i] =
                (deal_lm_item){.parent = root, .i_parent = i - 1, .token = i % 50};
        CHECK(lm->ops->extend(lm, item, 200, &err) == DEAL_OK);
        for (int i = 0; i < 200; i++)
            lm->ops->release(lm, item[i].node);
        lm->ops->release(lm, root);
    }
    CHECK_EQ_INT(deal_alloc_count(), n_alloc);
    deal_session_free(session);
}

// Loads and runs with the kernels called `name`; false where there are none.
static bool
run_with(const char *name, const tiny_weights *tiny, deal_compute compute,
         float (*out)[N_VOCAB])
{
    static tree t;
    deal_error err;
    deal_model *model;
    if (!deal_kernels_find(name))
        return false;
    make_tree(&t, 4);
    setenv("DEAL_ISA", name, 1);
    if (CHECK(deal_model_from_tensors(&tiny->hparams, &tiny->table, NULL, 0, compute,
                                      &model, &err) == DEAL_OK)) {
        run_tree(model, &t, 40, 2, 5, out);
        deal_model_free(model);
    }
    return true;
}

// Kernel sets agree up to rounding. With f16 cells or int8 activations a last bit may
// move a number by a whole step: 2^-11 of a key or value, 1/127 of a group's largest.
static void
test_sets_agree(const tiny_weights *tiny, deal_compute compute)
{
    const char *isa = getenv("DEAL_ISA");
    char before[32];
    snprintf(before, sizeof before, "%s", isa ? isa : "");
    double tolerance = compute == DEAL_COMPUTE_INT8 ? 0.1
                       : kv_type == DEAL_KV_F16     ? 1e-3
                                                    : 1e-4;
    CHECK(run_with("plain", tiny, compute, logits[0]));
    const char *name[] = {"avx2", "avxvnni", "avx512", "neon"};
    for (int i = 0; i < 4; i++) {
        double worst = 0.0;
        if (!run_with(name[i], tiny, compute, logits[1]))
            continue;
        for (int r = 0; r < N_NODE; r++)
            for (int o = 0; o < N_VOCAB; o++)
                worst = fmax(worst, fabs((double)(logits[1][r][o] - logits[0][r][o])));
        CHECK_NEAR(worst, 0.0, tolerance);
    }
    if (isa)
        setenv("DEAL_ISA", before, 1);
    else
        unsetenv("DEAL_ISA");
}

static void
test_models(int32_t n_swa)
{
    tiny_weights tiny;
    tiny_weights_make(&tiny, n_swa);
    for (int compute = DEAL_COMPUTE_F32; compute <= DEAL_COMPUTE_INT8; compute++) {
        deal_model *model;
        deal_error err;
        if (!CHECK(deal_model_from_tensors(&tiny.hparams, &tiny.table, NULL, 0,
                                           (deal_compute)compute, &model,
                                           &err) == DEAL_OK)) {
            printf("    %s\n", err.message);
            continue;
        }
        for (int type = DEAL_KV_F32; type <= DEAL_KV_F16; type++) {
            kv_type = (deal_kv_type)type;
            test_batch_invariance(model);
            if (n_swa > 0)
                test_window(model);
            test_answers(model);
            test_errors(model);
            test_out_of_memory(model);
            test_steady_state(model);
            test_sets_agree(&tiny, (deal_compute)compute);
        }
        test_poll(model);
        deal_model_free(model);
    }
    free(tiny.data);
}

// Weights of 4 bits, which have panels of their own.
static void
test_4bit(int32_t n_swa)
{
    tiny_weights tiny;
    tiny_weights_make(&tiny, n_swa);
    CHECK(tiny_quantize(&tiny) > 0);
    for (int compute = DEAL_COMPUTE_F32; compute <= DEAL_COMPUTE_INT8; compute++) {
        deal_model *model;
        deal_error err;
        if (!CHECK(deal_model_from_tensors(&tiny.hparams, &tiny.table, NULL, 0,
                                           (deal_compute)compute, &model,
                                           &err) == DEAL_OK))
            continue;
        kv_type = DEAL_KV_F32;
        test_batch_invariance(model);
        test_sets_agree(&tiny, (deal_compute)compute);
        deal_model_free(model);
    }
    free(tiny.data);
}

int
main(void)
{
    test_models(0);
    test_models(70);
    test_models(5);
    test_4bit(0);
    test_4bit(70);
    return check_report("test_session");
}
