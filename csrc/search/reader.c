#include "search/reader.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/alloc.h"
#include "common/controls.h"

#define BATCH 256 // items of one extend, but for a text that has more
#define NONE (-1)

// A token in a context, as read so far. Log-probs hang on the token they are of.
typedef struct reader_node {
    deal_node node;                            // DEAL_NODE_NONE: not evaluated
    int32_t parent, first_child, next_sibling; // NONE; next free where free
    int32_t token;       // of a root: the length of the prompt that its controls go by
    int32_t depth;       // 0 for a root
    int32_t i_item;      // of the batch at hand, or NONE
    int32_t next_target; // sibling whose log-prob the same item asks for, or NONE
    double logprob;      // NAN: not known
    int64_t i_batch;     // that used it last; never before that of a child
} reader_node;

struct deal_reader {
    deal_lm *lm;
    const deal_controls *controls;
    size_t tap_len;
    int32_t n_keep;
    reader_node *node; // (node_cap,)
    float *state;      // (node_cap, tap_len)
    int32_t n_node, node_cap, n_live;
    int32_t free_node, first_root;
    int64_t i_batch;

    // The batch at hand.
    int32_t *fresh; // (fresh_cap,) nodes made for it
    int32_t n_fresh, fresh_cap;
    deal_lm_item *item;   // (item_cap,)
    int32_t *item_node;   // (item_cap,)
    int32_t *item_target; // (item_cap,) first of the list by next_target
    int32_t n_item, item_cap;
    int32_t *target;     // (target_cap,) tokens
    float *target_logit; // (target_cap,)
    int32_t n_target, target_cap;
    double *sum; // (tap_len,)
};

// --- nodes ---------------------------------------------------------------------------

static int32_t *
children_of(deal_reader *r, int32_t i_parent)
{
    return i_parent == NONE ? &r->first_root : &r->node[i_parent].first_child;
}

static int32_t
find_child(deal_reader *r, int32_t i_parent, int32_t token)
{
    int32_t i = *children_of(r, i_parent);
    while (i != NONE && r->node[i].token != token)
        i = r->node[i].next_sibling;
    return i;
}

static deal_status
grow_nodes(deal_reader *r, deal_error *err)
{
    size_t cap = deal_grow_cap((size_t)r->node_cap, (size_t)r->n_node + 1);
    if (cap > INT32_MAX)
        return deal_fail_memory(err, "nodes of texts");
    reader_node *node = deal_realloc(r->node, (size_t)r->n_node, cap, sizeof *node);
    if (!node)
        return deal_fail_memory(err, "nodes of texts");
    r->node = node;
    size_t size = r->tap_len * sizeof *r->state;
    if (size > 0) {
        float *state = deal_realloc(r->state, (size_t)r->n_node, cap, size);
        if (!state)
            return deal_fail_memory(err, "states of texts");
        r->state = state;
    }
    r->node_cap = (int32_t)cap;
    return DEAL_OK;
}

static deal_status
add_child(deal_reader *r, int32_t i_parent, int32_t token, int32_t *out,
          deal_error *err)
{
    if (r->n_fresh == r->fresh_cap) {
        size_t cap = deal_grow_cap((size_t)r->fresh_cap, (size_t)r->n_fresh + 1);
        int32_t *fresh = deal_realloc(r->fresh, (size_t)r->n_fresh, cap, sizeof *fresh);
        if (!fresh)
            return deal_fail_memory(err, "new nodes of texts");
        r->fresh = fresh;
        r->fresh_cap = (int32_t)cap;
    }
    if (r->free_node == NONE && r->n_node == r->node_cap)
        DEAL_TRY(grow_nodes(r, err));
    int32_t i = r->free_node;
    if (i != NONE)
        r->free_node = r->node[i].next_sibling;
    else
        i = r->n_node++;
    int32_t *first = children_of(r, i_parent);
    r->node[i] = (reader_node){
        .node = DEAL_NODE_NONE,
        .parent = i_parent,
        .first_child = NONE,
        .next_sibling = *first,
        .token = token,
        .depth = i_parent == NONE ? 0 : r->node[i_parent].depth + 1,
        .i_item = NONE,
        .next_target = NONE,
        .logprob = NAN,
        .i_batch = r->i_batch,
    };
    *first = i;
    r->n_live++;
    r->fresh[r->n_fresh++] = i;
    *out = i;
    return DEAL_OK;
}

// Of a node without children.
static void
drop(deal_reader *r, int32_t i)
{
    int32_t *link = children_of(r, r->node[i].parent);
    while (*link != i)
        link = &r->node[*link].next_sibling;
    *link = r->node[i].next_sibling;
    r->lm->ops->release(r->lm, r->node[i].node);
    r->node[i].depth = NONE; // free
    r->node[i].next_sibling = r->free_node;
    r->free_node = i;
    r->n_live--;
}

