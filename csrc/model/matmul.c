#include "model/matmul.h"

#include <string.h>

#include "common/alloc.h"
#include "kernels/gemm_cblas.h"

// Outputs computed by one sgemm call: a fixed number, so that the shapes that OpenBLAS
// sees do not depend on the threads.
#define N_CHUNK 192

static size_t
n_group_of(int32_t n_in)
{
    return ((size_t)n_in + DEAL_QUANT_GROUP - 1) / DEAL_QUANT_GROUP;
}

deal_status
deal_matmul_init(deal_matmul *matmul, deal_pool *pool, deal_compute compute,
                 int32_t n_row_max, int32_t n_in_max, deal_error *err)
{
    *matmul = (deal_matmul){.kernels = deal_kernels_get(),
                            .pool = pool,
                            .compute = compute,
                            .n_in_max = n_in_max};
    if (compute == DEAL_COMPUTE_F32)
        return DEAL_OK;
    size_t n_group = n_group_of(n_in_max), n_row = (size_t)n_row_max;
    size_t n_thread = (size_t)deal_pool_n_thread(pool);
    matmul->q = deal_alloc(n_row, n_group * DEAL_QUANT_GROUP * sizeof(float));
    matmul->scale = deal_alloc(n_row, n_group * sizeof(float));
    matmul->total = deal_alloc(n_row, n_group * sizeof(float));
    matmul->packed = deal_alloc(n_thread, n_group * DEAL_QUANT_GROUP);
    matmul->wq = deal_alloc(n_thread * 4, n_group * DEAL_QUANT_GROUP * sizeof(float));
    matmul->wscale = deal_alloc(n_thread * 4, n_group * sizeof(float));
    matmul->wmin = deal_alloc(n_thread * 4, n_group * sizeof(float));
    if (!matmul->q || !matmul->scale || !matmul->total || !matmul->packed ||
        !matmul->wq || !matmul->wscale || !matmul->wmin) {
        deal_matmul_free(matmul);
        return deal_fail_memory(err, "int8 activations");
    }
    matmul->size =
        (n_row + 4 * n_thread) * n_group * (DEAL_QUANT_GROUP + 2) * sizeof(float);
    return DEAL_OK;
}

void
deal_matmul_free(deal_matmul *matmul)
{
    deal_free(matmul->q);
    deal_free(matmul->scale);
    deal_free(matmul->total);
    deal_free(matmul->packed);
    deal_free(matmul->wq);
    deal_free(matmul->wscale);
    deal_free(matmul->wmin);
    *matmul = (deal_matmul){0};
}

typedef struct quantize_loop {
    const deal_matmul *matmul;
    const deal_activations *x;
} quantize_loop;

static void
quantize_rows(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    (void)i_thread;
    const quantize_loop *loop = context;
    const deal_activations *x = loop->x;
    size_t n_group = n_group_of(x->n_in);
    for (size_t r = (size_t)i_begin; r < (size_t)i_end; r++)
        loop->matmul->kernels->quantize(x->n_in, x->x + r * (size_t)x->n_in,
                                        x->q + r * n_group * DEAL_QUANT_GROUP,
                                        x->scale + r * n_group, x->total + r * n_group);
}

deal_activations
deal_matmul_prepare(deal_matmul *matmul, int32_t n_row, int32_t n_in, float *x)
{
    deal_activations a = {.n_row = n_row, .n_in = n_in, .x = x};
    if (matmul->compute == DEAL_COMPUTE_F32) {
        int32_t n_rest = (DEAL_GEMM_PANEL - n_row % DEAL_GEMM_PANEL) % DEAL_GEMM_PANEL;
        memset(x + (size_t)n_row * (size_t)n_in, 0,
               (size_t)n_rest * (size_t)n_in * sizeof *x);
        return a;
    }
    a.q = matmul->q;
    a.scale = matmul->scale;
    a.total = matmul->total;
    quantize_loop loop = {matmul, &a};
    deal_parallel_for(matmul->pool, n_row, quantize_rows, &loop);
    return a;
}

typedef struct product_loop {
    const deal_matmul *matmul;
    const deal_activations *x;
    const deal_matrix *w;
    const float *bias;
    float *y;
} product_loop;

