/* Packed weights and the int8 product: nothing is lost in packing, every set of kernels
 * equals a twin in double precision on awkward sizes, and a row's result has the same
 * bits in every batch.
 */
#include <stdlib.h>

#include "check.h"
#include "common/alloc.h"
#include "common/rng.h"
#include "kernels/kernels.h"

#define N_IN_MAX 1536
#define N_ROW_MAX 40
#define N_OUT_MAX 50

static const deal_type type[] = {DEAL_TYPE_Q4_0, DEAL_TYPE_Q4_1, DEAL_TYPE_Q5_0,
                                 DEAL_TYPE_Q5_1, DEAL_TYPE_Q8_0, DEAL_TYPE_Q4_K,
                                 DEAL_TYPE_Q5_K};
#define N_TYPE (sizeof type / sizeof *type)

static uint8_t file[N_OUT_MAX * N_IN_MAX * 2];
static float dense[N_OUT_MAX][N_IN_MAX]; // what the file's rows stand for
static float x[N_ROW_MAX][N_IN_MAX], rounded[N_ROW_MAX][N_IN_MAX];
static int32_t tiles_data[N_ROW_MAX * (N_IN_MAX / 32) * DEAL_TILE_WORDS];

// Random blocks whose f16 numbers are small; the rest may be any bytes.
static void
make_file(deal_type t, int32_t n_out, int32_t n_in)
{
    size_t row_size = deal_type_row_size(t, n_in);
    size_t block_size = row_size / (size_t)(n_in / deal_type_block_len(t));
    size_t n_number =
        t == DEAL_TYPE_Q4_0 || t == DEAL_TYPE_Q5_0 || t == DEAL_TYPE_Q8_0 ? 1 : 2;
    for (size_t i = 0; i < (size_t)n_out * row_size; i++)
        file[i] = (uint8_t)(deal_rng_uniform(3, (uint64_t)t, i) * 256.0);
    for (size_t b = 0; b < (size_t)n_out * row_size; b += block_size)
        for (size_t i = 0; i < n_number; i++) {
            double u = deal_rng_uniform(4, (uint64_t)t, b + i) - 0.3;
            uint16_t bits = deal_f32_to_f16((float)(u * 0.02));
            memcpy(file + b + 2 * i, &bits, 2);
        }
    for (int32_t o = 0; o < n_out; o++)
        deal_type_dequantize(t, file + (size_t)o * row_size, n_in, dense[o]);
}

static deal_panels
pack(const deal_kernels *k, deal_type t, int32_t n_out, int32_t n_in)
{
    deal_panels p = deal_panels_layout(t, n_out, n_in, k->is_unsigned);
    size_t row_size = deal_type_row_size(t, n_in);
    p.data = deal_alloc((size_t)p.n_panel, p.panel_size);
    float *scratch = deal_alloc(DEAL_PACK_SCRATCH((size_t)p.n_group), sizeof(float));
    for (int32_t i = 0; i < p.n_panel; i++)
        deal_panels_pack(&p, i, t, file + (size_t)(i * DEAL_PANEL_LEN) * row_size,
                         row_size, scratch);
    deal_free(scratch);
    return p;
}

// Quantises x into tiles, and reads what the integers stand for back into `rounded`.
static deal_tiles
make_tiles(const deal_kernels *k, int32_t n_row, int32_t n_in)
{
    deal_tiles t = {.data = tiles_data, .n_row = n_row, .n_group = n_in / 32};
    for (int32_t i = 0; i < deal_tiles_count(&t); i++) {
        int32_t first = deal_tiles_first(&t, i),
                n = deal_tiles_first(&t, i + 1) - first;
        for (int32_t r = 0; r < n; r++) {
            int32_t *to = deal_tiles_data(&t, i) + DEAL_TILE_WORDS * r;
            k->quantize(n_in, x[first + r], n, to);
            for (int32_t j = 0; j < n_in; j++) {
                const int32_t *group = to + j / 32 * DEAL_TILE_WORDS * n;
                float scale;
                memcpy(&scale, group + 8, 4);
                int8_t q = ((const int8_t *)(group + j % 32 / 4))[j % 4];
                rounded[first + r][j] = scale * (float)q;
            }
        }
    }
    return t;
}

static void
test_product(const deal_kernels *k, deal_type t, int32_t n_out, int32_t n_in)
{
    static float y[N_ROW_MAX][N_OUT_MAX + 7], alone[N_ROW_MAX][N_OUT_MAX + 7];
    static float bias[N_OUT_MAX];
    make_file(t, n_out, n_in);
    deal_panels w = pack(k, t, n_out, n_in);
    for (int32_t o = 0; o < n_out; o++)
        bias[o] = (float)o;
    const int32_t n_row[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 24, 31, 40};
    for (int s = 0; s < 16; s++) {
        deal_tiles tiles = make_tiles(k, n_row[s], n_in);
        for (int32_t r = 0; r < n_row[s]; r++)
            for (int32_t o = 0; o < n_out + 7; o++)
                y[r][o] = 1000.0f;
        k->multiply(&w, 0, w.n_panel, &tiles, bias, false, y[0], N_OUT_MAX + 7);
        for (int32_t r = 0; r < n_row[s]; r++) {
            for (int32_t o = 0; o < n_out; o++) {
                double sum = 0.0, size = 0.0;
                for (int32_t i = 0; i < n_in; i++) {
                    double term = (double)rounded[r][i] * (double)dense[o][i];
                    sum += term;
                    size += fabs(term);
                }
                // f32 sums over groups, of terms that may cancel
                CHECK_NEAR(y[r][o], sum + o, 1e-5 * (size + 1.0) + 1e-6 * o);
            }
            for (int32_t o = n_out; o < n_out + 7; o++)
                CHECK(y[r][o] == 1000.0f); // nothing is written past the outputs
        }
        // The first rows have the same bits in every batch.
        if (s == 0)
            memcpy(alone[0], y[0], sizeof y[0]);
        CHECK(memcmp(alone[0], y[0], (size_t)n_out * sizeof(float)) == 0);
        // Added to what is there, from the second panel on.
        if (w.n_panel > 1) {
            float before = y[0][DEAL_PANEL_LEN];
            k->multiply(&w, 1, 1, &tiles, NULL, true, y[0] + DEAL_PANEL_LEN,
                        N_OUT_MAX + 7);
            CHECK_NEAR(y[0][DEAL_PANEL_LEN], 2.0f * before - DEAL_PANEL_LEN,
                       1e-4 * (1.0 + fabs((double)before)));
        }
    }
    deal_free(w.data);
}

static void
test_set(const deal_kernels *k)
{
    for (size_t r = 0; r < N_ROW_MAX; r++)
        for (size_t i = 0; i < N_IN_MAX; i++)
            x[r][i] = (float)((deal_rng_uniform(5, r, i) - 0.5) * 4.0);
    for (int32_t i = 0; i < 32; i++) {
        x[0][i] = i % 2 ? 1.0f : -1.0f; // integers of +-127 throughout
        x[1][i] = 0.0f;
    }
    for (size_t t = 0; t < N_TYPE; t++) {
        int32_t len = deal_type_block_len(type[t]);
        test_product(k, type[t], 1, len);
        test_product(k, type[t], 16, 3 * len);
        test_product(k, type[t], N_OUT_MAX, len == 256 ? 1536 : 576);
    }
}

int
main(void)
{
    const char *name[] = {"plain", "avx2", "avxvnni", "avx512", "neon"};
    for (int i = 0; i < 5; i++)
        if (deal_kernels_find(name[i]))
            test_set(deal_kernels_find(name[i]));
    return check_report("test_panels");
}
