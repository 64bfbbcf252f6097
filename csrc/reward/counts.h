/* How often each slot occurred in a text, shared between states until one writes.
 *
 * A state holds a pointer that it owns a share of. A fork takes another share; the
 * first write to a shared table makes a copy of it. Not for use by two threads at once.
 */
#ifndef DEAL_REWARD_COUNTS_H
#define DEAL_REWARD_COUNTS_H

#include <stdint.h>

typedef struct deal_counts deal_counts;

// An empty table with one share; NULL when out of memory. Caller gives the share back
// with deal_counts_release().
deal_counts *deal_counts_new(void);
deal_counts *deal_counts_share(deal_counts *c);
void deal_counts_release(deal_counts *c); // NULL is a no-op

// The count of `slot` >= 0; 0 where it did not occur.
int32_t deal_counts_get(const deal_counts *c, int32_t slot);

// Where the count of `slot` >= 0 lies, for writing, until the next call. `*c` becomes
// another table where it was shared or full. NULL when out of memory: `*c` stays.
int32_t *deal_counts_at(deal_counts **c, int32_t slot);

#endif
