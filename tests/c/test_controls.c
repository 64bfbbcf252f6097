/* Controls in the trie LM: batch invariance with several sets in one batch, taps against
 * plain recomputation, errors, memory.
 */
#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "common/alloc.h"
#include "common/controls.h"
#include "kernels/kernels.h"
#include "model/session.h"
#include "tiny_weights.h"

#define N_VOCAB 50
#define N_NODE 120 // of each root
#define N_SET 4    // set 0 is none
#define N_EMBD 64
#define N_HEAD 4
#define HEAD_DIM 12
#define TAP_LEN (2 * N_EMBD + N_HEAD * HEAD_DIM + N_EMBD)

static const deal_controls_shape shape = {TINY_N_LAYER, N_HEAD, HEAD_DIM, N_EMBD};
static float vector[N_EMBD], matrix[HEAD_DIM * HEAD_DIM];
static int n_edit_call;

// Each state is scaled by what it holds: a function of that state alone.
static int
scale_states(void *self, float *states, int32_t n_state, int32_t n_embd, char *message)
{
    n_edit_call++;
    if (*(int *)self == 1) {
        snprintf(message, DEAL_CONTROL_MESSAGE_SIZE, "told to fail");
        return 1;
    }
    for (int32_t i = 0; i < n_state; i++, states += n_embd)
        for (int32_t d = 0; d < n_embd; d++)
            states[d] = *(int *)self == 2 ? NAN : states[d] + 0.25f * states[0];
    return 0;
}

static int works = 0, fails = 1, is_nan = 2;
static deal_control scale = {.abi_version = DEAL_CONTROL_ABI,
                             .struct_size = sizeof(deal_control),
                             .self = &works,
                             .name = "scale",
                             .edit = scale_states};

static const deal_tap all_taps[] = {{DEAL_SITE_RESIDUAL, 0},
                                    {DEAL_SITE_HEAD, 1},
                                    {DEAL_SITE_RESIDUAL, 1},
                                    {DEAL_SITE_FINAL, 0}};

static deal_controls *
make_set(int i_set)
{
    for (int i = 0; i < N_EMBD; i++)
        vector[i] = (float)(deal_rng_uniform(3, 1, (uint64_t)i) - 0.5);
    for (int i = 0; i < HEAD_DIM * HEAD_DIM; i++)
        matrix[i] = (float)(deal_rng_uniform(3, 2, (uint64_t)i) - 0.5);
    const deal_edit mixed[] = {
        {DEAL_SITE_FINAL, DEAL_WHERE_ALL, 0, 0, NULL, NULL, &scale},
        {DEAL_SITE_RESIDUAL, DEAL_WHERE_ALL, 1, 0, NULL, vector, NULL},
        {DEAL_SITE_HEAD, DEAL_WHERE_ALL, 0, 3, matrix, vector, NULL},
    };
    const deal_edit positional[] = {
        {DEAL_SITE_RESIDUAL, DEAL_WHERE_PROMPT, 0, 0, NULL, vector, NULL},
        {DEAL_SITE_HEAD, DEAL_WHERE_COMPLETION, 1, 1, matrix, NULL, NULL},
        {DEAL_SITE_FINAL, DEAL_WHERE_LAST, 0, 0, NULL, NULL, &scale},
    };
    deal_controls *set = NULL;
    deal_error err;
    const deal_edit *edit = i_set == 2 ? positional : mixed;
    CHECK(deal_controls_new(&shape, edit, i_set == 3 ? 0 : 3, all_taps, 4, &set,
                            &err) == DEAL_OK);
    return set;
}

static deal_node
make_root(deal_lm *lm, const deal_controls *set, int32_t n_prompt)
{
    deal_error err;
    deal_node root = DEAL_NODE_NONE;
    CHECK((set ? lm->ops->controlled_root(lm, set, n_prompt, &root, &err)
               : lm->ops->root(lm, &root, &err)) == DEAL_OK);
    return root;
}

// --- batch invariance ----------------------------------------------------------------

