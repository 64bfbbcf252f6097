#include "reward/head_fit.h"

#include <math.h>
#include <string.h>

#include "common/alloc.h"
#include "common/rng.h"
#include "reward/fit.h"

#define N_BLOCK 4 // rows whose gradients are summed before they are written
#define FLAT 1e-6 // of its mean: a feature that differs by less is constant
#define CALIBRATION_STEPS 100
#define CALIBRATION_TOLERANCE 1e-9

static size_t
rows_per_item(const deal_head_data *data)
{
    return data->target ? 1 : 2;
}

static double
cost_of(const deal_head_data *data, int32_t i)
{
    return data->cost ? (double)data->cost[i] : 1.0;
}

static double
total_cost(const deal_head_data *data, int32_t begin, int32_t end)
{
    double sum = 0.0;
    for (int32_t i = begin; i < end; i++)
        sum += cost_of(data, i);
    return sum;
}

// ---- Standardisation ----------------------------------------------------------------

// Mean and deviation (n_in,) over the rows that are fitted; constant features get 1.
static void
measure(const deal_head_data *data, double *mean, double *std)
{
    size_t n_in = (size_t)data->n_in;
    size_t n_row = (size_t)data->n_train * rows_per_item(data);
    memset(mean, 0, n_in * sizeof *mean);
    memset(std, 0, n_in * sizeof *std);
    for (size_t r = 0; r < n_row; r++)
        for (size_t i = 0; i < n_in; i++)
            mean[i] += (double)data->x[r * n_in + i];
    for (size_t i = 0; i < n_in; i++)
        mean[i] /= (double)n_row;
    for (size_t r = 0; r < n_row; r++)
        for (size_t i = 0; i < n_in; i++) {
            double off = (double)data->x[r * n_in + i] - mean[i];
            std[i] += off * off;
        }
    for (size_t i = 0; i < n_in; i++) {
        std[i] = sqrt(std[i] / (double)n_row);
        if (!(std[i] > FLAT * fabs(mean[i])))
            std[i] = 1.0;
    }
}

static void
standardise(const deal_head_data *data, const double *mean, const double *std)
{
    size_t n_in = (size_t)data->n_in;
    size_t n_row = (size_t)data->n_item * rows_per_item(data);
    for (size_t r = 0; r < n_row; r++)
        for (size_t i = 0; i < n_in; i++) {
            float *x = &data->x[r * n_in + i];
            *x = (float)(((double)*x - mean[i]) / std[i]);
        }
}

// ---- A hidden layer: loss and gradient ----------------------------------------------

typedef struct net {
    const deal_head_data *data;
    const deal_head_fit_params *params;
    size_t n_in, n_hidden;
    double *x;    // (N_BLOCK, n_in)
    double *z;    // (N_BLOCK, n_hidden), then what flows back into it
    double *unit; // (N_BLOCK, n_hidden) activations
} net;

// Where the parts of a point lie.
typedef struct parts {
    const double *hidden_weight, *hidden_bias, *weight, *bias;
} parts;

static size_t
n_point(size_t n_in, size_t n_hidden)
{
    return n_in * n_hidden + 2 * n_hidden + 1;
}

static parts
parts_of(const net *t, const double *point)
{
    const double *bias = point + t->n_in * t->n_hidden;
    return (parts){point, bias, bias + t->n_hidden, bias + 2 * t->n_hidden};
}

// f of `n_row` rows from `row` on; fills in the block.
static void
forward(const net *t, const parts *p, size_t row, size_t n_row, double *f)
{
    for (size_t r = 0; r < n_row; r++) {
        double *x = t->x + r * t->n_in, *z = t->z + r * t->n_hidden;
        double *unit = t->unit + r * t->n_hidden;
        for (size_t i = 0; i < t->n_in; i++)
            x[i] = (double)t->data->x[(row + r) * t->n_in + i];
        deal_layer_forward(p->hidden_weight, p->hidden_bias, (int32_t)t->n_in,
                           (int32_t)t->n_hidden, x, 1.0, z);
        f[r] = *p->bias;
        for (size_t k = 0; k < t->n_hidden; k++) {
            unit[k] = deal_activation_value(t->params->activation, z[k]);
            f[r] += p->weight[k] * unit[k];
        }
    }
}

