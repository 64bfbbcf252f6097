#include "reward/fit.h"

#include <math.h>
#include <string.h>

#include "common/alloc.h"

typedef struct fit {
    const deal_fit_rows *rows, *held_out; // the latter may be NULL
    const deal_fit_params *params;
    double cost, held_out_cost; // sums of c_i
    double *decision;           // (n_row,) of the larger part
} fit;

// ---- Loss ---------------------------------------------------------------------------

void
deal_fit_decide(const deal_fit_rows *rows, const double *weight, double intercept,
                double *decision)
{
    size_t n_col = (size_t)rows->n_col;
    for (int32_t i = 0; i < rows->n_row; i++) {
        double sum = intercept;
        if (rows->first) {
            for (size_t k = rows->first[i]; k < rows->first[i + 1]; k++)
                sum += (double)rows->value[k] * weight[rows->column[k]];
        } else {
            const float *row = rows->value + (size_t)i * n_col;
            for (size_t j = 0; j < n_col; j++)
                sum += (double)row[j] * weight[j];
        }
        decision[i] = sum;
    }
}

static double
cost_of(const deal_fit_rows *rows, int32_t i)
{
    return rows->cost ? (double)rows->cost[i] : 1.0;
}

static double
total_cost(const deal_fit_rows *rows)
{
    double sum = 0.0;
    for (int32_t i = 0; i < rows->n_row; i++)
        sum += cost_of(rows, i);
    return sum;
}

static double
mean_loss(const deal_fit_rows *rows, const double *decision, double cost)
{
    double sum = 0.0;
    for (int32_t i = 0; i < rows->n_row; i++)
        sum += cost_of(rows, i) *
               deal_log_loss(rows->target[i] > 0.5f ? decision[i] : -decision[i]);
    return sum / cost;
}

static void
add_row(const deal_fit_rows *rows, int32_t i, double factor, double *gradient)
{
    size_t n_col = (size_t)rows->n_col;
    gradient[n_col] += factor;
    if (rows->first) {
        for (size_t k = rows->first[i]; k < rows->first[i + 1]; k++)
            gradient[rows->column[k]] += factor * (double)rows->value[k];
    } else {
        const float *row = rows->value + (size_t)i * n_col;
        for (size_t j = 0; j < n_col; j++)
            gradient[j] += factor * (double)row[j];
    }
}

// Loss with the penalty at x, and its gradient.
static double
evaluate(void *self, const double *x, double *gradient)
{
    const fit *f = self;
    const deal_fit_rows *rows = f->rows;
    size_t n_col = (size_t)rows->n_col;
    double l2 = f->params->l2, square = 0.0;
    deal_fit_decide(rows, x, x[n_col], f->decision);
    for (size_t j = 0; j < n_col; j++) {
        gradient[j] = l2 * x[j];
        square += x[j] * x[j];
    }
    gradient[n_col] = 0.0;
    for (int32_t i = 0; i < rows->n_row; i++) {
        double p = 1.0 / (1.0 + exp(-f->decision[i]));
        double off = p - (rows->target[i] > 0.5f);
        add_row(rows, i, cost_of(rows, i) * off / f->cost, gradient);
    }
    if (!f->params->has_intercept)
        gradient[n_col] = 0.0;
    return mean_loss(rows, f->decision, f->cost) + 0.5 * l2 * square;
}

static double
held_out_loss(void *self, const double *x)
{
    const fit *f = self;
    deal_fit_decide(f->held_out, x, x[f->rows->n_col], f->decision);
    return mean_loss(f->held_out, f->decision, f->held_out_cost);
}

// ---- Public -------------------------------------------------------------------------

static deal_status
check_rows(const char *what, const deal_fit_rows *rows, int32_t n_col, deal_error *err)
{
    if (rows->n_row < 1 || rows->n_col != n_col || n_col < 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "fit: %s: expected at least 1 row of %d columns, got %d of %d",
                         what, (int)n_col, (int)rows->n_row, (int)rows->n_col);
    for (size_t k = 0; rows->first && k < rows->first[rows->n_row]; k++)
        if (rows->column[k] < 0 || rows->column[k] >= n_col)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "fit: %s: expected columns in [0, %d), got %d", what,
                             (int)n_col, (int)rows->column[k]);
    for (int32_t i = 0; i < rows->n_row; i++)
        if (rows->cost && !(rows->cost[i] > 0.0f && isfinite(rows->cost[i])))
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "fit: %s: expected costs > 0, got %g", what,
                             (double)rows->cost[i]);
    return DEAL_OK;
}

deal_status
deal_fit_logistic(const deal_fit_rows *rows, const deal_fit_rows *held_out,
                  const deal_fit_params *params, double *weight, double *intercept,
                  deal_fit_report *report, deal_error *err)
{
    DEAL_TRY(check_rows("rows", rows, rows->n_col, err));
    if (held_out)
        DEAL_TRY(check_rows("held-out rows", held_out, rows->n_col, err));
    size_t n_col = (size_t)rows->n_col;
    fit f = {.rows = rows, .held_out = held_out, .params = params};
    f.cost = total_cost(rows);
    f.held_out_cost = held_out ? total_cost(held_out) : 0.0;
    int32_t n_row_max = rows->n_row;
    if (held_out && held_out->n_row > n_row_max)
        n_row_max = held_out->n_row;
    f.decision = deal_alloc((size_t)n_row_max, sizeof *f.decision);
    double *x = deal_alloc(n_col + 1, sizeof *x); // the intercept last
    deal_status status = DEAL_OK;
    if (!f.decision || !x)
        DEAL_TRY_GOTO(deal_fail_memory(err, "fit"), done);
    memcpy(x, weight, n_col * sizeof *x);
    x[n_col] = params->has_intercept ? *intercept : 0.0;
    const deal_objective objective = {.self = &f,
                                      .n = n_col + 1,
                                      .evaluate = evaluate,
                                      .held_out = held_out ? held_out_loss : NULL};
    DEAL_TRY_GOTO(deal_lbfgs_run(&objective, params, x, report, err), done);
    memcpy(weight, x, n_col * sizeof *weight);
    *intercept = x[n_col];
done:
    deal_free(f.decision);
    deal_free(x);
    return status;
}
