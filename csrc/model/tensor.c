#include "model/tensor.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/alloc.h"

const deal_tensor *
deal_tensor_find(const deal_tensor_table *table, const char *name)
{
    for (int32_t i = 0; i < table->n_tensor; i++)
        if (strcmp(table->tensor[i].name, name) == 0)
            return &table->tensor[i];
    return NULL;
}

deal_status
deal_tensor_size(deal_tensor *tensor, deal_error *err)
{
    int64_t n_row = 1, n_in = tensor->dim[tensor->n_dim - 1];
    for (int32_t d = 0; d + 1 < tensor->n_dim; d++) {
        if (n_row > INT64_MAX / tensor->dim[d])
            return deal_fail(err, DEAL_ERR_FORMAT, "tensor %s: its shape overflows",
                             tensor->name);
        n_row *= tensor->dim[d];
    }
    if (n_in % deal_type_block_len(tensor->type) != 0)
        return deal_fail(err, DEAL_ERR_FORMAT,
                         "tensor %s: rows of %s hold a multiple of %d, got %" PRId64,
                         tensor->name, deal_type_name(tensor->type),
                         deal_type_block_len(tensor->type), n_in);
    size_t row_size = deal_type_row_size(tensor->type, n_in);
    if ((uint64_t)n_row > SIZE_MAX / row_size)
        return deal_fail(err, DEAL_ERR_FORMAT, "tensor %s: its size overflows",
                         tensor->name);
    tensor->size = (size_t)n_row * row_size;
    return DEAL_OK;
}

static int
compare_data(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)(*(const deal_tensor *const *)a)->data;
    uintptr_t y = (uintptr_t)(*(const deal_tensor *const *)b)->data;
    return x < y ? -1 : x > y;
}

static int
compare_name(const void *a, const void *b)
{
    return strcmp((*(const deal_tensor *const *)a)->name,
                  (*(const deal_tensor *const *)b)->name);
}

deal_status
deal_tensor_table_check(const deal_tensor_table *table, deal_error *err)
{
    const deal_tensor **sorted = deal_alloc((size_t)table->n_tensor, sizeof *sorted);
    if (!sorted)
        return deal_fail_memory(err, "tensor table");
    deal_status status = DEAL_OK;
    size_t n = (size_t)table->n_tensor;
    for (size_t i = 0; i < n; i++)
        sorted[i] = &table->tensor[i];
    qsort(sorted, n, sizeof *sorted, compare_name);
    for (size_t i = 1; i < n && status == DEAL_OK; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            status = deal_fail(err, DEAL_ERR_FORMAT, "tensor %s: listed twice",
                               sorted[i]->name);
    qsort(sorted, n, sizeof *sorted, compare_data);
    for (size_t i = 1; i < n && status == DEAL_OK; i++) {
        uintptr_t end = (uintptr_t)sorted[i - 1]->data + sorted[i - 1]->size;
        if (end > (uintptr_t)sorted[i]->data)
            status = deal_fail(err, DEAL_ERR_FORMAT, "tensors %s and %s overlap",
                               sorted[i - 1]->name, sorted[i]->name);
    }
    deal_free(sorted);
    return status;
}

deal_status
deal_tensor_from_file(const deal_mapped_file *file, const char *name, deal_type type,
                      int32_t n_dim, const int64_t *dim, uint64_t offset, uint64_t size,
                      deal_tensor *out, deal_error *err)
{
    deal_tensor tensor = {.type = type, .n_dim = n_dim, .dim = {1, 1, 1, 1}};
    if (strlen(name) == 0 || strlen(name) >= DEAL_TENSOR_NAME_SIZE)
        return deal_fail(err, DEAL_ERR_FORMAT, "tensor name: expected 1 to %d bytes",
                         DEAL_TENSOR_NAME_SIZE - 1);
    memcpy(tensor.name, name, strlen(name) + 1);
    for (int32_t d = 0; d < n_dim; d++) {
        if (dim[d] < 1 || dim[d] > INT32_MAX)
            return deal_fail(err, DEAL_ERR_FORMAT,
                             "tensor %s: dimension %d: expected 1 to %d, got %" PRId64,
                             name, d, INT32_MAX, dim[d]);
        tensor.dim[d] = dim[d];
    }
    DEAL_TRY(deal_tensor_size(&tensor, err));
    if (size != tensor.size)
        return deal_fail(err, DEAL_ERR_FORMAT,
                         "tensor %s: expected %zu bytes for its type and shape, got "
                         "%" PRIu64,
                         name, tensor.size, size);
    if (offset > file->size || size > file->size - offset)
        return deal_fail(err, DEAL_ERR_FORMAT,
                         "tensor %s: expected %" PRIu64 " bytes at offset %" PRIu64
                         ", but the file has %zu bytes",
                         name, size, offset, file->size);
    tensor.data = file->data + offset;
    *out = tensor;
    return DEAL_OK;
}