// --- what goes first -----------------------------------------------------------------

typedef struct age {
    int64_t i_batch;
    int32_t depth, i_node;
} age;

// The longest unused first, children before their parents.
static int
compare_ages(const void *one, const void *other)
{
    const age *a = one, *b = other;
    if (a->i_batch != b->i_batch)
        return a->i_batch < b->i_batch ? -1 : 1;
    return (a->depth < b->depth) - (a->depth > b->depth);
}

// Drops the longest unused nodes until `n_keep` are left, but none of batch `i_begin`
// or later.
static deal_status
forget(deal_reader *r, int32_t n_keep, int64_t i_begin, deal_error *err)
{
    if (r->n_live <= n_keep)
        return DEAL_OK;
    age *row = deal_alloc((size_t)r->n_live, sizeof *row);
    if (!row)
        return deal_fail_memory(err, "ages of nodes");
    int32_t n = 0;
    for (int32_t i = 0; i < r->n_node; i++)
        if (r->node[i].depth != NONE)
            row[n++] = (age){r->node[i].i_batch, r->node[i].depth, i};
    qsort(row, (size_t)n, sizeof *row, compare_ages);
    for (int32_t i = 0; i < n && r->n_live > n_keep && row[i].i_batch < i_begin; i++)
        drop(r, row[i].i_node);
    deal_free(row);
    return DEAL_OK;
}

// --- new and free --------------------------------------------------------------------

deal_status
deal_reader_new(deal_lm *lm, const deal_controls *controls, int32_t n_keep,
                deal_reader **out, deal_error *err)
{
    if (controls && !lm->ops->controlled_root)
        return deal_fail(err, DEAL_ERR_UNSUPPORTED,
                         "controls: this language model has none");
    if (n_keep < 0)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "n_keep: expected at least 0, got %d", n_keep);
    deal_reader *r = deal_alloc_zero(1, sizeof *r);
    if (!r)
        return deal_fail_memory(err, "reader");
    r->lm = lm;
    r->controls = controls;
    r->tap_len = controls ? controls->tap_len : 0;
    r->n_keep = n_keep;
    r->free_node = r->first_root = NONE;
    r->sum = deal_alloc(r->tap_len, sizeof *r->sum);
    if (!r->sum) {
        deal_free(r);
        return deal_fail_memory(err, "reader");
    }
    *out = r;
    return DEAL_OK;
}

void
deal_reader_free(deal_reader *r)
{
    if (!r)
        return;
    for (int32_t i = 0; i < r->n_node; i++)
        if (r->node[i].depth != NONE)
            r->lm->ops->release(r->lm, r->node[i].node);
    void *const block[] = {r->node,        r->state,  r->fresh,        r->item,
                           r->item_node,   r->target, r->target_logit, r->sum,
                           r->item_target, r};
    for (size_t i = 0; i < sizeof block / sizeof *block; i++)
        deal_free(block[i]);
}

int32_t
deal_reader_n_kept(const deal_reader *r)
{
    return r->n_live;
}

// --- a batch -------------------------------------------------------------------------

static deal_status
check_text(const deal_reader *r, const deal_reader_text *text, int32_t i,
           deal_error *err)
{
    const deal_lm *lm = r->lm;
    if (text->n_prompt < 1 || text->n_prompt > text->n_token)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "text %d: expected a prompt of 1 to %d tokens, got %d", i,
                         text->n_token, text->n_prompt);
    if (text->n_token - (text->logprob != NULL) > lm->n_ctx)
        return deal_fail(err, DEAL_ERR_CONTEXT_FULL,
                         "text %d: expected at most %d tokens (max_length), got %d", i,
                         lm->n_ctx, text->n_token);
    if (text->state && r->tap_len == 0)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "text %d: a state is asked for without a tap", i);
    if (text->state && (text->state_begin < 0 || text->state_begin >= text->n_token))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "text %d: expected a state of tokens 0 to %d, got %d", i,
                         text->n_token - 1, text->state_begin);
    for (int32_t t = 0; t < text->n_token; t++)
        if (text->token[t] < 0 || text->token[t] >= lm->n_vocab)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "text %d: token: expected 0 to %d (vocabulary), got %d", i,
                             lm->n_vocab - 1, text->token[t]);
    return DEAL_OK;
}

