#include "search/masked_lm.h"

#include <math.h>

#include "common/alloc.h"

typedef struct masked_node {
    deal_node inner; // one reference; DEAL_NODE_NONE where it is put off
    deal_node parent, child, sibling; // `sibling` of a free one: the next free
    int32_t token, depth;
    int32_t n_ref;   // of callers and children; 0: free
    int32_t place;   // one reference, or DEAL_MASK_NONE
    int32_t i_inner; // its item in this batch, or -1
} masked_node;

// How an item of the caller's is answered.
typedef struct answer {
    deal_mask mask;   // of its node; n_token 0: none
    bool is_put_off;  // it is known without the model
    int32_t i_inner;  // its item, or -1
    size_t i_scratch; // logits: of the list's tokens, or of all
} answer;

typedef struct masked_lm {
    deal_lm lm; // first
    deal_lm_ops ops;
    deal_lm *inner;
    deal_masks *masks;
    int32_t n_prompt;
    masked_node *node; // (node_cap,)
    size_t node_cap;
    int32_t n_node;
    deal_node free_node;
    answer *answer; // (answer_cap,)
    size_t answer_cap;
    deal_lm_item *item; // (item_cap,) the batch of `inner`
    deal_node *owner;   // (item_cap,) whose item it is
    size_t item_cap;
    int32_t n_item;
    float *scratch; // (scratch_cap,)
    size_t scratch_cap;
} masked_lm;

static masked_lm *
self_of(const deal_lm *lm)
{
    return (masked_lm *)(uintptr_t)lm;
}

// --- nodes ---------------------------------------------------------------------------

static deal_node
find_child(const deal_lm *lm, deal_node parent, int32_t token)
{
    const masked_node *node = self_of(lm)->node;
    for (deal_node i = node[parent].child; i != DEAL_NODE_NONE; i = node[i].sibling)
        if (node[i].token == token)
            return i;
    return DEAL_NODE_NONE;
}

static deal_status
reserve_node(masked_lm *m, deal_error *err)
{
    if (m->free_node != DEAL_NODE_NONE)
        return DEAL_OK;
    size_t n = (size_t)m->n_node;
    if (!deal_reserve(&m->node, &m->node_cap, n, n + 1, sizeof *m->node))
        return deal_fail_memory(err, "nodes behind masks");
    return DEAL_OK;
}

// There is room. Takes over the references of `node`, and gives one.
static deal_node
put_node(masked_lm *m, masked_node node)
{
    deal_node i = m->free_node;
    if (i == DEAL_NODE_NONE)
        i = m->n_node++;
    else
        m->free_node = m->node[i].sibling;
    node.n_ref = 1;
    node.child = node.sibling = DEAL_NODE_NONE;
    node.i_inner = -1;
    if (node.parent != DEAL_NODE_NONE) {
        masked_node *above = &m->node[node.parent];
        node.sibling = above->child;
        above->child = i;
        above->n_ref++;
    }
    m->node[i] = node;
    return i;
}

static void
retain(deal_lm *lm, deal_node node)
{
    self_of(lm)->node[node].n_ref++;
}

static void
release(deal_lm *lm, deal_node i)
{
    masked_lm *m = self_of(lm);
    while (i != DEAL_NODE_NONE && --m->node[i].n_ref == 0) {
        masked_node *node = &m->node[i];
        deal_node parent = node->parent;
        m->inner->ops->release(m->inner, node->inner);
        deal_masks_release(m->masks, node->place);
        if (parent != DEAL_NODE_NONE) {
            deal_node *link = &m->node[parent].child;
            while (*link != i)
                link = &m->node[*link].sibling;
            *link = node->sibling;
        }
        node->sibling = m->free_node;
        m->free_node = i;
        i = parent;
    }
}

static deal_node
add_root(masked_lm *m, deal_node inner)
{
    return put_node(m, (masked_node){.inner = inner,
                                     .parent = DEAL_NODE_NONE,
                                     .token = -1,
                                     .place = DEAL_MASK_NONE});
}

