/* Greedy continuation of several branches of one prefix, in lockstep: every step is one
 * forward pass over a batch of as many rows as there are branches. It knows no end
 * tokens and no rewards; it is what rollouts cost, without the search around them.
 */
#ifndef DEAL_SEARCH_BRANCHES_H
#define DEAL_SEARCH_BRANCHES_H

#include "common/lm.h"

typedef struct deal_branches_times {
    double prefill, decode; // seconds for the prefix, and for all steps
} deal_branches_times;

// Branch b starts with token first[b] after prefix (n_prefix,), n_prefix >= 1, and goes
// on with its most likely tokens: token[b, i], i < n_step, out (n_branch, n_step). The
// last ones are not evaluated. Equal first tokens share their nodes.
deal_status deal_branches_run(deal_lm *lm, const int32_t *prefix, int32_t n_prefix,
                              const int32_t *first, int32_t n_branch, int32_t n_step,
                              int32_t *token, deal_branches_times *times,
                              deal_error *err);

#endif
