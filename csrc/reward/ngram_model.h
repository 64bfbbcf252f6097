/* Native reward: a linear model over counts of n-grams, and the logistic function.
 *
 *     z = sum_j w_j v_j / |v| + b,   v_j = idf_j tf(count_j),   score = 1 / (1 + e^-z)
 *
 * where tf is the count, whether it is not 0, or 1 + ln count, and the division by the
 * Euclidean norm |v| is there or not. What is counted: ngrams.h. Weights are kept in 31
 * bits, relative to the greatest one, so that sums do not depend on the order.
 */
#ifndef DEAL_REWARD_NGRAM_MODEL_H
#define DEAL_REWARD_NGRAM_MODEL_H

#include <stdbool.h>

#include "common/reward.h"
#include "common/status.h"
#include "reward/ngrams.h"

typedef enum deal_ngram_tf {
    DEAL_NGRAM_TF_COUNT = 0,
    DEAL_NGRAM_TF_BINARY = 1,
    DEAL_NGRAM_TF_LOG = 2,
} deal_ngram_tf;

typedef struct deal_ngram_model_params {
    deal_ngrams_params ngrams;
    const float *weight; // (n_slot,)
    const float *idf;    // (n_slot,) > 0; NULL: all 1
    double intercept;
    deal_ngram_tf tf; // signed counts: COUNT alone
    bool is_normed;
} deal_ngram_model_params;

// tf of a count that is not negative, or of a signed one.
double deal_ngram_tf_of(deal_ngram_tf tf, int32_t count);

// Copies all. Fails with INVALID_ARG on numbers that are not finite or too large, and
// as in ngrams.h. Caller frees with deal_reward_ngram_model_free().
deal_status deal_reward_ngram_model_new(const deal_ngram_model_params *params,
                                        deal_reward **reward, deal_error *err);
void deal_reward_ngram_model_free(deal_reward *reward);

#endif
