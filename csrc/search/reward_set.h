/* The weighted rewards of a request: their states and their scores, checked.
 *
 * It knows texts and states, not hypotheses. What a reward is told: every token that
 * adds to the text, with the bytes that became final, so an end token is not advanced
 * and does not count in n_tokens. Where text is still pending at scoring time (half a
 * character, as decode() would show it), a fork of the state is advanced with it, as
 * token -1, scored and dropped.
 *
 * Rewards that ask for hidden states are told those of one token after the other, at
 * the latest before a score; reward_hidden.c.
 */
#ifndef DEAL_SEARCH_REWARD_SET_H
#define DEAL_SEARCH_REWARD_SET_H

#include <stdbool.h>

#include "common/reward.h"
#include "common/status.h"
#include "search/formula.h"
#include "search/memo.h"

// One state of every incremental reward; those on texts have none. Zero-initialise;
// free with deal_reward_states_free().
typedef struct deal_reward_states {
    uint8_t *block; // (set.block_size,) NULL until first used
    int32_t n_live; // states of rewards [0, n_live) are initialised
    int32_t n_told; // tokens whose hidden states they know, the prompt's last included
} deal_reward_states;

// Hidden states that the rewards ask for.
typedef struct deal_reward_hidden {
    int32_t *layer;  // (n_layer,) of all rewards, rising
    int32_t n_layer; // 0: no reward asks
    int32_t n_embd;
    float *gather; // (n_hidden_layers, n_embd) those of one reward, of the most
} deal_reward_hidden;

struct deal_check; // check.h

typedef struct deal_reward_set {
    deal_reward *const *reward; // (n_reward,) borrowed, as are the weights
    const double *weight;       // (n_reward,)
    int32_t n_reward;
    deal_formula formula; // in place of the weighted sum, where it has terms
    int32_t position;     // of the decision, for the formula: tokens that all live
                          // hypotheses have
    size_t *i_state;      // (n_reward,) first byte of a reward's state in a block
    size_t block_size;    // bytes
    deal_reward_prompt prompt;
    bool has_incremental;
    deal_reward_hidden hidden;
    deal_reward_states scratch;
    deal_memo *memo; // `own_memo`, or that of several searches
    deal_memo own_memo;
    size_t *i_entry;        // (case_cap,) memo entry of each case
    size_t *i_new;          // (case_cap,) those that must be asked
    deal_reward_text *text; // (case_cap,) what is asked
    double *score;          // (case_cap,); of bounds the lower ends
    double *high;           // (case_cap,)
    int32_t *n_tokens_left; // (case_cap,)
    size_t case_cap;
    bool is_checked;      // scores are held against bounds, check.h
    int32_t n_rolled_max; // tokens of a text after this decision's rollouts
    double *ends;         // (2, n_reward) where it is checked
    // counters
    int64_t n_calls, n_texts;
    double seconds;
} deal_reward_set;

// One completion to score.
typedef struct deal_reward_case {
    const deal_reward_states *states; // advanced by the final part of the text
    deal_reward_text text;            // final and pending
    size_t pending_size;              // bytes at the end of the text
    double *reward;                   // out: (n_reward,) unweighted
    double *h;                        // out: weighted sum
    const struct deal_check *check;   // what was stated on the way, or NULL
} deal_reward_case;

// The beginning of a completion, to bound what it can score.
typedef struct deal_reward_beginning {
    deal_reward_text text; // final: what follows does not change it
    int32_t n_tokens_left; // that follow at most
    double *low, *high;    // in and out: (n_reward,)
} deal_reward_beginning;

// Checks the rewards' form; fails with INVALID_ARG naming the reward. `formula`: NULL
// or without terms for the weighted sum. `prompt` lives as long as the
// set. Caller frees with deal_reward_set_free(), also after a failure.
deal_status deal_reward_set_init(deal_reward_set *set, deal_reward *const *reward,
                                 const double *weight, int32_t n_reward,
                                 const deal_formula *formula,
                                 const deal_reward_prompt *prompt, deal_error *err);
void deal_reward_set_free(deal_reward_set *set);

