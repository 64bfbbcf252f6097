#include "kernels/probe.h"

#include <string.h>

#include "common/alloc.h"
#include "common/clock.h"
#include "kernels/kernels.h"

#define READ_SIZE ((size_t)256 << 20) // beyond any cache
#define N_PIECE 256
#define N_QUAD 4000000 // quads of 16 outputs, for each item of the loop
#define N_ROUND 5      // of which the best counts

typedef struct probe_loop {
    const deal_kernels *kernels;
    const uint8_t *data;
    uint64_t sum[N_PIECE]; // results that the compiler cannot do without
} probe_loop;

static void
read_pieces(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    (void)i_thread;
    probe_loop *loop = context;
    for (int32_t i = i_begin; i < i_end; i++)
        loop->sum[i] = loop->kernels->probe_read(
            READ_SIZE / N_PIECE, loop->data + (size_t)i * (READ_SIZE / N_PIECE));
}

static void
multiply_pieces(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    (void)i_thread;
    probe_loop *loop = context;
    for (int32_t i = i_begin; i < i_end; i++)
        loop->sum[i] = loop->kernels->probe_multiply(N_QUAD);
}

deal_status
deal_probe_run(deal_pool *pool, deal_probe *probe, deal_error *err)
{
    probe_loop loop = {.kernels = deal_kernels_get()};
    uint8_t *data = deal_alloc(READ_SIZE, 1);
    if (!data)
        return deal_fail_memory(err, "probe");
    memset(data, 1, READ_SIZE);
    loop.data = data;
    double read = 0.0, multiply = 0.0;
    int32_t n_thread = deal_pool_n_thread(pool);
    double n_multiply = 64.0 * N_QUAD * n_thread;
    for (int32_t i = 0; i < N_ROUND; i++) {
        double start = deal_clock_seconds();
        deal_parallel_for(pool, N_PIECE, 1, read_pieces, &loop);
        double middle = deal_clock_seconds();
        deal_parallel_for(pool, n_thread, 1, multiply_pieces, &loop);
        double end = deal_clock_seconds();
        double rate = (double)READ_SIZE / (middle - start);
        read = rate > read ? rate : read;
        rate = n_multiply / (end - middle);
        multiply = rate > multiply ? rate : multiply;
    }
    deal_free(data);
    *probe = (deal_probe){read, multiply};
    return DEAL_OK;
}