typedef struct outputs {
    float logits[N_SET][N_NODE][N_VOCAB];
    float taps[N_SET][N_NODE][TAP_LEN];
} outputs;

static outputs output[2];

// The same random trie under a root of every set, in batches of up to `n_max` nodes of
// all of them. Node i continues node i - 1 or an earlier one; siblings differ by token.
static void
run_tree(const deal_model *model, deal_controls *const *set, int n_max, int n_thread,
         outputs *out)
{
    deal_error err;
    deal_session *session;
    if (!CHECK(tiny_session(model, 600, n_thread, DEAL_KV_F32, &session, &err) ==
               DEAL_OK))
        return;
    deal_lm *lm = deal_session_lm(session);
    static deal_node node[N_SET * N_NODE];
    deal_node root[N_SET];
    for (int s = 0; s < N_SET; s++)
        root[s] = make_root(lm, set[s], 20);
    for (int i = 0, n; i < N_SET * N_NODE; i += n) {
        n = 1 + (int)(deal_rng_uniform(5, 3, (uint64_t)i) * n_max);
        n = n < N_SET * N_NODE - i ? n : N_SET * N_NODE - i;
        static deal_lm_item item[N_SET * N_NODE];
        for (int j = 0; j < n; j++) {
            int at = (i + j) / N_SET, s = (i + j) % N_SET;
            double u = deal_rng_uniform(5, 1, (uint64_t)at);
            int before = at == 0 ? -1 : u < 0.8 ? at - 1 : (int)(u * at);
            int parent = before * N_SET + s;
            item[j] =
                (deal_lm_item){.parent = before < 0 ? root[s] : node[parent],
                               .i_parent = before >= 0 && parent >= i ? parent - i : -1,
                               .token = at * 7 % N_VOCAB,
                               .want = DEAL_WANT_LOGITS | (s ? DEAL_WANT_TAPS : 0),
                               .logits = out->logits[s][at],
                               .taps = out->taps[s][at]};
            if (item[j].i_parent >= 0)
                item[j].parent = DEAL_NODE_NONE;
        }
        if (!CHECK(lm->ops->extend(lm, item, n, &err) == DEAL_OK)) {
            printf("    %s\n", err.message);
            return;
        }
        for (int j = 0; j < n; j++)
            node[i + j] = item[j].node;
    }
    // No node, and so no cell, is shared between roots.
    CHECK_EQ_INT(lm->n_forward_tokens, N_SET * N_NODE);
    CHECK_EQ_INT(deal_session_n_live(session), N_SET * (N_NODE + 1));
    for (int i = 0; i < N_SET * N_NODE; i++)
        lm->ops->release(lm, node[i]);
    for (int s = 0; s < N_SET; s++)
        lm->ops->release(lm, root[s]);
    CHECK_EQ_INT(deal_session_n_live(session), 0);
    deal_session_free(session);
}

static void
test_batch_invariance(const deal_model *model, deal_controls *const *set)
{
    run_tree(model, set, 1, 1, &output[0]);
    const int n_max[] = {2, 9, 70, N_SET * N_NODE};
    for (int i = 0; i < 4; i++) {
        memset(&output[1], 0, sizeof output[1]);
        run_tree(model, set, n_max[i], 1 + i % 3, &output[1]);
        CHECK(memcmp(&output[0].logits, &output[1].logits, sizeof output[0].logits) ==
              0);
        for (int s = 1; s < N_SET; s++)
            CHECK(memcmp(output[0].taps[s], output[1].taps[s],
                         sizeof output[0].taps[s]) == 0);
    }
    // A set without edits changes nothing; the others do, each in its own way.
    CHECK(memcmp(output[0].logits[0], output[0].logits[3],
                 sizeof output[0].logits[0]) == 0);
    for (int s = 0; s < 2; s++)
        for (int t = s + 1; t < 3; t++)
            CHECK(memcmp(output[0].logits[s], output[0].logits[t],
                         sizeof output[0].logits[0]) != 0);
}

