/* The int8 product in plain C: the twin that the others are held to, and the fallback.
 * One tile row at a time, 16 outputs side by side.
 */
#ifndef DEAL_KERNELS_MULTIPLY_PLAIN_H
#define DEAL_KERNELS_MULTIPLY_PLAIN_H

#include <string.h>

#include "kernels/panels.h"

static inline float
panel_number(const deal_panels *w, const uint8_t *from, int32_t i)
{
    float value;
    uint16_t bits;
    if (w->has_f32_scale) {
        memcpy(&value, from + 4 * i, sizeof value);
        return value;
    }
    memcpy(&bits, from + 2 * i, sizeof bits);
    return deal_f16_to_f32(bits);
}

// Integers of one group, 16 outputs by 32 inputs, less their offset.
static inline void
panel_integers(const deal_panels *w, const uint8_t *from,
               int16_t u[DEAL_QUANT_GROUP][DEAL_PANEL_LEN])
{
    for (int32_t i = 0; i < DEAL_QUANT_GROUP; i++)
        for (int32_t o = 0; o < DEAL_PANEL_LEN; o++) {
            int32_t quad = i / 4, at = 4 * o + i % 4;
            if (w->n_bit == 4)
                u[i][o] = from[64 * (quad % 4) + at] >> (quad < 4 ? 0 : 4) & 0x0f;
            else if (w->has_min || w->offset)
                u[i][o] = (int16_t)(from[64 * quad + at] - w->offset);
            else
                u[i][o] = (int8_t)from[64 * quad + at];
        }
}

// One panel by one row of a tile of `n_row`, whose first word is `x`; y (16,).
static inline void
multiply_row(const deal_panels *w, const uint8_t *panel, int32_t n_row,
             const int32_t *x, float *y)
{
    size_t n_group = (size_t)w->n_group, scale_size = deal_panels_scale_size(w);
    size_t integer_size = deal_panels_integer_size(w), step = (size_t)n_row;
    const uint8_t *scales = panel + n_group * integer_size;
    memset(y, 0, DEAL_PANEL_LEN * sizeof *y);
    for (size_t g = 0; g < n_group; g++, x += DEAL_TILE_WORDS * step) {
        int16_t u[DEAL_QUANT_GROUP][DEAL_PANEL_LEN];
        int32_t dot[DEAL_PANEL_LEN] = {0};
        panel_integers(w, panel + g * integer_size, u);
        for (int32_t k = 0; k < 8; k++) {
            int8_t q[4];
            memcpy(q, x + k, sizeof q);
            for (int32_t i = 0; i < 4; i++)
                for (int32_t o = 0; o < DEAL_PANEL_LEN; o++)
                    dot[o] += q[i] * u[4 * k + i][o];
        }
        float scale, total;
        memcpy(&scale, x + 8, sizeof scale);
        memcpy(&total, x + 9, sizeof total);
        const uint8_t *at = scales + g * scale_size;
        for (int32_t o = 0; o < DEAL_PANEL_LEN; o++) {
            y[o] += (float)dot[o] * (panel_number(w, at, o) * scale);
            if (w->has_min)
                y[o] += panel_number(w, at + scale_size / 2, o) * total;
        }
    }
}

static void
multiply(const deal_panels *w, int32_t i_panel, int32_t n_panel, const deal_tiles *x,
         const float *bias, bool adds, float *y, size_t y_stride)
{
    for (int32_t p = 0; p < n_panel; p++) {
        const uint8_t *panel = w->data + (size_t)(i_panel + p) * w->panel_size;
        int32_t o0 = p * DEAL_PANEL_LEN;
        int32_t n_o = w->n_out - (i_panel + p) * DEAL_PANEL_LEN;
        n_o = n_o < DEAL_PANEL_LEN ? n_o : DEAL_PANEL_LEN;
        for (int32_t t = 0; t < deal_tiles_count(x); t++) {
            int32_t first = deal_tiles_first(x, t);
            int32_t n_row = deal_tiles_first(x, t + 1) - first;
            for (int32_t r = 0; r < n_row; r++) {
                float dot[DEAL_PANEL_LEN];
                multiply_row(w, panel, n_row,
                             deal_tiles_data(x, t) + DEAL_TILE_WORDS * r, dot);
                float *to = y + (size_t)(first + r) * y_stride + o0;
                for (int32_t o = 0; o < n_o; o++) {
                    float value = dot[o] + (bias ? bias[o0 + o] : 0.0f);
                    to[o] = adds ? to[o] + value : value;
                }
            }
        }
    }
}

static uint64_t
probe_multiply(int64_t n_quad)
{
    int32_t sum[DEAL_PANEL_LEN] = {0};
    for (int64_t k = 0; k < n_quad; k++)
        for (int32_t o = 0; o < DEAL_PANEL_LEN; o++)
            for (int32_t i = 0; i < 4; i++)
                sum[o] += (int8_t)k * (int8_t)(o + i);
    for (int32_t o = 1; o < DEAL_PANEL_LEN; o++)
        sum[0] += sum[o];
    return (uint64_t)sum[0];
}

#endif
