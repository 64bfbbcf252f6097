#include "model/session.h"

#include <math.h>
#include <string.h>

#include "common/alloc.h"
#include "common/clock.h"
#include "model/forward.h"
#include "model/head.h"

struct deal_session {
    deal_lm lm; // first: a deal_lm * is a deal_session *
    const deal_model *model;
    deal_pool *pool;
    deal_trie trie;
    deal_matmul matmul; // forward's and head's
    deal_forward forward;
    deal_head head;
    deal_node *fresh; // (fresh_cap,) nodes to evaluate in this call
    float **tap;      // (fresh_cap,) where their taps go, or NULL
    size_t fresh_cap;
    deal_session_poll poll;
    void *poll_user;
    double next_poll; // seconds of deal_clock_seconds()
};

#define POLL_SECONDS 0.1

static deal_session *
session_of(const deal_lm *lm)
{
    return (deal_session *)(uintptr_t)lm;
}

static deal_status
lm_root(deal_lm *lm, deal_node *root, deal_error *err)
{
    return deal_trie_root(&session_of(lm)->trie, NULL, 0, root, err);
}

static deal_status
lm_controlled_root(deal_lm *lm, const deal_controls *controls, int32_t n_prompt,
                   deal_node *root, deal_error *err)
{
    deal_session *s = session_of(lm);
    const deal_controls_shape *a = &controls->shape, *b = &s->forward.controlled.shape;
    if (a->n_layer != b->n_layer || a->n_head != b->n_head ||
        a->head_dim != b->head_dim || a->n_embd != b->n_embd)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "controls: expected a set for %d layers of %d heads by %d and "
                         "%d features (the model), got %d, %d, %d and %d",
                         b->n_layer, b->n_head, b->head_dim, b->n_embd, a->n_layer,
                         a->n_head, a->head_dim, a->n_embd);
    return deal_trie_root(&s->trie, controls, n_prompt, root, err);
}

static deal_status
lm_keep_layers(deal_lm *lm, deal_node root, const int32_t *layer, int32_t n_layer,
               deal_error *err)
{
    deal_session *s = session_of(lm);
    bool is_live = deal_trie_is_live(&s->trie, root);
    if (!is_live || s->trie.node[root].depth > 0 ||
        s->trie.node[root].first_child != DEAL_NODE_NONE)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "layers: expected a root without nodes, got %d", root);
    for (int32_t i = 0; i < n_layer; i++)
        if (layer[i] < -1 || layer[i] >= lm->n_layer)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "layers: expected -1 to %d (the model's), got %d",
                             lm->n_layer - 1, layer[i]);
    return deal_trie_keep(&s->trie, root, layer, n_layer, err);
}

static deal_status
check_item(const deal_session *s, const deal_lm_item *item, int32_t i_item,
           deal_error *err)
{
    if (item->i_parent >= i_item || item->i_parent < -1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "item %d: its parent must be an earlier item, got %d", i_item,
                         item->i_parent);
    if (item->i_parent < 0 && !deal_trie_is_live(&s->trie, item->parent))
        return deal_fail(err, DEAL_ERR_INVALID_ARG, "item %d: parent %d is not a node",
                         i_item, item->parent);
    if (item->token < 0 || item->token >= s->lm.n_vocab)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "token: expected 0 to %d (vocabulary), got %d",
                         s->lm.n_vocab - 1, item->token);
    if ((item->want & DEAL_WANT_TOP_K) &&
        (item->top_k < 1 || item->top_k > s->lm.n_vocab))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "top_k: expected 1 to %d (vocabulary), got %d", s->lm.n_vocab,
                         item->top_k);
    if ((item->want & DEAL_WANT_TARGET) &&
        (item->target < 0 || item->target >= s->lm.n_vocab))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "target: expected 0 to %d (vocabulary), got %d",
                         s->lm.n_vocab - 1, item->target);
    for (int32_t i = 0; (item->want & DEAL_WANT_TARGETS) && i < item->n_target; i++)
        if (item->targets[i] < 0 || item->targets[i] >= s->lm.n_vocab)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "targets: expected 0 to %d (vocabulary), got %d",
                             s->lm.n_vocab - 1, item->targets[i]);
    return DEAL_OK;
}

// Only a node that is new, under a root with taps, can be tapped.
static deal_status
check_taps(const deal_session *s, deal_node node, bool is_new, int32_t i_item,
           deal_error *err)
{
    const deal_trie_set *set = deal_trie_set_of(&s->trie, node);
    if (!set || !set->controls || set->controls->n_tap == 0)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "item %d: taps are asked of a root that has none", i_item);
    if (!is_new)
        return deal_fail(
            err, DEAL_ERR_INVALID_ARG,
            "item %d: taps are asked of token %d at position %d, which was "
            "evaluated before; expected a node that is new",
            i_item, s->trie.node[node].token, s->trie.node[node].depth - 1);
    return DEAL_OK;
}

