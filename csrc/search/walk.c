#include "search/walk.h"

#include <stdlib.h>

#include "common/alloc.h"
#include "common/controls.h"

// Texts in order. Those of one group share a root.
typedef struct walk_row {
    const deal_walk_text *text;
    int32_t n_common; // tokens shared with the row before
    int32_t n_walk;   // tokens to evaluate
    int32_t i_group;
} walk_row;

struct deal_walk {
    deal_lm *lm;
    const deal_controls *controls;
    const deal_walk_text *text; // as given
    size_t tap_len;
    walk_row *row; // (n_row,)
    int32_t n_row;
    deal_node *root; // (n_group,) made when reached, DEAL_NODE_NONE once dropped
    int32_t n_group, i_group_held; // roots before it are dropped

    // The path of the row at hand: nodes of earlier batches, then items of this one.
    int32_t i_row, n_path; // the row, and its tokens on the path
    int32_t n_held;        // nodes in `path`, of which the first n_kept are on it
    int32_t n_kept;
    deal_node *path;   // (n_token_max,)
    int32_t *i_placed; // (n_token_max,) item of a token at n_kept or later

    int32_t n_item;
    deal_lm_item *item;   // (DEAL_WALK_BATCH,)
    int32_t *item_row;    // (DEAL_WALK_BATCH,) first row that it serves
    int32_t *item_depth;  // (DEAL_WALK_BATCH,) tokens before it
    size_t *target_begin; // (DEAL_WALK_BATCH,)
    float *taps;          // (DEAL_WALK_BATCH, tap_len)
    int32_t *top;         // (DEAL_WALK_BATCH,) likeliest token after an item
    float *top_logit;     // (DEAL_WALK_BATCH,)
    int32_t *target;      // (target_cap,) of all items
    float *target_logit;  // (target_cap,)
    size_t n_target, target_cap;
};

// --- new and free --------------------------------------------------------------------

static deal_status
check_text(const deal_walk *walk, const deal_walk_text *text, int32_t i,
           deal_error *err)
{
    if (text->n_prompt < 1 || text->n_prompt > text->n_token)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "text %d: expected a prompt of 1 to %d tokens, got %d", i,
                         text->n_token, text->n_prompt);
    if (text->n_token - (text->logprob != NULL) > walk->lm->n_ctx)
        return deal_fail(err, DEAL_ERR_CONTEXT_FULL,
                         "text %d: expected at most %d tokens (max_length), got %d", i,
                         walk->lm->n_ctx, text->n_token);
    if (text->is_greedy && !text->logprob)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "text %d: is_greedy is asked for without log-probs", i);
    if (!text->logprob && walk->tap_len == 0)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "text %d: states are asked for without a tap", i);
    for (int32_t t = 0; t < text->n_token; t++)
        if (text->token[t] < 0 || text->token[t] >= walk->lm->n_vocab)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "text %d: token: expected 0 to %d (vocabulary), got %d", i,
                             walk->lm->n_vocab - 1, text->token[t]);
    return DEAL_OK;
}

// By group, then by tokens; a prefix comes first.
static int
compare_rows(const void *one, const void *other)
{
    const walk_row *a = one, *b = other;
    if (a->i_group != b->i_group)
        return a->i_group < b->i_group ? -1 : 1;
    int32_t n = a->text->n_token, n_b = b->text->n_token;
    for (int32_t i = 0; i < n && i < n_b; i++)
        if (a->text->token[i] != b->text->token[i])
            return a->text->token[i] < b->text->token[i] ? -1 : 1;
    return (n > n_b) - (n < n_b);
}

static int32_t
n_common_of(const walk_row *a, const walk_row *b)
{
    int32_t n =
        a->text->n_token < b->text->n_token ? a->text->n_token : b->text->n_token;
    int32_t i = 0;
    while (a->i_group == b->i_group && i < n && a->text->token[i] == b->text->token[i])
        i++;
    return i;
}

// The last token says nothing of a log-prob, nor any where no token follows the prompt.
static int32_t
n_walk_of(const deal_walk_text *text)
{
    if (!text->logprob)
        return text->n_token;
    return text->n_token > text->n_prompt ? text->n_token - 1 : 0;
}

