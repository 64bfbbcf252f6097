#include "search/recall.h"

#include <stdbool.h>
#include <string.h>

#include "common/alloc.h"
#include "search/kept_layers.h"

#define WANT_KNOWN ((uint32_t)(DEAL_WANT_TOP_K | DEAL_WANT_LOG_Z))

// What is known of a node, which it holds.
typedef struct entry {
    bool is_held;
    int32_t n_top;    // tokens known; 0: none, nor log_z
    float log_z;      // of the tokens
    int64_t i_search; // the last one that used it
} entry;

struct deal_recall {
    deal_lm lm; // first
    deal_lm_ops ops;
    deal_lm *inner; // that evaluates
    int32_t n_top;
    int64_t n_node_max, n_held, i_search;
    deal_node root; // or DEAL_NODE_NONE
    const deal_controls *controls;
    int32_t n_prompt;      // of a root with controls
    deal_kept_layers kept; // by the root
    entry *entry;          // (n_node,) by node
    int32_t *top_token;    // (n_node, n_top)
    float *top_logit;      // (n_node, n_top)
    size_t n_node;
    deal_lm_item *item; // (item_cap,) as they are passed on
    int32_t *item_token;
    float *item_logit; // (item_cap, n_top)
    size_t item_cap;
};

static deal_recall *
recall_of(deal_lm *lm)
{
    return (deal_recall *)lm;
}

// Grows three arrays of n_old rows to `cap`; two of them have n_top columns.
static deal_status
grow(void **row, size_t row_size, int32_t **token, float **logit, size_t n_old,
     size_t cap, size_t n_top, deal_error *err)
{
    void *block = deal_realloc(*row, n_old, cap, row_size);
    if (!block)
        return deal_fail_memory(err, "known contexts");
    *row = block;
    block = deal_realloc(*token, n_old, cap, n_top * sizeof **token);
    if (!block)
        return deal_fail_memory(err, "known contexts");
    *token = block;
    block = deal_realloc(*logit, n_old, cap, n_top * sizeof **logit);
    if (!block)
        return deal_fail_memory(err, "known contexts");
    *logit = block;
    return DEAL_OK;
}

static deal_status
reserve_items(deal_recall *recall, size_t n, deal_error *err)
{
    if (n <= recall->item_cap)
        return DEAL_OK;
    void *row = recall->item;
    size_t cap = deal_grow_cap(recall->item_cap, n);
    deal_status status = grow(&row, sizeof *recall->item, &recall->item_token,
                              &recall->item_logit, 0, cap, (size_t)recall->n_top, err);
    recall->item = row;
    DEAL_TRY(status);
    recall->item_cap = cap;
    return DEAL_OK;
}

static deal_status
reserve_nodes(deal_recall *recall, size_t n, deal_error *err)
{
    if (n <= recall->n_node)
        return DEAL_OK;
    void *row = recall->entry;
    size_t cap = deal_grow_cap(recall->n_node, n), n_old = recall->n_node;
    deal_status status =
        grow(&row, sizeof *recall->entry, &recall->top_token, &recall->top_logit, n_old,
             cap, (size_t)recall->n_top, err);
    recall->entry = row;
    DEAL_TRY(status);
    memset(recall->entry + n_old, 0, (cap - n_old) * sizeof *recall->entry);
    recall->n_node = cap;
    return DEAL_OK;
}

static void
forget(deal_recall *recall)
{
    for (size_t i = 0; i < recall->n_node; i++)
        if (recall->entry[i].is_held) {
            recall->entry[i] = (entry){0};
            recall->inner->ops->release(recall->inner, (deal_node)i);
        }
    recall->n_held = 0;
}

// --- roots ---------------------------------------------------------------------------

static deal_status
take_root(deal_recall *recall, deal_node *root)
{
    recall->inner->ops->retain(recall->inner, recall->root);
    recall->i_search++;
    *root = recall->root;
    return DEAL_OK;
}

static deal_status
check_controls(const deal_recall *recall, const deal_controls *controls,
               int32_t n_prompt, deal_error *err)
{
    if (recall->controls == controls && recall->n_prompt == n_prompt)
        return DEAL_OK;
    return deal_fail(err, DEAL_ERR_INVALID_ARG,
                     "recall: expected the controls of the first search and its prompt "
                     "of %d tokens, got others and %d",
                     (int)recall->n_prompt, (int)n_prompt);
}

