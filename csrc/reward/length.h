/* Native reward: how near the completion's length is to what is wanted, graded.
 *
 * With n the length in `unit` and d the distance from [min, max] (a target is min =
 * max), the score is 1 / (1 + d / max(1, bound that is missed)). Range (0, 1].
 */
#ifndef DEAL_REWARD_LENGTH_H
#define DEAL_REWARD_LENGTH_H

#include "common/reward.h"
#include "common/status.h"

typedef enum deal_length_unit {
    DEAL_LENGTH_TOKENS = 0,
    DEAL_LENGTH_CHARACTERS = 1, // code points
    DEAL_LENGTH_WORDS = 2,      // maximal runs of non-space characters
    DEAL_LENGTH_SENTENCES = 3,  // runs ended by . ! ? or their full-width forms
    DEAL_LENGTH_LINES = 4,      // lines that are not blank
    DEAL_LENGTH_PARAGRAPHS = 5, // runs of such lines
} deal_length_unit;

// `max` < 0: no upper limit. Fails with INVALID_ARG where min < 0 or max in [0, min).
// Caller frees with deal_reward_length_free().
deal_status deal_reward_length_new(deal_length_unit unit, int64_t min, int64_t max,
                                   deal_reward **reward, deal_error *err);
void deal_reward_length_free(deal_reward *reward);

#endif
