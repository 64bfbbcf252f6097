/* Several searches over the same language models at once.
 *
 * Each search runs on a thread of its own, over LMs of its own, as it would alone. What
 * they ask waits until all of them have asked; then it is one forward pass. A node's
 * outputs do not depend on what else is in a pass, so each search finds what it would
 * find alone, bit for bit, and a row costs less in company.
 *
 * Contexts without controls hang below one root, so that what prompts have in common is
 * evaluated once. Searches come and go: one that joins late takes part from its first
 * question on, one that leaves is waited for no longer.
 */
#ifndef DEAL_SEARCH_BATCH_H
#define DEAL_SEARCH_BATCH_H

#include "common/lm.h"

#define DEAL_BATCH_N_LM 2 // most LMs of one batch

typedef struct deal_batch deal_batch;
typedef struct deal_batch_member deal_batch_member;

// The `n_lm` LMs, 1 to DEAL_BATCH_N_LM, are borrowed, and nobody else's meanwhile.
// Caller frees with deal_batch_free(), after all members.
deal_status deal_batch_new(deal_lm *const *lm, int32_t n_lm, deal_batch **out,
                           deal_error *err);
void deal_batch_free(deal_batch *batch);

// One more search, for which all others wait until it leaves: no pass runs while it
// does something else than to ask.
deal_status deal_batch_join(deal_batch *batch, deal_batch_member **out,
                            deal_error *err);

// The search's own LM in place of lm[i_lm], for one thread; borrowed. All of a batch
// keep the same layers, where they keep any. The counters are of nodes that were
// evaluated for this search, and of the passes that did it: what two ask for at once
// counts for one.
deal_lm *deal_batch_lm(deal_batch_member *member, int32_t i_lm);

// Ends it, after its search has given all nodes back.
void deal_batch_leave(deal_batch_member *member);

// From now on whatever is asked fails with INTERRUPTED; for any thread.
void deal_batch_cancel(deal_batch *batch);

#endif
