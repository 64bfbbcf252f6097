#include "model/trie.h"

#include <assert.h>
#include <string.h>

#include "common/alloc.h"

void
deal_trie_init(deal_trie *trie, int32_t n_layer, int32_t n_head_kv, int32_t head_dim,
               int32_t n_embd, deal_kv_type kv_type, size_t budget)
{
    *trie = (deal_trie){.free_node = DEAL_NODE_NONE,
                        .free_set = -1,
                        .n_layer = n_layer,
                        .n_head_kv = n_head_kv,
                        .head_pad = DEAL_HEAD_PAD(head_dim),
                        .n_embd = n_embd,
                        .kv_type = kv_type,
                        .budget = budget ? budget : SIZE_MAX};
}

static void
free_kept(deal_trie *trie)
{
    for (int32_t i = 0; trie->kept_size > 0 && i < trie->n_page; i++) {
        deal_free(trie->kept[i].state);
        trie->kept[i] = (deal_trie_kept){0};
    }
    trie->kept_size = 0;
}

void
deal_trie_free(deal_trie *trie)
{
    free_kept(trie);
    for (int32_t i = 0; i < trie->n_page; i++)
        deal_free(trie->page[i]);
    for (int32_t i = 0; i < trie->set_cap; i++)
        deal_free(trie->set[i].layer);
    deal_free(trie->page);
    deal_free(trie->kept);
    deal_free(trie->node);
    deal_free(trie->set);
    trie->page = NULL;
    trie->kept = NULL;
    trie->node = NULL;
    trie->set = NULL;
    trie->n_page = trie->set_cap = 0;
}

static size_t
number_size(const deal_trie *trie)
{
    return trie->kv_type == DEAL_KV_F16 ? sizeof(uint16_t) : sizeof(float);
}

// Bytes of a page before its hidden states.
static size_t
hidden_offset(const deal_trie *trie)
{
    return deal_trie_key_offset(trie, trie->n_layer, 0) * number_size(trie);
}

size_t
deal_trie_page_size(const deal_trie *trie)
{
    return hidden_offset(trie) +
           (size_t)DEAL_PAGE_LEN * (size_t)trie->n_embd * sizeof(float);
}

size_t
deal_trie_kv_size(const deal_trie *trie)
{
    return (size_t)trie->n_page * deal_trie_page_size(trie);
}

static deal_status
check_budget(const deal_trie *trie, deal_error *err)
{
    size_t held = deal_trie_kv_size(trie), needed = deal_trie_page_size(trie);
    if (held <= trie->budget && needed <= trie->budget - held)
        return DEAL_OK;
    return deal_fail(err, DEAL_ERR_KV_BUDGET,
                     "kv_budget: expected at most %zu bytes of KV cells, got %zu held "
                     "for %d nodes and %zu needed for up to %d more",
                     trie->budget, held, trie->n_live, needed, DEAL_PAGE_LEN);
}

static deal_status
grow(deal_trie *trie, deal_error *err)
{
    if (trie->n_page == INT32_MAX / DEAL_PAGE_LEN)
        return deal_fail_memory(err, "KV cells");
    DEAL_TRY(check_budget(trie, err));
    if (trie->n_page == trie->page_cap) {
        size_t old = (size_t)trie->page_cap;
        size_t cap = deal_grow_cap(old, old + 1);
        unsigned char **page = deal_realloc(trie->page, old, cap, sizeof *page);
        if (!page)
            return deal_fail_memory(err, "KV pages");
        trie->page = page;
        deal_trie_kept *kept = deal_realloc(trie->kept, old, cap, sizeof *kept);
        if (!kept)
            return deal_fail_memory(err, "KV pages");
        trie->kept = kept;
        deal_trie_node *node = deal_realloc(trie->node, old * DEAL_PAGE_LEN,
                                            cap * DEAL_PAGE_LEN, sizeof *node);
        if (!node)
            return deal_fail_memory(err, "trie nodes");
        trie->node = node;
        trie->page_cap = (int32_t)cap;
    }
    unsigned char *page = deal_alloc_zero(1, deal_trie_page_size(trie));
    if (!page)
        return deal_fail_memory(err, "KV page");
    trie->kept[trie->n_page] = (deal_trie_kept){0};
    trie->page[trie->n_page++] = page; // what is padding there stays 0
    return DEAL_OK;
}

