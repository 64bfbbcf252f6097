/* A hypothesis: generated tokens, their text and log-prob, and the state of rewards.
 *
 * The text is that of the prompt's continuation: what is final, then what is pending as
 * decode() would show it were this the end. It ends with an end token, which adds no
 * text, before the first stop string, or at the most tokens there may be.
 */
#ifndef DEAL_SEARCH_HYPOTHESIS_H
#define DEAL_SEARCH_HYPOTHESIS_H

#include "common/lm.h"
#include "search/check.h"
#include "search/reward_set.h"
#include "search/search.h"
#include "search/stop.h"
#include "tokenizer/detok.h"

// What ends a hypothesis; shared by all of a search.
typedef struct deal_ending {
    const deal_vocab *vocab;
    const int32_t *end_token; // (n_end,)
    int32_t n_end;
    int32_t n_new_max;
    deal_stop_set stop;
    deal_bytes scratch;
} deal_ending;

// Zero-initialise, then reset; free with deal_hypothesis_free().
typedef struct deal_hypothesis {
    int32_t *token; // (n_token,) generated ids
    int32_t n_token;
    size_t token_cap;
    deal_bytes text;   // final and pending
    size_t final_size; // bytes of `text` that will not change
    deal_detok detok;
    deal_finish_reason finish;
    double logprob; // of all tokens; the search's to keep
    double h, score;
    double *reward; // (n_reward,) or NULL
    deal_reward_states states;
    deal_check check; // in checking mode: bounds that were stated on the way

    // Trie references, each DEAL_NODE_NONE or owned; the search's to give back.
    deal_node node; // context of the tokens but the last; with it once it is evaluated
    deal_node tip;  // keeps an evaluated last token in the trie until it is asked again
    deal_node roll; // of a slot: its rollout's end, in the trie of rollout_lm, if any.
                    // Of a live one, with rollout_lm: context of all tokens but the
                    // last n_behind; none where not even the prompt is evaluated
    int32_t n_behind;
} deal_hypothesis;

// The empty hypothesis. `rewards` here and below: NULL keeps no states.
deal_status deal_hypothesis_reset(deal_hypothesis *hypothesis,
                                  const deal_ending *ending, deal_reward_set *rewards,
                                  deal_error *err);

// Makes room for `n_token` tokens and `text_size` bytes, so that growing up to there
// allocates nothing.
deal_status deal_hypothesis_reserve(deal_hypothesis *hypothesis, int32_t n_token,
                                    size_t text_size, deal_error *err);

// Copies everything but the trie references.
deal_status deal_hypothesis_copy(deal_hypothesis *to, const deal_hypothesis *from,
                                 deal_reward_set *rewards, deal_error *err);

// Appends a token to an unfinished hypothesis and looks for its end.
deal_status deal_hypothesis_push(deal_hypothesis *hypothesis, int32_t token,
                                 deal_ending *ending, deal_reward_set *rewards,
                                 deal_error *err);

// Makes the states anew from the tokens.
deal_status deal_hypothesis_replay(deal_hypothesis *hypothesis, deal_ending *ending,
                                   deal_reward_set *rewards, deal_error *err);

// What the rewards are asked; allocates `reward` where it is missing.
deal_status deal_hypothesis_case(deal_hypothesis *hypothesis, deal_reward_set *rewards,
                                 deal_reward_case *out, deal_error *err);

// Whether the end of its text may be the beginning of a stop string, which would cut
// it: then nothing can be said of what follows.
bool deal_hypothesis_is_held(const deal_hypothesis *hypothesis,
                             const deal_ending *ending);

// Narrows ranges low and high (n_reward,) by the rewards that have states, for at most
// `n_left` tokens that follow. What is pending comes with one of these, or on top.
deal_status deal_hypothesis_bound_states(const deal_hypothesis *hypothesis,
                                         deal_reward_set *rewards, int32_t n_left,
                                         double *low, double *high, deal_error *err);

// What rewards on texts are asked for that; tokens of pending text follow, too.
deal_reward_beginning deal_hypothesis_beginning(const deal_hypothesis *hypothesis,
                                                int32_t n_left, double *low,
                                                double *high);

// `rewards`: the set that its states belong to. Trie references are not touched.
void deal_hypothesis_free(deal_hypothesis *hypothesis, deal_reward_set *rewards);

#endif
