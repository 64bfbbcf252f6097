#include "search/stop.h"

#include <string.h>

#include "common/alloc.h"
#include "common/utf8.h"

deal_status
deal_stop_set_init(deal_stop_set *set, const char *const *text, int32_t n,
                   deal_error *err)
{
    *set = (deal_stop_set){0};
    if (n == 0)
        return DEAL_OK;
    for (int32_t i = 0; i < n; i++) {
        if (!text[i] || text[i][0] == '\0')
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "stop[%d]: expected a non-empty string", (int)i);
        if (!deal_utf8_is_valid((const uint8_t *)text[i], strlen(text[i])))
            return deal_fail(err, DEAL_ERR_INVALID_ARG, "stop[%d]: expected UTF-8",
                             (int)i);
    }
    size_t *text_size = deal_alloc((size_t)n, sizeof *text_size);
    if (!text_size)
        return deal_fail_memory(err, "stop strings");
    *set = (deal_stop_set){.text = text, .text_size = text_size, .n = n};
    for (int32_t i = 0; i < n; i++) {
        text_size[i] = strlen(text[i]);
        if (text_size[i] > set->size_max)
            set->size_max = text_size[i];
    }
    return DEAL_OK;
}

void
deal_stop_set_free(deal_stop_set *set)
{
    deal_free(set->text_size);
    *set = (deal_stop_set){0};
}

bool
deal_stop_find(const deal_stop_set *set, const uint8_t *text, size_t size,
               size_t i_from, size_t *i_at)
{
    if (set->n == 0)
        return false;
    for (size_t i = i_from; i < size; i++)
        for (int32_t j = 0; j < set->n; j++)
            if (set->text_size[j] <= size - i &&
                memcmp(text + i, set->text[j], set->text_size[j]) == 0) {
                *i_at = i;
                return true;
            }
    return false;
}

size_t
deal_stop_held_size(const deal_stop_set *set, const uint8_t *text, size_t size)
{
    if (set->n == 0)
        return 0;
    size_t held = size < set->size_max ? size : set->size_max - 1;
    for (; held > 0; held--)
        for (int32_t j = 0; j < set->n; j++)
            if (held < set->text_size[j] &&
                memcmp(text + (size - held), set->text[j], held) == 0)
                return held;
    return 0;
}
