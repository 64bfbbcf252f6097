/* Native reward: a head over hidden states, sigmoid(weight . pooled + bias).
 *
 * `pooled` is the state of the completion's last token or the mean over its tokens, of
 * an empty completion the state of the prompt's last token; several layers lie one
 * after the other. An end token is no token of the completion. Range [0, 1], of which
 * the ends come from rounding alone.
 */
#ifndef DEAL_REWARD_HEAD_H
#define DEAL_REWARD_HEAD_H

#include "common/reward.h"
#include "common/status.h"

typedef enum deal_pooling {
    DEAL_POOLING_LAST = 0,
    DEAL_POOLING_MEAN = 1,
} deal_pooling;

typedef struct deal_head_params {
    const double *weight; // (n_layer, n_embd)
    double bias;
    const int32_t *layer; // (n_layer,) as deal_reward.hidden_layers
    int32_t n_layer, n_embd;
    deal_pooling pooling;
} deal_head_params;

// Copies all. Fails with INVALID_ARG naming the parameter. Caller frees with
// deal_reward_head_free().
deal_status deal_reward_head_new(const deal_head_params *params, deal_reward **reward,
                                 deal_error *err);
void deal_reward_head_free(deal_reward *reward);

#endif
