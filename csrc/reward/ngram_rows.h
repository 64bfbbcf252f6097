/* Texts as sparse rows of n-gram counts, for a fit. */
#ifndef DEAL_REWARD_NGRAM_ROWS_H
#define DEAL_REWARD_NGRAM_ROWS_H

#include "reward/fit.h"
#include "reward/ngram_model.h"

typedef struct deal_ngram_rows {
    size_t *first;   // (n_row + 1,)
    int32_t *column; // (first[n_row],) rising within a row
    float *value;    // (first[n_row],) v_j of ngram_model.h, divided by |v| if normed
    int32_t n_row, n_col;
} deal_ngram_rows;

// Counts the n-grams of each text. `rows` is zero before; free it also on failure.
// Fails with NO_MEMORY.
deal_status deal_ngram_rows_init(deal_ngram_rows *rows, const deal_ngrams *ngrams,
                                 int32_t n_text, const char *const *text,
                                 const size_t *size, deal_error *err);

// ln((1 + n) / (1 + n_j)) + 1, n_j of the n rows hold slot j: idf (n_col,).
void deal_ngram_rows_idf(const deal_ngram_rows *rows, double *n_held, float *idf);

// Counts become v_j; idf (n_col,) or NULL.
void deal_ngram_rows_weigh(deal_ngram_rows *rows, deal_ngram_tf tf, const float *idf,
                           bool is_normed);

void deal_ngram_rows_free(deal_ngram_rows *rows);

#endif