static deal_status
init_rows(deal_walk *walk, const deal_walk_text *text, deal_error *err)
{
    bool is_positional = walk->controls && walk->controls->is_positional;
    for (int32_t i = 0; i < walk->n_row; i++) {
        DEAL_TRY(check_text(walk, &text[i], i, err));
        walk->row[i] = (walk_row){.text = &text[i],
                                  .n_walk = n_walk_of(&text[i]),
                                  .i_group = is_positional ? text[i].n_prompt : 0};
    }
    qsort(walk->row, (size_t)walk->n_row, sizeof *walk->row, compare_rows);
    int32_t i_group = 0, i_before = 0;
    for (int32_t i = 0; i < walk->n_row; i++) {
        walk_row *row = &walk->row[i];
        int32_t key = row->i_group;
        i_group += i > 0 && key != i_before;
        i_before = key;
        row->i_group = i_group;
        row->n_common = i > 0 ? n_common_of(row - 1, row) : 0;
    }
    walk->n_group = walk->n_row > 0 ? i_group + 1 : 0;
    return DEAL_OK;
}

static deal_status
init(deal_walk *walk, const deal_walk_text *text, int32_t n_text, deal_error *err)
{
    size_t n = DEAL_WALK_BATCH, n_max = 0;
    walk->row = deal_alloc((size_t)n_text, sizeof *walk->row);
    if (!walk->row)
        return deal_fail_memory(err, "texts");
    walk->n_row = n_text;
    DEAL_TRY(init_rows(walk, text, err));
    for (int32_t i = 0; i < n_text; i++)
        n_max = (size_t)text[i].n_token > n_max ? (size_t)text[i].n_token : n_max;
    walk->root = deal_alloc((size_t)walk->n_group, sizeof *walk->root);
    for (int32_t i = 0; walk->root && i < walk->n_group; i++)
        walk->root[i] = DEAL_NODE_NONE;
    walk->path = deal_alloc(n_max, sizeof *walk->path);
    walk->i_placed = deal_alloc(n_max, sizeof *walk->i_placed);
    walk->item = deal_alloc(n, sizeof *walk->item);
    walk->item_row = deal_alloc(n, sizeof *walk->item_row);
    walk->item_depth = deal_alloc(n, sizeof *walk->item_depth);
    walk->target_begin = deal_alloc(n, sizeof *walk->target_begin);
    walk->taps = deal_alloc(n * walk->tap_len, sizeof *walk->taps);
    walk->top = deal_alloc(n, sizeof *walk->top);
    walk->top_logit = deal_alloc(n, sizeof *walk->top_logit);
    if (!walk->root || !walk->path || !walk->i_placed || !walk->item ||
        !walk->item_row || !walk->item_depth || !walk->target_begin || !walk->taps ||
        !walk->top || !walk->top_logit)
        return deal_fail_memory(err, "batch of texts");
    return DEAL_OK;
}

deal_status
deal_walk_new(deal_lm *lm, const deal_controls *controls, const deal_walk_text *text,
              int32_t n_text, deal_walk **out, deal_error *err)
{
    if (controls && !lm->ops->controlled_root)
        return deal_fail(err, DEAL_ERR_UNSUPPORTED,
                         "controls: this language model has none");
    deal_walk *walk = deal_alloc_zero(1, sizeof *walk);
    if (!walk)
        return deal_fail_memory(err, "walk");
    walk->lm = lm;
    walk->controls = controls;
    walk->text = text;
    walk->tap_len = controls ? controls->tap_len : 0;
    deal_status status = init(walk, text, n_text, err);
    if (status != DEAL_OK) {
        deal_walk_free(walk);
        return status;
    }
    *out = walk;
    return DEAL_OK;
}

static void
drop_roots(deal_walk *walk, int32_t i_end)
{
    for (; walk->i_group_held < i_end; walk->i_group_held++)
        walk->lm->ops->release(walk->lm, walk->root[walk->i_group_held]);
}

