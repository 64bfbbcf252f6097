#include "reward/hash_trie.h"

#include <string.h>

#include "common/alloc.h"

#define BITS 4 // log2 of the width
#define DEPTH_MAX (64 / BITS)

void
deal_hash_pool_free(deal_hash_pool *pool)
{
    deal_free(pool->node);
    *pool = (deal_hash_pool){0};
}

// The branch of `value` at a depth: from the highest bits down; the lowest one is used
// up last, where two members that differ have parted.
static size_t
branch_of(uint64_t value, int depth)
{
    return (size_t)(value >> (64 - BITS * (depth + 1))) & (DEAL_HASH_TRIE_WIDTH - 1);
}

static bool
is_node(uint64_t slot)
{
    return slot && !(slot & 1);
}

bool
deal_hash_trie_has(const deal_hash_pool *pool, uint32_t set, uint64_t value)
{
    value |= 1;
    for (int depth = 0; set; depth++) {
        uint64_t slot = pool->node[set].slot[branch_of(value, depth)];
        if (!is_node(slot))
            return slot == value;
        set = (uint32_t)(slot >> 1);
    }
    return false;
}

// Room for `n` more nodes, so that what follows cannot fail halfway.
static bool
reserve(deal_hash_pool *pool, size_t n)
{
    size_t n_wanted = pool->n_node + n + 1;
    if (n_wanted <= pool->node_cap)
        return true;
    if (n_wanted > UINT32_MAX)
        return false;
    size_t cap = deal_grow_cap(pool->node_cap, n_wanted);
    deal_hash_node *node =
        deal_realloc(pool->node, pool->node_cap, cap, sizeof *pool->node);
    if (!node)
        return false;
    pool->node = node;
    pool->node_cap = cap;
    if (!pool->n_node)
        pool->n_node = 1;
    return true;
}

// A node with one owner; its slots are not set.
static uint32_t
take_node(deal_hash_pool *pool)
{
    uint32_t i = pool->first_free;
    if (i)
        pool->first_free = pool->node[i].n_owner;
    else
        i = (uint32_t)pool->n_node++;
    pool->node[i].n_owner = 1;
    return i;
}

// The node itself where one set alone leads to it, else a copy in its place.
static uint32_t
own(deal_hash_pool *pool, uint32_t i)
{
    if (pool->node[i].n_owner == 1)
        return i;
    uint32_t copy = take_node(pool);
    memcpy(pool->node[copy].slot, pool->node[i].slot, sizeof pool->node[i].slot);
    for (int b = 0; b < DEAL_HASH_TRIE_WIDTH; b++)
        if (is_node(pool->node[i].slot[b]))
            pool->node[pool->node[i].slot[b] >> 1].n_owner++;
    pool->node[i].n_owner--;
    return copy;
}

static uint32_t
empty_node(deal_hash_pool *pool)
{
    uint32_t i = take_node(pool);
    memset(pool->node[i].slot, 0, sizeof pool->node[i].slot);
    return i;
}

bool
deal_hash_trie_add(deal_hash_pool *pool, uint32_t *set, uint64_t value)
{
    value |= 1;
    if (!reserve(pool, DEPTH_MAX))
        return false;
    uint32_t at = *set = *set ? own(pool, *set) : empty_node(pool);
    for (int depth = 0;; depth++) {
        uint64_t *slot = &pool->node[at].slot[branch_of(value, depth)];
        if (!*slot) {
            *slot = value;
            return true;
        }
        if (is_node(*slot)) {
            at = own(pool, (uint32_t)(*slot >> 1));
        } else { // another member: both go one deeper
            uint64_t other = *slot;
            at = empty_node(pool);
            pool->node[at].slot[branch_of(other, depth + 1)] = other;
        }
        *slot = (uint64_t)at << 1; // the pool has not moved: its room was reserved
    }
}

void
deal_hash_trie_share(deal_hash_pool *pool, uint32_t set)
{
    if (set)
        pool->node[set].n_owner++;
}

void
deal_hash_trie_drop(deal_hash_pool *pool, uint32_t set)
{
    if (!set || --pool->node[set].n_owner)
        return;
    for (int b = 0; b < DEAL_HASH_TRIE_WIDTH; b++) // as deep as the trie is
        if (is_node(pool->node[set].slot[b]))
            deal_hash_trie_drop(pool, (uint32_t)(pool->node[set].slot[b] >> 1));
    pool->node[set].n_owner = pool->first_free;
    pool->first_free = set;
}