static deal_status
root(deal_lm *lm, deal_node *out, deal_error *err)
{
    masked_lm *m = self_of(lm);
    deal_node inner;
    DEAL_TRY(reserve_node(m, err));
    DEAL_TRY(m->inner->ops->root(m->inner, &inner, err));
    *out = add_root(m, inner);
    return DEAL_OK;
}

static deal_status
controlled_root(deal_lm *lm, const deal_controls *controls, int32_t n_prompt,
                deal_node *out, deal_error *err)
{
    masked_lm *m = self_of(lm);
    deal_node inner;
    DEAL_TRY(reserve_node(m, err));
    DEAL_TRY(m->inner->ops->controlled_root(m->inner, controls, n_prompt, &inner, err));
    *out = add_root(m, inner);
    return DEAL_OK;
}

static deal_status
keep_layers(deal_lm *lm, deal_node node, const int32_t *layer, int32_t n_layer,
            deal_error *err)
{
    masked_lm *m = self_of(lm);
    return m->inner->ops->keep_layers(m->inner, m->node[node].inner, layer, n_layer,
                                      err);
}

// The child of `parent` with a reference, made where it is missing.
static deal_status
take_child(masked_lm *m, deal_node parent, int32_t token, deal_node *out,
           deal_error *err)
{
    deal_node found = find_child(&m->lm, parent, token);
    if (found != DEAL_NODE_NONE) {
        m->node[found].n_ref++;
        *out = found;
        return DEAL_OK;
    }
    DEAL_TRY(reserve_node(m, err));
    const masked_node *above = &m->node[parent];
    masked_node made = {.inner = DEAL_NODE_NONE,
                        .parent = parent,
                        .token = token,
                        .depth = above->depth + 1,
                        .place = DEAL_MASK_NONE};
    if (made.depth > m->lm.n_ctx)
        return deal_fail(err, DEAL_ERR_CONTEXT_FULL,
                         "context: expected at most %d tokens, got one more",
                         (int)m->lm.n_ctx);
    if (made.depth == m->n_prompt) {
        made.place = DEAL_MASK_ROOT;
        deal_masks_retain(m->masks, DEAL_MASK_ROOT);
    } else if (made.depth > m->n_prompt) {
        DEAL_TRY(deal_masks_child(m->masks, above->place, token, &made.place, err));
    }
    *out = put_node(m, made);
    return DEAL_OK;
}

// --- the batch of the model behind ---------------------------------------------------

static deal_status
reserve_items(masked_lm *m, size_t n, deal_error *err)
{
    if (n <= m->item_cap)
        return DEAL_OK;
    size_t n_old = (size_t)m->n_item, cap = deal_grow_cap(m->item_cap, n);
    void *block = deal_realloc(m->item, n_old, cap, sizeof *m->item);
    if (!block)
        return deal_fail_memory(err, "batch behind masks");
    m->item = block;
    block = deal_realloc(m->owner, n_old, cap, sizeof *m->owner);
    if (!block)
        return deal_fail_memory(err, "batch behind masks");
    m->owner = block;
    m->item_cap = cap;
    return DEAL_OK;
}

static deal_status
reserve_scratch(masked_lm *m, size_t n, deal_error *err)
{
    if (!deal_reserve(&m->scratch, &m->scratch_cap, 0, n, sizeof *m->scratch))
        return deal_fail_memory(err, "logits behind masks");
    return DEAL_OK;
}

