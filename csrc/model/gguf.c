#include "model/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/alloc.h"

// Bytes not read yet. Every take_* checks against `end` first.
typedef struct reader {
    const uint8_t *begin, *at, *end;
    deal_error *err;
} reader;

static deal_status
need(reader *r, uint64_t size, const char *what)
{
    uint64_t left = (uint64_t)(r->end - r->at);
    if (size > left)
        return deal_fail(r->err, DEAL_ERR_FORMAT,
                         "%s: the file ends too early: expected %" PRIu64
                         " bytes at offset %" PRIu64 ", got %" PRIu64,
                         what, size, (uint64_t)(r->at - r->begin), left);
    return DEAL_OK;
}

static uint64_t
load_le(const uint8_t *p, int n_byte)
{
    uint64_t value = 0;
    for (int i = n_byte; i-- > 0;)
        value = value << 8 | p[i];
    return value;
}

static deal_status
take_u32(reader *r, const char *what, uint32_t *value)
{
    DEAL_TRY(need(r, 4, what));
    *value = (uint32_t)load_le(r->at, 4);
    r->at += 4;
    return DEAL_OK;
}

static deal_status
take_u64(reader *r, const char *what, uint64_t *value)
{
    DEAL_TRY(need(r, 8, what));
    *value = load_le(r->at, 8);
    r->at += 8;
    return DEAL_OK;
}

static deal_status
take_string(reader *r, const char *what, const char **text, size_t *size)
{
    uint64_t n;
    DEAL_TRY(take_u64(r, what, &n));
    DEAL_TRY(need(r, n, what));
    *text = (const char *)r->at;
    *size = (size_t)n;
    r->at += n;
    return DEAL_OK;
}

