#include "model/matmul.h"

#include <string.h>

#include "common/alloc.h"

deal_status
deal_matmul_init(deal_matmul *matmul, deal_pool *pool, deal_compute compute,
                 int32_t n_row_max, int32_t n_in_max, deal_error *err)
{
    *matmul =
        (deal_matmul){.kernels = deal_kernels_get(), .pool = pool, .compute = compute};
    if (compute == DEAL_COMPUTE_F32) {
        size_t n_thread = (size_t)deal_pool_n_thread(pool);
        matmul->size =
            n_thread * DEAL_GEMM_ROWS_MAX * DEAL_MATMUL_CHUNK * sizeof *matmul->chunk;
        matmul->chunk = deal_alloc(matmul->size, 1);
    } else {
        size_t n_group = ((size_t)n_in_max + DEAL_QUANT_GROUP - 1) / DEAL_QUANT_GROUP;
        matmul->size =
            (size_t)n_row_max * n_group * DEAL_TILE_WORDS * sizeof *matmul->tiles;
        matmul->tiles = deal_alloc(matmul->size, 1);
    }
    if (matmul->chunk || matmul->tiles)
        return DEAL_OK;
    return deal_fail_memory(err, "activations of a product");
}

void
deal_matmul_free(deal_matmul *matmul)
{
    deal_free(matmul->tiles);
    deal_free(matmul->chunk);
    *matmul = (deal_matmul){0};
}

deal_activations
deal_matmul_begin(deal_matmul *matmul, int32_t n_row, int32_t n_in, float *x)
{
    deal_activations a = {.n_row = n_row, .n_in = n_in, .x = x};
    if (matmul->compute == DEAL_COMPUTE_F32) {
        int32_t n_rest = (DEAL_GEMM_PANEL - n_row % DEAL_GEMM_PANEL) % DEAL_GEMM_PANEL;
        memset(x + (size_t)n_row * (size_t)n_in, 0,
               (size_t)n_rest * (size_t)n_in * sizeof *x);
    } else {
        a.tiles =
            (deal_tiles){.data = matmul->tiles,
                         .n_row = n_row,
                         .n_group = (n_in + DEAL_QUANT_GROUP - 1) / DEAL_QUANT_GROUP};
    }
    return a;
}

void
deal_matmul_put_row(const deal_matmul *matmul, const deal_activations *x, int32_t i_row)
{
    if (matmul->compute == DEAL_COMPUTE_F32)
        return;
    const deal_tiles *tiles = &x->tiles;
    int32_t t = i_row / DEAL_TILE_ROWS, first = deal_tiles_first(tiles, t);
    matmul->kernels->quantize(x->n_in, x->x + (size_t)i_row * (size_t)x->n_in,
                              deal_tiles_first(tiles, t + 1) - first,
                              deal_tiles_data(tiles, t) +
                                  DEAL_TILE_WORDS * (i_row - first));
}

typedef struct put_loop {
    const deal_matmul *matmul;
    const deal_activations *x;
} put_loop;

static void
put_some(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    (void)i_thread;
    const put_loop *loop = context;
    for (int32_t r = i_begin; r < i_end; r++)
        deal_matmul_put_row(loop->matmul, loop->x, r);
}

void
deal_matmul_put_rows(deal_matmul *matmul, const deal_activations *x)
{
    put_loop loop = {matmul, x};
    deal_parallel_for(matmul->pool, x->n_row, 0, put_some, &loop);
}

// The most rows at once that have the bits of panels; through a scratch tile, since
// OpenBLAS writes whole panels.
static int32_t
n_row_at_once(deal_gemm_sizes sizes, int32_t n_row)
{
    for (int32_t n = DEAL_GEMM_ROWS_MAX; n > DEAL_GEMM_PANEL; n -= DEAL_GEMM_PANEL)
        if (n <= n_row && sizes >> (n / DEAL_GEMM_PANEL - 1) & 1)
            return n;
    return DEAL_GEMM_PANEL;
}

