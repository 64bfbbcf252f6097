#include "model/callback_lm.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/alloc.h"
#include "kernels/kernels.h"

#define LOGIT_MIN (-1e30f)

typedef struct callback_node {
    deal_node parent, first_child, next; // next sibling, or next free node
    int32_t token, depth;
    int32_t n_ref;    // handed out, and children; 0: free
    float *logits;    // (n_vocab,) or NULL
    uint32_t i_used;  // the call of extend that last asked for it
    uint32_t i_batch; // and that last put it into a chain
    int32_t i_chain;  // of that call
    deal_node follow; // next one in the chain
    bool is_wanted;   // its logits are
} callback_node;

// Nodes that continue each other.
typedef struct callback_chain {
    deal_node first, last;
    int32_t n_node;
    int32_t i_wave; // 0: below nodes of before; else below a chain of the wave before
} callback_chain;

struct deal_callback_lm {
    deal_lm lm; // first: a deal_lm * is a deal_callback_lm *
    deal_callback_params params;
    deal_callback_evaluate evaluate;
    void *user;
    callback_node *node; // (node_cap,)
    int32_t n_node, node_cap, n_live;
    deal_node free_node;
    int32_t n_logits;
    deal_node next_victim; // where the search for logits to drop goes on
    uint32_t i_batch;
    callback_chain *chain; // (n_chain,)
    int32_t n_chain, n_wave;
    int64_t n_fresh; // nodes in the chains
    size_t chain_cap;
    int32_t *number; // past, node and token of one call
    float **target;  // (n_row, n_new) of it
    size_t number_cap, target_cap;
};

static deal_callback_lm *
callback_of(const deal_lm *lm)
{
    return (deal_callback_lm *)(uintptr_t)lm;
}

// --- nodes ---------------------------------------------------------------------------

static bool
is_live(const deal_callback_lm *c, deal_node node)
{
    return node >= 0 && node < c->n_node && c->node[node].n_ref > 0;
}

static deal_node
lm_child(const deal_lm *lm, deal_node parent, int32_t token)
{
    const callback_node *node = callback_of(lm)->node;
    for (deal_node i = node[parent].first_child; i != DEAL_NODE_NONE; i = node[i].next)
        if (node[i].token == token)
            return i;
    return DEAL_NODE_NONE;
}

static deal_status
take_node(deal_callback_lm *c, deal_node *out, deal_error *err)
{
    if (c->params.n_node_max > 0 && c->n_live >= c->params.n_node_max)
        return deal_fail(err, DEAL_ERR_KV_BUDGET,
                         "kv_budget: expected at most %d tokens in the cache, got one "
                         "more",
                         (int)c->params.n_node_max - 1); // the root is none
    if (c->free_node != DEAL_NODE_NONE) {
        *out = c->free_node;
        c->free_node = c->node[*out].next;
        return DEAL_OK;
    }
    if (c->n_node == c->node_cap) {
        size_t old = (size_t)c->node_cap, cap = deal_grow_cap(old, old + 1);
        callback_node *node = deal_realloc(c->node, old, cap, sizeof *node);
        if (!node)
            return deal_fail_memory(err, "trie");
        c->node = node;
        c->node_cap = (int32_t)cap;
    }
    *out = c->n_node++;
    return DEAL_OK;
}

static deal_status
add_node(deal_callback_lm *c, deal_node parent, int32_t token, deal_node *out,
         deal_error *err)
{
    deal_node i = DEAL_NODE_NONE;
    DEAL_TRY(take_node(c, &i, err));
    c->node[i] = (callback_node){.parent = parent,
                                 .first_child = DEAL_NODE_NONE,
                                 .next = DEAL_NODE_NONE,
                                 .token = token,
                                 .n_ref = 1};
    c->n_live++;
    if (parent != DEAL_NODE_NONE) {
        callback_node *above = &c->node[parent];
        c->node[i].depth = above->depth + 1;
        c->node[i].next = above->first_child;
        above->first_child = i;
        above->n_ref++;
    }
    *out = i;
    return DEAL_OK;
}