// Adds what df (n_row,), the slope of the loss in f, makes of the block.
static void
backward(const net *t, const parts *p, size_t n_row, const double *df, double *gradient)
{
    size_t n = t->n_hidden;
    double *g_bias = gradient + t->n_in * n, *g_weight = g_bias + n;
    for (size_t r = 0; r < N_BLOCK; r++) {
        double *z = t->z + r * n;
        const double *unit = t->unit + r * n;
        if (r >= n_row) { // so that all blocks have the same shape
            memset(z, 0, n * sizeof *z);
            memset(t->x + r * t->n_in, 0, t->n_in * sizeof *t->x);
            continue;
        }
        g_weight[n] += df[r];
        for (size_t k = 0; k < n; k++) {
            g_weight[k] += df[r] * unit[k];
            z[k] = df[r] * p->weight[k] *
                   deal_activation_slope(t->params->activation, z[k]);
            g_bias[k] += z[k];
        }
    }
    const double *x = t->x, *z = t->z;
    for (size_t i = 0; i < t->n_in; i++) {
        double a = x[i], b = x[t->n_in + i], c = x[2 * t->n_in + i],
               d = x[3 * t->n_in + i];
        double *g = gradient + i * n;
        for (size_t k = 0; k < n; k++)
            g[k] += (a * z[k] + b * z[n + k]) + (c * z[2 * n + k] + d * z[3 * n + k]);
    }
}

// Mean loss of items [begin, end); with `gradient`, adds its gradient.
static double
mean_loss(const net *t, const double *point, int32_t begin, int32_t end,
          double *gradient)
{
    const deal_head_data *data = t->data;
    const parts p = parts_of(t, point);
    size_t per = rows_per_item(data);
    double cost = total_cost(data, begin, end), sum = 0.0;
    for (int32_t i = begin; i < end; i += (int32_t)(N_BLOCK / per)) {
        size_t n_left = (size_t)(end - i) * per;
        size_t n_row = n_left < N_BLOCK ? n_left : N_BLOCK;
        double f[N_BLOCK], df[N_BLOCK];
        forward(t, &p, (size_t)i * per, n_row, f);
        for (size_t r = 0; r < n_row; r += per) {
            int32_t item = i + (int32_t)(r / per);
            double sign = data->target && data->target[item] < 0.5f ? -1.0 : 1.0;
            double m = sign * (data->target ? f[r] : f[r] - f[r + 1]);
            double share = cost_of(data, item) / cost;
            sum += share * deal_log_loss(m);
            df[r] = -sign * share / (1.0 + exp(m));
            if (!data->target)
                df[r + 1] = -df[r];
        }
        if (gradient)
            backward(t, &p, n_row, df, gradient);
    }
    return sum;
}

static double
net_evaluate(void *self, const double *point, double *gradient)
{
    const net *t = self;
    size_t n_first = t->n_in * t->n_hidden, n = n_point(t->n_in, t->n_hidden);
    double l2 = t->params->fit.l2, square = 0.0;
    memset(gradient, 0, n * sizeof *gradient);
    double loss = mean_loss(t, point, 0, t->data->n_train, gradient);
    for (size_t j = 0; j + 1 < n; j++)
        if (j < n_first || j >= n_first + t->n_hidden) { // no bias
            gradient[j] += l2 * point[j];
            square += point[j] * point[j];
        }
    return loss + 0.5 * l2 * square;
}

static double
net_held_out(void *self, const double *point)
{
    const net *t = self;
    return mean_loss(t, point, t->data->n_train, t->data->n_item, NULL);
}

static void
net_free(net *t)
{
    deal_free(t->x);
    deal_free(t->z);
    deal_free(t->unit);
}