static void
chunk_f32(const deal_matmul *matmul, const deal_activations *x, const deal_matrix *w,
          int32_t i_out, int32_t n_out, const float *bias, bool adds, float *y,
          size_t y_stride, int32_t i_thread)
{
    size_t n_in = (size_t)x->n_in;
    float *tile =
        matmul->chunk + (size_t)i_thread * DEAL_GEMM_ROWS_MAX * DEAL_MATMUL_CHUNK;
    const float *rows = w->data + (size_t)i_out * n_in;
    deal_gemm_sizes sizes = n_out == DEAL_MATMUL_CHUNK ? w->sizes : w->last_sizes;
    for (int32_t r0 = 0, n; r0 < x->n_row; r0 += n) {
        n = n_row_at_once(sizes, x->n_row - r0);
        deal_gemm(n, n_out, x->n_in, x->x + (size_t)r0 * n_in, rows, tile,
                  DEAL_MATMUL_CHUNK);
        for (int32_t r = r0; r < x->n_row && r < r0 + n; r++) {
            float *from = tile + (r - r0) * DEAL_MATMUL_CHUNK;
            float *to = y + (size_t)r * y_stride;
            if (bias)
                matmul->kernels->add(n_out, bias, from);
            if (adds)
                matmul->kernels->add(n_out, from, to);
            else
                memcpy(to, from, (size_t)n_out * sizeof *to);
        }
    }
}

void
deal_matmul_chunk(const deal_matmul *matmul, const deal_activations *x,
                  const deal_matrix *w, int32_t i_out, int32_t n_out, const float *bias,
                  bool adds, float *y, size_t y_stride, int32_t i_thread)
{
    if (matmul->compute == DEAL_COMPUTE_F32) {
        chunk_f32(matmul, x, w, i_out, n_out, bias, adds, y, y_stride, i_thread);
        return;
    }
    int32_t n_panel = (n_out + DEAL_PANEL_LEN - 1) / DEAL_PANEL_LEN;
    matmul->kernels->multiply(&w->panels, i_out / DEAL_PANEL_LEN, n_panel, &x->tiles,
                              bias, adds, y, y_stride);
}

typedef struct product_loop {
    const deal_matmul *matmul;
    const deal_activations *x;
    const deal_product *products;
    int32_t first[DEAL_PRODUCTS_MAX + 1]; // first item of each product
    int32_t n_item_out;                   // outputs of an item
} product_loop;

static void
run_items(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    const product_loop *loop = context;
    for (int32_t i = i_begin, p = 0; i < i_end; i++) {
        while (i >= loop->first[p + 1])
            p++;
        const deal_product *product = &loop->products[p];
        const deal_matrix *w = product->w;
        int32_t o = (i - loop->first[p]) * loop->n_item_out;
        int32_t n = w->n_out - o < loop->n_item_out ? w->n_out - o : loop->n_item_out;
        deal_matmul_chunk(loop->matmul, loop->x, w, o, n,
                          product->bias ? product->bias + o : NULL, product->adds,
                          product->y + o, (size_t)w->n_out, i_thread);
    }
}

void
deal_matmul_run(deal_matmul *matmul, const deal_activations *x,
                const deal_product *products, int32_t n_product)
{
    bool is_f32 = matmul->compute == DEAL_COMPUTE_F32;
    product_loop loop = {.matmul = matmul,
                         .x = x,
                         .products = products,
                         .n_item_out = is_f32 ? DEAL_MATMUL_CHUNK : DEAL_PANEL_LEN};
    for (int32_t p = 0; p < n_product; p++)
        loop.first[p + 1] =
            loop.first[p] +
            (products[p].w->n_out + loop.n_item_out - 1) / loop.n_item_out;
    int32_t n_item = loop.first[n_product];
    int32_t n_run = 12 * deal_pool_n_thread(matmul->pool);
    int32_t grain = is_f32 ? 1 : (n_item + n_run - 1) / n_run;
    deal_parallel_for(matmul->pool, n_item, grain, run_items, &loop);
}
