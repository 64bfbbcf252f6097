/* Logistic regression: a case worked out by hand, an optimum, rows dense and sparse,
 * preferences, early stopping, and faults.
 */
#include "check.h"
#include "common/alloc.h"
#include "common/rng.h"
#include "reward/fit.h"

enum { N_ROW = 60, N_COL = 5 };

typedef struct data {
    float dense[N_ROW * N_COL], sparse[N_ROW * N_COL], target[N_ROW], cost[N_ROW];
    size_t first[N_ROW + 1];
    int32_t column[N_ROW * N_COL];
} data;

static uint64_t n_draw;

static double
draw(void)
{
    return deal_rng_uniform(11, 1, n_draw++);
}

// Rows with zeros in them, labelled by a plane and some noise.
static void
fill(data *d, double noise)
{
    size_t n = 0;
    for (int i = 0; i < N_ROW; i++) {
        double side = 0.2;
        d->first[i] = n;
        for (int j = 0; j < N_COL; j++) {
            float x = draw() < 0.4 ? 0.0f : (float)(draw() * 4.0 - 2.0);
            d->dense[i * N_COL + j] = x;
            side += (j % 2 ? 1.0 : -1.5) * (double)x;
            if (x == 0.0f)
                continue;
            d->sparse[n] = x;
            d->column[n++] = j;
        }
        d->target[i] = side + noise * (draw() - 0.5) > 0.0;
        d->cost[i] = (float)(0.5 + draw());
    }
    d->first[N_ROW] = n;
}

static deal_fit_rows
dense_rows(const data *d)
{
    return (deal_fit_rows){.n_row = N_ROW,
                           .n_col = N_COL,
                           .value = d->dense,
                           .target = d->target,
                           .cost = d->cost};
}

static deal_fit_rows
sparse_rows(const data *d)
{
    deal_fit_rows rows = dense_rows(d);
    rows.first = d->first;
    rows.column = d->column;
    rows.value = d->sparse;
    return rows;
}

static const deal_fit_params plain = {.l2 = 0.05,
                                      .has_intercept = true,
                                      .n_step_max = 500,
                                      .tolerance = 1e-9,
                                      .n_patience = 5};

// The objective as fit.h states it.
static double
objective(const data *d, const double *w, double b, double l2)
{
    double sum = 0.0, cost = 0.0, square = 0.0;
    for (int i = 0; i < N_ROW; i++) {
        double z = b;
        for (int j = 0; j < N_COL; j++)
            z += (double)d->dense[i * N_COL + j] * w[j];
        sum += (double)d->cost[i] * log(1.0 + exp(d->target[i] > 0.5f ? -z : z));
        cost += (double)d->cost[i];
    }
    for (int j = 0; j < N_COL; j++)
        square += w[j] * w[j];
    return sum / cost + 0.5 * l2 * square;
}

static void
test_optimum(void)
{
    data d;
    fill(&d, 4.0);
    double w[N_COL] = {0}, b = 0.0, again[N_COL] = {3, -1, 0, 2, 5}, c = -2.0;
    deal_fit_report report;
    deal_error err;
    deal_fit_rows dense = dense_rows(&d), sparse = sparse_rows(&d);
    CHECK(deal_fit_logistic(&dense, NULL, &plain, w, &b, &report, &err) == DEAL_OK);
    CHECK(report.has_converged && isnan(report.held_out_loss));
    CHECK(report.best_step == report.n_step && report.n_step > 3);
    double least = objective(&d, w, b, plain.l2);
    CHECK_NEAR(report.loss, least, 1e-12);
    for (int j = 0; j <= N_COL; j++)
        for (int sign = -1; sign <= 1; sign += 2) {
            double near[N_COL];
            memcpy(near, w, sizeof near);
            if (j < N_COL)
                near[j] += sign * 1e-3;
            CHECK(objective(&d, near, b + (j == N_COL) * sign * 1e-3, plain.l2) >
                  least);
        }
    // From another start, and without the zeros: the same place.
    CHECK(deal_fit_logistic(&sparse, NULL, &plain, again, &c, &report, &err) ==
          DEAL_OK);
    for (int j = 0; j < N_COL; j++)
        CHECK_NEAR(again[j], w[j], 1e-6);
    CHECK_NEAR(c, b, 1e-6);
    double decision[N_ROW], other[N_ROW];
    deal_fit_decide(&dense, w, b, decision);
    deal_fit_decide(&sparse, w, b, other);
    for (int i = 0; i < N_ROW; i++)
        CHECK_NEAR(decision[i], other[i], 1e-12);
}

// One column of ones, three of four rows positive: the log odds, ln 3.
static void
test_by_hand(void)
{
    const float value[] = {1, 1, 1, 1}, target[] = {1, 0, 1, 1};
    const deal_fit_rows rows = {
        .n_row = 4, .n_col = 1, .value = value, .target = target};
    deal_fit_params params = plain;
    params.l2 = 0.0;
    params.has_intercept = false;
    double w = 0.0, b = 7.0;
    deal_fit_report report;
    deal_error err;
    CHECK(deal_fit_logistic(&rows, NULL, &params, &w, &b, &report, &err) == DEAL_OK);
    CHECK_NEAR(w, log(3.0), 1e-7);
    CHECK(b == 0.0);
}

