/* Fits of heads: gradients against differences, a split that needs a hidden layer, the
 * same of a linear fit and of rows standardised by hand, calibration, and faults.
 */
#include "check.h"
#include "common/alloc.h"
#include "common/rng.h"
#include "reward/fit.h"
#include "reward/head_fit.h"

enum {
    N_ITEM = 80,
    N_IN = 6,
    N_HIDDEN = 4,
    N_POINT = N_IN * N_HIDDEN + 2 * N_HIDDEN + 1
};

static float x[2 * N_ITEM * N_IN], target[N_ITEM], cost[N_ITEM];
static double weight[N_IN], hidden_weight[N_HIDDEN * N_IN], hidden_bias[N_HIDDEN];

// The sign of a product decides; features lie far from 0.
static void
fill(void)
{
    for (uint64_t i = 0; i < N_ITEM; i++) {
        cost[i] = (float)(0.5 + deal_rng_uniform(3, 2, i));
        for (uint64_t j = 0; j < 2 * N_IN; j++)
            x[2 * i * N_IN + j] =
                (float)(3.0 * deal_rng_uniform(3, i, j) - 1.5 + (double)(j % N_IN));
    }
    for (int i = 0; i < N_ITEM; i++)
        target[i] = x[i * N_IN] * (x[i * N_IN + 1] - 1.0f) > 0.0f;
}

static deal_head_data
labels(int32_t n_train)
{
    return (deal_head_data){.n_item = N_ITEM,
                            .n_train = n_train,
                            .n_in = N_IN,
                            .x = x,
                            .target = target,
                            .cost = cost};
}

static deal_head_data
pairs(int32_t n_train)
{
    deal_head_data data = labels(n_train);
    data.target = data.cost = NULL;
    return data;
}

static deal_head_fit_params
make_params(int32_t n_hidden)
{
    return (deal_head_fit_params){
        .n_hidden = n_hidden,
        .activation = DEAL_ACTIVATION_GELU,
        .seed = 5,
        .fit = {.l2 = 1e-3, .n_step_max = 500, .tolerance = 1e-7, .n_patience = 500}};
}

static void
test_gradient(const deal_head_data *data, deal_activation activation)
{
    double point[N_POINT], gradient[N_POINT], ignored[N_POINT], low, high, loss;
    deal_head_fit_params params = make_params(N_HIDDEN);
    params.activation = activation;
    deal_error err;
    for (uint64_t j = 0; j < N_POINT; j++)
        point[j] = deal_rng_uniform(4, 0, j) - 0.5;
    CHECK_EQ_INT(deal_head_fit_loss(data, &params, point, &loss, gradient, &err),
                 DEAL_OK);
    for (int j = 0; j < N_POINT; j++) {
        double at = point[j], step = 1e-6;
        point[j] = at + step;
        deal_head_fit_loss(data, &params, point, &high, ignored, &err);
        point[j] = at - step;
        deal_head_fit_loss(data, &params, point, &low, ignored, &err);
        point[j] = at;
        CHECK_NEAR(gradient[j], (high - low) / (2.0 * step), 1e-7);
    }
}

// What a head with these weights makes of a row.
static double
decide(int32_t n_hidden, const deal_head_weights *w, const float *row)
{
    double sum = w->bias;
    for (int32_t k = 0; k < n_hidden; k++) {
        double z = w->hidden_bias[k];
        for (int i = 0; i < N_IN; i++)
            z += w->hidden_weight[k * N_IN + i] * (double)row[i];
        sum += w->weight[k] * deal_activation_value(DEAL_ACTIVATION_GELU, z);
    }
    for (int i = 0; !n_hidden && i < N_IN; i++)
        sum += w->weight[i] * (double)row[i];
    return sum;
}

static deal_head_weights
fit(const deal_head_data *data, int32_t n_hidden, deal_fit_report *report)
{
    deal_head_weights w = {
        .weight = weight, .hidden_weight = hidden_weight, .hidden_bias = hidden_bias};
    deal_head_fit_params params = make_params(n_hidden);
    deal_error err = {.message = ""};
    CHECK_EQ_INT(deal_head_fit(data, &params, &w, report, &err), DEAL_OK);
    fill(); // the fit overwrites its rows
    return w;
}

static int
n_right(int32_t n_hidden, const deal_head_weights *w)
{
    int n = 0;
    for (int i = 0; i < N_ITEM; i++)
        n += (decide(n_hidden, w, x + i * N_IN) > 0.0) == (target[i] > 0.5f);
    return n;
}

static void
test_hidden_layer(void)
{
    deal_fit_report report;
    deal_head_data all = labels(N_ITEM);
    deal_head_weights w = fit(&all, 0, &report);
    CHECK(report.has_converged && isnan(report.held_out_loss));
    CHECK(n_right(0, &w) < 70);
    w = fit(&all, N_HIDDEN, &report);
    CHECK(n_right(N_HIDDEN, &w) > 75);
    double before = decide(N_HIDDEN, &w, x);
    w = fit(&all, N_HIDDEN, &report);
    CHECK(decide(N_HIDDEN, &w, x) == before);
}

