/* Native reward: how little the completion repeats itself, by n-grams of words.
 *
 * Words are runs of word characters (letters, marks, digits, underscores), compared
 * after case folding; the last one counts as it stands. An n-gram is n words in a row;
 * it is repeated where the same one occurred before, overlapping or not.
 *
 *     SHARE      1 - repeated / all n-grams; 1 where there are none. Range [0, 1].
 *     LONGEST    1 / (1 + d / max(1, allowed)), d the words by which the longest
 *                stretch whose n-grams are all repeated passes `allowed`. Range (0, 1].
 *
 * Constant time a word, whatever was written before; n-grams are told apart by 64-bit
 * hashes. A fork shares the set of n-grams.
 */
#ifndef DEAL_REWARD_REPETITION_H
#define DEAL_REWARD_REPETITION_H

#include "common/reward.h"
#include "common/status.h"

#define DEAL_REPETITION_N_MAX 32

typedef enum deal_repetition_measure {
    DEAL_REPETITION_SHARE = 0,
    DEAL_REPETITION_LONGEST = 1,
} deal_repetition_measure;

// `n` in [1, DEAL_REPETITION_N_MAX]; `allowed` >= 0, in words, for LONGEST alone. Fails
// with INVALID_ARG otherwise. Caller frees with deal_reward_repetition_free().
deal_status deal_reward_repetition_new(deal_repetition_measure measure, int32_t n,
                                       int64_t allowed, deal_reward **reward,
                                       deal_error *err);
void deal_reward_repetition_free(deal_reward *reward);

#endif