// Differences of features, the better one first: weights that order the pairs.
static void
test_preferences(void)
{
    const float value[] = {1, 0, 2, 1, -1, -3}, target[] = {1, 1, 1};
    const deal_fit_rows rows = {
        .n_row = 3, .n_col = 2, .value = value, .target = target};
    deal_fit_params params = plain;
    params.has_intercept = false;
    double w[2] = {0}, b = 0.0, decision[3];
    deal_fit_report report;
    deal_error err;
    CHECK(deal_fit_logistic(&rows, NULL, &params, w, &b, &report, &err) == DEAL_OK);
    deal_fit_decide(&rows, w, b, decision);
    CHECK(decision[0] > 0.0 && decision[1] > 0.0 && decision[2] > 0.0);
}

static void
test_early_stop(void)
{
    data d, held;
    fill(&d, 12.0);
    fill(&held, 12.0);
    deal_fit_params params = plain;
    params.l2 = 0.0;
    params.n_patience = 2;
    deal_fit_rows rows = sparse_rows(&d), held_out = sparse_rows(&held);
    held_out.cost = NULL;
    double w[N_COL] = {0}, b = 0.0, decision[N_ROW], sum = 0.0;
    deal_fit_report report, free_report;
    deal_error err;
    CHECK(deal_fit_logistic(&rows, &held_out, &params, w, &b, &report, &err) ==
          DEAL_OK);
    CHECK(report.n_step - report.best_step <= 2);
    deal_fit_decide(&held_out, w, b, decision);
    for (int i = 0; i < N_ROW; i++)
        sum += log(1.0 + exp(held.target[i] > 0.5f ? -decision[i] : decision[i]));
    CHECK_NEAR(report.held_out_loss, sum / N_ROW, 1e-12);
    double v[N_COL] = {0}, c = 0.0;
    CHECK(deal_fit_logistic(&rows, NULL, &params, v, &c, &free_report, &err) ==
          DEAL_OK);
    CHECK(free_report.loss <= report.loss);
    deal_fit_decide(&held_out, v, c, decision);
    double free_sum = 0.0;
    for (int i = 0; i < N_ROW; i++)
        free_sum += log(1.0 + exp(held.target[i] > 0.5f ? -decision[i] : decision[i]));
    CHECK(sum <= free_sum);
}

static int
stop_at_three(void *context, int32_t step, double loss, double held_out_loss)
{
    (void)loss;
    (void)held_out_loss;
    *(int *)context = step;
    return step == 3;
}

static void
test_faults(void)
{
    data d;
    fill(&d, 4.0);
    deal_fit_rows rows = sparse_rows(&d), wrong = rows;
    deal_fit_params params = plain;
    double w[N_COL] = {0}, b = 0.0;
    deal_fit_report report;
    deal_error err;
    int n_step = 0;
    params.on_step = stop_at_three;
    params.context = &n_step;
    CHECK(deal_fit_logistic(&rows, NULL, &params, w, &b, &report, &err) ==
          DEAL_ERR_CALLBACK);
    CHECK(n_step == 3 && w[0] == 0.0 && b == 0.0);
    params = plain;
    params.l2 = -1.0;
    CHECK(deal_fit_logistic(&rows, NULL, &params, w, &b, &report, &err) ==
          DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "l2");
    wrong.n_col = 3;
    CHECK(deal_fit_logistic(&wrong, NULL, &plain, w, &b, &report, &err) ==
          DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "columns in [0, 3)");
    CHECK(deal_fit_logistic(&rows, &wrong, &plain, w, &b, &report, &err) ==
          DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "held-out");
    d.cost[4] = 0.0f;
    CHECK(deal_fit_logistic(&rows, NULL, &plain, w, &b, &report, &err) ==
          DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "costs");
    d.cost[4] = 1.0f;
    d.sparse[0] = NAN;
    CHECK(deal_fit_logistic(&rows, NULL, &plain, w, &b, &report, &err) ==
          DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "finite");
    d.sparse[0] = 1.0f;
    int n_failed = 0;
    for (size_t n = 1;; n++, n_failed++) {
        deal_alloc_fail_at(n);
        deal_status status =
            deal_fit_logistic(&rows, NULL, &plain, w, &b, &report, &err);
        deal_alloc_fail_at(0);
        if (status == DEAL_OK)
            break;
        CHECK(status == DEAL_ERR_NO_MEMORY && w[0] == 0.0);
    }
    CHECK(n_failed > 5);
}

int
main(void)
{
    test_by_hand();
    test_optimum();
    test_preferences();
    test_early_stop();
    test_faults();
    return check_report("test_fit");
}
