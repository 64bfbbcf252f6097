#include "reward/fit.h"

#include <math.h>
#include <string.h>

#include "common/alloc.h"

#define N_MEMORY 10     // pairs of steps and gradient changes that are kept
#define N_BACKTRACK 40  // halvings of one step
#define SUFFICIENT 1e-4 // share of the expected fall that a step has to bring
#define CURVATURE 1e-10 // of |y|^2: less is not believed

typedef struct fit {
    const deal_fit_rows *rows;
    const deal_fit_params *params;
    size_t n;         // n_col + 1, the intercept last
    double cost;      // sum of c_i
    double *decision; // (n_row,) or (n_row of the held-out part,)
    double *x, *next; // (n,) the point, and one that is tried
    double *gradient, *next_gradient, *direction; // (n,)
    double *s, *y;                                // (N_MEMORY, n)
    double rho[N_MEMORY], alpha[N_MEMORY];
    int32_t n_pair, i_pair; // pairs kept; where the next one goes
} fit;

static double
dot(const double *a, const double *b, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static void
add(double *to, double factor, const double *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] += factor * from[i];
}

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

// log(1 + exp(-m)), without overflow.
static double
log_loss(double m)
{
    return m > 0.0 ? log1p(exp(-m)) : log1p(exp(m)) - m;
}

static double
mean_loss(const deal_fit_rows *rows, const double *decision, double cost)
{
    double sum = 0.0;
    for (int32_t i = 0; i < rows->n_row; i++)
        sum += cost_of(rows, i) *
               log_loss(rows->target[i] > 0.5f ? decision[i] : -decision[i]);
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
evaluate(const fit *f, const double *x, double *gradient)
{
    const deal_fit_rows *rows = f->rows;
    size_t n_col = f->n - 1;
    double l2 = f->params->l2;
    deal_fit_decide(rows, x, x[n_col], f->decision);
    for (size_t j = 0; j < n_col; j++)
        gradient[j] = l2 * x[j];
    gradient[n_col] = 0.0;
    for (int32_t i = 0; i < rows->n_row; i++) {
        double p = 1.0 / (1.0 + exp(-f->decision[i]));
        double off = p - (rows->target[i] > 0.5f);
        add_row(rows, i, cost_of(rows, i) * off / f->cost, gradient);
    }
    if (!f->params->has_intercept)
        gradient[n_col] = 0.0;
    return mean_loss(rows, f->decision, f->cost) + 0.5 * l2 * dot(x, x, n_col);
}

// ---- Steps --------------------------------------------------------------------------

// direction = -H gradient, by the two loops over the pairs kept.
static void
find_direction(fit *f)
{
    size_t n = f->n;
    memcpy(f->direction, f->gradient, n * sizeof *f->direction);
    for (int32_t k = 1; k <= f->n_pair; k++) {
        int32_t i = (f->i_pair - k + N_MEMORY) % N_MEMORY;
        const double *s = f->s + (size_t)i * n, *y = f->y + (size_t)i * n;
        f->alpha[i] = f->rho[i] * dot(s, f->direction, n);
        add(f->direction, -f->alpha[i], y, n);
    }
    if (f->n_pair) {
        int32_t i = (f->i_pair - 1 + N_MEMORY) % N_MEMORY;
        const double *y = f->y + (size_t)i * n;
        double scale = 1.0 / (f->rho[i] * dot(y, y, n));
        for (size_t j = 0; j < n; j++)
            f->direction[j] *= scale;
    }
    for (int32_t k = f->n_pair; k >= 1; k--) {
        int32_t i = (f->i_pair - k + N_MEMORY) % N_MEMORY;
        const double *s = f->s + (size_t)i * n, *y = f->y + (size_t)i * n;
        add(f->direction, f->alpha[i] - f->rho[i] * dot(y, f->direction, n), s, n);
    }
    for (size_t j = 0; j < n; j++)
        f->direction[j] = -f->direction[j];
}

static void
keep_pair(fit *f)
{
    size_t n = f->n;
    double *s = f->s + (size_t)f->i_pair * n, *y = f->y + (size_t)f->i_pair * n;
    for (size_t j = 0; j < n; j++) {
        s[j] = f->next[j] - f->x[j];
        y[j] = f->next_gradient[j] - f->gradient[j];
    }
    double sy = dot(s, y, n);
    if (sy <= CURVATURE * dot(y, y, n))
        return;
    f->rho[f->i_pair] = 1.0 / sy;
    f->i_pair = (f->i_pair + 1) % N_MEMORY;
    f->n_pair += f->n_pair < N_MEMORY;
}

// One step along the direction; false where none lowers the loss.
static bool
step(fit *f, double *loss)
{
    size_t n = f->n;
    find_direction(f);
    double slope = dot(f->direction, f->gradient, n), size = 1.0;
    if (!f->n_pair)
        size = 1.0 / fmax(1.0, sqrt(dot(f->gradient, f->gradient, n)));
    for (int k = 0; k < N_BACKTRACK; k++, size *= 0.5) {
        memcpy(f->next, f->x, n * sizeof *f->next);
        add(f->next, size, f->direction, n);
        double next = evaluate(f, f->next, f->next_gradient);
        if (!(next <= *loss + SUFFICIENT * size * slope))
            continue;
        keep_pair(f);
        double *swap = f->x;
        f->x = f->next;
        f->next = swap;
        swap = f->gradient;
        f->gradient = f->next_gradient;
        f->next_gradient = swap;
        *loss = next;
        return true;
    }
    return false;
}

static bool
is_flat(const fit *f)
{
    for (size_t j = 0; j < f->n; j++)
        if (fabs(f->gradient[j]) > f->params->tolerance)
            return false;
    return true;
}

static double
held_out_loss(const fit *f, const deal_fit_rows *held_out, double cost)
{
    if (!held_out)
        return NAN;
    deal_fit_decide(held_out, f->x, f->x[f->n - 1], f->decision);
    return mean_loss(held_out, f->decision, cost);
}

// Steps until nothing is to be gained; `best` (n,) gets the weights to return.
static deal_status
run(fit *f, const deal_fit_rows *held_out, double *best, deal_fit_report *report,
    deal_error *err)
{
    const deal_fit_params *p = f->params;
    double held_cost = held_out ? total_cost(held_out) : 1.0;
    double loss = evaluate(f, f->x, f->gradient);
    if (!isfinite(loss))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "fit: expected finite values and weights, got a loss of %g",
                         loss);
    deal_fit_report r = {.loss = loss,
                         .held_out_loss = held_out_loss(f, held_out, held_cost)};
    memcpy(best, f->x, f->n * sizeof *best);
    while (r.n_step < p->n_step_max) {
        r.has_converged = is_flat(f) || !step(f, &loss);
        if (r.has_converged)
            break;
        r.n_step++;
        double held = held_out_loss(f, held_out, held_cost);
        if (!held_out || held < r.held_out_loss) {
            memcpy(best, f->x, f->n * sizeof *best);
            r.best_step = r.n_step;
            r.loss = loss;
            r.held_out_loss = held;
        }
        if (p->on_step && p->on_step(p->context, r.n_step, loss, held) != 0)
            return deal_fail(err, DEAL_ERR_CALLBACK, "fit: stopped");
        if (r.n_step - r.best_step >= p->n_patience)
            break;
    }
    *report = r;
    return DEAL_OK;
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

static deal_status
check_params(const deal_fit_params *p, deal_error *err)
{
    if (!(p->l2 >= 0.0) || !isfinite(p->l2))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "fit: l2: expected a finite number >= 0, got %g", p->l2);
    if (p->n_step_max < 1 || p->n_patience < 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "fit: steps and patience: expected at least 1, got %d and %d",
                         (int)p->n_step_max, (int)p->n_patience);
    return DEAL_OK;
}