static deal_status
net_init(net *t, const deal_head_data *data, const deal_head_fit_params *params,
         deal_error *err)
{
    *t = (net){.data = data, .params = params};
    t->n_in = (size_t)data->n_in;
    t->n_hidden = (size_t)params->n_hidden;
    t->x = deal_alloc(t->n_in, N_BLOCK * sizeof(double));
    t->z = deal_alloc(t->n_hidden, N_BLOCK * sizeof(double));
    t->unit = deal_alloc(t->n_hidden, N_BLOCK * sizeof(double));
    if (t->x && t->z && t->unit)
        return DEAL_OK;
    net_free(t);
    return deal_fail_memory(err, "head fit");
}

// Uniform, scaled by the width (X. Glorot and Y. Bengio, AISTATS 2010); biases are 0.
static void
draw_start(const net *t, double *point)
{
    size_t n_first = t->n_in * t->n_hidden;
    double first = sqrt(6.0 / (double)(t->n_in + t->n_hidden));
    double second = sqrt(6.0 / (double)(t->n_hidden + 1));
    memset(point, 0, n_point(t->n_in, t->n_hidden) * sizeof *point);
    for (size_t j = 0; j < n_first; j++)
        point[j] = first * (2.0 * deal_rng_uniform(t->params->seed, 0, j) - 1.0);
    for (size_t k = 0; k < t->n_hidden; k++)
        point[n_first + t->n_hidden + k] =
            second * (2.0 * deal_rng_uniform(t->params->seed, 1, k) - 1.0);
}

// Fits, writes the weights, and f of all rows.
static deal_status
fit_net(const deal_head_data *data, const deal_head_fit_params *params,
        deal_head_weights *weights, double *f, deal_fit_report *report, deal_error *err)
{
    net t;
    DEAL_TRY(net_init(&t, data, params, err));
    deal_status status = DEAL_OK;
    double *point = deal_alloc(n_point(t.n_in, t.n_hidden), sizeof *point);
    if (!point)
        DEAL_TRY_GOTO(deal_fail_memory(err, "head fit"), done);
    draw_start(&t, point);
    const deal_objective objective = {
        .self = &t,
        .n = n_point(t.n_in, t.n_hidden),
        .evaluate = net_evaluate,
        .held_out = data->n_train < data->n_item ? net_held_out : NULL};
    DEAL_TRY_GOTO(deal_lbfgs_run(&objective, &params->fit, point, report, err), done);
    const parts p = parts_of(&t, point);
    for (size_t k = 0; k < t.n_hidden; k++) {
        weights->weight[k] = p.weight[k];
        weights->hidden_bias[k] = p.hidden_bias[k];
        for (size_t i = 0; i < t.n_in; i++)
            weights->hidden_weight[k * t.n_in + i] = point[i * t.n_hidden + k];
    }
    weights->bias = *p.bias;
    size_t n_row = (size_t)data->n_item * rows_per_item(data);
    for (size_t r = 0; r < n_row; r++)
        forward(&t, &p, r, 1, f + r);
done:
    deal_free(point);
    net_free(&t);
    return status;
}

// ---- No hidden layer ----------------------------------------------------------------

// Pairs become rows of differences, which all are preferred.
static void
subtract_pairs(const deal_head_data *data, float *ones)
{
    size_t n_in = (size_t)data->n_in;
    for (size_t item = 0; item < (size_t)data->n_item; item++) {
        const float *chosen = data->x + 2 * item * n_in, *rejected = chosen + n_in;
        for (size_t i = 0; i < n_in; i++)
            data->x[item * n_in + i] = chosen[i] - rejected[i];
        ones[item] = 1.0f;
    }
}

static deal_fit_rows
fit_rows(const deal_head_data *data, const float *target, int32_t begin, int32_t end)
{
    return (deal_fit_rows){.n_row = end - begin,
                           .n_col = data->n_in,
                           .value = data->x + (size_t)begin * (size_t)data->n_in,
                           .target = target + begin,
                           .cost = data->cost ? data->cost + begin : NULL};
}

