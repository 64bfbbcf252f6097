/* A named tensor of a checkpoint, as it lies in the file; and the weight types. */
#ifndef DEAL_MODEL_TENSOR_H
#define DEAL_MODEL_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "kernels/quant.h"

#define DEAL_TENSOR_DIMS_MAX 4
#define DEAL_TENSOR_NAME_SIZE 96 // with the terminating zero

typedef struct deal_tensor {
    char name[DEAL_TENSOR_NAME_SIZE]; // GGUF's name, e.g. "blk.3.attn_q.weight"
    deal_type type;
    int32_t n_dim;                       // in [1, 4]
    int64_t dim[DEAL_TENSOR_DIMS_MAX];   // slowest first; 1 past n_dim
    const void *data; // row-major, borrowed from the mapped file; may be unaligned
    size_t size;      // bytes, exactly what type and dims need
} deal_tensor;

// Tensors of one model; borrowed pointers into mapped files that the loader owns.
typedef struct deal_tensor_table {
    deal_tensor *tensor; // (n_tensor,) distinct names
    int32_t n_tensor;
} deal_tensor_table;

// The tensor called `name`, or NULL.
const deal_tensor *deal_tensor_find(const deal_tensor_table *table, const char *name);

#endif