// Finds or makes the node of one item; a new one joins s->fresh.
static deal_status
place_item(deal_session *s, deal_lm_item *items, int32_t i_item, int32_t *n_fresh,
           deal_error *err)
{
    deal_lm_item *item = &items[i_item];
    DEAL_TRY(check_item(s, item, i_item, err));
    deal_node parent = item->i_parent >= 0 ? items[item->i_parent].node : item->parent;
    deal_node node = deal_trie_child(&s->trie, parent, item->token);
    if (item->want & DEAL_WANT_TAPS)
        DEAL_TRY(check_taps(s, node == DEAL_NODE_NONE ? parent : node,
                            node == DEAL_NODE_NONE, i_item, err));
    if (node != DEAL_NODE_NONE) {
        deal_trie_retain(&s->trie, node);
    } else {
        if (s->trie.node[parent].depth >= s->lm.n_ctx)
            return deal_fail(err, DEAL_ERR_CONTEXT_FULL,
                             "context: expected at most %d tokens, got %d", s->lm.n_ctx,
                             s->trie.node[parent].depth + 1);
        DEAL_TRY(deal_trie_add(&s->trie, parent, item->token, &node, err));
        s->tap[*n_fresh] = (item->want & DEAL_WANT_TAPS) ? item->taps : NULL;
        s->fresh[(*n_fresh)++] = node;
    }
    item->node = node;
    return DEAL_OK;
}

static deal_status
ask_poll(deal_session *s, deal_error *err)
{
    if (!s->poll)
        return DEAL_OK;
    double now = deal_clock_seconds();
    if (now < s->next_poll)
        return DEAL_OK;
    s->next_poll = now + POLL_SECONDS;
    return s->poll(s->poll_user, err);
}

// The final state, or those that the root keeps.
static void
copy_states(const deal_session *s, const deal_lm_item *item)
{
    size_t n_embd = (size_t)s->lm.n_embd;
    const deal_trie_set *set = deal_trie_set_of(&s->trie, item->node);
    if (!set || set->n_layer == 0)
        memcpy(item->hidden, deal_trie_hidden(&s->trie, item->node),
               n_embd * sizeof *item->hidden);
    for (int32_t i = 0; set && i < set->n_layer; i++)
        memcpy(item->hidden + (size_t)i * n_embd,
               deal_trie_state(&s->trie, item->node, i), n_embd * sizeof *item->hidden);
}

static deal_status
answer(deal_session *s, deal_lm_item *items, int32_t n_items, deal_error *err)
{
    deal_lm_item *item[DEAL_HEAD_ROWS];
    const float *hidden[DEAL_HEAD_ROWS];
    int32_t n_row = 0;
    for (int32_t i = 0; i < n_items; i++) {
        const float *state = deal_trie_hidden(&s->trie, items[i].node);
        if (items[i].want & DEAL_WANT_HIDDEN)
            copy_states(s, &items[i]);
        if (items[i].want & ~(uint32_t)(DEAL_WANT_HIDDEN | DEAL_WANT_TAPS)) {
            item[n_row] = &items[i];
            hidden[n_row++] = state;
        }
        if (n_row > 0 && (n_row == DEAL_HEAD_ROWS || i == n_items - 1)) {
            DEAL_TRY(ask_poll(s, err));
            DEAL_TRY(deal_head_run(&s->head, item, hidden, n_row, err));
            n_row = 0;
        }
    }
    return DEAL_OK;
}

static deal_status
lm_extend(deal_lm *lm, deal_lm_item *items, int32_t n_items, deal_error *err)
{
    deal_session *s = session_of(lm);
    if ((size_t)n_items > s->fresh_cap) {
        size_t cap = deal_grow_cap(s->fresh_cap, (size_t)n_items);
        deal_node *fresh = deal_realloc(s->fresh, 0, cap, sizeof *fresh);
        if (!fresh)
            return deal_fail_memory(err, "nodes of the batch");
        s->fresh = fresh;
        float **tap = deal_realloc(s->tap, 0, cap, sizeof *tap);
        if (!tap)
            return deal_fail_memory(err, "taps of the batch");
        s->tap = tap;
        s->fresh_cap = cap;
    }
    int32_t n_placed = 0, n_fresh = 0;
    deal_status status;
    for (; n_placed < n_items; n_placed++)
        DEAL_TRY_GOTO(place_item(s, items, n_placed, &n_fresh, err), undo);
    for (int32_t i = 0; i < n_fresh; i += DEAL_FORWARD_ROWS) {
        int32_t n = n_fresh - i < DEAL_FORWARD_ROWS ? n_fresh - i : DEAL_FORWARD_ROWS;
        DEAL_TRY_GOTO(ask_poll(s, err), undo);
        DEAL_TRY_GOTO(deal_forward_run(&s->forward, s->fresh + i, s->tap + i, n, err),
                      undo);
        lm->n_forward_passes++;
    }
    lm->n_forward_tokens += n_fresh;
    DEAL_TRY_GOTO(answer(s, items, n_items, err), undo);
    return DEAL_OK;
undo:
    for (int32_t i = n_placed; i-- > 0;) {
        deal_trie_release(&s->trie, items[i].node);
        items[i].node = DEAL_NODE_NONE;
    }
    return status;
}

