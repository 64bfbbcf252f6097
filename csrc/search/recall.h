/* An LM that remembers what another one has told, from one search to the next.
 *
 * Several searches of one prompt, with other settings or weights, ask about many of the
 * same contexts. Between them a recall keeps the nodes that were handed out, and what
 * was answered about each: a search that asks again costs no forward pass and no
 * product with the vocabulary. Answers are those of the LM bit for bit, so decisions do
 * not depend on what is remembered.
 *
 * All searches share one root, so they have the same controls, and the same layers kept
 * where they ask for any. Where the LM runs out of KV cells, or more than n_node_max
 * nodes are held, everything that no search holds is forgotten. It is used by one
 * thread at a time, as the LM is.
 */
#ifndef DEAL_SEARCH_RECALL_H
#define DEAL_SEARCH_RECALL_H

#include <stddef.h>

#include "common/lm.h"

typedef struct deal_recall deal_recall;

// `lm` is borrowed; `n_top`: tokens asked for after every context at least, the largest
// top_k of the searches, in [1, n_vocab]; n_node_max >= 1. Caller frees with
// deal_recall_free(), after all searches.
deal_status deal_recall_new(deal_lm *lm, int32_t n_top, int64_t n_node_max,
                            deal_recall **recall, deal_error *err);
void deal_recall_free(deal_recall *recall);

// The seam; borrowed from `recall`. Its counters are of what the LM evaluates for it,
// and of nodes that a search has used and an earlier one evaluated: each counts once a
// search, which begins where it asks for the root.
deal_lm *deal_recall_lm(deal_recall *recall);

#endif
