/* A small thread pool: one parallel loop at a time, the caller takes part.
 *
 * Workers spin for a moment after a loop, since the next one follows within
 * microseconds in a forward pass, then sleep. Loops may not nest. A pool used in a
 * forked child runs its loops on the caller alone, as threads do not survive fork().
 */
#ifndef DEAL_COMMON_PARALLEL_H
#define DEAL_COMMON_PARALLEL_H

#include <stdint.h>

#include "common/status.h"

typedef struct deal_pool deal_pool;

// Runs items [i_begin, i_end) on thread `i_thread` in [0, n_thread).
typedef void (*deal_loop_fn)(void *context, int32_t i_begin, int32_t i_end,
                             int32_t i_thread);

// n_thread >= 1, the caller included. Caller frees with deal_pool_free().
deal_status deal_pool_new(int32_t n_thread, deal_pool **pool, deal_error *err);
void deal_pool_free(deal_pool *pool);
int32_t deal_pool_n_thread(const deal_pool *pool);

// Runs [0, n) and waits for all of it. Threads take runs of `grain` items as they come
// free, so that one that the system holds up does not hold up the others; 0 makes about
// four runs a thread. Which thread takes which run is left open.
void deal_parallel_for(deal_pool *pool, int32_t n, int32_t grain, deal_loop_fn fn,
                       void *context);

#endif