static deal_status
lm_root(deal_lm *lm, deal_node *root, deal_error *err)
{
    deal_recall *recall = recall_of(lm);
    if (recall->root == DEAL_NODE_NONE)
        DEAL_TRY(recall->inner->ops->root(recall->inner, &recall->root, err));
    DEAL_TRY(check_controls(recall, NULL, 0, err));
    return take_root(recall, root);
}

static deal_status
lm_controlled_root(deal_lm *lm, const deal_controls *controls, int32_t n_prompt,
                   deal_node *root, deal_error *err)
{
    deal_recall *recall = recall_of(lm);
    if (recall->root == DEAL_NODE_NONE) {
        DEAL_TRY(recall->inner->ops->controlled_root(recall->inner, controls, n_prompt,
                                                     &recall->root, err));
        recall->controls = controls;
        recall->n_prompt = n_prompt;
    }
    DEAL_TRY(check_controls(recall, controls, n_prompt, err));
    return take_root(recall, root);
}

// The root keeps layers from its first search on; the LM itself refuses others later.
static deal_status
lm_keep_layers(deal_lm *lm, deal_node root, const int32_t *layer, int32_t n_layer,
               deal_error *err)
{
    deal_recall *recall = recall_of(lm);
    return deal_kept_layers_keep(&recall->kept, recall->inner, root, layer, n_layer,
                                 err);
}

// --- extend --------------------------------------------------------------------------

// Whether all that `item` wants of the tokens after `node` is known.
static bool
is_known(const deal_recall *recall, deal_node node, const deal_lm_item *item)
{
    if (node == DEAL_NODE_NONE || (size_t)node >= recall->n_node)
        return false;
    const entry *found = &recall->entry[node];
    int32_t n_top = (item->want & DEAL_WANT_TOP_K) ? item->top_k : 1;
    return found->is_held && found->n_top >= n_top;
}

// What the LM is asked: no more than is not known, and of that enough for all searches.
// An item's `node` is set to the one that it will be, where there is one already.
static void
prepare(deal_recall *recall, const deal_lm_item *items, int32_t n_items)
{
    deal_lm *inner = recall->inner;
    for (int32_t i = 0; i < n_items; i++) {
        const deal_lm_item *from = &items[i];
        deal_lm_item *to = &recall->item[i];
        *to = *from;
        deal_node parent = from->i_parent >= 0 && from->i_parent < i
                               ? recall->item[from->i_parent].node
                               : from->parent;
        to->node = parent == DEAL_NODE_NONE
                       ? DEAL_NODE_NONE
                       : inner->ops->child(inner, parent, from->token);
        if (!(from->want & WANT_KNOWN))
            continue;
        if (is_known(recall, to->node, from)) {
            to->want &= ~WANT_KNOWN;
        } else if (!(from->want & DEAL_WANT_TOP_K) || from->top_k <= recall->n_top) {
            size_t at = (size_t)i * (size_t)recall->n_top;
            to->want |= WANT_KNOWN;
            to->top_k = recall->n_top;
            to->top_token = recall->item_token + at;
            to->top_logit = recall->item_logit + at;
        }
    }
}

// Holds the item's node, with what was told about it.
static void
learn(deal_recall *recall, const deal_lm_item *item)
{
    entry *found = &recall->entry[item->node];
    if (!found->is_held) {
        recall->inner->ops->retain(recall->inner, item->node);
        recall->n_held++;
        *found = (entry){.is_held = true, .i_search = recall->i_search};
    }
    recall->lm.n_recalled_tokens += found->i_search != recall->i_search;
    found->i_search = recall->i_search;
    if ((item->want & WANT_KNOWN) != WANT_KNOWN || item->top_k != recall->n_top)
        return;
    size_t at = (size_t)item->node * (size_t)recall->n_top, n = (size_t)recall->n_top;
    memcpy(recall->top_token + at, item->top_token, n * sizeof *item->top_token);
    memcpy(recall->top_logit + at, item->top_logit, n * sizeof *item->top_logit);
    found->n_top = recall->n_top;
    found->log_z = item->log_z;
}

static void
fill_in(const deal_recall *recall, const deal_lm_item *asked, deal_lm_item *item)
{
    item->node = asked->node;
    item->log_z = asked->log_z;
    item->target_logit = asked->target_logit;
    if (!(item->want & WANT_KNOWN) || !is_known(recall, asked->node, item))
        return;
    size_t at = (size_t)asked->node * (size_t)recall->n_top, n = (size_t)item->top_k;
    if (item->want & DEAL_WANT_TOP_K) {
        memcpy(item->top_token, recall->top_token + at, n * sizeof *item->top_token);
        memcpy(item->top_logit, recall->top_logit + at, n * sizeof *item->top_logit);
    }
    item->log_z = recall->entry[asked->node].log_z;
}