// --- what is edited and read ---------------------------------------------------------

// Evaluates a chain of `n` tokens under one root; hidden states and taps of each.
static deal_status
run_chain(deal_lm *lm, const deal_controls *set, int32_t n_prompt, int n,
          float (*hidden)[N_EMBD], float (*taps)[TAP_LEN], deal_error *err)
{
    deal_node root = make_root(lm, set, n_prompt);
    deal_lm_item item[16];
    for (int i = 0; i < n; i++)
        item[i] = (deal_lm_item){.parent = root,
                                 .i_parent = i - 1,
                                 .token = 3 * i + 1,
                                 .want = DEAL_WANT_HIDDEN | (taps ? DEAL_WANT_TAPS : 0),
                                 .hidden = hidden[i],
                                 .taps = taps ? taps[i] : NULL};
    deal_status status = lm->ops->extend(lm, item, n, err);
    for (int i = 0; status == DEAL_OK && i < n; i++)
        lm->ops->release(lm, item[i].node);
    lm->ops->release(lm, root);
    return status;
}

static void
test_taps(const deal_model *model, deal_controls *const *set)
{
    deal_error err;
    deal_session *session;
    CHECK(tiny_session(model, 600, 2, DEAL_KV_F32, &session, &err) == DEAL_OK);
    deal_lm *lm = deal_session_lm(session);
    static float hidden[3][8][N_EMBD], taps[3][8][TAP_LEN], expected[N_EMBD];
    for (int s = 1; s <= 2; s++)
        CHECK(run_chain(lm, set[s], 5, 8, hidden[s], taps[s], &err) == DEAL_OK);
    CHECK(run_chain(lm, set[3], 5, 8, hidden[0], taps[0], &err) == DEAL_OK);
    for (int i = 0; i < 8; i++) {
        float *x = taps[0][i]; // residual 0, heads 1, residual 1, final
        float *last = x + N_EMBD + N_HEAD * HEAD_DIM;
        deal_kernels_get()->rms_norm(N_EMBD, last, model->weights.output_norm,
                                     model->hparams.norm_eps, expected);
        CHECK(memcmp(expected, last + N_EMBD, sizeof expected) == 0);
        CHECK(memcmp(hidden[0][i], last + N_EMBD, sizeof expected) == 0);
        // Set 1: the final state is edited after the norm, and the trie has the edit.
        last = taps[1][i] + N_EMBD + N_HEAD * HEAD_DIM;
        deal_kernels_get()->rms_norm(N_EMBD, last, model->weights.output_norm,
                                     model->hparams.norm_eps, expected);
        scale_states(&works, expected, 1, N_EMBD, err.message);
        CHECK(memcmp(expected, last + N_EMBD, sizeof expected) == 0);
        CHECK(memcmp(hidden[1][i], last + N_EMBD, sizeof expected) == 0);
        // Set 2: the prompt's residual is moved by the vector, then the rest differs.
        for (int d = 0; i == 0 && d < N_EMBD; d++)
            CHECK(taps[2][0][d] == x[d] + vector[d]);
    }
    // The head's map, on the first token of a completion: everything before is alike.
    CHECK(run_chain(lm, set[2], 0, 1, hidden[2], taps[2], &err) == DEAL_OK);
    const float *z = taps[0][0] + N_EMBD, *mapped = taps[2][0] + N_EMBD;
    CHECK(memcmp(taps[0][0], taps[2][0], N_EMBD * sizeof(float)) == 0);
    CHECK(memcmp(z, mapped, HEAD_DIM * sizeof(float)) == 0);
    for (int o = 0; o < HEAD_DIM; o++) {
        double sum = 0.0;
        for (int i = 0; i < HEAD_DIM; i++)
            sum += (double)matrix[o * HEAD_DIM + i] * (double)z[HEAD_DIM + i];
        CHECK_NEAR(mapped[HEAD_DIM + o], sum, 1e-6);
    }
    CHECK(memcmp(z + 2 * HEAD_DIM, mapped + 2 * HEAD_DIM,
                 2 * HEAD_DIM * sizeof(float)) == 0);
    CHECK_EQ_INT(deal_session_n_live(session), 0);
    deal_session_free(session);
}

