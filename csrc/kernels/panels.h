/* Integer weights and activations, laid out for the int8 product.
 *
 * Weights lie in panels of 16 outputs. All numbers of one group of 32 inputs come
 * together, so that a kernel reads a panel front to back, once:
 *
 *     panel = n_group blocks of integers, then n_group blocks of scales
 *     integers, 8 bits: (8, 16, 4) bytes: quad of inputs, output, input of the quad
 *     integers, 4 bits: (4, 16, 4) bytes: quad k in the low half, k + 4 in the high
 *     scales: (16,) f16 or f32, and where `has_min` (16,) minima of the same type
 *
 *     w[o, i] = scale[o, g] * (u[o, i] - offset) + min[o, g]
 *
 * 4-bit weights stay 4 bits: a step of one row is bound by the bytes it reads. Scales
 * stay f16 where every one of them is an f16 in the file too. Nothing is lost.
 *
 * Activations lie in tiles of rows, again group after group. A row of a group is
 * DEAL_TILE_WORDS words: (8,) quads of int8, f32 scale, f32 total = scale * sum of the
 * integers, int32 -128 * sum (where sums over weights with an offset of 128 start
 * from), and one that keeps quads apart by a multiple of 16 bytes.
 */
#ifndef DEAL_KERNELS_PANELS_H
#define DEAL_KERNELS_PANELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/quant.h"

#define DEAL_PANEL_LEN 16  // outputs of a panel
#define DEAL_TILE_ROWS 12  // rows of a tile; of the last, what is left
#define DEAL_TILE_WORDS 12 // 32-bit words of one row in one group of a tile

typedef struct deal_panels {
    uint8_t *data; // (n_panel, panel_size) aligned to 64
    int32_t n_out, n_in;
    int32_t n_panel, n_group;
    int32_t n_bit;  // 4 or 8
    int32_t offset; // of 8-bit integers: 128 where kernels want them unsigned, else 0
    bool has_min;
    bool has_f32_scale;
    size_t panel_size; // bytes, a multiple of 64
} deal_panels;

// Bytes of a group's integers, and of its scales with the minima.
static inline size_t
deal_panels_integer_size(const deal_panels *panels)
{
    return panels->n_bit == 4 ? 256 : 512;
}

static inline size_t
deal_panels_scale_size(const deal_panels *panels)
{
    return (size_t)DEAL_PANEL_LEN * (panels->has_f32_scale ? 4 : 2) *
           (panels->has_min ? 2 : 1);
}

// Layout for a matrix (n_out, n_in) of a grouped type; `data` is left NULL.
// `is_unsigned`: as deal_kernels.is_unsigned.
deal_panels deal_panels_layout(deal_type type, int32_t n_out, int32_t n_in,
                               bool is_unsigned);

// Fills panel `i_panel` from its rows, `row_size` bytes apart. Rows past n_out become
// zeros. scratch (DEAL_PACK_SCRATCH(n_group),) floats.
#define DEAL_PACK_SCRATCH(n_group) ((n_group) * (2 + DEAL_QUANT_GROUP / 4))
void deal_panels_pack(deal_panels *panels, int32_t i_panel, deal_type type,
                      const void *rows, size_t row_size, float *scratch);

// Activations of a batch, quantised; `data` is (n_row * n_group * DEAL_TILE_WORDS,).
typedef struct deal_tiles {
    int32_t *data;
    int32_t n_row, n_group;
} deal_tiles;

static inline int32_t
deal_tiles_count(const deal_tiles *tiles)
{
    return (tiles->n_row + DEAL_TILE_ROWS - 1) / DEAL_TILE_ROWS;
}

// First row of a tile, or past the last row.
static inline int32_t
deal_tiles_first(const deal_tiles *tiles, int32_t i_tile)
{
    int32_t first = i_tile * DEAL_TILE_ROWS;
    return first < tiles->n_row ? first : tiles->n_row;
}

static inline int32_t *
deal_tiles_data(const deal_tiles *tiles, int32_t i_tile)
{
    return tiles->data + (size_t)deal_tiles_first(tiles, i_tile) *
                             (size_t)tiles->n_group * DEAL_TILE_WORDS;
}

#endif