static deal_status
ask(deal_recall *recall, const deal_lm_item *items, int32_t n_items, deal_error *err)
{
    deal_lm *inner = recall->inner;
    int64_t n_tokens = inner->n_forward_tokens, n_passes = inner->n_forward_passes;
    prepare(recall, items, n_items);
    deal_status status = inner->ops->extend(inner, recall->item, n_items, err);
    recall->lm.n_forward_tokens += inner->n_forward_tokens - n_tokens;
    recall->lm.n_forward_passes += inner->n_forward_passes - n_passes;
    return status;
}

static deal_status
lm_extend(deal_lm *lm, deal_lm_item *items, int32_t n_items, deal_error *err)
{
    deal_recall *recall = recall_of(lm);
    deal_lm *inner = recall->inner;
    DEAL_TRY(reserve_items(recall, (size_t)n_items, err));
    if (recall->n_held > recall->n_node_max)
        forget(recall);
    deal_status status = ask(recall, items, n_items, err);
    if (status == DEAL_ERR_KV_BUDGET && recall->n_held > 0) {
        forget(recall);
        status = ask(recall, items, n_items, err);
    }
    DEAL_TRY(status);
    deal_node last = 0;
    for (int32_t i = 0; i < n_items; i++)
        last = recall->item[i].node > last ? recall->item[i].node : last;
    status = reserve_nodes(recall, (size_t)last + 1, err);
    for (int32_t i = 0; i < n_items && status != DEAL_OK; i++)
        inner->ops->release(inner, recall->item[i].node);
    DEAL_TRY(status);
    for (int32_t i = 0; i < n_items; i++) {
        learn(recall, &recall->item[i]);
        fill_in(recall, &recall->item[i], &items[i]);
    }
    return DEAL_OK;
}

// --- the rest ------------------------------------------------------------------------

static void
lm_retain(deal_lm *lm, deal_node node)
{
    deal_lm *inner = recall_of(lm)->inner;
    inner->ops->retain(inner, node);
}

static void
lm_release(deal_lm *lm, deal_node node)
{
    deal_lm *inner = recall_of(lm)->inner;
    inner->ops->release(inner, node);
}

static deal_node
lm_child(const deal_lm *lm, deal_node parent, int32_t token)
{
    const deal_lm *inner = ((const deal_recall *)lm)->inner;
    return inner->ops->child(inner, parent, token);
}

deal_status
deal_recall_new(deal_lm *lm, int32_t n_top, int64_t n_node_max, deal_recall **out,
                deal_error *err)
{
    if (n_top < 1 || n_top > lm->n_vocab)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "top_k: expected 1 to %d (vocabulary), got %d",
                         (int)lm->n_vocab, (int)n_top);
    if (n_node_max < 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "n_node_max: expected at least 1, got %lld",
                         (long long)n_node_max);
    deal_recall *recall = deal_alloc_zero(1, sizeof *recall);
    if (!recall)
        return deal_fail_memory(err, "recall");
    recall->lm = *lm;
    recall->ops = (deal_lm_ops){
        .root = lm_root,
        .extend = lm_extend,
        .controlled_root = lm->ops->controlled_root ? lm_controlled_root : NULL,
        .keep_layers = lm->ops->keep_layers ? lm_keep_layers : NULL,
        .retain = lm_retain,
        .release = lm_release,
        .child = lm_child,
    };
    recall->lm.ops = &recall->ops;
    recall->lm.n_forward_tokens = recall->lm.n_forward_passes = 0;
    recall->lm.n_recalled_tokens = recall->lm.n_company_tokens = 0;
    recall->inner = lm;
    recall->n_top = n_top;
    recall->n_node_max = n_node_max;
    recall->root = DEAL_NODE_NONE;
    *out = recall;
    return DEAL_OK;
}

void
deal_recall_free(deal_recall *recall)
{
    if (!recall)
        return;
    forget(recall);
    recall->inner->ops->release(recall->inner, recall->root);
    void *const block[] = {recall->kept.layer, recall->entry, recall->top_token,
                           recall->top_logit,  recall->item,  recall->item_token,
                           recall->item_logit};
    for (size_t i = 0; i < sizeof block / sizeof *block; i++)
        deal_free(block[i]);
    deal_free(recall);
}

deal_lm *
deal_recall_lm(deal_recall *recall)
{
    return &recall->lm;
}
