/* Checking mode: what rewards say of their bounds, held against the scores that come.
 *
 * After every token the rewards that have bounds are asked for them twice: for what may
 * still follow in this decision's rollouts, which is what mode EXACT prunes by, and for
 * all that may still follow in the request. A hypothesis keeps the narrowest ends that
 * were stated along its path. The first score outside of them, in whatever mode, ends
 * the search with the reward, the score, the end that it refutes, and both texts.
 */
#ifndef DEAL_SEARCH_CHECK_H
#define DEAL_SEARCH_CHECK_H

#include "search/reward_set.h"

struct deal_ending;
struct deal_hypothesis;

// One end of a range, and where it was stated.
typedef struct deal_check_end {
    double value;
    size_t text_size;      // of the text's beginning that it was stated for
    int32_t n_tokens_left; // -1: by the declared range
} deal_check_end;

typedef struct deal_check_range {
    deal_check_end low, high;
} deal_check_range;

// Of one hypothesis. Zero-initialise; free with deal_check_free().
typedef struct deal_check {
    deal_check_range *range; // (2, n_reward) for the rollouts, for the request; NULL
                             // until first used
    int32_t n_rolled_max;    // tokens that the first of these holds for
} deal_check;

void deal_check_free(deal_check *check);

// Makes `to` equal to `from`. A no-op where `set` is not checked, as those below.
deal_status deal_check_copy(deal_check *to, const deal_check *from,
                            const deal_reward_set *set, deal_error *err);

// Asks for bounds of what may follow `hypothesis`, whose check it keeps them in. Fails
// with REWARD where they exclude what was stated before.
deal_status deal_check_bounds(struct deal_hypothesis *hypothesis,
                              const struct deal_ending *ending, deal_reward_set *set,
                              deal_error *err);

// Fails with REWARD where a score of one.reward is outside of what was stated.
deal_status deal_check_scores(const deal_reward_set *set, const deal_reward_case *one,
                              deal_error *err);

#endif
