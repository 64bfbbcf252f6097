#include "common/bytes.h"

#include <string.h>

#include "common/alloc.h"

deal_status
deal_bytes_reserve(deal_bytes *bytes, size_t cap, deal_error *err)
{
    if (!deal_reserve(&bytes->data, &bytes->cap, bytes->size, cap, 1))
        return deal_fail_memory(err, "text buffer");
    return DEAL_OK;
}

deal_status
deal_bytes_append(deal_bytes *bytes, const void *data, size_t size, deal_error *err)
{
    if (size == 0)
        return DEAL_OK;
    if (size > SIZE_MAX - bytes->size)
        return deal_fail_memory(err, "text buffer");
    DEAL_TRY(deal_bytes_reserve(bytes, bytes->size + size, err));
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
    return DEAL_OK;
}

void
deal_bytes_free(deal_bytes *bytes)
{
    deal_free(bytes->data);
    *bytes = (deal_bytes){0};
}
