/* Reader of GGUF v2 and v3: metadata and tensor table over a mapped file.
 *
 * Nothing in the file is trusted: every count, length and offset is checked against the
 * file's size before it is used. Weights themselves are not touched.
 */
#ifndef DEAL_MODEL_GGUF_H
#define DEAL_MODEL_GGUF_H

#include <stdbool.h>

#include "model/mapped_file.h"
#include "model/tensor.h"

typedef enum deal_gguf_type {
    DEAL_GGUF_UINT8 = 0,
    DEAL_GGUF_INT8 = 1,
    DEAL_GGUF_UINT16 = 2,
    DEAL_GGUF_INT16 = 3,
    DEAL_GGUF_UINT32 = 4,
    DEAL_GGUF_INT32 = 5,
    DEAL_GGUF_FLOAT32 = 6,
    DEAL_GGUF_BOOL = 7,
    DEAL_GGUF_STRING = 8,
    DEAL_GGUF_ARRAY = 9,
    DEAL_GGUF_UINT64 = 10,
    DEAL_GGUF_INT64 = 11,
    DEAL_GGUF_FLOAT64 = 12,
} deal_gguf_type;

// One metadata entry. Scalars: n_value = 1. Strings lie as (uint64 size, bytes),
// packed.
typedef struct deal_gguf_entry {
    const char *key; // (key_size,) UTF-8, not zero-terminated, borrowed from the file
    size_t key_size;
    deal_gguf_type type; // of the value, or of an array's elements; never ARRAY
    bool is_array;
    uint64_t n_value;
    const uint8_t *data; // little-endian, any alignment, borrowed from the file
    size_t data_size;
} deal_gguf_entry;

typedef struct deal_gguf {
    deal_mapped_file file;
    deal_gguf_entry *entry; // (n_entry,)
    int32_t n_entry;
    deal_tensor_table tensors; // pointers into `file`
} deal_gguf;

// Opens and checks. FORMAT where the file lies, UNSUPPORTED (naming tensor and type)
// for weight types outside deal_type, IO where it cannot be read. Caller closes with
// deal_gguf_close().
deal_status deal_gguf_open(const char *path, deal_gguf *gguf, deal_error *err);
// The same over bytes in memory, which must outlive `gguf`; for tests and fuzzing.
deal_status deal_gguf_parse(const uint8_t *data, size_t size, deal_gguf *gguf,
                            deal_error *err);
void deal_gguf_close(deal_gguf *gguf);

const deal_gguf_entry *deal_gguf_find(const deal_gguf *gguf, const char *key);
// Reads an integer of any type; leaves `value` where the key is missing and not needed.
// FORMAT for another type or a negative value, UNSUPPORTED for an array.
deal_status deal_gguf_get_uint(const deal_gguf *gguf, const char *key, bool is_needed,
                               uint64_t *value, deal_error *err);
// Reads string `*cursor` of a string entry and moves the cursor (start with
// entry->data).
void deal_gguf_string_next(const uint8_t **cursor, const char **text, size_t *size);

#endif
