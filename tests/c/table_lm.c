#include "table_lm.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/alloc.h"
#include "common/rng.h"

static deal_table_lm *
table_of(const deal_lm *lm)
{
    return (deal_table_lm *)(uintptr_t)lm;
}

static deal_node
find_child(const deal_lm *lm, deal_node parent, int32_t token)
{
    const deal_table_node *node = table_of(lm)->node;
    for (deal_node i = node[parent].first_child; i != DEAL_NODE_NONE; i = node[i].next)
        if (node[i].token == token)
            return i;
    return DEAL_NODE_NONE;
}

static deal_status
add_node(deal_table_lm *t, deal_node parent, int32_t token, deal_node *out,
         deal_error *err)
{
    deal_node i = t->free_node;
    if (i != DEAL_NODE_NONE) {
        t->free_node = t->node[i].next;
    } else {
        if (t->n_node == t->node_cap) {
            size_t cap = deal_grow_cap((size_t)t->node_cap, (size_t)t->n_node + 1);
            deal_table_node *node =
                deal_realloc(t->node, (size_t)t->n_node, cap, sizeof *node);
            if (!node)
                return deal_fail_memory(err, "trie");
            t->node = node;
            t->node_cap = (int32_t)cap;
        }
        i = t->n_node++;
    }
    t->node[i] = (deal_table_node){
        .parent = parent, .token = token, .n_ref = 1, .first_child = DEAL_NODE_NONE};
    t->n_live++;
    if (parent == DEAL_NODE_NONE) {
        t->node[i].next = DEAL_NODE_NONE;
    } else {
        deal_table_node *p = &t->node[parent];
        t->node[i].depth = p->depth + 1;
        t->node[i].next = p->first_child;
        p->first_child = i;
        p->n_child++;
    }
    *out = i;
    return DEAL_OK;
}

static deal_status
add_root(deal_lm *lm, deal_node *root, deal_error *err)
{
    table_of(lm)->n_kept = 0;
    return add_node(table_of(lm), DEAL_NODE_NONE, -1, root, err);
}

static void
retain(deal_lm *lm, deal_node node)
{
    table_of(lm)->node[node].n_ref++;
}

static void
release(deal_lm *lm, deal_node i)
{
    deal_table_lm *t = table_of(lm);
    if (i == DEAL_NODE_NONE)
        return;
    t->node[i].n_ref--;
    while (i != DEAL_NODE_NONE && t->node[i].n_ref == 0 && t->node[i].n_child == 0) {
        deal_node parent = t->node[i].parent;
        if (parent != DEAL_NODE_NONE) {
            deal_node *link = &t->node[parent].first_child;
            while (*link != i)
                link = &t->node[*link].next;
            *link = t->node[i].next;
            t->node[parent].n_child--;
        }
        t->node[i].n_ref = -1000000; // a use after this shows
        t->node[i].next = t->free_node;
        t->free_node = i;
        t->n_live--;
        i = parent;
    }
}

static const float *
logits_of(const deal_table_lm *t, deal_node i)
{
    size_t n_digit = (size_t)t->lm.n_vocab + 1, at = 0, place = 1;
    for (int32_t j = 0; j < t->n_back; j++, place *= n_digit) {
        bool has_token = t->node[i].parent != DEAL_NODE_NONE;
        at += place * (size_t)(has_token ? t->node[i].token : t->lm.n_vocab);
        i = has_token ? t->node[i].parent : i;
    }
    return t->table + at * (size_t)t->lm.n_vocab;
}

// FNV-1a, 32 bits, of a number's four bytes.
static uint32_t
hash_word(uint32_t hash, uint32_t word)
{
    for (int i = 0; i < 4; i++)
        hash = (hash ^ (word >> 8 * i & 255u)) * 16777619u;
    return hash;
}

// From the last token back to the first.
static uint32_t
hash_path(const deal_table_lm *t, deal_node i)
{
    uint32_t hash = 2166136261u;
    for (; t->node[i].parent != DEAL_NODE_NONE; i = t->node[i].parent)
        hash = hash_word(hash, (uint32_t)t->node[i].token);
    return hash;
}

static void
write_states(const deal_table_lm *t, deal_lm_item *item, bool is_nan)
{
    static const int32_t final = -1;
    const int32_t *layer = t->n_kept > 0 ? t->kept : &final;
    int32_t n_layer = t->n_kept > 0 ? t->n_kept : 1;
    uint32_t path = hash_path(t, item->node);
    float *to = item->hidden;
    for (int32_t l = 0; l < n_layer; l++)
        for (int32_t d = 0; d < t->lm.n_embd; d++) {
            uint32_t hash = hash_word(hash_word(path, (uint32_t)layer[l]), (uint32_t)d);
            *to++ = is_nan ? NAN : (float)((hash >> 13) % 9) / 4.0f - 1.0f;
        }
}

static deal_status
keep_layers(deal_lm *lm, deal_node root, const int32_t *layer, int32_t n_layer,
            deal_error *err)
{
    deal_table_lm *t = table_of(lm);
    if (n_layer > DEAL_TABLE_LAYERS + 1 || t->node[root].n_child > 0)
        return deal_fail(err, DEAL_ERR_INVALID_ARG, "table lm: layers");
    memcpy(t->kept, layer, (size_t)n_layer * sizeof *layer);
    t->n_kept = n_layer;
    return DEAL_OK;
}

