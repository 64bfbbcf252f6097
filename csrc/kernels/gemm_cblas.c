#include "kernels/gemm_cblas.h"

#include <cblas.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "common/alloc.h"
#include "common/rng.h"

#ifdef DEAL_SCIPY_OPENBLAS // the wheel's symbols carry a prefix
#    define CBLAS(name) scipy_##name
#else
#    define CBLAS(name) name
#endif

#define N_SHAPE 64 // remembered

void
deal_gemm(int32_t n_row, int32_t n_out, int32_t n_in, const float *x, const float *w,
          float *y, size_t y_stride)
{
    CBLAS(cblas_sgemm)
    (CblasRowMajor, CblasNoTrans, CblasTrans, n_row, n_out, n_in, 1.0f, x, n_in, w,
     n_in, 0.0f, y, (int)y_stride);
}

// Random x (DEAL_GEMM_ROWS_MAX, n_in) and w (n_out, n_in) -> the sizes that agree.
static deal_gemm_sizes
try_sizes(int32_t n_out, int32_t n_in, float *x, float *w, float *panels, float *y)
{
    size_t n_x = (size_t)n_in, n_y = (size_t)n_out;
    for (size_t i = 0; i < DEAL_GEMM_ROWS_MAX * n_x; i++)
        x[i] = (float)deal_rng_uniform(1, 1, i) - 0.5f;
    for (size_t i = 0; i < n_y * n_x; i++)
        w[i] = (float)deal_rng_uniform(1, 2, i) - 0.5f;
    for (size_t r = 0; r < DEAL_GEMM_ROWS_MAX; r += DEAL_GEMM_PANEL)
        deal_gemm(DEAL_GEMM_PANEL, n_out, n_in, x + r * n_x, w, panels + r * n_y, n_y);
    deal_gemm_sizes sizes = 1;
    for (int32_t n = DEAL_GEMM_ROWS_MAX; n > DEAL_GEMM_PANEL; n /= 4) {
        deal_gemm(n, n_out, n_in, x, w, y, n_y);
        bool is_same = memcmp(y, panels, (size_t)n * n_y * sizeof *y) == 0;
        sizes |= (deal_gemm_sizes)is_same << (n / DEAL_GEMM_PANEL - 1);
    }
    return sizes;
}

static deal_gemm_sizes
measured_sizes(int32_t n_out, int32_t n_in)
{
    float *x = deal_alloc((size_t)n_in, DEAL_GEMM_ROWS_MAX * sizeof *x);
    float *w = deal_alloc((size_t)n_out, (size_t)n_in * sizeof *w);
    float *panels = deal_alloc((size_t)n_out, DEAL_GEMM_ROWS_MAX * sizeof *panels);
    float *y = deal_alloc((size_t)n_out, DEAL_GEMM_ROWS_MAX * sizeof *y);
    bool has_all = x && w && panels && y;
    deal_gemm_sizes sizes = has_all ? try_sizes(n_out, n_in, x, w, panels, y) : 1;
    deal_free(x);
    deal_free(w);
    deal_free(panels);
    deal_free(y);
    return sizes;
}

deal_gemm_sizes
deal_gemm_sizes_get(int32_t n_out, int32_t n_in)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static struct {
        int32_t n_out, n_in;
        deal_gemm_sizes sizes;
    } known[N_SHAPE];
    static int n_known = 0;
    pthread_mutex_lock(&mutex);
    int i = 0;
    while (i < n_known && (known[i].n_out != n_out || known[i].n_in != n_in))
        i++;
    deal_gemm_sizes sizes = i < n_known ? known[i].sizes : measured_sizes(n_out, n_in);
    if (i == n_known && n_known < N_SHAPE) {
        known[n_known].n_out = n_out;
        known[n_known].n_in = n_in;
        known[n_known++].sizes = sizes;
    }
    pthread_mutex_unlock(&mutex);
    return sizes;
}

void
deal_gemm_init(void)
{
    CBLAS(openblas_set_num_threads)(1);
}

const char *
deal_gemm_config(void)
{
    return CBLAS(openblas_get_config)();
}