// Writes the weights, and f of all items: of pairs the differences, as standardised
// features have a mean of 0, and f with them.
static deal_status
fit_linear(const deal_head_data *data, const deal_head_fit_params *params,
           deal_head_weights *weights, double *f, deal_fit_report *report,
           deal_error *err)
{
    float *ones = NULL;
    if (!data->target) {
        ones = deal_alloc((size_t)data->n_item, sizeof *ones);
        if (!ones)
            return deal_fail_memory(err, "head fit");
        subtract_pairs(data, ones);
    }
    const float *target = ones ? ones : data->target;
    deal_fit_rows train = fit_rows(data, target, 0, data->n_train);
    deal_fit_rows held_out = fit_rows(data, target, data->n_train, data->n_item);
    deal_fit_rows all = fit_rows(data, target, 0, data->n_item);
    deal_fit_params fit = params->fit;
    fit.has_intercept = data->target != NULL;
    memset(weights->weight, 0, (size_t)data->n_in * sizeof *weights->weight);
    weights->bias = 0.0;
    deal_status status =
        deal_fit_logistic(&train, held_out.n_row ? &held_out : NULL, &fit,
                          weights->weight, &weights->bias, report, err);
    if (status == DEAL_OK)
        deal_fit_decide(&all, weights->weight, weights->bias, f);
    deal_free(ones);
    return status;
}

// ---- Calibration --------------------------------------------------------------------

// Rows of one column for the held-out decisions (n,): each twice, as what it is and, by
// a little, as what it is not.
static void
smooth_targets(const deal_head_data *data, const double *decision, int32_t n,
               float *value, float *target, float *cost)
{
    double count[2] = {0.0, 0.0};
    for (int32_t i = 0; i < n; i++)
        count[!data->target || data->target[data->n_train + i] > 0.5f] += 1.0;
    for (int32_t i = 0; i < n; i++) {
        int is_high = !data->target || data->target[data->n_train + i] > 0.5f;
        double doubt = 1.0 / (count[is_high] + 2.0);
        double all = cost_of(data, data->n_train + i);
        for (int32_t k = 2 * i; k < 2 * i + 2; k++) {
            int is_this = k == 2 * i;
            value[k] = (float)decision[i];
            target[k] = (float)(is_this ? is_high : !is_high);
            cost[k] = (float)(all * (is_this ? 1.0 - doubt : doubt));
        }
    }
}

// Slope and offset that make log odds of the held-out decisions (n,).
static deal_status
calibrate(const deal_head_data *data, const double *decision, double *slope,
          double *offset, deal_error *err)
{
    int32_t n = data->n_item - data->n_train;
    *slope = 1.0;
    *offset = 0.0;
    if (n == 0)
        return DEAL_OK;
    float *number = deal_alloc(6 * (size_t)n, sizeof *number);
    if (!number)
        return deal_fail_memory(err, "head fit");
    float *value = number, *target = value + 2 * n, *cost = target + 2 * n;
    smooth_targets(data, decision, n, value, target, cost);
    const deal_fit_rows rows = {
        .n_row = 2 * n, .n_col = 1, .value = value, .target = target, .cost = cost};
    const deal_fit_params params = {.has_intercept = data->target != NULL,
                                    .n_step_max = CALIBRATION_STEPS,
                                    .tolerance = CALIBRATION_TOLERANCE,
                                    .n_patience = CALIBRATION_STEPS};
    deal_fit_report report;
    deal_status status =
        deal_fit_logistic(&rows, NULL, &params, slope, offset, &report, err);
    if (*slope < DEAL_HEAD_SLOPE_MIN)
        *slope = DEAL_HEAD_SLOPE_MIN;
    deal_free(number);
    return status;
}

// Works standardisation and calibration into the weights.
static void
fold(const deal_head_data *data, int32_t n_hidden, const double *mean,
     const double *std, double slope, double offset, deal_head_weights *weights)
{
    size_t n_in = (size_t)data->n_in;
    size_t n_first = n_hidden ? (size_t)n_hidden : 1;
    double *first = n_hidden ? weights->hidden_weight : weights->weight;
    double *bias = n_hidden ? weights->hidden_bias : &weights->bias;
    for (size_t k = 0; k < n_first; k++)
        for (size_t i = 0; i < n_in; i++) {
            first[k * n_in + i] /= std[i];
            bias[k] -= first[k * n_in + i] * mean[i];
        }
    size_t n_last = n_hidden ? (size_t)n_hidden : n_in;
    for (size_t k = 0; k < n_last; k++)
        weights->weight[k] *= slope;
    weights->bias = slope * weights->bias + offset;
}