static void
answer(const deal_table_lm *t, deal_lm_item *item, bool is_nan)
{
    const float *logits = logits_of(t, item->node);
    size_t n = (size_t)t->lm.n_vocab;
    double top = (double)logits[0], sum = 0.0;
    for (size_t i = 1; i < n; i++)
        top = (double)logits[i] > top ? (double)logits[i] : top;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - top);
    item->log_z = is_nan ? NAN : (float)(top + log(sum));
    if (item->want & DEAL_WANT_HIDDEN)
        write_states(t, item, is_nan);
    if (item->want & DEAL_WANT_TARGET)
        item->target_logit = logits[item->target];
    for (int32_t i = 0; (item->want & DEAL_WANT_TARGETS) && i < item->n_target; i++)
        item->target_logits[i] = logits[item->targets[i]];
    if (item->want & DEAL_WANT_LOGITS)
        memcpy(item->logits, logits, n * sizeof *logits);
    if (!(item->want & DEAL_WANT_TOP_K))
        return;
    for (int32_t j = 0; j < item->top_k; j++) { // the best after the one before
        int32_t best = -1;
        for (int32_t i = 0; i < t->lm.n_vocab; i++) {
            int32_t last = j > 0 ? item->top_token[j - 1] : -1;
            bool is_left = j == 0 || logits[i] < logits[last] ||
                           (logits[i] == logits[last] && i > last);
            if (is_left && (best < 0 || logits[i] > logits[best]))
                best = i;
        }
        item->top_token[j] = best;
        item->top_logit[j] = is_nan ? NAN : logits[best];
    }
}

static deal_status
take_node(deal_table_lm *t, deal_lm_item *items, int32_t i, bool *is_new,
          deal_error *err)
{
    deal_lm_item *item = &items[i];
    deal_node parent = item->i_parent >= 0 ? items[item->i_parent].node : item->parent;
    if (t->node[parent].n_ref < 0)
        return deal_fail(err, DEAL_ERR_INVALID_ARG, "table lm: item %d: dead parent",
                         i);
    if (t->node[parent].depth >= t->lm.n_ctx)
        return deal_fail(err, DEAL_ERR_CONTEXT_FULL, "table lm: context of %d is full",
                         t->lm.n_ctx);
    deal_node node = find_child(&t->lm, parent, item->token);
    *is_new = node == DEAL_NODE_NONE;
    if (*is_new)
        return add_node(t, parent, item->token, &item->node, err);
    t->node[node].n_ref++;
    item->node = node;
    return DEAL_OK;
}

static deal_status
extend(deal_lm *lm, deal_lm_item *items, int32_t n_items, deal_error *err)
{
    deal_table_lm *t = table_of(lm);
    t->n_extend++;
    bool is_nan = t->nan_in && --t->nan_in == 0;
    if (t->fail_in && --t->fail_in == 0)
        return deal_fail(err, t->is_full ? DEAL_ERR_KV_BUDGET : DEAL_ERR_IO,
                         "table lm: told to fail");
    int32_t n_done = 0, n_new = 0;
    deal_status status = DEAL_OK;
    for (; n_done < n_items && status == DEAL_OK; n_done++) {
        bool is_new = false;
        status = take_node(t, items, n_done, &is_new, err);
        n_new += is_new && status == DEAL_OK;
    }
    if (status != DEAL_OK) {
        for (int32_t i = n_done - 1; i-- > 0;)
            release(lm, items[i].node);
        return status;
    }
    for (int32_t i = 0; i < n_items; i++)
        answer(t, &items[i], is_nan);
    lm->n_forward_tokens += n_new;
    lm->n_forward_passes += n_new > 0;
    return DEAL_OK;
}

static const deal_lm_ops table_ops = {
    .root = add_root,
    .keep_layers = keep_layers,
    .extend = extend,
    .retain = retain,
    .release = release,
    .child = find_child,
};

deal_status
deal_table_lm_new(int32_t n_vocab, int32_t n_ctx, int32_t n_back, const float *table,
                  uint64_t seed, deal_table_lm **out, deal_error *err)
{
    size_t n_context = 1;
    for (int32_t i = 0; i < n_back; i++)
        n_context *= (size_t)n_vocab + 1;
    deal_table_lm *t = deal_alloc_zero(1, sizeof *t);
    float *copy = deal_alloc(n_context * (size_t)n_vocab, sizeof *copy);
    if (!t || !copy) {
        deal_free(t);
        deal_free(copy);
        return deal_fail_memory(err, "table lm");
    }
    for (size_t i = 0; i < n_context * (size_t)n_vocab; i++) {
        double u = deal_rng_uniform(seed, 0, i);
        copy[i] = table ? table[i] : (float)floor(u * 17.0) / 2.0f - 4.0f;
    }
    t->lm = (deal_lm){.ops = &table_ops, .n_vocab = n_vocab, .n_ctx = n_ctx};
    t->n_back = n_back;
    t->n_context = n_context;
    t->table = copy;
    t->free_node = DEAL_NODE_NONE;
    *out = t;
    return DEAL_OK;
}

void
deal_table_lm_set_states(deal_table_lm *t, int32_t n_embd)
{
    t->lm.n_embd = n_embd;
    t->lm.n_layer = DEAL_TABLE_LAYERS;
}

void
deal_table_lm_free(deal_table_lm *t)
{
    if (!t)
        return;
    deal_free(t->node);
    deal_free(t->table);
    deal_free(t);
}
