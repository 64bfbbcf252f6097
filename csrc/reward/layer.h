/* A hidden layer, z = W x + b and activation(z), for heads and their fit. */
#ifndef DEAL_REWARD_LAYER_H
#define DEAL_REWARD_LAYER_H

#include <stddef.h>
#include <stdint.h>

#define DEAL_LAYER_MAX 1024 // units

typedef enum deal_activation {
    DEAL_ACTIVATION_TANH = 0,
    DEAL_ACTIVATION_RELU = 1,
    DEAL_ACTIVATION_GELU = 2, // x Phi(x), with the error function
} deal_activation;

// z (n_unit,) = b + scale * W x, for `weight` (n_in, n_unit): a row an input.
void deal_layer_forward(const double *weight, const double *bias, int32_t n_in,
                        int32_t n_unit, const double *x, double scale, double *z);

double deal_activation_value(deal_activation activation, double z);
double deal_activation_slope(deal_activation activation, double z);

#endif