// Adds an item for a node, after those of the nodes above that were put off.
static deal_status
add_item(masked_lm *m, deal_node node, deal_error *err)
{
    size_t n_chain = 1;
    deal_node above = m->node[node].parent;
    for (; m->node[above].inner == DEAL_NODE_NONE && m->node[above].i_inner < 0;
         above = m->node[above].parent)
        n_chain++;
    DEAL_TRY(reserve_items(m, (size_t)m->n_item + n_chain, err));
    deal_node i = node;
    for (size_t j = n_chain; j-- > 0; i = m->node[i].parent) {
        const masked_node *one = &m->node[i];
        size_t at = (size_t)m->n_item + j;
        m->item[at] = (deal_lm_item){.parent = m->node[one->parent].inner,
                                     .i_parent = j > 0 ? (int32_t)at - 1 : -1,
                                     .token = one->token};
        if (j == 0 && m->node[one->parent].inner == DEAL_NODE_NONE)
            m->item[at].i_parent = m->node[one->parent].i_inner;
        m->owner[at] = i;
        m->node[i].i_inner = (int32_t)at;
    }
    m->n_item += (int32_t)n_chain;
    return DEAL_OK;
}

// Whether the answer to an item is known without the model, which may wait then. The
// prompt will be needed anyway.
static bool
is_known(const deal_lm_item *item, const deal_mask *mask, int32_t place)
{
    return mask->n_token == 1 && place != DEAL_MASK_ROOT && item->top_k == 1 &&
           item->want == (DEAL_WANT_TOP_K | DEAL_WANT_IDS);
}

// Finds or makes an item's node and says how it will be answered.
static deal_status
take_item(masked_lm *m, deal_lm_item *items, int32_t i, size_t *n_scratch,
          deal_error *err)
{
    deal_lm_item *item = &items[i];
    answer *a = &m->answer[i];
    *a = (answer){.i_inner = -1, .i_scratch = *n_scratch};
    deal_node parent = item->i_parent >= 0 ? items[item->i_parent].node : item->parent;
    DEAL_TRY(take_child(m, parent, item->token, &item->node, err));
    deal_status status = DEAL_OK;
    int32_t place = m->node[item->node].place;
    bool is_masked = (item->want & (DEAL_WANT_TOP_K | DEAL_WANT_LOGITS)) != 0;
    if (is_masked && place != DEAL_MASK_NONE)
        status = deal_masks_get(m->masks, place, &a->mask, err);
    a->is_put_off = is_known(item, &a->mask, place);
    if (status == DEAL_OK && !a->is_put_off) {
        status = add_item(m, item->node, err);
        a->i_inner = m->n_item - 1;
    }
    if (status != DEAL_OK) {
        release(&m->lm, item->node);
        return status;
    }
    if (a->mask.n_token > 0 && !a->is_put_off && !(item->want & DEAL_WANT_LOGITS)) {
        bool is_list = a->mask.token && !(item->want & DEAL_WANT_TARGETS);
        *n_scratch += (size_t)(is_list ? a->mask.n_token : m->lm.n_vocab);
    }
    return DEAL_OK;
}

// What the model is asked: the logits that a masked answer is made of.
static void
ask(masked_lm *m, const deal_lm_item *item, const answer *a)
{
    deal_lm_item *to = &m->item[a->i_inner];
    deal_node parent = to->parent;
    int32_t i_parent = to->i_parent;
    *to = *item;
    to->parent = parent;
    to->i_parent = i_parent;
    if (a->mask.n_token == 0)
        return;
    to->want &= ~(uint32_t)(DEAL_WANT_TOP_K | DEAL_WANT_IDS);
    if (item->want & DEAL_WANT_LOGITS)
        return;
    float *scratch = m->scratch + a->i_scratch;
    if (a->mask.token && !(item->want & DEAL_WANT_TARGETS)) {
        to->want |= DEAL_WANT_TARGETS;
        to->targets = a->mask.token;
        to->n_target = a->mask.n_token;
        to->target_logits = scratch;
    } else {
        to->want |= DEAL_WANT_LOGITS;
        to->logits = scratch;
    }
}

// --- answers -------------------------------------------------------------------------

typedef struct ranking {
    int32_t *token; // (n_max,) by falling logit, then rising id
    float *logit;
    int32_t n, n_max;
} ranking;

