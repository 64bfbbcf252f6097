#include "reward/layer.h"

#include <math.h>
#include <string.h>

static const double root_half = 0.70710678118654752440;      // 1 / sqrt(2)
static const double normal_density = 0.39894228040143267794; // 1 / sqrt(2 pi)

void
deal_layer_forward(const double *weight, const double *bias, int32_t n_in,
                   int32_t n_unit, const double *x, double scale, double *z)
{
    size_t n = (size_t)n_unit;
    memcpy(z, bias, n * sizeof *z);
    int32_t i = 0;
    for (; i + 4 <= n_in; i += 4) { // four inputs at once: z is read and written less
        const double *row = weight + (size_t)i * n;
        double a = scale * x[i], b = scale * x[i + 1], c = scale * x[i + 2],
               d = scale * x[i + 3];
        for (size_t k = 0; k < n; k++)
            z[k] += (a * row[k] + b * row[n + k]) +
                    (c * row[2 * n + k] + d * row[3 * n + k]);
    }
    for (; i < n_in; i++)
        for (size_t k = 0; k < n; k++)
            z[k] += scale * x[i] * weight[(size_t)i * n + k];
}

double
deal_activation_value(deal_activation activation, double z)
{
    switch (activation) {
    case DEAL_ACTIVATION_RELU:
        return z > 0.0 ? z : 0.0;
    case DEAL_ACTIVATION_GELU:
        return z * 0.5 * erfc(-z * root_half);
    default:
        return tanh(z);
    }
}

double
deal_activation_slope(deal_activation activation, double z)
{
    switch (activation) {
    case DEAL_ACTIVATION_RELU:
        return z > 0.0 ? 1.0 : 0.0;
    case DEAL_ACTIVATION_GELU:
        return 0.5 * erfc(-z * root_half) + z * normal_density * exp(-0.5 * z * z);
    default: {
        double value = tanh(z);
        return 1.0 - value * value;
    }
    }
}
