/* KV cells: pages that stay where they are, the budget, f16, what idle sessions keep. */
#include <stdlib.h>

#include "check.h"
#include "common/alloc.h"
#include "tiny_weights.h"

#define N_VOCAB 50
#define N_CTX 600

// --- the trie ------------------------------------------------------------------------

// Growing copies no cell: each stays at its address, with what was written to it.
static void
test_growth(deal_kv_type kv_type)
{
    enum { N = 40 * DEAL_PAGE_LEN };
    static deal_node node[N];
    static unsigned char *cell[N];
    deal_error err;
    deal_trie trie;
    deal_trie_init(&trie, 2, 3, 12, 8, kv_type, 0);
    CHECK(deal_trie_root(&trie, NULL, 0, &node[0], &err) == DEAL_OK);
    for (int i = 0; i < N; i++) {
        if (i > 0)
            CHECK(deal_trie_add(&trie, node[i - 1], i % N_VOCAB, &node[i], &err) ==
                  DEAL_OK);
        cell[i] = deal_trie_cell(&trie, node[i]);
        cell[i][0] = (unsigned char)i;
        deal_trie_hidden(&trie, node[i])[7] = (float)i;
    }
    for (int i = 0; i < N; i++) {
        CHECK(deal_trie_cell(&trie, node[i]) == (void *)cell[i]);
        CHECK_EQ_INT(cell[i][0], (unsigned char)i);
        CHECK(deal_trie_hidden(&trie, node[i])[7] == (float)i);
    }
    size_t number_size = kv_type == DEAL_KV_F16 ? 2 : 4;
    size_t page_size = DEAL_PAGE_LEN * (2 * 3 * 2 * 16 * number_size + 8 * 4);
    CHECK_EQ_INT(deal_trie_page_size(&trie), page_size);
    CHECK_EQ_INT(deal_trie_kv_size(&trie), 40 * page_size);
    CHECK(deal_trie_key_offset(&trie, 2, 0) * number_size + DEAL_PAGE_LEN * 8 * 4 ==
          page_size);
    for (int i = N; i-- > 0;)
        deal_trie_release(&trie, node[i]);
    CHECK_EQ_INT(trie.n_live, 0);
    CHECK_EQ_INT(deal_trie_kv_size(&trie), DEAL_PAGE_KEEP * page_size);
    deal_trie_free(&trie);
}

// Every allocation of a growing trie fails once; the trie is as it was, and goes on.
static void
test_growth_without_memory(void)
{
    enum { N = 20 * DEAL_PAGE_LEN }; // the tables of pages and nodes grow twice
    int n_failed = 0;
    for (size_t n = 1, is_over = 0; !is_over; n++) {
        static deal_node node[N];
        deal_error err;
        deal_trie trie;
        deal_trie_init(&trie, 1, 1, 4, 4, DEAL_KV_F32, 0);
        deal_alloc_fail_at(n);
        is_over = 1;
        for (int i = 0; i < N; i++) {
            deal_node parent = i > 0 ? node[i - 1] : DEAL_NODE_NONE;
            deal_status status = DEAL_ERR_NO_MEMORY;
            for (int i_try = 0; status == DEAL_ERR_NO_MEMORY && i_try < 2; i_try++) {
                status = i > 0 ? deal_trie_add(&trie, parent, 1, &node[i], &err)
                               : deal_trie_root(&trie, NULL, 0, &node[i], &err);
                if (status == DEAL_OK)
                    continue;
                is_over = 0;
                n_failed++;
                CHECK_EQ_INT(trie.n_live, i);
            }
            if (!CHECK(status == DEAL_OK))
                return;
        }
        deal_alloc_fail_at(0);
        for (int i = N; i-- > 0;)
            deal_trie_release(&trie, node[i]);
        deal_trie_free(&trie);
    }
    CHECK(n_failed >= 24); // 20 pages, two tables twice
}

// --- sessions ------------------------------------------------------------------------

// A chain of `n` tokens below `parent`, all logits of the last one; nodes are kept.
static deal_status
extend_chain(deal_lm *lm, deal_node parent, int n, int32_t first, deal_node *node,
             float *logits, deal_error *err)
{
    static deal_lm_item item[N_CTX];
    for (int i = 0; i < n; i++)
        item[i] = (deal_lm_item){
            .parent = parent, .i_parent = i - 1, .token = (first + 7 * i) % N_VOCAB};
    item[n - 1].want = DEAL_WANT_LOGITS;
    item[n - 1].logits = logits;
    deal_status status = lm->ops->extend(lm, item, n, err);
    for (int i = 0; status == DEAL_OK && i < n; i++)
        node[i] = item[i].node;
    return status;
}

static void
release_all(deal_lm *lm, const deal_node *node, int n)
{
    for (int i = 0; i < n; i++)
        lm->ops->release(lm, node[i]);
}

