/* Checks of what a third party can get wrong in a `deal_reward`. */
#ifndef DEAL_COMMON_REWARD_CHECK_H
#define DEAL_COMMON_REWARD_CHECK_H

#include "common/reward.h"
#include "common/status.h"

// Fails with INVALID_ARG naming the member. Versions come first: where they differ no
// other member is looked at.
deal_status deal_reward_check(const deal_reward *reward, deal_error *err);

#endif