static void
drop_logits(deal_callback_lm *c, deal_node i)
{
    c->n_logits -= c->node[i].logits != NULL;
    deal_free(c->node[i].logits);
    c->node[i].logits = NULL;
}

static deal_status
lm_root(deal_lm *lm, deal_node *root, deal_error *err)
{
    return add_node(callback_of(lm), DEAL_NODE_NONE, -1, root, err);
}

static deal_status
lm_keep_layers(deal_lm *lm, deal_node root, const int32_t *layer, int32_t n_layer,
               deal_error *err)
{
    (void)lm, (void)root, (void)layer, (void)n_layer;
    return deal_fail(err, DEAL_ERR_UNSUPPORTED,
                     "layers: this language model has no hidden states");
}

static void
lm_retain(deal_lm *lm, deal_node node)
{
    callback_of(lm)->node[node].n_ref++;
}

// Frees upwards: a parent held by this child alone goes with it.
static void
lm_release(deal_lm *lm, deal_node i)
{
    deal_callback_lm *c = callback_of(lm);
    while (i != DEAL_NODE_NONE && --c->node[i].n_ref == 0) {
        deal_node parent = c->node[i].parent;
        if (parent != DEAL_NODE_NONE) {
            deal_node *link = &c->node[parent].first_child;
            while (*link != i)
                link = &c->node[*link].next;
            *link = c->node[i].next;
        }
        drop_logits(c, i);
        c->node[i].next = c->free_node;
        c->free_node = i;
        c->n_live--;
        i = parent;
    }
}

// --- a batch as chains ---------------------------------------------------------------

static deal_status
check_item(const deal_callback_lm *c, const deal_lm_item *item, int32_t i_item,
           deal_error *err)
{
    int32_t n_vocab = c->lm.n_vocab;
    if (item->i_parent >= i_item || item->i_parent < -1 ||
        (item->i_parent < 0 && !is_live(c, item->parent)))
        return deal_fail(
            err, DEAL_ERR_INVALID_ARG,
            "item %d: its parent must be a node or an earlier item, got %d "
            "and %d",
            (int)i_item, (int)item->parent, (int)item->i_parent);
    if (item->token < 0 || item->token >= n_vocab)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "token: expected 0 to %d (vocabulary), got %d",
                         (int)n_vocab - 1, (int)item->token);
    if ((item->want & DEAL_WANT_TOP_K) && (item->top_k < 1 || item->top_k > n_vocab))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "top_k: expected 1 to %d (vocabulary), got %d", (int)n_vocab,
                         (int)item->top_k);
    bool is_target = (item->want & DEAL_WANT_TARGET) &&
                     (item->target < 0 || item->target >= n_vocab);
    for (int32_t i = 0; (item->want & DEAL_WANT_TARGETS) && i < item->n_target; i++)
        is_target = is_target || item->targets[i] < 0 || item->targets[i] >= n_vocab;
    if (is_target)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "target: expected 0 to %d (vocabulary)", (int)n_vocab - 1);
    if (item->want & (DEAL_WANT_HIDDEN | DEAL_WANT_TAPS))
        return deal_fail(err, DEAL_ERR_UNSUPPORTED,
                         "hidden states: this language model has none");
    return DEAL_OK;
}

// Appends a node to the chain that ends with its parent, or begins a chain.
static deal_status
join_chain(deal_callback_lm *c, deal_node i, deal_error *err)
{
    callback_node *node = &c->node[i];
    const callback_node *above = &c->node[node->parent];
    bool is_below = above->i_batch == c->i_batch;
    node->i_batch = c->i_batch;
    node->follow = DEAL_NODE_NONE;
    c->n_fresh++;
    if (is_below && c->chain[above->i_chain].last == node->parent) {
        callback_chain *chain = &c->chain[above->i_chain];
        c->node[chain->last].follow = i;
        node->i_chain = above->i_chain;
        chain->last = i;
        chain->n_node++;
        return DEAL_OK;
    }
    size_t n = (size_t)c->n_chain;
    if (!deal_reserve(&c->chain, &c->chain_cap, n, n + 1, sizeof *c->chain))
        return deal_fail_memory(err, "chains of a batch");
    int32_t i_wave = is_below ? c->chain[above->i_chain].i_wave + 1 : 0;
    c->chain[n] = (callback_chain){i, i, 1, i_wave};
    node->i_chain = c->n_chain++;
    c->n_wave = i_wave >= c->n_wave ? i_wave + 1 : c->n_wave;
    return DEAL_OK;
}