static deal_status
grow_items(deal_reader *r, deal_error *err)
{
    size_t n = (size_t)r->n_item, cap = deal_grow_cap((size_t)r->item_cap, n + 1);
    deal_lm_item *item = deal_realloc(r->item, n, cap, sizeof *item);
    if (!item)
        return deal_fail_memory(err, "batch of texts");
    r->item = item;
    int32_t *index = deal_realloc(r->item_node, n, cap, sizeof *index);
    if (!index)
        return deal_fail_memory(err, "batch of texts");
    r->item_node = index;
    index = deal_realloc(r->item_target, n, cap, sizeof *index);
    if (!index)
        return deal_fail_memory(err, "batch of texts");
    r->item_target = index;
    r->item_cap = (int32_t)cap;
    return DEAL_OK;
}

// The item of a node that is to be evaluated, or asked again.
static deal_status
ensure_item(deal_reader *r, int32_t i_node, deal_error *err)
{
    reader_node *node = &r->node[i_node];
    if (node->i_item != NONE)
        return DEAL_OK;
    if (r->n_item == r->item_cap)
        DEAL_TRY(grow_items(r, err));
    const reader_node *parent = &r->node[node->parent];
    bool is_new = node->node == DEAL_NODE_NONE;
    int32_t i = r->n_item++;
    r->item[i] = (deal_lm_item){
        .parent = parent->node,
        .i_parent = parent->node == DEAL_NODE_NONE ? parent->i_item : -1,
        .token = node->token,
        .want = is_new && r->tap_len > 0 ? DEAL_WANT_TAPS : 0,
        .taps = r->state ? r->state + (size_t)i_node * r->tap_len : NULL,
    };
    r->item_node[i] = i_node;
    r->item_target[i] = NONE;
    node->i_item = i;
    return DEAL_OK;
}

// Has the log-prob of a node's token asked of its parent.
static deal_status
ask_logprob(deal_reader *r, int32_t i_node, deal_error *err)
{
    int32_t i_parent = r->node[i_node].parent;
    DEAL_TRY(ensure_item(r, i_parent, err));
    int32_t i_item = r->node[i_parent].i_item, *first = &r->item_target[i_item];
    for (int32_t i = *first; i != NONE; i = r->node[i].next_target)
        if (i == i_node)
            return DEAL_OK; // for an earlier text of the batch
    r->node[i_node].next_target = *first;
    *first = i_node;
    r->item[i_item].n_target++;
    r->item[i_item].want |= DEAL_WANT_TARGETS | DEAL_WANT_LOG_Z;
    r->n_target++;
    return DEAL_OK;
}

static deal_status
use_root(deal_reader *r, const deal_reader_text *text, int32_t *i_root, deal_error *err)
{
    bool is_positional = r->controls && r->controls->is_positional;
    int32_t key = is_positional ? text->n_prompt : 0;
    *i_root = find_child(r, NONE, key);
    if (*i_root == NONE)
        DEAL_TRY(add_child(r, NONE, key, i_root, err));
    reader_node *root = &r->node[*i_root];
    root->i_batch = r->i_batch;
    if (root->node != DEAL_NODE_NONE)
        return DEAL_OK;
    if (!r->controls)
        return r->lm->ops->root(r->lm, &root->node, err);
    return r->lm->ops->controlled_root(r->lm, r->controls, key, &root->node, err);
}

// Puts what a text lacks into the batch.
static deal_status
place(deal_reader *r, const deal_reader_text *text, deal_error *err)
{
    if (text->logprob && text->n_prompt == text->n_token)
        return DEAL_OK;
    int32_t i_parent, i_node;
    DEAL_TRY(use_root(r, text, &i_parent, err));
    for (int32_t t = 0; t < text->n_token; t++, i_parent = i_node) {
        i_node = find_child(r, i_parent, text->token[t]);
        if (i_node == NONE)
            DEAL_TRY(add_child(r, i_parent, text->token[t], &i_node, err));
        r->node[i_node].i_batch = r->i_batch;
        bool is_target = text->logprob && t >= text->n_prompt;
        if (is_target && isnan(r->node[i_node].logprob))
            DEAL_TRY(ask_logprob(r, i_node, err));
        bool is_read = text->state || t + 1 < text->n_token;
        if (is_read && r->node[i_node].node == DEAL_NODE_NONE)
            DEAL_TRY(ensure_item(r, i_node, err));
    }
    return DEAL_OK;
}

static deal_status
list_targets(deal_reader *r, deal_error *err)
{
    if (r->n_target > r->target_cap) {
        size_t cap = deal_grow_cap((size_t)r->target_cap, (size_t)r->n_target);
        int32_t *target = deal_realloc(r->target, 0, cap, sizeof *target);
        if (!target)
            return deal_fail_memory(err, "targets of texts");
        r->target = target;
        float *logit = deal_realloc(r->target_logit, 0, cap, sizeof *logit);
        if (!logit)
            return deal_fail_memory(err, "targets of texts");
        r->target_logit = logit;
        r->target_cap = (int32_t)cap;
    }
    int32_t n = 0;
    for (int32_t i = 0; i < r->n_item; i++) {
        r->item[i].targets = r->target + n;
        r->item[i].target_logits = r->target_logit + n;
        // Here, as the array of states may have moved since the item was made.
        r->item[i].taps =
            r->state ? r->state + (size_t)r->item_node[i] * r->tap_len : NULL;
        for (int32_t c = r->item_target[i]; c != NONE; c = r->node[c].next_target)
            r->target[n++] = r->node[c].token;
    }
    return DEAL_OK;
}