// Ids come in rising order.
static void
rank(ranking *r, int32_t token, float logit)
{
    int32_t i = r->n;
    if (i == r->n_max && !(logit > r->logit[i - 1]))
        return;
    if (i == r->n_max)
        i--;
    else
        r->n++;
    for (; i > 0 && logit > r->logit[i - 1]; i--) {
        r->token[i] = r->token[i - 1];
        r->logit[i] = r->logit[i - 1];
    }
    r->token[i] = token;
    r->logit[i] = logit;
}

static deal_status
check_logit(const deal_lm_item *item, float logit, deal_error *err)
{
    return isnan(logit) ? deal_fail(err, DEAL_ERR_FORMAT,
                                    "model: its logits after token %d hold NaN or "
                                    "infinity",
                                    (int)item->token)
                        : DEAL_OK;
}

// The best allowed tokens, and forbidden ones where there are too few.
static deal_status
rank_all(const masked_lm *m, deal_lm_item *item, const answer *a, const float *logit,
         deal_error *err)
{
    ranking best = {
        .token = item->top_token, .logit = item->top_logit, .n_max = item->top_k};
    const deal_mask *mask = &a->mask;
    bool is_list = mask->token && !(item->want & DEAL_WANT_LOGITS) &&
                   !(item->want & DEAL_WANT_TARGETS);
    for (int32_t i = 0; is_list && i < mask->n_token; i++) {
        DEAL_TRY(check_logit(item, logit[i], err));
        rank(&best, mask->token[i], logit[i]);
    }
    for (int32_t i = 0; !is_list && i < m->lm.n_vocab; i++) {
        if (i % 32 == 0 && mask->bits && mask->bits[i / 32] == 0) {
            i += 31; // none of these
            continue;
        }
        if (!deal_mask_allows(mask, i))
            continue;
        DEAL_TRY(check_logit(item, logit[i], err));
        rank(&best, i, logit[i]);
    }
    if (!(best.logit[0] > -INFINITY))
        return deal_fail(err, DEAL_ERR_FORMAT,
                         "model: after token %d it gives every token that the "
                         "constraint allows the probability 0",
                         (int)item->token);
    for (int32_t i = 0; best.n < best.n_max; i++)
        if (!deal_mask_allows(mask, i)) {
            best.token[best.n] = i;
            best.logit[best.n++] = -INFINITY;
        }
    return DEAL_OK;
}

static deal_status
mask_logits(const masked_lm *m, deal_lm_item *item, const answer *a, deal_error *err)
{
    float largest = -INFINITY;
    for (int32_t i = 0; i < m->lm.n_vocab; i++) {
        if (!deal_mask_allows(&a->mask, i))
            item->logits[i] = -INFINITY;
        DEAL_TRY(check_logit(item, item->logits[i], err));
        largest = item->logits[i] > largest ? item->logits[i] : largest;
    }
    if (!(largest > -INFINITY))
        return deal_fail(err, DEAL_ERR_FORMAT,
                         "model: after token %d it gives every token that the "
                         "constraint allows the probability 0",
                         (int)item->token);
    return DEAL_OK;
}

static deal_status
answer_item(const masked_lm *m, deal_lm_item *item, const answer *a, deal_error *err)
{
    if (a->is_put_off) {
        item->top_token[0] = a->mask.token[0];
        item->top_logit[0] = 0.0f;
        return DEAL_OK;
    }
    const deal_lm_item *from = &m->item[a->i_inner];
    item->log_z = from->log_z;
    item->target_logit = from->target_logit;
    if (a->mask.n_token == 0)
        return DEAL_OK;
    bool has_logits = (item->want & DEAL_WANT_LOGITS) != 0;
    if (item->want & DEAL_WANT_TOP_K)
        DEAL_TRY(rank_all(m, item, a,
                          has_logits ? item->logits : m->scratch + a->i_scratch, err));
    return has_logits ? mask_logits(m, item, a, err) : DEAL_OK;
}

// --- extend --------------------------------------------------------------------------

