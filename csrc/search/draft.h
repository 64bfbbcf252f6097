/* Guesses of what a model says next, from what it said after the same one to three
 * tokens before in this request. A guess costs a row where it is wrong and saves a pass
 * where it is right; the rate of right ones is kept for each length of the context.
 */
#ifndef DEAL_SEARCH_DRAFT_H
#define DEAL_SEARCH_DRAFT_H

#include <stddef.h>
#include <stdint.h>

#define DEAL_DRAFT_ORDER 3                      // longest context, in tokens
#define DEAL_DRAFT_GIVEN (DEAL_DRAFT_ORDER + 1) // the order of a constraint's guesses
#define DEAL_DRAFT_SIZE 4096

typedef struct deal_draft_entry {
    int32_t context[DEAL_DRAFT_ORDER]; // last token first
    int32_t next;
} deal_draft_entry;

// A table of the latest answer for each length of the context; a later one that falls
// on the same place takes it.
typedef struct deal_draft {
    deal_draft_entry entry[DEAL_DRAFT_ORDER][DEAL_DRAFT_SIZE];
    double rate[DEAL_DRAFT_GIVEN]; // of right guesses, by order
} deal_draft;

void deal_draft_init(deal_draft *draft);

// `next` came after context (DEAL_DRAFT_ORDER,), last token first; -1: no token.
void deal_draft_learn(deal_draft *draft, const int32_t *context, int32_t next);

// The token that came last after this context, and its order, 1 to 3; or 0.
int32_t deal_draft_guess(const deal_draft *draft, const int32_t *context,
                         int32_t *next);

void deal_draft_count(deal_draft *draft, int32_t order, int is_right);

#endif