static deal_status
take_node(deal_trie *trie, deal_node *out, deal_error *err)
{
    if (trie->free_node != DEAL_NODE_NONE) {
        *out = trie->free_node;
        trie->free_node = trie->node[*out].parent;
    } else {
        if (trie->n_node == trie->n_page * DEAL_PAGE_LEN)
            DEAL_TRY(grow(trie, err));
        *out = trie->n_node++;
    }
    trie->n_live++;
    trie->node[*out] = (deal_trie_node){.parent = DEAL_NODE_NONE,
                                        .first_child = DEAL_NODE_NONE,
                                        .next_sibling = DEAL_NODE_NONE,
                                        .token = -1,
                                        .n_ref = 1,
                                        .depth = 0,
                                        .i_set = -1};
    return DEAL_OK;
}

static deal_status
take_set(deal_trie *trie, const deal_controls *controls, int32_t n_prompt, int32_t *out,
         deal_error *err)
{
    if (trie->free_set < 0) {
        size_t old = (size_t)trie->set_cap, cap = deal_grow_cap(old, old + 1);
        deal_trie_set *set = deal_realloc(trie->set, old, cap, sizeof *set);
        if (!set)
            return deal_fail_memory(err, "controls of roots");
        for (size_t i = old; i < cap; i++)
            set[i] = (deal_trie_set){.n_prompt = i + 1 < cap ? (int32_t)i + 1 : -1};
        trie->set = set;
        trie->free_set = (int32_t)old;
        trie->set_cap = (int32_t)cap;
    }
    *out = trie->free_set;
    trie->free_set = trie->set[*out].n_prompt;
    trie->set[*out] = (deal_trie_set){.controls = controls, .n_prompt = n_prompt};
    trie->n_set++;
    return DEAL_OK;
}

static void
release_set(deal_trie *trie, int32_t i_set)
{
    deal_free(trie->set[i_set].layer);
    trie->set[i_set] = (deal_trie_set){.n_prompt = trie->free_set};
    trie->free_set = i_set;
    trie->n_set--;
}

deal_status
deal_trie_root(deal_trie *trie, const deal_controls *controls, int32_t n_prompt,
               deal_node *out, deal_error *err)
{
    deal_node root;
    DEAL_TRY(take_node(trie, &root, err));
    if (controls) {
        deal_status status =
            take_set(trie, controls, n_prompt, &trie->node[root].i_set, err);
        if (status != DEAL_OK) {
            deal_trie_release(trie, root);
            return status;
        }
    }
    *out = root;
    return DEAL_OK;
}

// --- layers that are kept ------------------------------------------------------------

deal_status
deal_trie_keep(deal_trie *trie, deal_node root, const int32_t *layer, int32_t n_layer,
               deal_error *err)
{
    assert(trie->node[root].first_child == DEAL_NODE_NONE);
    int32_t *copy = deal_alloc((size_t)n_layer, sizeof *copy);
    if (!copy)
        return deal_fail_memory(err, "layers that a root keeps");
    memcpy(copy, layer, (size_t)n_layer * sizeof *copy);
    int32_t i_set = trie->node[root].i_set;
    deal_status status = DEAL_OK;
    if (i_set < 0)
        status = take_set(trie, NULL, 0, &i_set, err);
    if (status != DEAL_OK) {
        deal_free(copy);
        return status;
    }
    trie->node[root].i_set = i_set;
    deal_free(trie->set[i_set].layer);
    trie->set[i_set].layer = copy;
    trie->set[i_set].n_layer = n_layer;
    return DEAL_OK;
}

// Makes room in a node's page for the states of `n_layer` layers.
static deal_status
reserve_kept(deal_trie *trie, deal_node node, int32_t n_layer, deal_error *err)
{
    deal_trie_kept *kept = &trie->kept[node / DEAL_PAGE_LEN];
    if (n_layer <= kept->n_layer)
        return DEAL_OK;
    size_t n_embd = (size_t)trie->n_embd, old = (size_t)kept->n_layer * n_embd;
    size_t row = (size_t)n_layer * n_embd;
    float *state = deal_alloc(DEAL_PAGE_LEN, row * sizeof *state);
    if (!state)
        return deal_fail_memory(err, "hidden states of layers");
    for (size_t i = 0; old > 0 && i < DEAL_PAGE_LEN; i++)
        memcpy(state + i * row, kept->state + i * old, old * sizeof *state);
    deal_free(kept->state);
    trie->kept_size += DEAL_PAGE_LEN * (row - old) * sizeof *state;
    *kept = (deal_trie_kept){.state = state, .n_layer = n_layer};
    return DEAL_OK;
}

const deal_trie_set *
deal_trie_set_of(const deal_trie *trie, deal_node node)
{
    int32_t i_set = trie->node[node].i_set;
    return i_set < 0 ? NULL : &trie->set[i_set];
}

