/* Reads what a language model says of texts that grow, call after call.
 *
 * A walk forgets its nodes; a reader keeps them, with what was read there, so that a
 * text which continues an earlier one costs its new tokens alone: a token is evaluated
 * once, and its log-prob or state asked for once. It serves rewards that score every
 * rollout of a search, most of which begin alike.
 *
 * Of the nodes that it keeps, `n_keep` at most between calls, those that were not asked
 * for longest go first. What is read does not depend on what is kept.
 */
#ifndef DEAL_SEARCH_READER_H
#define DEAL_SEARCH_READER_H

#include "common/lm.h"

typedef struct deal_reader deal_reader;

// One text, and where its results go: log-probs, or a state. The other pointer is NULL.
typedef struct deal_reader_text {
    const int32_t *token; // (n_token,)
    int32_t n_token;
    int32_t n_prompt; // in [1, n_token]
    double *logprob;  // (n_token - n_prompt,) natural log, of the tokens after it
    float *state;     // (tap_len,) mean of what the controls tap, of tokens state_begin
                      // and later
    int32_t state_begin; // in [0, n_token - 1]
} deal_reader_text;

// `lm` and `controls` are borrowed; the latter may be NULL where no states are asked.
// Caller frees with deal_reader_free(), while `lm` lives.
deal_status deal_reader_new(deal_lm *lm, const deal_controls *controls, int32_t n_keep,
                            deal_reader **reader, deal_error *err);
void deal_reader_free(deal_reader *reader);

// Fills in the results of all texts; those that share a prefix should lie together.
// Fails as extend does, and with INVALID_ARG or CONTEXT_FULL for a text that is no text
// of this LM; what it says names "text i". After a failure the reader is as usable as
// before.
deal_status deal_reader_read(deal_reader *reader, const deal_reader_text *text,
                             int32_t n_text, deal_error *err);

int32_t deal_reader_n_kept(const deal_reader *reader); // nodes

#endif
