/* Roots that keep layers: the states of their nodes against what taps read, at any time
 * and in any batch, beside roots that keep others; errors, memory.
 */
#include <stdlib.h>

#include "check.h"
#include "common/alloc.h"
#include "common/controls.h"
#include "model/session.h"
#include "tiny_weights.h"

#define N_EMBD 64
#define N_KEPT 3
#define N_TOKEN 90 // more than a page
#define KEPT_LEN (N_KEPT * N_EMBD)

static const deal_controls_shape shape = {TINY_N_LAYER, 4, 12, N_EMBD};
static const int32_t kept_layer[N_KEPT] = {1, -1, 0};
static const deal_tap same_taps[N_KEPT] = {
    {DEAL_SITE_RESIDUAL, 1}, {DEAL_SITE_FINAL, 0}, {DEAL_SITE_RESIDUAL, 0}};
static float vector[N_EMBD];
static float tapped[2][N_TOKEN][KEPT_LEN]; // plain, edited

static deal_controls *
make_set(bool is_edited, bool is_tapped)
{
    deal_controls *set = NULL;
    deal_error err;
    for (int i = 0; i < N_EMBD; i++)
        vector[i] = (float)(deal_rng_uniform(3, 1, (uint64_t)i) - 0.5);
    const deal_edit edit = {
        .site = DEAL_SITE_RESIDUAL, .where = DEAL_WHERE_COMPLETION, .vector = vector};
    CHECK(deal_controls_new(&shape, &edit, is_edited, same_taps, is_tapped ? N_KEPT : 0,
                            &set, &err) == DEAL_OK);
    return set;
}

static int32_t
token_at(int i)
{
    return (int32_t)(i * 7 % 50);
}

// The states of a chain, read by taps in one pass.
static void
read_taps(const deal_model *model, bool is_edited)
{
    deal_error err;
    deal_session *session;
    deal_lm_item item[N_TOKEN];
    deal_node root;
    deal_controls *set = make_set(is_edited, true);
    CHECK(tiny_session(model, 600, 2, DEAL_KV_F32, &session, &err) == DEAL_OK);
    deal_lm *lm = deal_session_lm(session);
    CHECK(lm->ops->controlled_root(lm, set, 5, &root, &err) == DEAL_OK);
    for (int i = 0; i < N_TOKEN; i++)
        item[i] = (deal_lm_item){.parent = root,
                                 .i_parent = i - 1,
                                 .token = token_at(i),
                                 .want = DEAL_WANT_TAPS,
                                 .taps = tapped[is_edited][i]};
    CHECK(lm->ops->extend(lm, item, N_TOKEN, &err) == DEAL_OK);
    for (int i = 0; i < N_TOKEN; i++)
        lm->ops->release(lm, item[i].node);
    lm->ops->release(lm, root);
    deal_session_free(session);
    deal_controls_free(set);
}

typedef struct chain {
    deal_node root, node[N_TOKEN];
    const int32_t *layer;
    int32_t n_layer;
} chain;

static void
start(deal_lm *lm, chain *c, const deal_controls *set, const int32_t *layer,
      int32_t n_layer)
{
    deal_error err;
    *c = (chain){.layer = layer, .n_layer = n_layer};
    if (set)
        CHECK(lm->ops->controlled_root(lm, set, 5, &c->root, &err) == DEAL_OK);
    else
        CHECK(lm->ops->root(lm, &c->root, &err) == DEAL_OK);
    if (n_layer > 0)
        CHECK(lm->ops->keep_layers(lm, c->root, layer, n_layer, &err) == DEAL_OK);
}

// Tokens [begin, end); asked for their states while they are made, or not.
static void
grow(deal_lm *lm, chain *c, int begin, int end, bool is_asked)
{
    static float hidden[N_TOKEN][KEPT_LEN];
    deal_lm_item item[N_TOKEN];
    deal_error err;
    for (int i = begin; i < end; i++)
        item[i - begin] = (deal_lm_item){.parent = i > 0 ? c->node[i - 1] : c->root,
                                         .i_parent = i - begin - 1,
                                         .token = token_at(i),
                                         .want = is_asked ? DEAL_WANT_HIDDEN : 0,
                                         .hidden = hidden[i]};
    CHECK(lm->ops->extend(lm, item, end - begin, &err) == DEAL_OK);
    for (int i = begin; i < end; i++)
        c->node[i] = item[i - begin].node;
}

// Every node's states, asked of nodes that are there, bit for bit.
static void
check_states(deal_lm *lm, const chain *c, float expected[][KEPT_LEN])
{
    deal_error err;
    int64_t n_before = lm->n_forward_tokens;
    for (int i = 0; i < N_TOKEN; i++) {
        float hidden[KEPT_LEN];
        deal_lm_item item = {.parent = i > 0 ? c->node[i - 1] : c->root,
                             .i_parent = -1,
                             .token = token_at(i),
                             .want = DEAL_WANT_HIDDEN,
                             .hidden = hidden};
        CHECK(lm->ops->extend(lm, &item, 1, &err) == DEAL_OK);
        for (int32_t l = 0; l < c->n_layer; l++) {
            int t = 0; // where the taps have that layer
            while (kept_layer[t] != c->layer[l])
                t++;
            CHECK(memcmp(hidden + l * N_EMBD, expected[i] + t * N_EMBD,
                         N_EMBD * sizeof *hidden) == 0);
        }
        if (c->n_layer == 0) // the final state alone
            CHECK(memcmp(hidden, expected[i] + N_EMBD, N_EMBD * sizeof *hidden) == 0);
        lm->ops->release(lm, item.node);
    }
    CHECK_EQ_INT(lm->n_forward_tokens, n_before);
}