static void
free_fit(fit *f)
{
    deal_free(f->decision);
    deal_free(f->x);
    deal_free(f->next);
    deal_free(f->gradient);
    deal_free(f->next_gradient);
    deal_free(f->direction);
    deal_free(f->s);
    deal_free(f->y);
}

static deal_status
make_fit(fit *f, size_t n_row_max, deal_error *err)
{
    f->decision = deal_alloc(n_row_max, sizeof(double));
    f->x = deal_alloc(f->n, sizeof(double));
    f->next = deal_alloc(f->n, sizeof(double));
    f->gradient = deal_alloc(f->n, sizeof(double));
    f->next_gradient = deal_alloc(f->n, sizeof(double));
    f->direction = deal_alloc(f->n, sizeof(double));
    f->s = deal_alloc(f->n, N_MEMORY * sizeof(double));
    f->y = deal_alloc(f->n, N_MEMORY * sizeof(double));
    if (!f->decision || !f->x || !f->next || !f->gradient || !f->next_gradient ||
        !f->direction || !f->s || !f->y)
        return deal_fail_memory(err, "fit");
    return DEAL_OK;
}

deal_status
deal_fit_logistic(const deal_fit_rows *rows, const deal_fit_rows *held_out,
                  const deal_fit_params *params, double *weight, double *intercept,
                  deal_fit_report *report, deal_error *err)
{
    DEAL_TRY(check_params(params, err));
    DEAL_TRY(check_rows("rows", rows, rows->n_col, err));
    if (held_out)
        DEAL_TRY(check_rows("held-out rows", held_out, rows->n_col, err));
    fit f = {.rows = rows, .params = params, .n = (size_t)rows->n_col + 1};
    f.cost = total_cost(rows);
    int32_t n_row_max = rows->n_row;
    if (held_out && held_out->n_row > n_row_max)
        n_row_max = held_out->n_row;
    deal_status status = DEAL_OK;
    double *best = deal_alloc(f.n, sizeof *best);
    if (!best)
        DEAL_TRY_GOTO(deal_fail_memory(err, "fit"), done);
    DEAL_TRY_GOTO(make_fit(&f, (size_t)n_row_max, err), done);
    memcpy(f.x, weight, (f.n - 1) * sizeof *f.x);
    f.x[f.n - 1] = params->has_intercept ? *intercept : 0.0;
    DEAL_TRY_GOTO(run(&f, held_out, best, report, err), done);
    memcpy(weight, best, (f.n - 1) * sizeof *weight);
    *intercept = best[f.n - 1];
done:
    free_fit(&f);
    deal_free(best);
    return status;
}