static void
lm_retain(deal_lm *lm, deal_node node)
{
    deal_trie_retain(&session_of(lm)->trie, node);
}

static void
lm_release(deal_lm *lm, deal_node node)
{
    deal_trie_release(&session_of(lm)->trie, node);
}

static deal_node
lm_child(const deal_lm *lm, deal_node parent, int32_t token)
{
    return deal_trie_child(&session_of(lm)->trie, parent, token);
}

static const deal_lm_ops session_ops = {
    .root = lm_root,
    .controlled_root = lm_controlled_root,
    .keep_layers = lm_keep_layers,
    .extend = lm_extend,
    .retain = lm_retain,
    .release = lm_release,
    .child = lm_child,
};

// The widest input of a product.
static int32_t
n_in_max(const deal_hparams *hp)
{
    int32_t n = hp->n_head * hp->head_dim;
    n = n > hp->n_embd ? n : hp->n_embd;
    return n > hp->n_ff ? n : hp->n_ff;
}

static void
init_trie(deal_trie *trie, const deal_hparams *hp, deal_kv_type kv_type,
          size_t kv_budget)
{
    deal_trie_init(trie, hp->n_layer, hp->n_head_kv, hp->head_dim, hp->n_embd, kv_type,
                   kv_budget);
}

size_t
deal_session_page_size(const deal_model *model, deal_kv_type kv_type)
{
    deal_trie trie; // holds nothing
    init_trie(&trie, &model->hparams, kv_type, 0);
    return deal_trie_page_size(&trie);
}

static deal_status
check_params(const deal_model *model, const deal_session_params *params,
             deal_error *err)
{
    int32_t n_ctx = params->n_ctx, n_ctx_train = model->hparams.n_ctx_train;
    if (n_ctx < 1 || n_ctx > n_ctx_train)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "max_length: expected 1 to %d (the model's context), got %d",
                         n_ctx_train, n_ctx);
    size_t page_size = deal_session_page_size(model, params->kv_type);
    if (params->kv_budget > 0 && params->kv_budget < page_size)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "kv_budget: expected at least %zu bytes (one page of %d "
                         "cells), got %zu",
                         page_size, DEAL_PAGE_LEN, params->kv_budget);
    return DEAL_OK;
}

deal_status
deal_session_new(const deal_model *model, const deal_session_params *params,
                 deal_session **out, deal_error *err)
{
    const deal_hparams *hp = &model->hparams;
    DEAL_TRY(check_params(model, params, err));
    deal_session *s = deal_alloc_zero(1, sizeof *s);
    if (!s)
        return deal_fail_memory(err, "session");
    s->model = model;
    s->lm = (deal_lm){.ops = &session_ops,
                      .n_vocab = hp->n_vocab,
                      .n_embd = hp->n_embd,
                      .n_layer = hp->n_layer,
                      .n_ctx = params->n_ctx};
    init_trie(&s->trie, hp, params->kv_type, params->kv_budget);
    deal_status status;
    DEAL_TRY_GOTO(deal_pool_new(params->n_thread, &s->pool, err), fail);
    DEAL_TRY_GOTO(deal_matmul_init(&s->matmul, s->pool, model->compute,
                                   DEAL_FORWARD_ROWS, n_in_max(hp), err),
                  fail);
    DEAL_TRY_GOTO(deal_forward_init(&s->forward, model, &s->trie, &s->matmul, err),
                  fail);
    DEAL_TRY_GOTO(deal_head_init(&s->head, &model->weights.head, hp->final_softcap,
                                 &s->matmul, err),
                  fail);
    *out = s;
    return DEAL_OK;
fail:
    deal_session_free(s);
    return status;
}

void
deal_session_free(deal_session *s)
{
    if (!s)
        return;
    deal_head_free(&s->head);
    deal_forward_free(&s->forward);
    deal_matmul_free(&s->matmul);
    deal_trie_free(&s->trie);
    deal_pool_free(s->pool);
    deal_free(s->fresh);
    deal_free(s->tap);
    deal_free(s);
}

deal_lm *
deal_session_lm(deal_session *s)
{
    return &s->lm;
}

void
deal_session_set_poll(deal_session *s, deal_session_poll poll, void *user)
{
    s->poll = poll;
    s->poll_user = user;
}

size_t
deal_session_size(const deal_session *s)
{
    return deal_trie_size(&s->trie) + s->matmul.size + s->forward.size +
           s->forward.attention.size + s->head.size;
}

size_t
deal_session_kv_size(const deal_session *s)
{
    return deal_trie_kv_size(&s->trie);
}

int32_t
deal_session_n_live(const deal_session *s)
{
    return s->trie.n_live;
}
