/* Minimises a smooth function by L-BFGS (D. C. Liu and J. Nocedal, Mathematical
 * Programming 45, 1989) with backtracking. Deterministic. Stops early where the loss on
 * a held-out part no longer falls, and then returns the point where it was least.
 */
#ifndef DEAL_REWARD_LBFGS_H
#define DEAL_REWARD_LBFGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

typedef struct deal_fit_params {
    double l2; // >= 0, as the loss has it
    bool has_intercept;
    int32_t n_step_max;
    double tolerance;   // done where no part of the gradient is greater
    int32_t n_patience; // steps without a lower held-out loss, >= 1

    // Called after every step; anything but 0 ends the fit with CALLBACK. May be NULL.
    int (*on_step)(void *context, int32_t step, double loss, double held_out_loss);
    void *context;
} deal_fit_params;

typedef struct deal_fit_report {
    int32_t n_step, best_step; // of the weights returned
    double loss;               // of all training rows, with the penalty
    double held_out_loss;      // without it; NaN where nothing is held out
    bool has_converged;
} deal_fit_report;

typedef struct deal_objective {
    void *self;
    size_t n; // numbers of a point

    // Loss at x (n,), and its gradient (n,).
    double (*evaluate)(void *self, const double *x, double *gradient);
    double (*held_out)(void *self, const double *x); // NULL: nothing is held out
} deal_objective;

// x (n,) holds the start, and the result. Fails with INVALID_ARG on params that make no
// sense or a start without a finite loss, NO_MEMORY, or CALLBACK; x is then untouched.
deal_status deal_lbfgs_run(const deal_objective *objective,
                           const deal_fit_params *params, double *x,
                           deal_fit_report *report, deal_error *err);

// log(1 + exp(-m)), without overflow: the logistic loss of a margin.
double deal_log_loss(double m);

#endif
