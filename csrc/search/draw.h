/* Drawing one token from logits, as transformers' samplers filter them.
 *
 * In order: repetition penalty, temperature, top_k (equals of the k-th stay), top_p
 * (the smallest set of most likely tokens that reaches it), min_p (relative to the most
 * likely token); then the inverse of the distribution function over what is left, by
 * falling probability, equal ones by rising id.
 */
#ifndef DEAL_SEARCH_DRAW_H
#define DEAL_SEARCH_DRAW_H

#include <stdint.h>

#include "common/status.h"
#include "search/search_params.h"

// Zero-initialise; free with deal_draw_free().
typedef struct deal_draw {
    int32_t n_vocab;
    double *x; // (n_vocab,) logits, after the penalty
    double x_max, x_low;
    int32_t *heap, n_heap;   // (n_heap,) ids that come next, of n_vocab; see draw.c
    int32_t *taken, n_taken; // (n_taken,) ids by falling logit
    uint32_t *mark;          // (n_vocab,) equals `n_load` where a token is penalised
    uint32_t n_load;
} deal_draw;

deal_status deal_draw_init(deal_draw *draw, int32_t n_vocab, deal_error *err);
void deal_draw_free(deal_draw *draw);

// Takes up logits (n_vocab,). Fails with FORMAT where one is NaN or none is finite.
deal_status deal_draw_load(deal_draw *draw, const float *logits, deal_error *err);

// Makes each of the tokens, all in [0, n_vocab), less likely, once since the load.
void deal_draw_penalise(deal_draw *draw, double penalty, const int32_t *token,
                        int32_t n_token);

int32_t deal_draw_argmax(const deal_draw *draw);

// `u` in [0, 1); params.temperature > 0. One draw for each load.
int32_t deal_draw_token(deal_draw *draw, const deal_search_params *params, double u);

#endif
