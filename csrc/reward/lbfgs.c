#include "reward/lbfgs.h"

#include <math.h>
#include <string.h>

#include "common/alloc.h"

#define N_MEMORY 10     // pairs of steps and gradient changes that are kept
#define N_BACKTRACK 40  // halvings of one step
#define SUFFICIENT 1e-4 // share of the expected fall that a step has to bring
#define CURVATURE 1e-10 // of |y|^2: less is not believed

typedef struct fit {
    const deal_objective *objective;
    const deal_fit_params *params;
    size_t n;
    double *x, *next; // (n,) the point, and one that is tried
    double *gradient, *next_gradient, *direction; // (n,)
    double *s, *y;                                // (N_MEMORY, n)
    double rho[N_MEMORY], alpha[N_MEMORY];
    int32_t n_pair, i_pair; // pairs kept; where the next one goes
} fit;

double
deal_log_loss(double m)
{
    return m > 0.0 ? log1p(exp(-m)) : log1p(exp(m)) - m;
}

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

static double
evaluate(const fit *f, const double *x, double *gradient)
{
    return f->objective->evaluate(f->objective->self, x, gradient);
}

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
held_out_loss(const fit *f)
{
    const deal_objective *objective = f->objective;
    return objective->held_out ? objective->held_out(objective->self, f->x) : NAN;
}

// Steps until nothing is to be gained; `best` (n,) gets the weights to return.
static deal_status
run(fit *f, double *best, deal_fit_report *report, deal_error *err)
{
    const deal_fit_params *p = f->params;
    double loss = evaluate(f, f->x, f->gradient);
    if (!isfinite(loss))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "fit: expected finite values and weights, got a loss of %g",
                         loss);
    deal_fit_report r = {.loss = loss, .held_out_loss = held_out_loss(f)};
    memcpy(best, f->x, f->n * sizeof *best);
    while (r.n_step < p->n_step_max) {
        r.has_converged = is_flat(f) || !step(f, &loss);
        if (r.has_converged)
            break;
        r.n_step++;
        double held = held_out_loss(f);
        if (!f->objective->held_out || held < r.held_out_loss) {
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
    deal_free(f->x);
    deal_free(f->next);
    deal_free(f->gradient);
    deal_free(f->next_gradient);
    deal_free(f->direction);
    deal_free(f->s);
    deal_free(f->y);
}

static deal_status
make_fit(fit *f, deal_error *err)
{
    f->x = deal_alloc(f->n, sizeof(double));
    f->next = deal_alloc(f->n, sizeof(double));
    f->gradient = deal_alloc(f->n, sizeof(double));
    f->next_gradient = deal_alloc(f->n, sizeof(double));
    f->direction = deal_alloc(f->n, sizeof(double));
    f->s = deal_alloc(f->n, N_MEMORY * sizeof(double));
    f->y = deal_alloc(f->n, N_MEMORY * sizeof(double));
    if (!f->x || !f->next || !f->gradient || !f->next_gradient || !f->direction ||
        !f->s || !f->y)
        return deal_fail_memory(err, "fit");
    return DEAL_OK;
}

deal_status
deal_lbfgs_run(const deal_objective *objective, const deal_fit_params *params,
               double *x, deal_fit_report *report, deal_error *err)
{
    DEAL_TRY(check_params(params, err));
    fit f = {.objective = objective, .params = params, .n = objective->n};
    deal_status status = DEAL_OK;
    double *best = deal_alloc(f.n, sizeof *best);
    if (!best)
        DEAL_TRY_GOTO(deal_fail_memory(err, "fit"), done);
    DEAL_TRY_GOTO(make_fit(&f, err), done);
    memcpy(f.x, x, f.n * sizeof *x);
    DEAL_TRY_GOTO(run(&f, best, report, err), done);
    memcpy(x, best, f.n * sizeof *x);
done:
    free_fit(&f);
    deal_free(best);
    return status;
}
