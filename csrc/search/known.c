#include "search/known.h"

#include <string.h>

#include "common/alloc.h"

#define MEMORY 0.99 // that the counts of entries ahead keep with every new one
#define N_PRIOR 4.0 // before any came out, as if this many had as hoped

void
deal_known_init(deal_known *known, deal_lm *lm, int32_t n_top_max)
{
    *known =
        (deal_known){.lm = lm, .n_top_max = n_top_max, .free_entry = DEAL_KNOWN_NONE};
}

// What came of an entry that was evaluated ahead.
static void
count_ahead(deal_known *known, deal_known_entry *entry, bool is_needed)
{
    deal_ahead ahead = entry->ahead;
    if (ahead == DEAL_AHEAD_NOT)
        return;
    known->n_in_vain += !is_needed;
    known->n_needed[ahead] = MEMORY * known->n_needed[ahead] + (is_needed ? 1.0 : 0.0);
    known->n_hoped[ahead] = MEMORY * known->n_hoped[ahead] + (double)entry->chance;
    entry->ahead = DEAL_AHEAD_NOT;
}

void
deal_known_need(deal_known *known, int32_t i)
{
    count_ahead(known, &known->entry[i], true);
}

double
deal_known_luck(const deal_known *known, deal_ahead ahead)
{
    return (known->n_needed[ahead] + N_PRIOR) / (known->n_hoped[ahead] + N_PRIOR);
}

static void
free_entry(deal_known *known, int32_t i)
{
    deal_known_entry *entry = &known->entry[i];
    known->lm->ops->release(known->lm, entry->node);
    count_ahead(known, entry, false);
    known->n_live--;
    entry->node = DEAL_NODE_NONE;
    entry->sibling = known->free_entry;
    known->free_entry = i;
}

void
deal_known_free(deal_known *known)
{
    for (int32_t i = 0; i < known->n_entry; i++)
        if (known->entry[i].node != DEAL_NODE_NONE)
            free_entry(known, i);
    deal_free(known->entry);
    deal_free(known->top_token);
    deal_free(known->top_logit);
    deal_free(known->stack);
    *known = (deal_known){0};
}

deal_status
deal_known_reserve(deal_known *known, int32_t n, deal_error *err)
{
    size_t n_used = (size_t)known->n_entry, n_all = (size_t)known->n_live + (size_t)n;
    if (n_all <= known->entry_cap)
        return DEAL_OK;
    size_t k = (size_t)known->n_top_max, cap = deal_grow_cap(known->entry_cap, n_all);
    void *block = deal_realloc(known->entry, n_used, cap, sizeof *known->entry);
    if (!block)
        return deal_fail_memory(err, "known contexts");
    known->entry = block;
    block = deal_realloc(known->top_token, n_used, cap, k * sizeof *known->top_token);
    if (!block)
        return deal_fail_memory(err, "known contexts");
    known->top_token = block;
    block = deal_realloc(known->top_logit, n_used, cap, k * sizeof *known->top_logit);
    if (!block)
        return deal_fail_memory(err, "known contexts");
    known->top_logit = block;
    block = deal_realloc(known->stack, 0, cap, sizeof *known->stack);
    if (!block)
        return deal_fail_memory(err, "known contexts");
    known->stack = block;
    known->entry_cap = cap;
    return DEAL_OK;
}

static void
put_top(deal_known *known, int32_t i, int32_t n_top, const int32_t *top_token,
        const float *top_logit)
{
    size_t at = (size_t)i * (size_t)known->n_top_max, n = (size_t)n_top;
    memcpy(known->top_token + at, top_token, n * sizeof *top_token);
    memcpy(known->top_logit + at, top_logit, n * sizeof *top_logit);
    known->entry[i].n_top = n_top;
}

