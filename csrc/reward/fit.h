/* Logistic regression: minimises, over weights w and an intercept b,
 *
 *     (1 / sum_i c_i) sum_i c_i log(1 + exp(-s_i (x_i w + b)))  +  l2 / 2 |w|^2
 *
 * with s_i = +1 where target_i is 1 and -1 where it is 0. Rows are dense or sparse. A
 * preference (Bradley-Terry) is a row of differences, target 1, and no intercept.
 *
 * By L-BFGS; deterministic; one thread.
 */
#ifndef DEAL_REWARD_FIT_H
#define DEAL_REWARD_FIT_H

#include "reward/lbfgs.h"

typedef struct deal_fit_rows {
    int32_t n_row, n_col;
    const size_t *first;   // (n_row + 1,) where each row begins; NULL: dense
    const int32_t *column; // (first[n_row],)
    const float *value;    // (first[n_row],), or (n_row, n_col) dense
    const float *target;   // (n_row,) 0 or 1
    const float *cost;     // (n_row,) c_i > 0; NULL: all 1
} deal_fit_rows;

// weight (n_col,) and `*intercept` hold the start, and the result. `held_out` may be
// NULL. Fails with INVALID_ARG on params or rows that make no sense, NO_MEMORY, or
// CALLBACK.
deal_status deal_fit_logistic(const deal_fit_rows *rows, const deal_fit_rows *held_out,
                              const deal_fit_params *params, double *weight,
                              double *intercept, deal_fit_report *report,
                              deal_error *err);

// x_i w + b of every row.
void deal_fit_decide(const deal_fit_rows *rows, const double *weight, double intercept,
                     double *decision);

#endif
