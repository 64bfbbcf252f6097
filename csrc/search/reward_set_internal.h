/* What reward_set.c and reward_score.c share. */
#ifndef DEAL_SEARCH_REWARD_SET_INTERNAL_H
#define DEAL_SEARCH_REWARD_SET_INTERNAL_H

#include "search/reward_set.h"

static inline bool
deal_reward_is_incremental(const deal_reward *reward)
{
    return reward->score_texts == NULL;
}

static inline void *
deal_reward_set_state_of(const deal_reward_set *set, const deal_reward_states *states,
                         int32_t i)
{
    return states->block + set->i_state[i];
}

// Frees the arrays (case_cap,).
void deal_reward_set_free_cases(deal_reward_set *set);

// The status for what a function of reward `i` returned, with its message.
deal_status deal_reward_set_check_code(const deal_reward_set *set, int32_t i, int code,
                                       char *message, deal_error *err);

#endif