// One pass, and once more after making room where the LM's memory is full.
static deal_status
evaluate(deal_reader *r, deal_error *err)
{
    DEAL_TRY(list_targets(r, err));
    deal_lm *lm = r->lm;
    deal_status status = lm->ops->extend(lm, r->item, r->n_item, err);
    if (status != DEAL_ERR_KV_BUDGET)
        return status;
    int32_t n_before = r->n_live;
    DEAL_TRY(forget(r, 0, r->i_batch, err));
    return r->n_live < n_before ? lm->ops->extend(lm, r->item, r->n_item, err) : status;
}

// Writes down what the pass said.
static void
keep(deal_reader *r)
{
    for (int32_t i = 0; i < r->n_item; i++) {
        const deal_lm_item *item = &r->item[i];
        reader_node *node = &r->node[r->item_node[i]];
        if (node->node == DEAL_NODE_NONE)
            node->node = item->node; // with the item's reference
        else
            r->lm->ops->release(r->lm, item->node);
        int32_t n = 0;
        for (int32_t c = r->item_target[i]; c != NONE; c = r->node[c].next_target)
            r->node[c].logprob = (double)item->target_logits[n++] - (double)item->log_z;
    }
}

// Forgets the batch; `is_done`: its nodes stay.
static void
end_batch(deal_reader *r, bool is_done)
{
    for (int32_t i = 0; i < r->n_item; i++) {
        r->node[r->item_node[i]].i_item = NONE;
        int32_t c = r->item_target[i], next;
        for (; c != NONE; c = next) {
            next = r->node[c].next_target;
            r->node[c].next_target = NONE;
        }
    }
    while (!is_done && r->n_fresh > 0)
        drop(r, r->fresh[--r->n_fresh]);
    r->n_fresh = r->n_item = r->n_target = 0;
}

static void
deliver(deal_reader *r, const deal_reader_text *text)
{
    if (text->logprob && text->n_prompt == text->n_token)
        return;
    bool is_positional = r->controls && r->controls->is_positional;
    int32_t i = find_child(r, NONE, is_positional ? text->n_prompt : 0);
    memset(r->sum, 0, r->tap_len * sizeof *r->sum);
    for (int32_t t = 0; t < text->n_token; t++) {
        i = find_child(r, i, text->token[t]);
        if (text->logprob && t >= text->n_prompt)
            text->logprob[t - text->n_prompt] = r->node[i].logprob;
        if (text->state && t >= text->state_begin) {
            const float *state = r->state + (size_t)i * r->tap_len;
            for (size_t j = 0; j < r->tap_len; j++)
                r->sum[j] += (double)state[j];
        }
    }
    for (size_t j = 0; text->state && j < r->tap_len; j++)
        text->state[j] =
            (float)(r->sum[j] / (double)(text->n_token - text->state_begin));
}

// Places texts from `*i_text` on until the batch is full, and reads them.
static deal_status
read_batch(deal_reader *r, const deal_reader_text *text, int32_t n_text,
           int32_t *i_text, deal_error *err)
{
    int32_t i = *i_text;
    r->i_batch++;
    for (; i < n_text && r->n_item < BATCH; i++)
        DEAL_TRY(place(r, &text[i], err));
    if (r->n_item > 0) {
        DEAL_TRY(evaluate(r, err));
        keep(r);
    }
    for (; *i_text < i; (*i_text)++)
        deliver(r, &text[*i_text]);
    return DEAL_OK;
}

deal_status
deal_reader_read(deal_reader *r, const deal_reader_text *text, int32_t n_text,
                 deal_error *err)
{
    for (int32_t i = 0; i < n_text; i++)
        DEAL_TRY(check_text(r, &text[i], i, err));
    int32_t i_text = 0;
    while (i_text < n_text) {
        deal_status status = read_batch(r, text, n_text, &i_text, err);
        end_batch(r, status == DEAL_OK);
        if (status != DEAL_OK)
            return status;
        // A little room, so that not every call has to make some.
        if (r->n_live > r->n_keep)
            DEAL_TRY(forget(r, r->n_keep - r->n_keep / 8, INT64_MAX, err));
    }
    return DEAL_OK;
}
