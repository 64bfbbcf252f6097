/* Blocks that live and die together, in large pieces that the system can map with huge
 * pages: weights are read end to end in every pass, and a miss in the page tables costs
 * as much as a miss in the cache. Zero-initialise; free with deal_arena_free().
 */
#ifndef DEAL_COMMON_ARENA_H
#define DEAL_COMMON_ARENA_H

#include <stddef.h>

typedef struct deal_arena_piece deal_arena_piece;

typedef struct deal_arena {
    deal_arena_piece *last; // the piece that is being filled; it knows those before
    size_t used_size;       // bytes handed out
} deal_arena;

// `n` elements of `size` bytes, uninitialised, aligned to DEAL_ALIGNMENT; NULL when out
// of memory or when n * size overflows.
void *deal_arena_alloc(deal_arena *arena, size_t n, size_t size);
void deal_arena_free(deal_arena *arena); // leaves it empty and usable

#endif
