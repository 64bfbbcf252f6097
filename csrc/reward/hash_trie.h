/* A set of 64-bit numbers that forks for nothing: a persistent trie over their bits, 16
 * branches a node (P. Bagwell, "Ideal hash trees", EPFL, 2001; nodes not compressed).
 *
 * A set is the index of its root. Sets share nodes, which count their owners; to add to
 * a set copies those on the path that others own too, and writes in place where none
 * does. Nodes live in one pool, so that a steady state allocates nothing. A pool and
 * its sets belong to one thread. The numbers must be spread like those of a hash
 * function.
 */
#ifndef DEAL_REWARD_HASH_TRIE_H
#define DEAL_REWARD_HASH_TRIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DEAL_HASH_TRIE_WIDTH 16
#define DEAL_HASH_TRIE_EMPTY 0u // the set without members

typedef struct deal_hash_node {
    // 0: nothing. Odd: a member, with its lowest bit set. Even: twice a node's index.
    uint64_t slot[DEAL_HASH_TRIE_WIDTH];
    uint32_t n_owner; // slots and sets; of a free node: the next free one
} deal_hash_node;

// Zero-initialise; free with deal_hash_pool_free().
typedef struct deal_hash_pool {
    deal_hash_node *node; // (n_node,) node 0 is not used
    size_t n_node, node_cap;
    uint32_t first_free; // 0: none
} deal_hash_pool;

void deal_hash_pool_free(deal_hash_pool *pool);

// Whether `set` holds `value`; the lowest bit does not count.
bool deal_hash_trie_has(const deal_hash_pool *pool, uint32_t set, uint64_t value);

// Adds `value`, which `*set` does not hold. Returns false where memory is short; the
// set then is as it was.
bool deal_hash_trie_add(deal_hash_pool *pool, uint32_t *set, uint64_t value);

// Another owner of `set`, which may be EMPTY.
void deal_hash_trie_share(deal_hash_pool *pool, uint32_t set);

// One owner less; nodes without any are free again.
void deal_hash_trie_drop(deal_hash_pool *pool, uint32_t set);

#endif