void
deal_walk_free(deal_walk *walk)
{
    if (!walk)
        return;
    for (int32_t i = 0; i < walk->n_held; i++)
        walk->lm->ops->release(walk->lm, walk->path[i]);
    if (walk->root)
        drop_roots(walk, walk->n_group);
    void *const block[] = {walk->row,        walk->root,         walk->path,
                           walk->i_placed,   walk->item,         walk->item_row,
                           walk->item_depth, walk->target_begin, walk->taps,
                           walk->target,     walk->target_logit, walk->top,
                           walk->top_logit};
    for (size_t i = 0; i < sizeof block / sizeof *block; i++)
        deal_free(block[i]);
    deal_free(walk);
}

// --- a batch -------------------------------------------------------------------------

// Past the last row that shares the first `n` tokens with row `i_row`.
static int32_t
rows_end(const deal_walk *walk, int32_t i_row, int32_t n)
{
    do
        i_row++;
    while (i_row < walk->n_row && walk->row[i_row].n_common >= n);
    return i_row;
}

// The token whose log-prob a row wants from its first `n` tokens, or -1.
static int32_t
target_of(const walk_row *row, int32_t n)
{
    const deal_walk_text *text = row->text;
    return text->logprob && n >= text->n_prompt && n < text->n_token ? text->token[n]
                                                                     : -1;
}

static deal_status
reserve_targets(deal_walk *walk, size_t n, deal_error *err)
{
    if (n <= walk->target_cap)
        return DEAL_OK;
    size_t cap = deal_grow_cap(walk->target_cap, n);
    int32_t *target =
        deal_realloc(walk->target, walk->n_target, cap, sizeof *walk->target);
    if (!target)
        return deal_fail_memory(err, "targets");
    walk->target = target;
    float *logit = deal_realloc(walk->target_logit, 0, cap, sizeof *logit);
    if (!logit)
        return deal_fail_memory(err, "targets");
    walk->target_logit = logit;
    walk->target_cap = cap;
    return DEAL_OK;
}

// What the rows that pass through an item ask of it. Equal targets lie together.
static deal_status
add_wants(deal_walk *walk, int32_t i_item, deal_error *err)
{
    deal_lm_item *item = &walk->item[i_item];
    int32_t n = walk->item_depth[i_item] + 1, last = -1;
    int32_t end = rows_end(walk, walk->item_row[i_item], n);
    walk->target_begin[i_item] = walk->n_target;
    for (int32_t i = walk->item_row[i_item]; i < end; i++) {
        int32_t target = target_of(&walk->row[i], n);
        const deal_walk_text *text = walk->row[i].text;
        if (text->sum || (text->slot && text->slot[n - 1] >= 0))
            item->want |= DEAL_WANT_TAPS;
        if (target >= 0 && text->is_greedy)
            item->want |= DEAL_WANT_TOP_K;
        if (target < 0 || target == last)
            continue;
        DEAL_TRY(reserve_targets(walk, walk->n_target + 1, err));
        walk->target[walk->n_target++] = last = target;
        item->want |= DEAL_WANT_TARGETS | DEAL_WANT_LOG_Z;
    }
    item->n_target = (int32_t)(walk->n_target - walk->target_begin[i_item]);
    item->taps = walk->taps + (size_t)i_item * walk->tap_len;
    item->top_k = 1;
    item->top_token = walk->top + i_item;
    item->top_logit = walk->top_logit + i_item;
    return DEAL_OK;
}

static deal_status
place(deal_walk *walk, deal_error *err)
{
    deal_lm *lm = walk->lm;
    const walk_row *row = &walk->row[walk->i_row];
    deal_node *root = &walk->root[row->i_group];
    if (*root == DEAL_NODE_NONE) {
        if (walk->controls)
            DEAL_TRY(lm->ops->controlled_root(lm, walk->controls, row->text->n_prompt,
                                              root, err));
        else
            DEAL_TRY(lm->ops->root(lm, root, err));
    }
    int32_t d = walk->n_path, i = walk->n_item++;
    bool is_in_batch = d > walk->n_kept;
    walk->item[i] = (deal_lm_item){.parent = d == 0        ? *root
                                             : is_in_batch ? DEAL_NODE_NONE
                                                           : walk->path[d - 1],
                                   .i_parent = is_in_batch ? walk->i_placed[d - 1] : -1,
                                   .token = row->text->token[d]};
    walk->item_row[i] = walk->i_row;
    walk->item_depth[i] = d;
    walk->i_placed[d] = i;
    walk->n_path++;
    return add_wants(walk, i, err);
}

