/* Reads what a language model says of many given texts, shared prefixes once.
 *
 * The texts are sorted, so that those that share a prefix lie together, and walked
 * token by token in batches of DEAL_WALK_BATCH new nodes. A node is asked once for all
 * texts that pass through it, and dropped when the last of them is past, so that the
 * trie never holds more than one path and one batch.
 */
#ifndef DEAL_SEARCH_WALK_H
#define DEAL_SEARCH_WALK_H

#include <stdbool.h>

#include "common/lm.h"

#define DEAL_WALK_BATCH 256

typedef struct deal_walk deal_walk;

// One text, and where its results go: log-probs, or states, or sums of states, the
// other pointers being NULL. A state is what the controls tap, (tap_len,) floats.
typedef struct deal_walk_text {
    const int32_t *token; // (n_token,)
    int32_t n_token;
    int32_t n_prompt;    // in [1, n_token]
    double *logprob;     // (n_token - n_prompt,) natural log, of the tokens after it
    bool *is_greedy;     // true at first; false where one of those is not the likeliest
                         // token at its place. NULL: not asked; needs `logprob`
    const int32_t *slot; // (n_token,) row of `states` for a token's state, or -1
    float *states;       // (n_slot, tap_len)
    double *sum;         // (tap_len,) zero at first; of the states of all tokens
} deal_walk_text;

// `text` (n_text,) and `controls`, which may be NULL where no states are asked, are
// borrowed for the walk. Fails with INVALID_ARG, or CONTEXT_FULL for a text that is too
// long; what it says names "text i". Caller frees with deal_walk_free().
deal_status deal_walk_new(deal_lm *lm, const deal_controls *controls,
                          const deal_walk_text *text, int32_t n_text, deal_walk **walk,
                          deal_error *err);
void deal_walk_free(deal_walk *walk);

// Evaluates the next batch. After a failure the walk can only be freed.
deal_status deal_walk_step(deal_walk *walk, bool *is_done, deal_error *err);

// How many texts' results are complete, which only grows, and the index of the i-th of
// them.
int32_t deal_walk_n_done(const deal_walk *walk);
int32_t deal_walk_done_at(const deal_walk *walk, int32_t i);

#endif