// Finds or makes the node of an item. It joins a chain where it is new, or where its
// logits are wanted and were not kept.
static deal_status
place_item(deal_callback_lm *c, deal_lm_item *items, int32_t i_item, deal_error *err)
{
    deal_lm_item *item = &items[i_item];
    DEAL_TRY(check_item(c, item, i_item, err));
    deal_node parent = item->i_parent >= 0 ? items[item->i_parent].node : item->parent;
    deal_node i = lm_child(&c->lm, parent, item->token);
    bool is_new = i == DEAL_NODE_NONE;
    if (is_new && c->node[parent].depth >= c->lm.n_ctx)
        return deal_fail(err, DEAL_ERR_CONTEXT_FULL,
                         "context: expected at most %d tokens, got %d",
                         (int)c->lm.n_ctx, (int)c->node[parent].depth + 1);
    if (is_new)
        DEAL_TRY(add_node(c, parent, item->token, &i, err));
    else
        lm_retain(&c->lm, i);
    item->node = i;
    callback_node *node = &c->node[i];
    bool has_joined = node->i_batch == c->i_batch;
    node->is_wanted = item->want != 0 || (has_joined && node->is_wanted);
    node->i_used = c->i_batch;
    if (!has_joined && (is_new || (item->want != 0 && !node->logits))) {
        deal_status status = join_chain(c, i, err);
        if (status != DEAL_OK) {
            lm_release(&c->lm, i);
            return status;
        }
    }
    return DEAL_OK;
}

// --- calls ---------------------------------------------------------------------------

// A buffer for a node's logits, taken from another node where there are too many.
static deal_status
reserve_logits(deal_callback_lm *c, deal_node i, deal_error *err)
{
    for (int32_t n = 0; c->n_logits >= c->params.n_logits_max && n < c->n_node; n++) {
        deal_node victim = c->next_victim < c->n_node ? c->next_victim : 0;
        c->next_victim = victim + 1;
        if (c->node[victim].i_used != c->i_batch)
            drop_logits(c, victim);
    }
    if (c->node[i].logits)
        return DEAL_OK;
    c->node[i].logits = deal_alloc((size_t)c->lm.n_vocab, sizeof(float));
    if (!c->node[i].logits)
        return deal_fail_memory(err, "logits");
    c->n_logits++;
    return DEAL_OK;
}

static deal_status
reserve_call(deal_callback_lm *c, size_t n_number, size_t n_target, deal_error *err)
{
    if (!deal_reserve(&c->number, &c->number_cap, 0, n_number, sizeof *c->number))
        return deal_fail_memory(err, "nodes of a call");
    if (!deal_reserve(&c->target, &c->target_cap, 0, n_target, sizeof *c->target))
        return deal_fail_memory(err, "logits of a call");
    return DEAL_OK;
}

static deal_status
fill_row(deal_callback_lm *c, const callback_chain *chain, int32_t *past,
         int32_t n_past, int32_t *node, int32_t *token, float **target, int32_t n_new,
         deal_error *err)
{
    deal_node above = c->node[chain->first].parent;
    for (int32_t i = n_past; i-- > 0;) {
        bool has_token = c->node[above].parent != DEAL_NODE_NONE;
        past[i] = has_token ? above : -1;
        above = has_token ? c->node[above].parent : above;
    }
    deal_node i = chain->first;
    for (int32_t j = 0; j < n_new; j++) {
        node[j] = i;
        token[j] = i == DEAL_NODE_NONE ? 0 : c->node[i].token;
        target[j] = NULL;
        if (i == DEAL_NODE_NONE)
            continue;
        if (c->node[i].is_wanted) {
            DEAL_TRY(reserve_logits(c, i, err));
            target[j] = c->node[i].logits;
        }
        i = c->node[i].follow;
    }
    return DEAL_OK;
}

