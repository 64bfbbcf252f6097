/* A constraint for tests: a finite automaton over tokens, as a table. It counts, and
 * goes wrong on request.
 */
#ifndef DEAL_TESTS_TOY_CONSTRAINT_H
#define DEAL_TESTS_TOY_CONSTRAINT_H

#include "common/constraint.h"

#define TOY_N_STATE 16

typedef enum toy_mask_fault {
    TOY_MASK_FAILS = 0, // the call returns 1 with a message
    TOY_MASK_BAD_CODE = 1,
    TOY_MASK_ACCEPTS_TWICE = 2, // is_accepting 2
    TOY_MASK_ALL_BITS = 3,      // also those past its vocabulary
} toy_mask_fault;

typedef struct toy_constraint {
    deal_constraint constraint; // first; its `self` is this struct
    int32_t n_state;
    const int32_t *next;            // (n_state, n_vocab); -1: forbidden
    int32_t accepts[TOY_N_STATE];   // 0 or 1
    int32_t favourite[TOY_N_STATE]; // token that it guesses, or -1
    toy_mask_fault fault;
    int32_t fault_in; // the call that goes wrong, 1 = the next; 0: none
    int64_t n_masks;  // asked
    int32_t n_live;   // states that are not dropped yet
} toy_constraint;

// The struct stays where it is while it is used; `next` is borrowed.
void toy_constraint_init(toy_constraint *toy, int32_t n_state, int32_t n_vocab,
                         const int32_t *next);

#endif
