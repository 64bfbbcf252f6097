/* A named tensor of a checkpoint, as it lies in the file; and the weight types. */
#ifndef DEAL_MODEL_TENSOR_H
#define DEAL_MODEL_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "kernels/quant.h"
#include "model/mapped_file.h"

#define DEAL_TENSOR_DIMS_MAX 4
#define DEAL_TENSOR_NAME_SIZE 96 // with the terminating zero

typedef struct deal_tensor {
    char name[DEAL_TENSOR_NAME_SIZE]; // GGUF's name, e.g. "blk.3.attn_q.weight"
    deal_type type;
    int32_t n_dim;                     // in [1, 4]
    int64_t dim[DEAL_TENSOR_DIMS_MAX]; // slowest first; 1 past n_dim
    const void *data; // row-major, borrowed from the mapped file; may be unaligned
    size_t size;      // bytes, exactly what type and dims need
} deal_tensor;

// Tensors of one model; borrowed pointers into mapped files that the loader owns.
typedef struct deal_tensor_table {
    deal_tensor *tensor; // (n_tensor,) distinct names
    int32_t n_tensor;
} deal_tensor_table;

// Sets `tensor->size` from type and shape. FORMAT where a row is not whole blocks or
// the size overflows.
deal_status deal_tensor_size(deal_tensor *tensor, deal_error *err);

// A tensor at `offset` of a mapped file. FORMAT where name, shape or range are
// impossible or `size` is not what type and shape need.
deal_status deal_tensor_from_file(const deal_mapped_file *file, const char *name,
                                  deal_type type, int32_t n_dim, const int64_t *dim,
                                  uint64_t offset, uint64_t size, deal_tensor *tensor,
                                  deal_error *err);

// No two tensors share a name or bytes; FORMAT names those that do.
deal_status deal_tensor_table_check(const deal_tensor_table *table, deal_error *err);

// The tensor called `name`, or NULL.
const deal_tensor *deal_tensor_find(const deal_tensor_table *table, const char *name);

#endif