// Refuses what is no number. A token that the function rules out with -inf gets a logit
// so low that it is never likely, and log-probs stay finite.
static deal_status
check_logits(float *logits, int32_t n_vocab, deal_error *err)
{
    for (int32_t i = 0; i < n_vocab; i++) {
        if (!(logits[i] <= FLT_MAX))
            return deal_fail(err, DEAL_ERR_FORMAT,
                             "logits: expected finite numbers, got %g for token %d",
                             (double)logits[i], (int)i);
        logits[i] = logits[i] < LOGIT_MIN ? LOGIT_MIN : logits[i];
    }
    return DEAL_OK;
}

// Evaluates some chains of one wave.
static deal_status
call(deal_callback_lm *c, const int32_t *i_chain, int32_t n_row, deal_error *err)
{
    int32_t n_past = 0, n_new = 0;
    for (int32_t r = 0; r < n_row; r++) {
        const callback_chain *chain = &c->chain[i_chain[r]];
        int32_t depth = c->node[chain->first].depth - 1;
        n_past = depth > n_past ? depth : n_past;
        n_new = chain->n_node > n_new ? chain->n_node : n_new;
    }
    size_t n = (size_t)n_row, n_old = n * (size_t)n_past, n_here = n * (size_t)n_new;
    DEAL_TRY(reserve_call(c, n_old + 2 * n_here, n_here, err));
    int32_t *past = c->number, *node = past + n_old, *token = node + n_here;
    for (int32_t r = 0; r < n_row; r++) {
        size_t at = (size_t)r * (size_t)n_new;
        DEAL_TRY(fill_row(c, &c->chain[i_chain[r]], past + (size_t)r * (size_t)n_past,
                          n_past, node + at, token + at, c->target + at, n_new, err));
    }
    const deal_callback_rows rows = {n_row, n_past, n_new,    past,
                                     node,  token,  c->target};
    DEAL_TRY(c->evaluate(c->user, &rows, err));
    for (size_t i = 0; i < n_here; i++)
        if (c->target[i])
            DEAL_TRY(check_logits(c->target[i], c->lm.n_vocab, err));
    c->lm.n_forward_passes++;
    return DEAL_OK;
}

static deal_status
evaluate_chains(deal_callback_lm *c, deal_error *err)
{
    int32_t n_row_max = c->params.n_row_max;
    n_row_max = n_row_max < c->n_chain ? n_row_max : c->n_chain;
    int32_t *row = deal_alloc((size_t)n_row_max, sizeof *row);
    if (!row)
        return deal_fail_memory(err, "rows of a call");
    deal_status status = DEAL_OK;
    for (int32_t w = 0; w < c->n_wave && status == DEAL_OK; w++) {
        int32_t n_row = 0;
        for (int32_t i = 0; i < c->n_chain && status == DEAL_OK; i++) {
            if (c->chain[i].i_wave == w)
                row[n_row++] = i;
            if (n_row == n_row_max || (n_row > 0 && i == c->n_chain - 1)) {
                status = call(c, row, n_row, err);
                n_row = 0;
            }
        }
    }
    deal_free(row);
    return status;
}

// --- answers -------------------------------------------------------------------------

// The top_k by falling logit, equal ones by rising id.
static void
fill_top(const float *logits, int32_t n_vocab, deal_lm_item *item)
{
    int32_t n = 0;
    for (int32_t token = 0; token < n_vocab; token++) {
        if (n == item->top_k && !(logits[token] > item->top_logit[n - 1]))
            continue;
        int32_t at = n < item->top_k ? n++ : n - 1;
        for (; at > 0 && item->top_logit[at - 1] < logits[token]; at--) {
            item->top_logit[at] = item->top_logit[at - 1];
            item->top_token[at] = item->top_token[at - 1];
        }
        item->top_logit[at] = logits[token];
        item->top_token[at] = token;
    }
}