// Nodes take over what the model has evaluated.
static void
take_nodes(masked_lm *m)
{
    for (int32_t i = 0; i < m->n_item; i++) {
        masked_node *node = &m->node[m->owner[i]];
        if (node->inner == DEAL_NODE_NONE)
            node->inner = m->item[i].node;
        else
            m->inner->ops->release(m->inner, m->item[i].node);
    }
}

static deal_status
evaluate(masked_lm *m, deal_lm_item *items, int32_t n_items, size_t n_scratch,
         deal_error *err)
{
    DEAL_TRY(reserve_scratch(m, n_scratch, err));
    for (int32_t i = 0; i < n_items; i++)
        if (m->answer[i].i_inner >= 0)
            ask(m, &items[i], &m->answer[i]);
    if (m->n_item == 0)
        return DEAL_OK;
    const deal_lm *inner = m->inner;
    int64_t n_tokens = inner->n_forward_tokens, n_passes = inner->n_forward_passes;
    int64_t n_recalled = inner->n_recalled_tokens, n_company = inner->n_company_tokens;
    deal_status status = inner->ops->extend(m->inner, m->item, m->n_item, err);
    m->lm.n_forward_tokens += inner->n_forward_tokens - n_tokens;
    m->lm.n_forward_passes += inner->n_forward_passes - n_passes;
    m->lm.n_recalled_tokens += inner->n_recalled_tokens - n_recalled;
    m->lm.n_company_tokens += inner->n_company_tokens - n_company;
    DEAL_TRY(status);
    take_nodes(m);
    return DEAL_OK;
}

static deal_status
extend(deal_lm *lm, deal_lm_item *items, int32_t n_items, deal_error *err)
{
    masked_lm *m = self_of(lm);
    size_t n = (size_t)n_items;
    if (!deal_reserve(&m->answer, &m->answer_cap, 0, n, sizeof *m->answer))
        return deal_fail_memory(err, "batch behind masks");
    size_t n_scratch = 0;
    int32_t n_taken = 0;
    deal_status status = DEAL_OK;
    m->n_item = 0;
    for (; n_taken < n_items && status == DEAL_OK; n_taken++)
        status = take_item(m, items, n_taken, &n_scratch, err);
    n_taken -= status != DEAL_OK;
    if (status == DEAL_OK)
        status = evaluate(m, items, n_items, n_scratch, err);
    for (int32_t i = 0; i < m->n_item; i++)
        m->node[m->owner[i]].i_inner = -1;
    for (int32_t i = 0; i < n_items && status == DEAL_OK; i++)
        status = answer_item(m, &items[i], &m->answer[i], err);
    for (int32_t i = 0; i < n_taken && status != DEAL_OK; i++)
        release(lm, items[i].node);
    return status;
}

// --- new and free --------------------------------------------------------------------

deal_status
deal_masked_lm_new(deal_lm *lm, deal_masks *masks, int32_t n_prompt, deal_lm **out,
                   deal_error *err)
{
    masked_lm *m = deal_alloc_zero(1, sizeof *m);
    if (!m)
        return deal_fail_memory(err, "model behind masks");
    m->ops = (deal_lm_ops){
        .root = root,
        .extend = extend,
        .controlled_root = lm->ops->controlled_root ? controlled_root : NULL,
        .keep_layers = lm->ops->keep_layers ? keep_layers : NULL,
        .retain = retain,
        .release = release,
        .child = find_child,
    };
    m->lm = *lm;
    m->lm.ops = &m->ops;
    m->inner = lm;
    m->masks = masks;
    m->n_prompt = n_prompt;
    m->free_node = DEAL_NODE_NONE;
    *out = &m->lm;
    return DEAL_OK;
}

void
deal_masked_lm_free(deal_lm *lm)
{
    if (!lm)
        return;
    masked_lm *m = self_of(lm);
    deal_free(m->node);
    deal_free(m->answer);
    deal_free(m->item);
    deal_free(m->owner);
    deal_free(m->scratch);
    deal_free(m);
}

int32_t
deal_masked_lm_place(const deal_lm *lm, deal_node node)
{
    return self_of(lm)->node[node].place;
}
