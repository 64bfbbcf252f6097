#include "search/formula.h"

#include <math.h>
#include <stdbool.h>

// Numbers that a term takes.
static int32_t
n_taken(deal_term_kind kind)
{
    switch (kind) {
    case DEAL_TERM_ADD:
    case DEAL_TERM_MULTIPLY:
    case DEAL_TERM_MIN:
    case DEAL_TERM_MAX:
        return 2;
    case DEAL_TERM_AT_LEAST:
        return 1;
    default:
        return 0;
    }
}

static bool
is_within(int32_t i, int32_t n, int32_t n_all)
{
    return i >= 0 && n >= 1 && n <= n_all && i <= n_all - n;
}

static deal_status
check_term(const deal_formula *formula, int32_t t, int32_t n_reward, deal_error *err)
{
    const deal_term *term = &formula->term[t];
    if ((int)term->kind < 0 || term->kind >= DEAL_N_TERM)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "formula: term %d: kind: expected 0 to %d, got %d", (int)t,
                         (int)DEAL_N_TERM - 1, (int)term->kind);
    if (term->kind == DEAL_TERM_REWARD && !is_within(term->i, 1, n_reward))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "formula: term %d: reward: expected 0 to %d, got %d", (int)t,
                         (int)n_reward - 1, (int)term->i);
    if (term->kind == DEAL_TERM_SCHEDULE &&
        !is_within(term->i, term->n, formula->n_number))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "formula: term %d: schedule: expected a part of %d numbers, "
                         "got %d from %d",
                         (int)t, (int)formula->n_number, (int)term->n, (int)term->i);
    if (!isfinite(term->x))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "formula: term %d: expected a finite number, got %g", (int)t,
                         term->x);
    return DEAL_OK;
}

deal_status
deal_formula_check(const deal_formula *formula, int32_t n_reward, deal_error *err)
{
    int32_t depth = 0;
    for (int32_t i = 0; i < formula->n_number; i++)
        if (!isfinite(formula->number[i]))
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "formula: schedule: expected finite numbers, got %g",
                             formula->number[i]);
    for (int32_t t = 0; t < formula->n_term; t++) {
        DEAL_TRY(check_term(formula, t, n_reward, err));
        int32_t n = n_taken(formula->term[t].kind);
        if (depth < n)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "formula: term %d: expected %d numbers before it, got %d",
                             (int)t, (int)n, (int)depth);
        depth += 1 - n;
        if (depth > DEAL_FORMULA_DEPTH)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "formula: expected at most %d numbers that wait for an "
                             "operation",
                             DEAL_FORMULA_DEPTH);
    }
    if (depth != 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "formula: expected to end with one number, got %d",
                         (int)depth);
    return DEAL_OK;
}

// What a term pushes that takes nothing and is no reward.
static double
constant(const deal_formula *formula, const deal_term *term, int32_t position)
{
    if (term->kind == DEAL_TERM_NUMBER)
        return term->x;
    return formula->number[term->i + (position < term->n ? position : term->n - 1)];
}

// What a term makes of the numbers that it takes; `b` is none of AT_LEAST's.
static double
operate(const deal_term *term, double a, double b)
{
    switch (term->kind) {
    case DEAL_TERM_ADD:
        return a + b;
    case DEAL_TERM_MULTIPLY:
        return a * b;
    case DEAL_TERM_MIN:
        return b < a ? b : a;
    case DEAL_TERM_MAX:
        return b > a ? b : a;
    default:
        return a >= term->x;
    }
}

double
deal_formula_value(const deal_formula *formula, const double *score, int32_t position)
{
    double stack[DEAL_FORMULA_DEPTH + 2] = {0}, *top = stack; // one spare at either end
    for (int32_t t = 0; t < formula->n_term; t++) {
        const deal_term *term = &formula->term[t];
        int32_t n = n_taken(term->kind);
        top += 1 - n; // where the result goes
        if (term->kind == DEAL_TERM_REWARD)
            *top = score[term->i];
        else
            *top = n == 0 ? constant(formula, term, position)
                          : operate(term, top[0], top[1]);
    }
    return *top;
}

typedef struct range {
    double low, high;
} range;

// Scores are finite: 0 times any of them is 0.
static double
times(double a, double b)
{
    return a == 0.0 || b == 0.0 ? 0.0 : a * b;
}

static range
product(range a, range b)
{
    double corner[] = {times(a.low, b.low), times(a.low, b.high), times(a.high, b.low),
                       times(a.high, b.high)};
    range r = {corner[0], corner[0]};
    for (int i = 1; i < 4; i++) {
        r.low = corner[i] < r.low ? corner[i] : r.low;
        r.high = corner[i] > r.high ? corner[i] : r.high;
    }
    return r;
}

static range
operate_on_ranges(const deal_term *term, range a, range b)
{
    if (term->kind == DEAL_TERM_MULTIPLY)
        return product(a, b);
    range r = {operate(term, a.low, b.low), operate(term, a.high, b.high)};
    r.low = isnan(r.low) ? -INFINITY : r.low; // infinities that cancel say nothing
    r.high = isnan(r.high) ? INFINITY : r.high;
    return r;
}

void
deal_formula_range(const deal_formula *formula, const double *low, const double *high,
                   int32_t position, double *from, double *to)
{
    range stack[DEAL_FORMULA_DEPTH + 2] = {0}, *top = stack;
    for (int32_t t = 0; t < formula->n_term; t++) {
        const deal_term *term = &formula->term[t];
        int32_t n = n_taken(term->kind);
        top += 1 - n;
        if (term->kind == DEAL_TERM_REWARD) {
            *top = (range){low[term->i], high[term->i]};
        } else if (n == 0) {
            double x = constant(formula, term, position);
            *top = (range){x, x};
        } else {
            *top = operate_on_ranges(term, top[0], top[1]);
        }
    }
    *from = top->low;
    *to = top->high;
}
