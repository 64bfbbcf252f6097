/* Rewards for tests: a hash of what they are told as a multiple of 1/8 in [-1, 1], so
 * that ties are frequent. They count, and go wrong on request.
 */
#ifndef DEAL_TESTS_TOY_REWARD_H
#define DEAL_TESTS_TOY_REWARD_H

#include "common/reward.h"

typedef enum toy_form {
    TOY_TEXTS = 0,  // score_texts; hashes text, number of tokens, is_finished
    TOY_PLAIN = 1,  // incremental, state of plain bytes; hashes text, tokens, finished
    TOY_OWNING = 2, // the same, with a state that owns memory
    TOY_WRAP = 3,   // passes everything on to another incremental reward
    TOY_MARKS = 4,  // score_texts: how often a byte is in the text, with bounds_texts
    TOY_STATES = 5, // as TOY_OWNING, and hashes hidden states; fails where they do not
                    // come as reward.h says
} toy_form;

typedef enum toy_fault {
    TOY_FAILS = 0, // returns 1 with a message
    TOY_NAN = 1,
    TOY_INFINITE = 2,
    TOY_OUT_OF_RANGE = 3,
    TOY_FORGETS = 4, // returns 0 without a score
    TOY_BAD_CODE = 5,
} toy_fault;

typedef struct toy_reward {
    deal_reward reward; // first; its `self` is this struct
    deal_reward *inner; // TOY_WRAP
    toy_form form;
    uint32_t salt;   // TOY_MARKS: the byte
    int32_t n_max;   // TOY_MARKS: of marks that count; the score is their share
    int32_t n_token; // TOY_MARKS: most marks that a token brings
    toy_fault fault;
    int32_t fault_in;      // the call that goes wrong, 1 = the next; 0: none
    int32_t fork_fault_in; // the same for init and fork
    int64_t n_calls;       // advance, observe, score, score_texts, bounds
    int64_t n_texts;       // scored; an impure reward's scores hang on it
    int64_t n_bounds;      // asked of bounds and bounds_texts
    int32_t n_state;       // states that are not dropped yet
} toy_reward;

// The struct stays where it is while it is used.
void toy_reward_init(toy_reward *toy, toy_form form, uint32_t salt);
void toy_reward_wrap(toy_reward *toy, deal_reward *inner);
void toy_reward_init_marks(toy_reward *toy, char mark, int32_t n_max, int32_t n_token);

// Asks for hidden states of `n_embd` features after `layer` (n_layer,), which stays.
void toy_reward_ask(toy_reward *toy, const int32_t *layer, int32_t n_layer,
                    int32_t n_embd);

#endif
