#include "common/utf8.h"

#include <string.h>

const uint8_t deal_utf8_replacement[DEAL_UTF8_REPLACEMENT_SIZE] = {0xEF, 0xBF, 0xBD};

// Bytes of the character that `lead` starts, 0 where none can, and the range of its
// second byte, which is what excludes overlong forms, surrogates and the far end.
static size_t
sequence_size(uint8_t lead, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xBF;
    if (lead < 0x80)
        return 1;
    if (lead < 0xC2)
        return 0;
    if (lead < 0xE0)
        return 2;
    if (lead < 0xF0) {
        if (lead == 0xE0)
            *low = 0xA0;
        else if (lead == 0xED)
            *high = 0x9F;
        return 3;
    }
    if (lead > 0xF4)
        return 0;
    if (lead == 0xF0)
        *low = 0x90;
    else if (lead == 0xF4)
        *high = 0x8F;
    return 4;
}

deal_utf8_state
deal_utf8_scan(const uint8_t *text, size_t size, size_t *n_byte)
{
    uint8_t low, high;
    size_t n_expected = sequence_size(text[0], &low, &high);
    *n_byte = 1;
    if (n_expected <= 1)
        return n_expected == 1 ? DEAL_UTF8_VALID : DEAL_UTF8_INVALID;
    for (size_t i = 1; i < n_expected; i++) {
        *n_byte = i;
        if (i == size)
            return DEAL_UTF8_PARTIAL;
        if (text[i] < low || text[i] > high)
            return DEAL_UTF8_INVALID;
        low = 0x80;
        high = 0xBF;
    }
    *n_byte = n_expected;
    return DEAL_UTF8_VALID;
}

bool
deal_utf8_is_valid(const uint8_t *text, size_t size)
{
    for (size_t i = 0, n_byte; i < size; i += n_byte)
        if (deal_utf8_scan(text + i, size - i, &n_byte) != DEAL_UTF8_VALID)
            return false;
    return true;
}

size_t
deal_utf8_lossy_size(const uint8_t *text, size_t size)
{
    size_t lossy_size = 0;
    for (size_t i = 0, n_byte; i < size; i += n_byte) {
        deal_utf8_state state = deal_utf8_scan(text + i, size - i, &n_byte);
        lossy_size += state == DEAL_UTF8_VALID ? n_byte : DEAL_UTF8_REPLACEMENT_SIZE;
    }
    return lossy_size;
}

deal_status
deal_utf8_append_lossy(deal_bytes *out, const uint8_t *text, size_t size,
                       deal_error *err)
{
    size_t lossy_size = deal_utf8_lossy_size(text, size);
    if (lossy_size == size && deal_utf8_is_valid(text, size))
        return deal_bytes_append(out, text, size, err);
    if (lossy_size > SIZE_MAX - out->size)
        return deal_fail_memory(err, "text buffer");
    DEAL_TRY(deal_bytes_reserve(out, out->size + lossy_size, err));
    for (size_t i = 0, n_byte; i < size; i += n_byte) {
        bool is_valid = deal_utf8_scan(text + i, size - i, &n_byte) == DEAL_UTF8_VALID;
        size_t n_out = is_valid ? n_byte : DEAL_UTF8_REPLACEMENT_SIZE;
        const uint8_t *from = is_valid ? text + i : deal_utf8_replacement;
        memcpy(out->data + out->size, from, n_out);
        out->size += n_out;
    }
    return DEAL_OK;
}