static int
size_of_type(deal_gguf_type type)
{
    static const int size[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return size[type];
}

static bool
is_type(uint32_t type)
{
    return type <= DEAL_GGUF_FLOAT64;
}

// Moves over an entry's values, checking that they lie in the file.
static deal_status
take_values(reader *r, deal_gguf_entry *entry, const char *what)
{
    entry->data = r->at;
    if (entry->type == DEAL_GGUF_STRING) {
        const char *text;
        size_t size;
        for (uint64_t i = 0; i < entry->n_value; i++)
            DEAL_TRY(take_string(r, what, &text, &size));
    } else {
        uint64_t size = (uint64_t)size_of_type(entry->type);
        if (entry->n_value > UINT64_MAX / size)
            return deal_fail(r->err, DEAL_ERR_FORMAT, "%s: %" PRIu64 " values", what,
                             entry->n_value);
        DEAL_TRY(need(r, entry->n_value * size, what));
        r->at += entry->n_value * size;
    }
    entry->data_size = (size_t)(r->at - entry->data);
    return DEAL_OK;
}

static deal_status
take_entry(reader *r, deal_gguf_entry *entry)
{
    uint32_t type;
    char what[80];
    DEAL_TRY(take_string(r, "metadata key", &entry->key, &entry->key_size));
    snprintf(what, sizeof what, "key %.*s",
             entry->key_size < 64 ? (int)entry->key_size : 64, entry->key);
    if (entry->key_size == 0)
        return deal_fail(r->err, DEAL_ERR_FORMAT, "metadata key: empty");
    DEAL_TRY(take_u32(r, what, &type));
    entry->n_value = 1;
    entry->is_array = type == DEAL_GGUF_ARRAY;
    if (entry->is_array) {
        DEAL_TRY(take_u32(r, what, &type));
        DEAL_TRY(take_u64(r, what, &entry->n_value));
    }
    if (!is_type(type) || type == DEAL_GGUF_ARRAY)
        return deal_fail(r->err, DEAL_ERR_FORMAT,
                         "%s: expected a value type of 0 to 12, not nested, got %u",
                         what, type);
    entry->type = (deal_gguf_type)type;
    return take_values(r, entry, what);
}

// Shape and size of a tensor; its data are found later.
static deal_status
take_tensor(reader *r, deal_tensor *tensor, uint64_t *offset)
{
    const char *name;
    size_t name_size;
    uint32_t n_dim, type;
    DEAL_TRY(take_string(r, "tensor name", &name, &name_size));
    if (name_size == 0 || name_size >= DEAL_TENSOR_NAME_SIZE ||
        memchr(name, 0, name_size))
        return deal_fail(r->err, DEAL_ERR_FORMAT,
                         "tensor name: expected 1 to %d bytes without zeros, got %zu",
                         DEAL_TENSOR_NAME_SIZE - 1, name_size);
    memcpy(tensor->name, name, name_size);
    tensor->name[name_size] = 0;
    DEAL_TRY(take_u32(r, tensor->name, &n_dim));
    if (n_dim < 1 || n_dim > DEAL_TENSOR_DIMS_MAX)
        return deal_fail(r->err, DEAL_ERR_FORMAT,
                         "tensor %s: expected 1 to %d dimensions, got %u", tensor->name,
                         DEAL_TENSOR_DIMS_MAX, n_dim);
    tensor->n_dim = (int32_t)n_dim;
    for (uint32_t d = 0; d < DEAL_TENSOR_DIMS_MAX; d++)
        tensor->dim[d] = 1;
    for (uint32_t d = n_dim; d-- > 0;) { // the file has the fastest first
        uint64_t dim;
        DEAL_TRY(take_u64(r, tensor->name, &dim));
        if (dim < 1 || dim > INT32_MAX)
            return deal_fail(r->err, DEAL_ERR_FORMAT,
                             "tensor %s: dimension %u: expected 1 to %d, got %" PRIu64,
                             tensor->name, d, INT32_MAX, dim);
        tensor->dim[d] = (int64_t)dim;
    }
    DEAL_TRY(take_u32(r, tensor->name, &type));
    if (type > INT32_MAX || !deal_type_is_known((int32_t)type))
        return deal_fail(r->err, DEAL_ERR_UNSUPPORTED,
                         "tensor %s: weight type %u is not supported", tensor->name,
                         type);
    tensor->type = (deal_type)type;
    return take_u64(r, tensor->name, offset);
}

static bool
has_key(const deal_gguf_entry *entry, const char *key)
{
    return entry->key_size == strlen(key) &&
           memcmp(entry->key, key, entry->key_size) == 0;
}

const deal_gguf_entry *
deal_gguf_find(const deal_gguf *gguf, const char *key)
{
    for (int32_t i = 0; i < gguf->n_entry; i++)
        if (has_key(&gguf->entry[i], key))
            return &gguf->entry[i];
    return NULL;
}

void
deal_gguf_string_next(const uint8_t **cursor, const char **text, size_t *size)
{
    *size = (size_t)load_le(*cursor, 8);
    *text = (const char *)*cursor + 8;
    *cursor += 8 + *size;
}

static deal_status
read_entries(reader *r, uint64_t n_entry, deal_gguf *gguf)
{
    if (n_entry > (uint64_t)(r->end - r->at) / 13) // an entry takes at least 13 bytes
        return deal_fail(r->err, DEAL_ERR_FORMAT,
                         "metadata: %" PRIu64 " entries do not fit in the file",
                         n_entry);
    gguf->entry = deal_alloc_zero((size_t)n_entry, sizeof *gguf->entry);
    if (!gguf->entry)
        return deal_fail_memory(r->err, "metadata");
    for (uint64_t i = 0; i < n_entry; i++) {
        DEAL_TRY(take_entry(r, &gguf->entry[i]));
        for (uint64_t j = 0; j < i; j++)
            if (gguf->entry[j].key_size == gguf->entry[i].key_size &&
                memcmp(gguf->entry[j].key, gguf->entry[i].key,
                       gguf->entry[i].key_size) == 0)
                return deal_fail(r->err, DEAL_ERR_FORMAT, "key %.*s: listed twice",
                                 (int)gguf->entry[i].key_size, gguf->entry[i].key);
        gguf->n_entry = (int32_t)i + 1;
    }
    return DEAL_OK;
}

static deal_status
read_tensors(reader *r, uint64_t n_tensor, uint64_t alignment, deal_gguf *gguf)
{
    if (n_tensor > (uint64_t)(r->end - r->at) / 33) // a row takes at least 33 bytes
        return deal_fail(r->err, DEAL_ERR_FORMAT,
                         "tensors: %" PRIu64 " do not fit in the file", n_tensor);
    deal_tensor_table *table = &gguf->tensors;
    table->tensor = deal_alloc_zero((size_t)n_tensor, sizeof *table->tensor);
    uint64_t *offset = deal_alloc((size_t)n_tensor, sizeof *offset);
    deal_status status = DEAL_OK;
    if (!table->tensor || !offset)
        status = deal_fail_memory(r->err, "tensor table");
    for (uint64_t i = 0; status == DEAL_OK && i < n_tensor; i++) {
        status = take_tensor(r, &table->tensor[i], &offset[i]);
        if (status == DEAL_OK)
            status = deal_tensor_size(&table->tensor[i], r->err);
        table->n_tensor = (int32_t)i + 1;
    }
    uint64_t at = (uint64_t)(r->at - r->begin);
    uint64_t data_at = (at + alignment - 1) / alignment * alignment;
    uint64_t size = (uint64_t)(r->end - r->begin);
    for (uint64_t i = 0; status == DEAL_OK && i < n_tensor; i++) {
        deal_tensor *tensor = &table->tensor[i];
        if (offset[i] % alignment != 0)
            status = deal_fail(r->err, DEAL_ERR_FORMAT,
                               "tensor %s: expected an offset in steps of %" PRIu64
                               ", got %" PRIu64,
                               tensor->name, alignment, offset[i]);
        else if (data_at > size || offset[i] > size - data_at ||
                 tensor->size > size - data_at - offset[i])
            status = deal_fail(r->err, DEAL_ERR_FORMAT,
                               "tensor %s: expected %zu bytes at offset %" PRIu64
                               ", but the file has %" PRIu64 " bytes",
                               tensor->name, tensor->size, offset[i], size);
        else
            tensor->data = r->begin + data_at + offset[i];
    }
    deal_free(offset);
    DEAL_TRY(status);
    return deal_tensor_table_check(table, r->err);
}

deal_status
deal_gguf_get_uint(const deal_gguf *gguf, const char *key, bool is_needed,
                   uint64_t *value, deal_error *err)
{
    const deal_gguf_entry *entry = deal_gguf_find(gguf, key);
    if (!entry && !is_needed)
        return DEAL_OK;
    if (!entry)
        return deal_fail(err, DEAL_ERR_FORMAT, "key %s is missing", key);
    if (entry->is_array)
        return deal_fail(err, DEAL_ERR_UNSUPPORTED,
                         "key %s: one value for each layer is not supported", key);
    switch (entry->type) {
    case DEAL_GGUF_UINT8:
    case DEAL_GGUF_UINT16:
    case DEAL_GGUF_UINT32:
    case DEAL_GGUF_UINT64:
        *value = load_le(entry->data, size_of_type(entry->type));
        return DEAL_OK;
    case DEAL_GGUF_INT8:
    case DEAL_GGUF_INT16:
    case DEAL_GGUF_INT32:
    case DEAL_GGUF_INT64:
        *value = load_le(entry->data, size_of_type(entry->type));
        if (*value >> (8 * size_of_type(entry->type) - 1) == 0) // not negative
            return DEAL_OK;
        return deal_fail(err, DEAL_ERR_FORMAT, "key %s: negative", key);
    default:
        return deal_fail(err, DEAL_ERR_FORMAT,
                         "key %s: expected an integer, got type %d", key,
                         (int)entry->type);
    }
}

deal_status
deal_gguf_parse(const uint8_t *data, size_t size, deal_gguf *out, deal_error *err)
{
    deal_gguf gguf = {0};
    reader r = {.begin = data, .at = data, .end = data + size, .err = err};
    uint32_t magic, version;
    uint64_t n_tensor, n_entry, alignment = 32;
    DEAL_TRY(take_u32(&r, "GGUF magic", &magic));
    if (magic != 0x46554747u)
        return deal_fail(err, DEAL_ERR_FORMAT,
                         "GGUF magic: expected \"GGUF\", got %08x", magic);
    DEAL_TRY(take_u32(&r, "GGUF version", &version));
    if (version != 2 && version != 3)
        return deal_fail(err, DEAL_ERR_UNSUPPORTED,
                         "GGUF version: expected 2 or 3, little-endian, got %u",
                         version);
    DEAL_TRY(take_u64(&r, "tensor count", &n_tensor));
    DEAL_TRY(take_u64(&r, "metadata count", &n_entry));
    deal_status status;
    DEAL_TRY_GOTO(read_entries(&r, n_entry, &gguf), fail);
    DEAL_TRY_GOTO(
        deal_gguf_get_uint(&gguf, "general.alignment", false, &alignment, err), fail);
    if (alignment < 1 || alignment > 65536 || (alignment & (alignment - 1)) != 0) {
        status = deal_fail(err, DEAL_ERR_FORMAT,
                           "key general.alignment: expected a power of 2 up to 65536, "
                           "got %" PRIu64,
                           alignment);
        goto fail;
    }
    DEAL_TRY_GOTO(read_tensors(&r, n_tensor, alignment, &gguf), fail);
    *out = gguf;
    return DEAL_OK;
fail:
    deal_gguf_close(&gguf);
    return status;
}

deal_status
deal_gguf_open(const char *path, deal_gguf *gguf, deal_error *err)
{
    deal_mapped_file file;
    DEAL_TRY(deal_mapped_file_open(path, &file, err));
    deal_status status = deal_gguf_parse(file.data, file.size, gguf, err);
    if (status != DEAL_OK)
        deal_mapped_file_close(&file);
    else
        gguf->file = file;
    return status;
}

void
deal_gguf_close(deal_gguf *gguf)
{
    deal_free(gguf->entry);
    deal_free(gguf->tensors.tensor);
    deal_mapped_file_close(&gguf->file);
    *gguf = (deal_gguf){0};
}