// The optimum on standardised rows, found by fit.h.
static void
test_linear(void)
{
    float z[N_ITEM * N_IN];
    for (int j = 0; j < N_IN; j++) {
        double mean = 0.0, square = 0.0;
        for (int i = 0; i < N_ITEM; i++)
            mean += (double)x[i * N_IN + j] / N_ITEM;
        for (int i = 0; i < N_ITEM; i++)
            square += pow((double)x[i * N_IN + j] - mean, 2.0) / N_ITEM;
        for (int i = 0; i < N_ITEM; i++)
            z[i * N_IN + j] = (float)(((double)x[i * N_IN + j] - mean) / sqrt(square));
    }
    const deal_fit_rows rows = {
        .n_row = N_ITEM, .n_col = N_IN, .value = z, .target = target, .cost = cost};
    deal_fit_params params = make_params(0).fit;
    params.has_intercept = true;
    double direct[N_IN] = {0}, intercept = 0.0, decision[N_ITEM];
    deal_fit_report report;
    deal_error err;
    CHECK_EQ_INT(
        deal_fit_logistic(&rows, NULL, &params, direct, &intercept, &report, &err),
        DEAL_OK);
    deal_fit_decide(&rows, direct, intercept, decision);
    deal_head_data all = labels(N_ITEM);
    deal_head_weights w = fit(&all, 0, &report);
    for (int i = 0; i < N_ITEM; i++)
        CHECK_NEAR(decide(0, &w, x + i * N_IN), decision[i], 1e-5);
}

// Held-out pairs are ordered like those fitted, or the other way round.
static void
test_pairs(int32_t n_hidden)
{
    deal_fit_report report;
    double rise[2];
    for (int turned = 0; turned < 2; turned++) {
        for (int i = 0; i < N_ITEM; i++) {
            float *chosen = x + 2 * i * N_IN, *rejected = chosen + N_IN;
            bool is_right = chosen[2] > rejected[2];
            if (is_right != (turned && i >= 60))
                continue;
            float swap = chosen[2];
            chosen[2] = rejected[2];
            rejected[2] = swap;
        }
        deal_head_data data = pairs(60);
        deal_head_weights w = fit(&data, n_hidden, &report);
        float row[N_IN] = {0, 1, 1, 3, 4, 5};
        double low = decide(n_hidden, &w, row);
        row[2] = 3.0f;
        rise[turned] = decide(n_hidden, &w, row) - low;
    }
    CHECK(report.best_step <= report.n_step);
    CHECK(rise[0] > 1.0);
    CHECK(fabs(rise[1]) < 0.1 * rise[0]); // nothing that was held out bears it out
}

static int
stop_at_two(void *context, int32_t step, double loss, double held_out_loss)
{
    (void)context;
    (void)loss;
    (void)held_out_loss;
    return step == 2;
}

static void
expect_bad(deal_head_data data, deal_head_fit_params params, const char *part)
{
    deal_head_weights w = {
        .weight = weight, .hidden_weight = hidden_weight, .hidden_bias = hidden_bias};
    deal_fit_report report;
    deal_error err = {.message = ""};
    deal_status status = deal_head_fit(&data, &params, &w, &report, &err);
    CHECK_EQ_INT(status, params.fit.on_step ? DEAL_ERR_CALLBACK : DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, part);
    fill();
}

static void
test_faults(int32_t n_hidden)
{
    deal_head_fit_params sound = make_params(n_hidden), params = sound;
    params.n_hidden = 1025;
    expect_bad(labels(N_ITEM), params, "n_hidden: expected 0 to 1024, got 1025");
    params = sound;
    params.activation = (deal_activation)3;
    expect_bad(labels(N_ITEM), params, "activation: expected 0 to 2, got 3");
    params = sound;
    params.fit.l2 = NAN;
    expect_bad(labels(N_ITEM), params, "l2: expected a finite number");
    params = sound;
    params.fit.on_step = stop_at_two;
    expect_bad(pairs(40), params, "stopped");
    expect_bad(labels(0), sound, "0 to fit");
    expect_bad(labels(N_ITEM + 1), sound, "81 to fit");
    cost[3] = 0.0f;
    expect_bad(labels(N_ITEM), sound, "costs > 0, got 0");
    x[2 * N_IN] = INFINITY;
    expect_bad(pairs(40), sound, "finite numbers, got inf in row 2");
    int n_failed = 0;
    for (size_t n = 1;; n++, n_failed++) {
        deal_head_weights w = {.weight = weight,
                               .hidden_weight = hidden_weight,
                               .hidden_bias = hidden_bias};
        deal_head_data data = pairs(60);
        deal_fit_report report;
        deal_error err;
        deal_alloc_fail_at(n);
        deal_status status = deal_head_fit(&data, &sound, &w, &report, &err);
        deal_alloc_fail_at(0);
        fill();
        if (status == DEAL_OK)
            break;
        CHECK_EQ_INT(status, DEAL_ERR_NO_MEMORY);
    }
    CHECK(n_failed > 10);
}

int
main(void)
{
    fill();
    for (int a = DEAL_ACTIVATION_TANH; a <= DEAL_ACTIVATION_GELU; a++) {
        deal_head_data both[] = {labels(61), pairs(61)}; // a block that is not full
        test_gradient(&both[0], (deal_activation)a);
        test_gradient(&both[1], (deal_activation)a);
    }
    test_hidden_layer();
    test_linear();
    test_pairs(0);
    test_pairs(N_HIDDEN);
    test_faults(0);
    test_faults(N_HIDDEN);
    return check_report("test_head_fit");
}