// Fills the batch, row after row.
static deal_status
place_all(deal_walk *walk, deal_error *err)
{
    walk->n_item = 0;
    walk->n_target = 0;
    while (walk->i_row < walk->n_row && walk->n_item < DEAL_WALK_BATCH) {
        if (walk->n_path < walk->row[walk->i_row].n_walk) {
            DEAL_TRY(place(walk, err));
            continue;
        }
        if (++walk->i_row == walk->n_row)
            break;
        int32_t n = walk->row[walk->i_row].n_common;
        walk->n_path = n < walk->n_path ? n : walk->n_path;
        walk->n_kept = walk->n_path < walk->n_kept ? walk->n_path : walk->n_kept;
    }
    for (int32_t i = 0; i < walk->n_item; i++) { // arrays no longer move
        walk->item[i].targets = walk->target + walk->target_begin[i];
        walk->item[i].target_logits = walk->target_logit + walk->target_begin[i];
    }
    return DEAL_OK;
}

// Hands an item's answers to the rows that it serves.
static void
serve(deal_walk *walk, int32_t i_item)
{
    const deal_lm_item *item = &walk->item[i_item];
    int32_t n = walk->item_depth[i_item] + 1, i_target = 0;
    int32_t end = rows_end(walk, walk->item_row[i_item], n);
    for (int32_t i = walk->item_row[i_item]; i < end; i++) {
        const deal_walk_text *text = walk->row[i].text;
        int32_t target = target_of(&walk->row[i], n);
        if (target >= 0) {
            i_target += item->targets[i_target] != target;
            text->logprob[n - text->n_prompt] =
                (double)item->target_logits[i_target] - (double)item->log_z;
            if (text->is_greedy)
                *text->is_greedy &= item->top_token[0] == target;
        }
        if (text->slot && text->slot[n - 1] >= 0) {
            float *to = text->states + (size_t)text->slot[n - 1] * walk->tap_len;
            for (size_t j = 0; j < walk->tap_len; j++)
                to[j] = item->taps[j];
        }
        for (size_t j = 0; text->sum && j < walk->tap_len; j++)
            text->sum[j] += (double)item->taps[j];
    }
}

// Keeps the nodes of the path that the next batch goes on from.
static void
keep_path(deal_walk *walk)
{
    deal_lm *lm = walk->lm;
    for (int32_t d = walk->n_kept; d < walk->n_held; d++)
        lm->ops->release(lm, walk->path[d]);
    for (int32_t d = walk->n_kept; d < walk->n_path; d++) {
        walk->path[d] = walk->item[walk->i_placed[d]].node;
        lm->ops->retain(lm, walk->path[d]);
    }
    walk->n_held = walk->n_kept = walk->n_path;
    for (int32_t i = 0; i < walk->n_item; i++)
        lm->ops->release(lm, walk->item[i].node);
}

deal_status
deal_walk_step(deal_walk *walk, bool *is_done, deal_error *err)
{
    DEAL_TRY(place_all(walk, err));
    if (walk->n_item > 0) {
        DEAL_TRY(walk->lm->ops->extend(walk->lm, walk->item, walk->n_item, err));
        for (int32_t i = 0; i < walk->n_item; i++)
            serve(walk, i);
        keep_path(walk);
    }
    bool is_over = walk->i_row == walk->n_row;
    drop_roots(walk, is_over ? walk->n_group : walk->row[walk->i_row].i_group);
    *is_done = is_over;
    return DEAL_OK;
}

int32_t
deal_walk_n_done(const deal_walk *walk)
{
    return walk->i_row;
}

int32_t
deal_walk_done_at(const deal_walk *walk, int32_t i)
{
    return (int32_t)(walk->row[i].text - walk->text);
}
