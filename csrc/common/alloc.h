/* Checked allocation: sizes multiply with overflow checks, blocks are aligned to 64
 * bytes, and a test can make the n-th call fail. Nothing else in csrc/ calls malloc.
 */
#ifndef DEAL_COMMON_ALLOC_H
#define DEAL_COMMON_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DEAL_ALIGNMENT 64

// `n` elements of `size` bytes, uninitialised; NULL when out of memory or when n * size
// overflows. n * size == 0 gives a valid block. Caller frees with deal_free().
void *deal_alloc(size_t n, size_t size);

// The same, filled with zeros.
void *deal_alloc_zero(size_t n, size_t size);

// `size` bytes, uninitialised, at the start of a huge page and, where the system has
// them, in huge pages. Caller frees with deal_free().
void *deal_alloc_huge(size_t size);

// Grows `old` (NULL allowed), of `n_old` elements, to `n` elements; the old block stays
// valid on failure. Caller frees with deal_free().
void *deal_realloc(void *old, size_t n_old, size_t n, size_t size);

void deal_free(void *block); // NULL is a no-op

// Capacity to grow to so that `n` elements fit: doubles, at least 16.
size_t deal_grow_cap(size_t cap, size_t n);

// Room for `n` elements of `size` bytes in a block of which `*cap` fit and `n_used` are
// kept. `block` points to the pointer to it, which may be NULL; both are set where it
// grows. False without memory: then nothing has changed.
bool deal_reserve(void *block, size_t *cap, size_t n_used, size_t n, size_t size);

// Makes the `n`-th allocation from now on fail (1 = the next one), once; 0 switches the
// fault off. For tests; not thread-safe.
void deal_alloc_fail_at(size_t n);

// Number of allocations so far. For tests that show a steady state allocates nothing.
size_t deal_alloc_count(void);

#endif