int32_t
deal_known_add(deal_known *known, int32_t parent, int32_t token, deal_node node,
               int32_t n_top, const int32_t *top_token, const float *top_logit,
               float log_z)
{
    int32_t i = known->free_entry;
    if (i != DEAL_KNOWN_NONE)
        known->free_entry = known->entry[i].sibling;
    else
        i = known->n_entry++;
    known->entry[i] = (deal_known_entry){.node = node,
                                         .token = token,
                                         .parent = parent,
                                         .child = DEAL_KNOWN_NONE,
                                         .sibling = DEAL_KNOWN_NONE,
                                         .log_z = log_z};
    if (parent != DEAL_KNOWN_NONE) {
        known->entry[i].sibling = known->entry[parent].child;
        known->entry[parent].child = i;
    }
    put_top(known, i, n_top, top_token, top_logit);
    known->n_live++;
    return i;
}

void
deal_known_fill(deal_known *known, int32_t i, const int32_t *top_token,
                const float *top_logit, float log_z)
{
    put_top(known, i, known->n_top_max, top_token, top_logit);
    known->entry[i].log_z = log_z;
}

int32_t
deal_known_child(const deal_known *known, int32_t i, int32_t token)
{
    int32_t child = known->entry[i].child;
    while (child != DEAL_KNOWN_NONE && known->entry[child].token != token)
        child = known->entry[child].sibling;
    return child;
}

int32_t
deal_known_best(const deal_known *known, int32_t i)
{
    return known->top_token[(size_t)i * (size_t)known->n_top_max];
}

double
deal_known_best_logprob(const deal_known *known, int32_t i)
{
    float logit = known->top_logit[(size_t)i * (size_t)known->n_top_max];
    return (double)logit - (double)known->entry[i].log_z;
}

// Marks an entry and all below it.
static void
keep(deal_known *known, int32_t root)
{
    int32_t n = 0;
    known->stack[n++] = root;
    while (n > 0) {
        deal_known_entry *entry = &known->entry[known->stack[--n]];
        entry->is_kept = true;
        for (int32_t i = entry->child; i != DEAL_KNOWN_NONE;
             i = known->entry[i].sibling)
            known->stack[n++] = i;
    }
}

// Takes the entries that are marked to be kept no longer out of their parents' lists.
static void
unlink_marked(deal_known *known)
{
    for (int32_t i = 0; i < known->n_entry; i++) {
        deal_known_entry *entry = &known->entry[i];
        int32_t *link = &entry->child;
        while (entry->node != DEAL_NODE_NONE && *link != DEAL_KNOWN_NONE) {
            deal_known_entry *child = &known->entry[*link];
            if (child->is_kept)
                *link = child->sibling;
            else
                link = &child->sibling;
        }
    }
}

void
deal_known_shed(deal_known *known)
{
    for (int32_t i = 0; i < known->n_entry; i++)
        if (known->entry[i].node != DEAL_NODE_NONE &&
            known->entry[i].ahead != DEAL_AHEAD_NOT)
            keep(known, i); // of these marks, what goes
    unlink_marked(known);
    for (int32_t i = 0; i < known->n_entry; i++) {
        if (known->entry[i].is_kept)
            free_entry(known, i);
        known->entry[i].is_kept = false;
    }
}

void
deal_known_trim(deal_known *known, const int32_t *root, int32_t n_root, bool is_deep)
{
    for (int32_t i = 0; i < n_root; i++) {
        if (!is_deep)
            known->entry[root[i]].child = DEAL_KNOWN_NONE;
        keep(known, root[i]);
    }
    for (int32_t i = 0; i < n_root; i++) {
        deal_known_entry *entry = &known->entry[root[i]];
        bool has_parent = is_deep && entry->parent != DEAL_KNOWN_NONE;
        if (!has_parent || !known->entry[entry->parent].is_kept)
            entry->parent = entry->sibling = DEAL_KNOWN_NONE; // those go
    }
    for (int32_t i = 0; i < known->n_entry; i++) {
        deal_known_entry *entry = &known->entry[i];
        if (entry->node != DEAL_NODE_NONE && !entry->is_kept)
            free_entry(known, i);
        entry->is_kept = false;
    }
}