// ---- Public -------------------------------------------------------------------------

static deal_status
check(const deal_head_data *data, const deal_head_fit_params *params, deal_error *err)
{
    if (data->n_in < 1 || data->n_train < 1 || data->n_item < data->n_train ||
        data->n_item > INT32_MAX / 4)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "head fit: expected features, and 1 to %d items to fit, got "
                         "%d features, %d items and %d to fit",
                         INT32_MAX / 4, (int)data->n_in, (int)data->n_item,
                         (int)data->n_train);
    if (params->n_hidden < 0 || params->n_hidden > DEAL_LAYER_MAX)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "head fit: n_hidden: expected 0 to %d, got %d", DEAL_LAYER_MAX,
                         (int)params->n_hidden);
    if ((int)params->activation < DEAL_ACTIVATION_TANH ||
        (int)params->activation > DEAL_ACTIVATION_GELU)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "head fit: activation: expected 0 to %d, got %d",
                         (int)DEAL_ACTIVATION_GELU, (int)params->activation);
    size_t n = (size_t)data->n_item * rows_per_item(data) * (size_t)data->n_in;
    for (size_t j = 0; j < n; j++)
        if (!isfinite(data->x[j]))
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "head fit: states: expected finite numbers, got %g in "
                             "row %zu",
                             (double)data->x[j], j / (size_t)data->n_in);
    for (int32_t i = 0; data->cost && i < data->n_item; i++)
        if (!(data->cost[i] > 0.0f && isfinite(data->cost[i])))
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "head fit: expected costs > 0, got %g",
                             (double)data->cost[i]);
    return DEAL_OK;
}

// Of pairs with a hidden layer: shifts f to a mean of 0 over the rows that were fitted,
// and makes differences of it.
static void
centre_pairs(const deal_head_data *data, deal_head_weights *weights, double *f)
{
    double mean = 0.0;
    int32_t n_row = 2 * data->n_train;
    for (int32_t r = 0; r < n_row; r++)
        mean += f[r] / n_row;
    weights->bias -= mean;
    for (int32_t i = 0; i < data->n_item; i++)
        f[i] = f[2 * i] - f[2 * i + 1];
}

deal_status
deal_head_fit(const deal_head_data *data, const deal_head_fit_params *params,
              deal_head_weights *weights, deal_fit_report *report, deal_error *err)
{
    DEAL_TRY(check(data, params, err));
    size_t n_in = (size_t)data->n_in;
    double slope, offset;
    double *mean = deal_alloc(2 * n_in, sizeof *mean), *std = mean + n_in;
    double *f = deal_alloc((size_t)data->n_item * rows_per_item(data), sizeof *f);
    deal_status status = DEAL_OK;
    if (!mean || !f)
        DEAL_TRY_GOTO(deal_fail_memory(err, "head fit"), done);
    measure(data, mean, std);
    standardise(data, mean, std);
    if (params->n_hidden) {
        DEAL_TRY_GOTO(fit_net(data, params, weights, f, report, err), done);
        if (!data->target)
            centre_pairs(data, weights, f);
    } else {
        DEAL_TRY_GOTO(fit_linear(data, params, weights, f, report, err), done);
    }
    DEAL_TRY_GOTO(calibrate(data, f + data->n_train, &slope, &offset, err), done);
    fold(data, params->n_hidden, mean, std, slope, offset, weights);
done:
    deal_free(mean);
    deal_free(f);
    return status;
}

deal_status
deal_head_fit_loss(const deal_head_data *data, const deal_head_fit_params *params,
                   const double *point, double *loss, double *gradient, deal_error *err)
{
    DEAL_TRY(check(data, params, err));
    net t;
    DEAL_TRY(net_init(&t, data, params, err));
    *loss = net_evaluate(&t, point, gradient);
    net_free(&t);
    return DEAL_OK;
}
