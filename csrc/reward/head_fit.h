/* Fits a head over pooled hidden states x, with one hidden layer or none: minimises
 *
 *     (1 / sum_i c_i) sum_i c_i log(1 + exp(-m_i))  +  l2 / 2 |weights|^2
 *
 * over the weights of f, biases free. Labelled texts: m_i = s_i f(x_i), s_i = +1 where
 * target_i is 1 and -1 where it is 0. Preference pairs (R. A. Bradley and M. E. Terry,
 * Biometrika 39, 1952): m_i = f(chosen_i) - f(rejected_i), and c_i = 1.
 *
 * Features are standardised by their mean and deviation over the rows that are fitted.
 * By L-BFGS on all rows: with no hidden layer the optimum is unique, and there is no
 * rate or batch size to tune; a hidden layer starts from weights drawn by `seed`.
 * Deterministic; one thread.
 *
 * The items held out say when to stop, and calibrate f to log odds: of labels by
 * J. Platt, "Probabilistic outputs for support vector machines", 1999, with smoothed
 * targets, of pairs the same without the offset, f being shifted to a mean of 0 over
 * the rows that were fitted. The slope is at least DEAL_HEAD_SLOPE_MIN: a head is never
 * turned over. With nothing held out, f stays as it is.
 */
#ifndef DEAL_REWARD_HEAD_FIT_H
#define DEAL_REWARD_HEAD_FIT_H

#include "reward/layer.h"
#include "reward/lbfgs.h"

#define DEAL_HEAD_SLOPE_MIN 1e-3

// Items in order; the first n_train are fitted, the others held out.
typedef struct deal_head_data {
    int32_t n_item, n_train, n_in;
    float *x; // labels: (n_item, n_in); pairs: (n_item, 2, n_in), the chosen one first;
              // overwritten
    const float *target; // (n_item,) 0 or 1; NULL: pairs
    const float *cost;   // (n_item,) c_i > 0; NULL: all 1
} deal_head_data;

typedef struct deal_head_fit_params {
    int32_t n_hidden; // 0 to DEAL_LAYER_MAX
    deal_activation activation;
    uint64_t seed;
    deal_fit_params fit; // has_intercept is not looked at
} deal_head_fit_params;

// As deal_head_params has them, standardisation and calibration worked in.
typedef struct deal_head_weights {
    double *weight; // (n_hidden,), or (n_in,) with n_hidden 0
    double bias;
    double *hidden_weight; // (n_hidden, n_in)
    double *hidden_bias;   // (n_hidden,)
} deal_head_weights;

// `weights` points to room for all. Fails with INVALID_ARG, NO_MEMORY or CALLBACK.
deal_status deal_head_fit(const deal_head_data *data,
                          const deal_head_fit_params *params,
                          deal_head_weights *weights, deal_fit_report *report,
                          deal_error *err);

// The loss without calibration at `point`, and its gradient: hidden_weight (n_in,
// n_hidden), hidden_bias (n_hidden,), weight (n_hidden,), bias. For tests; x is taken
// as it is, n_hidden is at least 1.
deal_status deal_head_fit_loss(const deal_head_data *data,
                               const deal_head_fit_params *params, const double *point,
                               double *loss, double *gradient, deal_error *err);

#endif
