/* Native reward: a head over hidden states, sigmoid(weight . f(pooled) + bias).
 *
 * `pooled` is the state of the completion's last token or the mean over its tokens, of
 * an empty completion the state of the prompt's last token; several layers lie one
 * after the other. An end token is no token of the completion. f is nothing, or one
 * hidden layer, activation(hidden_weight pooled + hidden_bias). Range [0, 1], of which
 * the ends come from rounding alone.
 */
#ifndef DEAL_REWARD_HEAD_H
#define DEAL_REWARD_HEAD_H

#include "common/reward.h"
#include "common/status.h"
#include "reward/layer.h"

typedef enum deal_pooling {
    DEAL_POOLING_LAST = 0,
    DEAL_POOLING_MEAN = 1,
} deal_pooling;

typedef struct deal_head_params {
    const double *weight; // (n_layer, n_embd); with a hidden layer (n_hidden,)
    double bias;
    const int32_t *layer; // (n_layer,) as deal_reward.hidden_layers
    int32_t n_layer, n_embd;
    deal_pooling pooling;

    int32_t n_hidden;            // units of the hidden layer; 0: none
    const double *hidden_weight; // (n_hidden, n_layer, n_embd)
    const double *hidden_bias;   // (n_hidden,)
    deal_activation activation;
} deal_head_params;

// Copies all. Fails with INVALID_ARG naming the parameter. Caller frees with
// deal_reward_head_free().
deal_status deal_reward_head_new(const deal_head_params *params, deal_reward **reward,
                                 deal_error *err);
void deal_reward_head_free(deal_reward *reward);

// What the sigmoid is taken of, for pooled states x (n, n_layer, n_embd): out (n,).
// Fails with NO_MEMORY.
deal_status deal_reward_head_decide(const deal_reward *reward, const float *x,
                                    int32_t n, double *out, deal_error *err);

#endif
