/* The int8 product's outer loops, shared by the sets that have vector kernels: panels,
 * then tiles, then what lies past the last output.
 *
 * Included after a definition of
 *     static DEAL_INLINE void multiply_tile(int n_row, panel_kind kind,
 *         const deal_panels *w, const uint8_t *panel, const int32_t *x, bool is_first,
 *         float *y)
 * which computes one panel by one tile of `n_row` rows into y (n_row, 16). `n_row` and
 * `kind` are constants where it is inlined, so that sums stay in registers; `is_first`
 * says that the panel has not been read for another tile just before.
 */
#ifndef DEAL_KERNELS_MULTIPLY_BODY_H
#define DEAL_KERNELS_MULTIPLY_BODY_H

// One function for each kind of panel, with a case for every number of rows.
#define DEFINE_MULTIPLY_KIND(name, kind)                                               \
    static void name(int32_t n_row, const deal_panels *w, const uint8_t *panel,        \
                     const int32_t *x, bool is_first, float *y)                        \
    {                                                                                  \
        switch (n_row) {                                                               \
            CASE_ROWS(1, kind)                                                         \
            CASE_ROWS(2, kind)                                                         \
            CASE_ROWS(3, kind)                                                         \
            CASE_ROWS(4, kind)                                                         \
            CASE_ROWS(5, kind)                                                         \
            CASE_ROWS(6, kind)                                                         \
            CASE_ROWS(7, kind)                                                         \
            CASE_ROWS(8, kind)                                                         \
            CASE_ROWS(9, kind)                                                         \
            CASE_ROWS(10, kind)                                                        \
            CASE_ROWS(11, kind)                                                        \
            CASE_ROWS(12, kind)                                                        \
        }                                                                              \
    }
#define CASE_ROWS(n, kind)                                                             \
case n:                                                                                \
    multiply_tile(n, kind, w, panel, x, is_first, y);                                  \
    break;

DEFINE_MULTIPLY_KIND(multiply_4bit, PANEL_4BIT)
DEFINE_MULTIPLY_KIND(multiply_8bit, PANEL_8BIT)
DEFINE_MULTIPLY_KIND(multiply_8bit_min, PANEL_8BIT_MIN)

// y (n_row, y_stride) from dot (n_row, 16), `n_o` outputs of a row.
static DEAL_INLINE void
store_tile(int32_t n_row, const int32_t n_o, const float *dot, const float *bias,
           bool adds, float *y, size_t y_stride)
{
    for (int32_t r = 0; r < n_row; r++, dot += DEAL_PANEL_LEN, y += y_stride)
        for (int32_t o = 0; o < n_o; o++) {
            float value = bias ? dot[o] + bias[o] : dot[o];
            y[o] = adds ? y[o] + value : value;
        }
}

static void
multiply(const deal_panels *w, int32_t i_panel, int32_t n_panel, const deal_tiles *x,
         const float *bias, bool adds, float *y, size_t y_stride)
{
    void (*run)(int32_t, const deal_panels *, const uint8_t *, const int32_t *, bool,
                float *) = w->n_bit == 4 ? multiply_4bit
                           : w->has_min  ? multiply_8bit_min
                                         : multiply_8bit;
    float dot[DEAL_TILE_ROWS * DEAL_PANEL_LEN];
    for (int32_t p = 0; p < n_panel; p++) {
        const uint8_t *panel = w->data + (size_t)(i_panel + p) * w->panel_size;
        int32_t o0 = p * DEAL_PANEL_LEN;
        int32_t n_o = w->n_out - (i_panel + p) * DEAL_PANEL_LEN;
        n_o = n_o < DEAL_PANEL_LEN ? n_o : DEAL_PANEL_LEN;
        for (int32_t t = 0; t < deal_tiles_count(x); t++) {
            int32_t first = deal_tiles_first(x, t);
            int32_t n_row = deal_tiles_first(x, t + 1) - first;
            run(n_row, w, panel, deal_tiles_data(x, t), t == 0, dot);
            float *to = y + (size_t)first * y_stride + o0;
            const float *b = bias ? bias + o0 : NULL;
            if (n_o == DEAL_PANEL_LEN)
                store_tile(n_row, DEAL_PANEL_LEN, dot, b, adds, to, y_stride);
            else
                store_tile(n_row, n_o, dot, b, adds, to, y_stride);
        }
    }
}

#endif