static void
drop(deal_lm *lm, chain *c)
{
    for (int i = 0; i < N_TOKEN; i++)
        lm->ops->release(lm, c->node[i]);
    lm->ops->release(lm, c->root);
}

// Chains that keep less, more, nothing, and others below controls grow by turns, in
// batches of several sizes, so that the pages hold nodes of all of them.
static void
test_states(const deal_model *model)
{
    static const int32_t first[] = {0}, final[] = {-1};
    static chain c[5];
    deal_error err;
    deal_session *session;
    deal_controls *set = make_set(true, false);
    CHECK(tiny_session(model, 600, 2, DEAL_KV_F32, &session, &err) == DEAL_OK);
    deal_lm *lm = deal_session_lm(session);
    size_t size = deal_session_size(session);
    start(lm, &c[0], NULL, first, 1);
    start(lm, &c[1], NULL, kept_layer, N_KEPT);
    start(lm, &c[2], NULL, NULL, 0);
    start(lm, &c[3], set, kept_layer, N_KEPT);
    start(lm, &c[4], NULL, final, 1);
    for (int i = 0; i < N_TOKEN;) {
        int n = 1 + i % 4 * 5;
        n = n < N_TOKEN - i ? n : N_TOKEN - i;
        for (int k = 0; k < 5; k++)
            grow(lm, &c[k], i, i + n, (i + k) % 2 == 0);
        i += n;
    }
    for (int k = 0; k < 5; k++)
        check_states(lm, &c[k], tapped[k == 3]);
    CHECK(memcmp(tapped[0], tapped[1], sizeof tapped[0]) != 0);
    drop(lm, &c[0]);
    drop(lm, &c[2]);
    start(lm, &c[0], NULL, kept_layer + 1, 2); // in the cells of the others
    grow(lm, &c[0], 0, N_TOKEN, false);
    check_states(lm, &c[0], tapped[0]);
    check_states(lm, &c[1], tapped[0]);
    for (int k = 0; k < 5; k++)
        if (k != 2)
            drop(lm, &c[k]);
    CHECK_EQ_INT(deal_session_n_live(session), 0);
    chain plain; // an idle trie keeps pages, and no states beside them
    start(lm, &plain, NULL, NULL, 0);
    grow(lm, &plain, 0, N_TOKEN, false);
    size_t size_plain = deal_session_size(session);
    drop(lm, &plain);
    start(lm, &plain, NULL, kept_layer, N_KEPT);
    grow(lm, &plain, 0, N_TOKEN, false);
    CHECK(deal_session_size(session) > size_plain);
    CHECK(size_plain > size);
    drop(lm, &plain);
    CHECK_EQ_INT(deal_session_size(session), size_plain);
    deal_session_free(session);
    deal_controls_free(set);
}

static void
test_errors(const deal_model *model)
{
    static const int32_t high[] = {0, TINY_N_LAYER}, low[] = {-2};
    deal_error err;
    deal_session *session;
    chain c;
    CHECK(tiny_session(model, 600, 1, DEAL_KV_F32, &session, &err) == DEAL_OK);
    deal_lm *lm = deal_session_lm(session);
    CHECK_EQ_INT(lm->n_layer, TINY_N_LAYER);
    start(lm, &c, NULL, NULL, 0);
    CHECK(lm->ops->keep_layers(lm, c.root, high, 2, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "layers: expected -1 to");
    CHECK(lm->ops->keep_layers(lm, c.root, low, 1, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "got -2");
    grow(lm, &c, 0, 2, false);
    CHECK(lm->ops->keep_layers(lm, c.root, kept_layer, 1, &err) ==
          DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "expected a root without nodes");
    CHECK(lm->ops->keep_layers(lm, c.node[1], kept_layer, 1, &err) ==
          DEAL_ERR_INVALID_ARG);
    CHECK(lm->ops->keep_layers(lm, 1000, kept_layer, 1, &err) == DEAL_ERR_INVALID_ARG);
    for (int i = 0; i < 2; i++)
        lm->ops->release(lm, c.node[i]);
    lm->ops->release(lm, c.root);
    CHECK_EQ_INT(deal_session_n_live(session), 0);
    deal_session_free(session);
}

static void
test_out_of_memory(const deal_model *model)
{
    for (size_t n = 1, is_over = 0; !is_over; n++) {
        deal_error err;
        deal_session *session = NULL;
        deal_node root = DEAL_NODE_NONE;
        deal_lm_item item[2] = {{.i_parent = -1, .token = 1},
                                {.i_parent = 0, .token = 2}};
        deal_alloc_fail_at(n);
        deal_status status = tiny_session(model, 8, 2, DEAL_KV_F32, &session, &err);
        if (status == DEAL_OK) {
            deal_lm *lm = deal_session_lm(session);
            status = lm->ops->root(lm, &root, &err);
            item[0].parent = root;
            if (status == DEAL_OK) {
                status = lm->ops->keep_layers(lm, root, kept_layer, N_KEPT, &err);
                if (status == DEAL_OK)
                    status = lm->ops->extend(lm, item, 2, &err);
                for (int i = 0; status == DEAL_OK && i < 2; i++)
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

int
main(void)
{
    tiny_weights tiny;
    tiny_weights_make(&tiny, 0);
    for (int compute = DEAL_COMPUTE_F32; compute <= DEAL_COMPUTE_INT8; compute++) {
        deal_model *model;
        deal_error err;
        if (!CHECK(deal_model_from_tensors(&tiny.hparams, &tiny.table, NULL, 0,
                                           (deal_compute)compute, &model,
                                           &err) == DEAL_OK))
            continue;
        read_taps(model, false);
        read_taps(model, true);
        test_states(model);
        test_errors(model);
        test_out_of_memory(model);
        deal_model_free(model);
    }
    free(tiny.data);
    return check_report("test_kept");
}
