/* How often each slot occurred in a text, shared between states until one writes.
 *
 * A state holds a pointer that it owns a share of. A fork takes another share; the
 * first write to a shared table makes a copy of it. Not for use by two threads at once.
 */
#ifndef DEAL_REWARD_COUNTS_H
#define DEAL_REWARD_COUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/compiler.h"

typedef struct deal_counts_item {
    uint32_t key; // slot + 1; 0: free, and the count is 0
    int32_t count;
} deal_counts_item;

typedef struct deal_counts {
    uint32_t n_share;
    int32_t bits;
    size_t n_item;
    deal_counts_item
        place[]; // (1 << bits,) open addressing, at most a third of it taken
} deal_counts;

// An empty table of 1 << bits places, at least 64, with one share; NULL when out of
// memory. Caller gives the share back with deal_counts_release().
deal_counts *deal_counts_new(int32_t bits);
deal_counts *deal_counts_share(deal_counts *c);
void deal_counts_release(deal_counts *c); // NULL is a no-op

// The count of `slot` >= 0; 0 where it did not occur.
int32_t deal_counts_get(const deal_counts *c, int32_t slot);

// Makes `*c` a table with one share and room for `n_more` slots, another one where it
// is not. False when out of memory: `*c` stays.
bool deal_counts_reserve(deal_counts **c, size_t n_more);

// ---- Inline, for the loop that counts -----------------------------------------------

static inline size_t
deal_counts_home(uint32_t key, int32_t bits)
{
    return key * UINT32_C(0x9E3779B1) >> (32 - bits);
}

// Whether a place that holds `found` is neither free nor that of `key`: a product, as
// the one branch on it is seldom taken, while two would be on what is random.
static inline bool
deal_counts_is_other(uint32_t found, uint32_t key)
{
    return (uint64_t)(found ^ key) * found != 0;
}

// The place that holds `key`, or the free one where it belongs. The second place is
// looked at without a branch, as one place in six is taken by another key.
static inline size_t
deal_counts_find(const deal_counts_item *place, int32_t bits, uint32_t key)
{
    size_t i = deal_counts_home(key, bits), mask = ((size_t)1 << bits) - 1;
    i = (i + deal_counts_is_other(place[i].key, key)) & mask;
    while (DEAL_UNLIKELY(deal_counts_is_other(place[i].key, key)))
        i = (i + 1) & mask;
    return i;
}

// Adds `n` to the count of `slot` >= 0, and returns what it was. `place` is that of a
// table that has room for the slot; `*n_item` is its number of items.
static inline int32_t
deal_counts_add(deal_counts_item *place, int32_t bits, int32_t slot, int32_t n,
                size_t *n_item)
{
    uint32_t key = (uint32_t)slot + 1;
    deal_counts_item *at = &place[deal_counts_find(place, bits, key)];
    int32_t before = at->count;
    *n_item += at->key == 0;
    *at = (deal_counts_item){key, before + n};
    return before;
}

#endif
