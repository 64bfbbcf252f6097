/* A growing byte buffer. Zero-initialise it; free with deal_bytes_free(). */
#ifndef DEAL_COMMON_BYTES_H
#define DEAL_COMMON_BYTES_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

typedef struct deal_bytes {
    uint8_t *data; // (size,) not zero-terminated; NULL while empty
    size_t size;
    size_t cap;
} deal_bytes;

deal_status deal_bytes_reserve(deal_bytes *bytes, size_t cap, deal_error *err);
deal_status deal_bytes_append(deal_bytes *bytes, const void *data, size_t size,
                              deal_error *err);
void deal_bytes_free(deal_bytes *bytes); // leaves it empty and usable

#endif
