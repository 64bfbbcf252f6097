/* Which tokens a constraint allows after each completion that a search may still reach:
 * a tree by tokens, shared by all models of the search.
 *
 * A state is made where its mask is first asked for, and asked once; places that nobody
 * holds are kept until there are many. End tokens are allowed where the state is
 * accepting, and where nothing else is: a mask is never empty. After a token that was
 * not allowed, or an end token, only end tokens are.
 */
#ifndef DEAL_SEARCH_MASKS_H
#define DEAL_SEARCH_MASKS_H

#include <stdbool.h>
#include <stddef.h>

#include "common/constraint.h"
#include "common/status.h"

#define DEAL_MASK_NONE (-1) // no place
#define DEAL_MASK_ROOT 0    // the empty completion
#define DEAL_MASK_FEW 32    // tokens that a mask holds as a list

typedef struct deal_masks deal_masks;

// Borrowed while the place is held.
typedef struct deal_mask {
    const uint32_t *bits; // (ceil(n_vocab / 32),) or NULL where there is a list
    const int32_t *token; // (n_token,) rising ids, or NULL
    int32_t n_token;      // tokens allowed, >= 1
} deal_mask;

// The constraint and the end tokens are borrowed. Fails with INVALID_ARG for a
// constraint of another ABI, one that lacks a function, or no end token. Caller frees
// with deal_masks_free().
deal_status deal_masks_new(const deal_constraint *constraint, int32_t n_vocab,
                           const int32_t *end_token, int32_t n_end, deal_masks **masks,
                           deal_error *err);
void deal_masks_free(deal_masks *masks);

// The place after one more token, with a reference for the caller.
deal_status deal_masks_child(deal_masks *masks, int32_t at, int32_t token,
                             int32_t *child, deal_error *err);
void deal_masks_retain(deal_masks *masks, int32_t at);
void deal_masks_release(deal_masks *masks, int32_t at); // DEAL_MASK_NONE is a no-op

deal_status deal_masks_get(deal_masks *masks, int32_t at, deal_mask *mask,
                           deal_error *err);
bool deal_mask_allows(const deal_mask *mask, int32_t token);

// Tokens that will probably follow, at most `n_max`: the only one allowed, or what the
// constraint guesses.
deal_status deal_masks_guess(deal_masks *masks, int32_t at, int32_t *token,
                             int32_t n_max, int32_t *n, deal_error *err);

// Whether the completion may end after these tokens, by a state that is made anew.
deal_status deal_masks_accept(deal_masks *masks, const int32_t *token, int32_t n_token,
                              bool *is_accepting, deal_error *err);

#endif