// One share of the outputs, in chunks of N_CHUNK, for every panel of rows.
static void
product_f32(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    (void)i_thread;
    const product_loop *loop = context;
    const deal_activations *x = loop->x;
    size_t n_in = (size_t)loop->w->n_in, n_out = (size_t)loop->w->n_out;
    for (int32_t i_chunk = i_begin; i_chunk < i_end; i_chunk++) {
        size_t o = (size_t)i_chunk * N_CHUNK;
        size_t n_o = n_out - o < N_CHUNK ? n_out - o : N_CHUNK;
        const float *w = (const float *)loop->w->data + o * n_in;
        for (size_t r = 0; r < (size_t)x->n_row; r += DEAL_GEMM_PANEL) {
            float *y = loop->y + r * n_out + o;
            deal_gemm_panel((int32_t)n_o, (int32_t)n_in, x->x + r * n_in, w, y, n_out);
            if (loop->bias)
                for (size_t i = 0; i < DEAL_GEMM_PANEL; i++)
                    loop->matmul->kernels->add((int32_t)n_o, loop->bias + o,
                                               y + i * n_out);
        }
    }
}

// Four weight rows from row `o` on, as numbers for dot4; rows past the last repeat it.
static void
unpack_rows(const deal_matmul *matmul, const deal_matrix *w, int32_t o, int8_t *packed,
            float *wq, float *wscale, float *wmin)
{
    size_t n_group = n_group_of(w->n_in), n = n_group * DEAL_QUANT_GROUP;
    for (int32_t i = 0; i < 4; i++) {
        int32_t i_row = o + i < w->n_out ? o + i : w->n_out - 1;
        const uint8_t *row = (const uint8_t *)w->data + (size_t)i_row * w->row_size;
        deal_type_unpack(w->type, row, (int64_t)n, packed, wscale + (size_t)i * n_group,
                         wmin + (size_t)i * n_group);
        matmul->kernels->widen((int32_t)n, packed, wq + (size_t)i * n);
    }
}

// One share of the outputs, in blocks of four weight rows, which are unpacked once for
// all rows of the batch: four batch rows by each weight row, then what is left over of
// the batch by four weight rows. Both ways give the same bits.
static void
product_int8(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    const product_loop *loop = context;
    const deal_matmul *matmul = loop->matmul;
    const deal_activations *x = loop->x;
    size_t n_group = n_group_of(x->n_in), n = n_group * DEAL_QUANT_GROUP;
    size_t cap = n_group_of(matmul->n_in_max), n_out = (size_t)loop->w->n_out;
    int8_t *packed = matmul->packed + (size_t)i_thread * cap * DEAL_QUANT_GROUP;
    float *wq = matmul->wq + (size_t)i_thread * 4 * cap * DEAL_QUANT_GROUP;
    float *wscale = matmul->wscale + (size_t)i_thread * 4 * cap;
    float *wmin = matmul->wmin + (size_t)i_thread * 4 * cap;
    for (int32_t i_block = i_begin; i_block < i_end; i_block++) {
        size_t o = (size_t)i_block * 4, n_o = n_out - o < 4 ? n_out - o : 4;
        unpack_rows(matmul, loop->w, (int32_t)o, packed, wq, wscale, wmin);
        size_t r = 0, n_row = (size_t)x->n_row;
        for (; r + 4 <= n_row; r += 4)
            for (size_t i = 0; i < n_o; i++)
                matmul->kernels->dot4(
                    (int32_t)n_group, wq + i * n, wscale + i * n_group,
                    wmin + i * n_group, x->q + r * n, x->scale + r * n_group,
                    x->total + r * n_group, loop->y + r * n_out + o + i, n_out);
        for (; r < n_row; r++) {
            float y[4];
            matmul->kernels->dot4((int32_t)n_group, x->q + r * n,
                                  x->scale + r * n_group, x->total + r * n_group, wq,
                                  wscale, wmin, y, 1);
            memcpy(loop->y + r * n_out + o, y, n_o * sizeof *y);
        }
        for (r = 0; loop->bias && r < n_row; r++)
            matmul->kernels->add((int32_t)n_o, loop->bias + o, loop->y + r * n_out + o);
    }
}

void
deal_matmul_run(deal_matmul *matmul, const deal_activations *x, const deal_matrix *w,
                const float *bias, float *y)
{
    product_loop loop = {matmul, x, w, bias, y};
    if (matmul->compute == DEAL_COMPUTE_F32)
        deal_parallel_for(matmul->pool, (w->n_out + N_CHUNK - 1) / N_CHUNK, product_f32,
                          &loop);
    else
        deal_parallel_for(matmul->pool, (w->n_out + 3) / 4, product_int8, &loop);
}