static void
answer(const deal_callback_lm *c, deal_lm_item *item)
{
    const float *logits = c->node[item->node].logits;
    const deal_kernels *kernels = deal_kernels_get();
    int32_t n = c->lm.n_vocab;
    if (item->want == 0)
        return;
    float max = kernels->max(n, logits);
    item->log_z = max + logf(kernels->sum_exp(n, logits, max));
    if (item->want & DEAL_WANT_TARGET)
        item->target_logit = logits[item->target];
    for (int32_t i = 0; (item->want & DEAL_WANT_TARGETS) && i < item->n_target; i++)
        item->target_logits[i] = logits[item->targets[i]];
    if (item->want & DEAL_WANT_LOGITS)
        memcpy(item->logits, logits, (size_t)n * sizeof *logits);
    if (item->want & DEAL_WANT_TOP_K)
        fill_top(logits, n, item);
}

static deal_status
lm_extend(deal_lm *lm, deal_lm_item *items, int32_t n_items, deal_error *err)
{
    deal_callback_lm *c = callback_of(lm);
    c->i_batch++;
    c->n_chain = c->n_wave = 0;
    c->n_fresh = 0;
    int32_t n_placed = 0;
    deal_status status;
    for (; n_placed < n_items; n_placed++)
        DEAL_TRY_GOTO(place_item(c, items, n_placed, err), undo);
    if (c->n_chain > 0)
        DEAL_TRY_GOTO(evaluate_chains(c, err), undo);
    lm->n_forward_tokens += c->n_fresh;
    for (int32_t i = 0; i < n_items; i++)
        answer(c, &items[i]);
    return DEAL_OK;
undo:
    for (int32_t i = n_placed; i-- > 0;) {
        // Logits of a call that failed are not to be read again.
        if (c->node[items[i].node].i_batch == c->i_batch)
            drop_logits(c, items[i].node);
        lm_release(lm, items[i].node);
        items[i].node = DEAL_NODE_NONE;
    }
    return status;
}

// --- life ----------------------------------------------------------------------------

static const deal_lm_ops callback_ops = {
    .root = lm_root,
    .keep_layers = lm_keep_layers,
    .extend = lm_extend,
    .retain = lm_retain,
    .release = lm_release,
    .child = lm_child,
};

deal_status
deal_callback_lm_new(const deal_callback_params *params,
                     deal_callback_evaluate evaluate, void *user,
                     deal_callback_lm **out, deal_error *err)
{
    if (params->n_vocab < 1 || params->n_ctx < 1 || params->n_row_max < 1 ||
        params->n_logits_max < 1 || params->n_node_max < 0)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "callback LM: expected a vocabulary, a context, rows and "
                         "logits of at least 1, got %d, %d, %d and %d",
                         (int)params->n_vocab, (int)params->n_ctx,
                         (int)params->n_row_max, (int)params->n_logits_max);
    deal_callback_lm *c = deal_alloc_zero(1, sizeof *c);
    if (!c)
        return deal_fail_memory(err, "language model");
    c->lm = (deal_lm){
        .ops = &callback_ops, .n_vocab = params->n_vocab, .n_ctx = params->n_ctx};
    c->params = *params;
    c->evaluate = evaluate;
    c->user = user;
    c->free_node = DEAL_NODE_NONE;
    *out = c;
    return DEAL_OK;
}

void
deal_callback_lm_free(deal_callback_lm *c)
{
    if (!c)
        return;
    for (int32_t i = 0; i < c->n_node; i++)
        deal_free(c->node[i].logits);
    deal_free(c->node);
    deal_free(c->chain);
    deal_free(c->number);
    deal_free(c->target);
    deal_free(c);
}

deal_lm *
deal_callback_lm_lm(deal_callback_lm *c)
{
    return &c->lm;
}

void
deal_callback_lm_set_node_max(deal_callback_lm *c, int32_t n_node_max)
{
    c->params.n_node_max = n_node_max;
}

int32_t
deal_callback_lm_n_live(const deal_callback_lm *c)
{
    return c->n_live;
}

int32_t
deal_callback_lm_n_logits(const deal_callback_lm *c)
{
    return c->n_logits;
}

int32_t
deal_callback_lm_n_node_cap(const deal_callback_lm *c)
{
    return c->n_node;
}