static void
test_where(void)
{
    deal_edit edit = {.site = DEAL_SITE_RESIDUAL};
    const struct {
        deal_site site;
        deal_where where;
        const char *applies; // depths 1 to 5, with a prompt of 3
    } c[] = {
        {DEAL_SITE_HEAD, DEAL_WHERE_ALL, "11111"},
        {DEAL_SITE_RESIDUAL, DEAL_WHERE_PROMPT, "11100"},
        {DEAL_SITE_HEAD, DEAL_WHERE_COMPLETION, "00011"},
        {DEAL_SITE_RESIDUAL, DEAL_WHERE_LAST, "00100"},
        {DEAL_SITE_FINAL, DEAL_WHERE_PROMPT, "11000"},
        {DEAL_SITE_FINAL, DEAL_WHERE_COMPLETION, "00111"},
        {DEAL_SITE_FINAL, DEAL_WHERE_LAST, "00100"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++)
        for (int32_t depth = 1; depth <= 5; depth++) {
            edit.site = c[i].site;
            edit.where = c[i].where;
            CHECK_EQ_INT(deal_edit_applies(&edit, depth, 3),
                         c[i].applies[depth - 1] == '1');
        }
}

// --- errors and memory ---------------------------------------------------------------

static void
test_bad_sets(void)
{
    deal_error err;
    deal_controls *set;
    deal_edit edit = {.site = DEAL_SITE_RESIDUAL, .i_layer = 2, .vector = vector};
    CHECK(deal_controls_new(&shape, &edit, 1, NULL, 0, &set, &err) ==
          DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "layer: expected 0 to 1, got 2");
    edit = (deal_edit){.site = DEAL_SITE_HEAD, .i_head = -1};
    CHECK(deal_controls_new(&shape, &edit, 1, NULL, 0, &set, &err) ==
          DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "head: expected 0 to 3, got -1");
    deal_control old = scale;
    old.abi_version = 0;
    edit = (deal_edit){.site = DEAL_SITE_FINAL, .control = &old};
    CHECK(deal_controls_new(&shape, &edit, 1, NULL, 0, &set, &err) ==
          DEAL_ERR_INVALID_ARG);
    const deal_tap tap = {DEAL_SITE_HEAD, 7};
    CHECK(deal_controls_new(&shape, NULL, 0, &tap, 1, &set, &err) ==
          DEAL_ERR_INVALID_ARG);
}

static void
test_errors(const deal_model *model, deal_controls *const *set)
{
    deal_error err;
    deal_session *session;
    CHECK(tiny_session(model, 600, 1, DEAL_KV_F32, &session, &err) == DEAL_OK);
    deal_lm *lm = deal_session_lm(session);
    deal_node root;
    deal_controls other = *set[1];
    other.shape.n_embd++;
    CHECK(lm->ops->controlled_root(lm, &other, 1, &root, &err) == DEAL_ERR_INVALID_ARG);
    static float hidden[2][N_EMBD], taps[2][TAP_LEN];
    CHECK(run_chain(lm, NULL, 1, 1, hidden, taps, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "root that has none");
    // A node that was evaluated before has no taps left.
    root = make_root(lm, set[3], 1);
    deal_lm_item item = {.parent = root,
                         .i_parent = -1,
                         .token = 4,
                         .want = DEAL_WANT_TAPS,
                         .taps = taps[0]};
    CHECK(lm->ops->extend(lm, &item, 1, &err) == DEAL_OK);
    deal_lm_item again = item;
    CHECK(lm->ops->extend(lm, &again, 1, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "token 4 at position 0, which was evaluated before");
    lm->ops->release(lm, item.node);
    lm->ops->release(lm, root);
    // A control that fails leaves nothing behind, and the session goes on.
    scale.self = &fails;
    CHECK(run_chain(lm, set[1], 1, 2, hidden, NULL, &err) == DEAL_ERR_CONTROL);
    CHECK_HAS(err.message, "control 'scale': told to fail");
    scale.self = &is_nan;
    CHECK(run_chain(lm, set[1], 1, 2, hidden, NULL, &err) == DEAL_ERR_CONTROL);
    CHECK_HAS(err.message, "not finite");
    scale.self = &works;
    n_edit_call = 0;
    CHECK(run_chain(lm, set[1], 1, 2, hidden, NULL, &err) == DEAL_OK);
    CHECK_EQ_INT(n_edit_call, 1); // one call a pass
    CHECK_EQ_INT(deal_session_n_live(session), 0);
    deal_session_free(session);
}

static void
test_out_of_memory(const deal_model *model)
{
    for (size_t n = 1, is_over = 0; !is_over; n++) {
        deal_error err;
        deal_session *session = NULL;
        deal_controls *set = NULL;
        deal_node root = DEAL_NODE_NONE;
        static float taps[TAP_LEN];
        deal_lm_item item = {
            .i_parent = -1, .token = 1, .want = DEAL_WANT_TAPS, .taps = taps};
        deal_alloc_fail_at(n);
        const deal_edit edit = {.site = DEAL_SITE_FINAL, .control = &scale};
        deal_status status =
            deal_controls_new(&shape, &edit, 1, all_taps, 4, &set, &err);
        if (status == DEAL_OK)
            status = tiny_session(model, 8, 2, DEAL_KV_F32, &session, &err);
        if (status == DEAL_OK) {
            deal_lm *lm = deal_session_lm(session);
            status = lm->ops->controlled_root(lm, set, 1, &root, &err);
            item.parent = root;
            if (status == DEAL_OK) {
                status = lm->ops->extend(lm, &item, 1, &err);
                if (status == DEAL_OK)
                    lm->ops->release(lm, item.node);
                lm->ops->release(lm, root);
            }
            is_over = status == DEAL_OK;
            CHECK_EQ_INT(deal_session_n_live(session), 0);
        }
        CHECK(status == DEAL_OK || status == DEAL_ERR_NO_MEMORY);
        deal_alloc_fail_at(0);
        deal_session_free(session);
        deal_controls_free(set);
    }
}

// Roots with controls come and go; after the first runs nothing is allocated.
static void
test_steady_state(const deal_model *model, deal_controls *const *set)
{
    deal_error err;
    deal_session *session;
    static float hidden[8][N_EMBD], taps[8][TAP_LEN];
    CHECK(tiny_session(model, 600, 2, DEAL_KV_F32, &session, &err) == DEAL_OK);
    deal_lm *lm = deal_session_lm(session);
    size_t n_alloc = 0;
    for (int i = 0; i < 50; i++) {
        if (i == 1)
            n_alloc = deal_alloc_count();
        CHECK(run_chain(lm, set[1 + i % 3], 3, 8, hidden, taps, &err) == DEAL_OK);
    }
    CHECK_EQ_INT(deal_alloc_count(), n_alloc);
    deal_node root[100];
    for (int i = 0; i < 100; i++)
        root[i] = make_root(lm, set[1], i);
    for (int i = 0; i < 100; i++)
        lm->ops->release(lm, root[(i * 37) % 100]);
    CHECK_EQ_INT(deal_session_n_live(session), 0);
    deal_session_free(session);
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
                                           &err) == DEAL_OK))
            continue;
        deal_controls *set[N_SET] = {NULL, make_set(1), make_set(2), make_set(3)};
        test_batch_invariance(model, set);
        test_taps(model, set);
        test_errors(model, set);
        test_out_of_memory(model);
        test_steady_state(model, set);
        deal_model_free(model);
        for (int s = 1; s < N_SET; s++)
            deal_controls_free(set[s]);
    }
    free(tiny.data);
}

int
main(void)
{
    test_where();
    test_bad_sets();
    test_models(0);
    test_models(4);
    return check_report("test_controls");
}
