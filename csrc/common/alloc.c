#define _DEFAULT_SOURCE // posix_memalign, madvise

#include "common/alloc.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE_SIZE ((size_t)2 << 20)

static atomic_size_t n_calls;
static atomic_size_t fail_at; // value of n_calls at which to fail; 0: never

// Counts a call; false where it is the one that must fail.
static int
may_allocate(void)
{
    return atomic_fetch_add(&n_calls, 1) + 1 != atomic_load(&fail_at);
}

void *
deal_alloc(size_t n, size_t size)
{
    if (!may_allocate())
        return NULL;
    if (size != 0 && n > ((size_t)PTRDIFF_MAX - DEAL_ALIGNMENT) / size)
        return NULL;
    size_t n_bytes = n * size;
    void *block = NULL;
    if (posix_memalign(&block, DEAL_ALIGNMENT, n_bytes ? n_bytes : 1) != 0)
        return NULL;
    return block;
}

void *
deal_alloc_zero(size_t n, size_t size)
{
    void *block = deal_alloc(n, size);
    if (block)
        memset(block, 0, n * size);
    return block;
}

void *
deal_alloc_huge(size_t size)
{
    void *block = NULL;
    if (!may_allocate() || posix_memalign(&block, HUGE_PAGE_SIZE, size) != 0)
        return NULL;
#ifdef MADV_HUGEPAGE
    madvise(block, size, MADV_HUGEPAGE); // advice only
#endif
    return block;
}

void *
deal_realloc(void *old, size_t n_old, size_t n, size_t size)
{
    void *block = deal_alloc(n, size);
    if (!block)
        return NULL;
    if (old)
        memcpy(block, old, (n_old < n ? n_old : n) * size);
    deal_free(old);
    return block;
}

void
deal_free(void *block)
{
    free(block);
}

size_t
deal_grow_cap(size_t cap, size_t n)
{
    if (cap < 16)
        cap = 16;
    while (cap < n)
        cap = cap > SIZE_MAX / 2 ? n : cap * 2;
    return cap;
}

bool
deal_reserve(void *block, size_t *cap, size_t n_used, size_t n, size_t size)
{
    if (n <= *cap)
        return true;
    void *old;
    memcpy(&old, block, sizeof old); // a pointer to any type of object
    size_t grown_cap = deal_grow_cap(*cap, n);
    void *grown = deal_realloc(old, n_used, grown_cap, size);
    if (!grown)
        return false;
    memcpy(block, &grown, sizeof grown);
    *cap = grown_cap;
    return true;
}

void
deal_alloc_fail_at(size_t n)
{
    atomic_store(&fail_at, n ? atomic_load(&n_calls) + n : 0);
}

size_t
deal_alloc_count(void)
{
    return atomic_load(&n_calls);
}
