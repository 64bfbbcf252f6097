/* Panels of sgemm: right, and a row's bits do not depend on its place in the panel. Run
 * with OPENBLAS_CORETYPE set to test the kernels of other processors (make test-blas).
 */
#include <stdlib.h>

#include "check.h"
#include "common/rng.h"
#include "kernels/gemm_cblas.h"

static void
test_shape(int32_t n_out, int32_t n_in)
{
    size_t n_w = (size_t)n_out * (size_t)n_in, n_y = (size_t)n_out * DEAL_GEMM_PANEL;
    size_t n_x = (size_t)n_in * DEAL_GEMM_PANEL, row = (size_t)n_in;
    float *w = malloc(n_w * sizeof *w), *x = malloc(n_x * sizeof *x);
    float *turned = malloc(n_x * sizeof *x), *y = malloc(n_y * sizeof *y);
    float *again = malloc(n_y * sizeof *y);
    for (size_t i = 0; i < n_w; i++)
        w[i] = (float)deal_rng_uniform(1, 1, i) - 0.5f;
    for (size_t i = 0; i < n_x; i++)
        x[i] = (float)deal_rng_uniform(1, 2, i) - 0.5f;
    deal_gemm(DEAL_GEMM_PANEL, n_out, n_in, x, w, y, (size_t)n_out);
    for (int i = 0; i < 50; i++) {
        size_t r = (size_t)(i % DEAL_GEMM_PANEL), o = (size_t)(i * 37 % n_out);
        double sum = 0.0;
        for (size_t j = 0; j < row; j++)
            sum += (double)x[r * row + j] * w[o * row + j];
        CHECK_NEAR(y[r * (size_t)n_out + o], sum, 1e-6 * n_in);
    }
    for (size_t shift = 1; shift < DEAL_GEMM_PANEL; shift++) {
        for (size_t r = 0; r < DEAL_GEMM_PANEL; r++)
            memcpy(turned + (r + shift) % DEAL_GEMM_PANEL * row, x + r * row,
                   row * sizeof *x);
        deal_gemm(DEAL_GEMM_PANEL, n_out, n_in, turned, w, again, (size_t)n_out);
        for (size_t r = 0; r < DEAL_GEMM_PANEL; r++)
            CHECK(memcmp(again + (r + shift) % DEAL_GEMM_PANEL * (size_t)n_out,
                         y + r * (size_t)n_out, (size_t)n_out * sizeof *y) == 0);
    }
    free(w);
    free(x);
    free(turned);
    free(y);
    free(again);
}

// Rows at once against panels, on other numbers than the choice was made with.
static void
test_sizes(int32_t n_out, int32_t n_in, uint64_t seed)
{
    deal_gemm_sizes sizes = deal_gemm_sizes_get(n_out, n_in);
    CHECK(sizes & 1);
    CHECK(deal_gemm_sizes_get(n_out, n_in) == sizes);
    size_t n_x = (size_t)n_in, n_y = (size_t)n_out, n_row = DEAL_GEMM_ROWS_MAX;
    float *x = malloc(n_row * n_x * sizeof *x), *w = malloc(n_y * n_x * sizeof *w);
    float *y = malloc(n_row * n_y * sizeof *y), *z = malloc(n_row * n_y * sizeof *z);
    for (size_t i = 0; i < n_row * n_x; i++)
        x[i] = (float)deal_rng_uniform(seed, 3, i) - 0.5f;
    for (size_t i = 0; i < n_y * n_x; i++)
        w[i] = (float)deal_rng_uniform(seed, 4, i) - 0.5f;
    for (size_t r = 0; r < n_row; r += DEAL_GEMM_PANEL)
        deal_gemm(DEAL_GEMM_PANEL, n_out, n_in, x + r * n_x, w, y + r * n_y, n_y);
    for (int32_t n = DEAL_GEMM_PANEL; n <= DEAL_GEMM_ROWS_MAX; n += DEAL_GEMM_PANEL)
        if (sizes >> (n / DEAL_GEMM_PANEL - 1) & 1)
            for (size_t r = 0; r + (size_t)n <= n_row; r += DEAL_GEMM_PANEL) {
                deal_gemm(n, n_out, n_in, x + r * n_x, w, z, n_y);
                CHECK(memcmp(z, y + r * n_y, (size_t)n * n_y * sizeof *y) == 0);
            }
    free(x);
    free(w);
    free(y);
    free(z);
}

int
main(void)
{
    deal_gemm_init();
    printf("%s\n", deal_gemm_config());
    const int32_t shape[][2] = {{192, 576}, {192, 1536}, {32, 64}, {172, 64},
                                {64, 172},  {40, 24},    {7, 9},   {1, 1},
                                {129, 70},  {192, 2048}};
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (uint64_t seed = 5; seed < 8; seed++)
            test_sizes(shape[i][0], shape[i][1], seed);
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        test_shape(shape[i][0], shape[i][1]);
    printf("rows at once of (192, 576): %x\n", (unsigned)deal_gemm_sizes_get(192, 576));
    return check_report("test_gemm");
}