float *
deal_trie_state(const deal_trie *trie, deal_node node, int32_t i_kept)
{
    const deal_trie_kept *kept = &trie->kept[node / DEAL_PAGE_LEN];
    size_t i = (size_t)(node % DEAL_PAGE_LEN) * (size_t)kept->n_layer + (size_t)i_kept;
    if (deal_trie_set_of(trie, node)->layer[i_kept] < 0)
        return deal_trie_hidden(trie, node);
    return kept->state + i * (size_t)trie->n_embd;
}

// --- nodes ---------------------------------------------------------------------------

deal_status
deal_trie_add(deal_trie *trie, deal_node parent, int32_t token, deal_node *out,
              deal_error *err)
{
    deal_node i_node;
    DEAL_TRY(take_node(trie, &i_node, err));
    const deal_trie_set *set = deal_trie_set_of(trie, parent);
    if (set && set->n_layer > 0) {
        deal_status status = reserve_kept(trie, i_node, set->n_layer, err);
        if (status != DEAL_OK) {
            deal_trie_release(trie, i_node);
            return status;
        }
    }
    deal_trie_node *node = &trie->node[i_node];
    deal_trie_node *above = &trie->node[parent];
    node->parent = parent;
    node->token = token;
    node->depth = above->depth + 1;
    node->i_set = above->i_set;
    node->next_sibling = above->first_child;
    above->first_child = i_node;
    above->n_ref++;
    *out = i_node;
    return DEAL_OK;
}

deal_node
deal_trie_child(const deal_trie *trie, deal_node parent, int32_t token)
{
    deal_node i_child = trie->node[parent].first_child;
    while (i_child != DEAL_NODE_NONE && trie->node[i_child].token != token)
        i_child = trie->node[i_child].next_sibling;
    return i_child;
}

void
deal_trie_retain(deal_trie *trie, deal_node node)
{
    assert(deal_trie_is_live(trie, node));
    trie->node[node].n_ref++;
}

static void
unlink_child(deal_trie *trie, deal_node parent, deal_node child)
{
    deal_node *link = &trie->node[parent].first_child;
    while (*link != child)
        link = &trie->node[*link].next_sibling;
    *link = trie->node[child].next_sibling;
}

// Once there is no node left.
static void
empty(deal_trie *trie)
{
    trie->n_node = 0;
    trie->free_node = DEAL_NODE_NONE;
    free_kept(trie);
    while (trie->n_page > DEAL_PAGE_KEEP)
        deal_free(trie->page[--trie->n_page]);
}

// Frees upwards: a parent held by this child alone goes with it.
void
deal_trie_release(deal_trie *trie, deal_node i_node)
{
    while (i_node != DEAL_NODE_NONE) {
        deal_trie_node *node = &trie->node[i_node];
        assert(node->n_ref > 0);
        if (--node->n_ref > 0)
            return;
        deal_node parent = node->parent;
        if (parent != DEAL_NODE_NONE)
            unlink_child(trie, parent, i_node);
        else if (node->i_set >= 0)
            release_set(trie, node->i_set);
        node->parent = trie->free_node;
        trie->free_node = i_node;
        trie->n_live--;
        i_node = parent;
    }
    if (trie->n_live == 0)
        empty(trie);
}

int
deal_trie_is_live(const deal_trie *trie, deal_node node)
{
    return node >= 0 && node < trie->n_node && trie->node[node].n_ref > 0;
}

void *
deal_trie_cell(const deal_trie *trie, deal_node node)
{
    size_t i = (size_t)(node % DEAL_PAGE_LEN) * (size_t)trie->head_pad;
    return trie->page[node / DEAL_PAGE_LEN] + i * number_size(trie);
}

size_t
deal_trie_key_offset(const deal_trie *trie, int32_t i_layer, int32_t i_head_kv)
{
    size_t i = (size_t)i_layer * (size_t)trie->n_head_kv + (size_t)i_head_kv;
    return i * 2 * DEAL_PAGE_LEN * (size_t)trie->head_pad;
}

size_t
deal_trie_value_offset(const deal_trie *trie, int32_t i_layer, int32_t i_head_kv)
{
    return deal_trie_key_offset(trie, i_layer, i_head_kv) +
           DEAL_PAGE_LEN * (size_t)trie->head_pad;
}

float *
deal_trie_hidden(const deal_trie *trie, deal_node node)
{
    void *hidden = trie->page[node / DEAL_PAGE_LEN] + hidden_offset(trie);
    return (float *)hidden + (size_t)(node % DEAL_PAGE_LEN) * (size_t)trie->n_embd;
}

size_t
deal_trie_size(const deal_trie *trie)
{
    return deal_trie_kv_size(trie) +
           (size_t)trie->page_cap * (sizeof *trie->page + sizeof *trie->kept +
                                     DEAL_PAGE_LEN * sizeof *trie->node) +
           trie->kept_size + (size_t)trie->set_cap * sizeof *trie->set;
}
