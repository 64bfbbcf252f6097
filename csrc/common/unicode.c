#include "common/unicode.h"

#include "common/unicode_tables.h"
#include "common/utf8.h"

#define N_WORD_RANGE (sizeof word_range / sizeof word_range[0])
#define N_FOLD_RUN (sizeof fold_run / sizeof fold_run[0])
#define N_CASE_RUN (sizeof case_run / sizeof case_run[0])

#define NOT_8 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80
#define NOT_64 NOT_8, NOT_8, NOT_8, NOT_8, NOT_8, NOT_8, NOT_8, NOT_8

// clang-format off
const uint8_t deal_unicode_ascii[256] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2,
    2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0,
    0, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5,
    5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 0, 0, 0, 0, 1,
    0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0,
    NOT_64, NOT_64,
};
// clang-format on

uint32_t
deal_unicode_next(const uint8_t *text, size_t size, size_t *n_byte)
{
    if (text[0] < 0x80) {
        *n_byte = 1;
        return text[0];
    }
    if (deal_utf8_scan(text, size, n_byte) != DEAL_UTF8_VALID) {
        *n_byte = 1;
        return DEAL_UNICODE_INVALID;
    }
    uint32_t code = text[0] & (0xFFu >> (*n_byte + 1));
    for (size_t i = 1; i < *n_byte; i++)
        code = code << 6 | (text[i] & 0x3Fu);
    return code;
}

static size_t
utf8_size(uint32_t code)
{
    return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
}

size_t
deal_unicode_put(uint32_t code, uint8_t out[4])
{
    static const uint8_t lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    size_t size = utf8_size(code);
    for (size_t i = size; i-- > 1; code >>= 6)
        out[i] = (uint8_t)(0x80u | (code & 0x3Fu));
    out[0] = (uint8_t)(lead[size] | code);
    return size;
}

bool
deal_unicode_is_word(uint32_t code)
{
    if (code < 0x80) {
        uint32_t lower = code | 0x20u;
        return (lower >= 'a' && lower <= 'z') || (code >= '0' && code <= '9') ||
               code == '_';
    }
    size_t low = 0, high = N_WORD_RANGE; // the first range that ends at or after `code`
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (word_range[middle].last < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < N_WORD_RANGE && code >= word_range[low].first;
}

bool
deal_unicode_is_space(uint32_t code)
{
    if (code < 0x80)
        return code == ' ' || (code >= 0x09 && code <= 0x0D) ||
               (code >= 0x1C && code <= 0x1F);
    return code == 0x85 || code == 0xA0 || code == 0x1680 ||
           (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
           code == 0x202F || code == 0x205F || code == 0x3000;
}

deal_unicode_case
deal_unicode_case_of(uint32_t code)
{
    size_t low = 0, high = N_CASE_RUN; // the first run that ends at or after `code`
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (case_run[middle].last < code)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == N_CASE_RUN || code < case_run[low].first)
        return DEAL_CASE_NONE;
    uint32_t first = case_run[low].letter_case;
    bool is_other = case_run[low].is_mixed && (code - case_run[low].first) % 2;
    return is_other ? DEAL_CASE_LOWER + DEAL_CASE_UPPER - first : first;
}

uint32_t
deal_unicode_fold(uint32_t code)
{
    if (code < 0x80)
        return code >= 'A' && code <= 'Z' ? code + 32 : code;
    size_t low = 0, high = N_FOLD_RUN;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (fold_run[middle].last < code)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == N_FOLD_RUN || code < fold_run[low].first ||
        (code - fold_run[low].first) % fold_run[low].step)
        return code;
    return (uint32_t)((int32_t)code + fold_run[low].delta);
}

size_t
deal_unicode_fold_size_min(uint32_t code)
{
    size_t size = utf8_size(code);
    for (size_t i = 0; i < N_FOLD_RUN; i++) {
        uint32_t from = (uint32_t)((int32_t)code - fold_run[i].delta);
        if (from >= fold_run[i].first && from <= fold_run[i].last &&
            (from - fold_run[i].first) % fold_run[i].step == 0 &&
            utf8_size(from) < size)
            size = utf8_size(from);
    }
    return size;
}
