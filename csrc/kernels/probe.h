/* What the machine at hand can do at most, measured: the ceilings that a benchmark
 * states its distance to.
 */
#ifndef DEAL_KERNELS_PROBE_H
#define DEAL_KERNELS_PROBE_H

#include "common/parallel.h"

typedef struct deal_probe {
    double read_rate;     // bytes per second, from memory, by all threads of the pool
    double multiply_rate; // int8 multiply-adds per second, operands in registers
} deal_probe;

// Takes about a second. Fails with NO_MEMORY where 256 MiB cannot be had.
deal_status deal_probe_run(deal_pool *pool, deal_probe *probe, deal_error *err);

#endif