// The functions below drop what `states` or `to` held before, and leave it droppable
// on failure.

// States of the empty completion.
deal_status deal_reward_states_init(deal_reward_set *set, deal_reward_states *states,
                                    deal_error *err);
deal_status deal_reward_states_fork(deal_reward_set *set, deal_reward_states *to,
                                    const deal_reward_states *from, deal_error *err);
deal_status deal_reward_states_advance(deal_reward_set *set, deal_reward_states *states,
                                       int32_t token, const uint8_t *bytes, size_t size,
                                       deal_error *err);
void deal_reward_states_drop(deal_reward_set *set, deal_reward_states *states);
void deal_reward_states_free(deal_reward_set *set, deal_reward_states *states);

// Scores every case with every reward: one score_texts call a reward, for the texts
// that it has not seen, or for all where it is impure. Fails with REWARD where a score
// is not finite, out of its range or, in checking mode, of a bound.
deal_status deal_reward_set_score(deal_reward_set *set, const deal_reward_case *cases,
                                  size_t n_cases, deal_error *err);

// --- reward_hidden.c -----------------------------------------------------------------

// Collects the layers that rewards ask for, of a model of that shape (0 features: it
// has no hidden states). Fails with UNSUPPORTED or INVALID_ARG naming the reward.
deal_status deal_reward_hidden_init(deal_reward_set *set, int32_t n_embd,
                                    int32_t n_layer, deal_error *err);
void deal_reward_hidden_free(deal_reward_hidden *hidden);

// Tells the states (hidden.n_layer, n_embd) of the next token.
deal_status deal_reward_states_observe(deal_reward_set *set, deal_reward_states *states,
                                       const float *hidden, deal_error *err);

// --- parts of that, for a search that asks for no more than it needs -----------------

// Whether reward `i` is scored from its state; else it is asked about texts.
bool deal_reward_set_is_incremental(const deal_reward_set *set, int32_t i);

// Scores of the rewards that have states, into one.reward.
deal_status deal_reward_set_score_states(deal_reward_set *set,
                                         const deal_reward_case *one, deal_error *err);

// Scores of one reward on texts, into cases[].reward: one call for those that it has
// not seen.
deal_status deal_reward_set_score_texts(deal_reward_set *set, int32_t i_reward,
                                        const deal_reward_case *cases, size_t n_cases,
                                        deal_error *err);

// The weighted sum of reward (n_reward,), or what the formula makes of them. Fails with
// REWARD where it is not finite.
deal_status deal_reward_set_sum(const deal_reward_set *set, const double *reward,
                                size_t i_case, double *h, deal_error *err);

// Whether every reward is a pure function, so that what is asked does not matter.
bool deal_reward_set_is_pure(const deal_reward_set *set);

// Ranges low and high (n_reward,) that the rewards declare.
void deal_reward_set_range(const deal_reward_set *set, double *low, double *high);

// Narrows ranges low and high (n_reward,) to what a completion can still get by the
// rewards that have states and bounds: its text so far is final and at most
// `n_tokens_left` tokens follow. Fails with REWARD where bounds are none, or leave
// nothing of the range.
deal_status deal_reward_set_bound_states(deal_reward_set *set,
                                         const deal_reward_states *states,
                                         int32_t n_tokens_left, double *low,
                                         double *high, deal_error *err);

// Whether reward `i` is asked about texts and bounds them.
bool deal_reward_set_bounds_texts(const deal_reward_set *set, int32_t i);

// The same for one of those: one call for the beginnings that it has not seen.
deal_status deal_reward_set_bound_texts(deal_reward_set *set, int32_t i_reward,
                                        const deal_reward_beginning *beginnings,
                                        size_t n, deal_error *err);

// The range of that where each score lies in its range. It is the sum of the ends, in
// the order and with the roundings of deal_reward_set_sum(): rounding is monotone, so
// no sum of scores falls outside, and where both ends are equal it is it.
void deal_reward_set_sum_range(const deal_reward_set *set, const double *low,
                               const double *high, double *h_low, double *h_high);

#endif