// A budget of two pages and a bit: 128 nodes, the root among them.
static void
test_budget(const deal_model *model, deal_kv_type kv_type)
{
    float logits[N_VOCAB], again[N_VOCAB];
    deal_node root, node[N_CTX];
    deal_error err;
    deal_session *session;
    CHECK(tiny_session(model, N_CTX, 1, kv_type, &session, &err) == DEAL_OK);
    CHECK_EQ_INT(deal_session_kv_size(session), 0);
    deal_lm *lm = deal_session_lm(session);
    CHECK(lm->ops->root(lm, &root, &err) == DEAL_OK);
    size_t page_size = deal_session_kv_size(session);
    CHECK(page_size > 0);
    lm->ops->release(lm, root);
    deal_session_free(session);

    const deal_session_params params = {N_CTX, 2, kv_type, 3 * page_size - 1};
    CHECK(deal_session_new(model, &params, &session, &err) == DEAL_OK);
    lm = deal_session_lm(session);
    for (int i_round = 0; i_round < 2; i_round++) {
        CHECK(lm->ops->root(lm, &root, &err) == DEAL_OK);
        CHECK(extend_chain(lm, root, 100, 3, node, logits, &err) == DEAL_OK);
        CHECK_EQ_INT(deal_session_kv_size(session), 2 * page_size);
        // Too much at once: nothing of it is there.
        CHECK(extend_chain(lm, root, 60, 4, node + 100, again, &err) ==
              DEAL_ERR_KV_BUDGET);
        char budget[32], held[32], needed[32];
        snprintf(budget, sizeof budget, "at most %zu bytes", 3 * page_size - 1);
        snprintf(held, sizeof held, "got %zu held", 2 * page_size);
        snprintf(needed, sizeof needed, "%zu needed", page_size);
        CHECK_HAS(err.message, "kv_budget");
        CHECK_HAS(err.message, budget);
        CHECK_HAS(err.message, held);
        CHECK_HAS(err.message, needed);
        CHECK_EQ_INT(deal_session_n_live(session), 101);
        CHECK_EQ_INT(lm->ops->child(lm, root, 4), DEAL_NODE_NONE);
        // Up to the last cell, then not one more.
        CHECK(extend_chain(lm, node[99], 27, 9, node + 100, again, &err) == DEAL_OK);
        CHECK_EQ_INT(deal_session_n_live(session), 128);
        CHECK(extend_chain(lm, root, 1, 4, node + 127, again, &err) ==
              DEAL_ERR_KV_BUDGET);
        // A cell given back is one to use, and what was there is still right.
        lm->ops->release(lm, node[126]);
        CHECK(extend_chain(lm, root, 1, 4, node + 126, again, &err) == DEAL_OK);
        int64_t n_before = lm->n_forward_tokens;
        deal_node same[100];
        CHECK(extend_chain(lm, root, 100, 3, same, again, &err) == DEAL_OK);
        CHECK_EQ_INT(lm->n_forward_tokens, n_before);
        CHECK(memcmp(logits, again, sizeof logits) == 0);
        release_all(lm, same, 100);
        release_all(lm, node, 127);
        lm->ops->release(lm, root);
        CHECK_EQ_INT(deal_session_n_live(session), 0);
        CHECK_EQ_INT(deal_session_kv_size(session), 2 * page_size);
    }
    deal_session_free(session);

    const deal_session_params none = {N_CTX, 2, kv_type, page_size - 1};
    CHECK_EQ_INT(deal_session_page_size(model, kv_type), page_size);
    CHECK(deal_session_new(model, &none, &session, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "kv_budget: expected at least");
}

// After a long request little is kept, and the next one finds the same.
static void
test_idle(const deal_model *model, deal_kv_type kv_type)
{
    float logits[N_VOCAB], again[N_VOCAB];
    deal_node root, node[N_CTX];
    deal_error err;
    deal_session *session;
    CHECK(tiny_session(model, N_CTX, 2, kv_type, &session, &err) == DEAL_OK);
    deal_lm *lm = deal_session_lm(session);
    for (int i_round = 0; i_round < 3; i_round++) {
        CHECK(lm->ops->root(lm, &root, &err) == DEAL_OK);
        size_t page_size = deal_session_kv_size(session);
        if (i_round > 0)
            page_size /= DEAL_PAGE_KEEP;
        CHECK(extend_chain(lm, root, N_CTX, 1, node, again, &err) == DEAL_OK);
        CHECK_EQ_INT(deal_session_kv_size(session), (N_CTX + 64) / 64 * page_size);
        if (i_round == 0)
            memcpy(logits, again, sizeof logits);
        CHECK(memcmp(logits, again, sizeof logits) == 0);
        release_all(lm, node, N_CTX);
        CHECK_EQ_INT(deal_session_kv_size(session), (N_CTX + 64) / 64 * page_size);
        lm->ops->release(lm, root);
        CHECK_EQ_INT(deal_session_kv_size(session), DEAL_PAGE_KEEP * page_size);
    }
    deal_session_free(session);
}

// --- f16 -----------------------------------------------------------------------------

// Half the bytes, and logits that are near those of f32 but not the same.
static void
test_f16(const deal_model *model)
{
    float logits[2][N_VOCAB];
    size_t kv_size[2];
    for (int type = DEAL_KV_F32; type <= DEAL_KV_F16; type++) {
        deal_node root, node[N_CTX];
        deal_error err;
        deal_session *session;
        CHECK(tiny_session(model, N_CTX, 1, (deal_kv_type)type, &session, &err) ==
              DEAL_OK);
        deal_lm *lm = deal_session_lm(session);
        CHECK(lm->ops->root(lm, &root, &err) == DEAL_OK);
        CHECK(extend_chain(lm, root, 200, 1, node, logits[type], &err) == DEAL_OK);
        kv_size[type] = deal_session_kv_size(session);
        release_all(lm, node, 200);
        lm->ops->release(lm, root);
        deal_session_free(session);
    }
    size_t hidden_size = 4 * DEAL_PAGE_LEN * (size_t)model->hparams.n_embd * 4;
    CHECK_EQ_INT(2 * (kv_size[1] - hidden_size), kv_size[0] - hidden_size);
    CHECK(memcmp(logits[0], logits[1], sizeof logits[0]) != 0);
    // A small change may move an activation by a step of its 8 bits, which is a larger.
    double tolerance = model->compute == DEAL_COMPUTE_INT8 ? 0.1 : 2e-3;
    for (int i = 0; i < N_VOCAB; i++)
        CHECK_NEAR(logits[1][i], logits[0][i], tolerance);
}

static void
scale_tensor(tiny_weights *tiny, const char *name, float factor)
{
    for (int32_t i = 0; i < tiny->table.n_tensor; i++) {
        deal_tensor *tensor = &tiny->tensor[i];
        size_t at = (size_t)((const float *)tensor->data - tiny->data);
        for (size_t j = 0; strcmp(tensor->name, name) == 0 && j < tensor->size / 4; j++)
            tiny->data[at + j] *= factor;
    }
}

// What f16 cannot hold is an error, not infinity; f32 holds it.
static void
test_overflow(deal_compute compute, const char *name)
{
    tiny_weights tiny;
    tiny_weights_make(&tiny, 0);
    scale_tensor(&tiny, name, 1e6f);
    deal_error err;
    deal_model *model;
    CHECK(deal_model_from_tensors(&tiny.hparams, &tiny.table, NULL, 0, compute, &model,
                                  &err) == DEAL_OK);
    for (int type = DEAL_KV_F32; type <= DEAL_KV_F16; type++) {
        float logits[N_VOCAB];
        deal_node root, node[3];
        deal_session *session;
        CHECK(tiny_session(model, N_CTX, 2, (deal_kv_type)type, &session, &err) ==
              DEAL_OK);
        deal_lm *lm = deal_session_lm(session);
        CHECK(lm->ops->root(lm, &root, &err) == DEAL_OK);
        deal_status status = extend_chain(lm, root, 3, 1, node, logits, &err);
        if (type == DEAL_KV_F32) {
            CHECK_EQ_INT(status, DEAL_OK);
            release_all(lm, node, 3);
        } else {
            CHECK_EQ_INT(status, DEAL_ERR_INVALID_ARG);
            CHECK_HAS(err.message, "kv_type");
            CHECK_HAS(err.message, "65504");
            CHECK_HAS(err.message, "token 1 at position 0 in layer 1");
        }
        CHECK_EQ_INT(deal_session_n_live(session), 1);
        lm->ops->release(lm, root);
        deal_session_free(session);
    }
    deal_model_free(model);
    free(tiny.data);
}

int
main(void)
{
    test_growth_without_memory();
    for (int type = DEAL_KV_F32; type <= DEAL_KV_F16; type++)
        test_growth((deal_kv_type)type);
    tiny_weights tiny;
    tiny_weights_make(&tiny, 0);
    for (int compute = DEAL_COMPUTE_F32; compute <= DEAL_COMPUTE_INT8; compute++) {
        deal_model *model;
        deal_error err;
        CHECK(deal_model_from_tensors(&tiny.hparams, &tiny.table, NULL, 0,
                                      (deal_compute)compute, &model, &err) == DEAL_OK);
        for (int type = DEAL_KV_F32; type <= DEAL_KV_F16; type++) {
            test_budget(model, (deal_kv_type)type);
            test_idle(model, (deal_kv_type)type);
        }
        test_f16(model);
        deal_model_free(model);
        test_overflow((deal_compute)compute, "blk.1.attn_k.weight");
        test_overflow((deal_compute)compute, "blk.1.attn_v.weight");
    }
    free(tiny.data);
    return check_report("test_kv");
}
