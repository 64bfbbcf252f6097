#include "search/draft.h"

#include <string.h>

#define MEMORY 0.05 // weight of the latest guess in a rate

void
deal_draft_init(deal_draft *draft)
{
    memset(draft->entry, 0xFF, sizeof draft->entry); // every token -1
    draft->rate[0] = 0.3;
    draft->rate[1] = 0.5;
    draft->rate[2] = 0.7;
    draft->rate[DEAL_DRAFT_GIVEN - 1] = 0.9;
}

static uint32_t
place_of(const int32_t *context, int32_t order)
{
    uint32_t hash = UINT32_C(2166136261);
    for (int32_t i = 0; i < order; i++)
        hash = (hash ^ (uint32_t)context[i]) * UINT32_C(0x9E3779B1);
    return (hash >> 16) % DEAL_DRAFT_SIZE;
}

void
deal_draft_learn(deal_draft *draft, const int32_t *context, int32_t next)
{
    for (int32_t order = 1; order <= DEAL_DRAFT_ORDER; order++) {
        if (context[order - 1] < 0)
            return;
        deal_draft_entry *entry = &draft->entry[order - 1][place_of(context, order)];
        memcpy(entry->context, context, sizeof entry->context);
        entry->next = next;
    }
}

int32_t
deal_draft_guess(const deal_draft *draft, const int32_t *context, int32_t *next)
{
    for (int32_t order = DEAL_DRAFT_ORDER; order > 0; order--) {
        if (context[order - 1] < 0)
            continue;
        const deal_draft_entry *entry =
            &draft->entry[order - 1][place_of(context, order)];
        size_t size = (size_t)order * sizeof *context;
        if (entry->next >= 0 && memcmp(entry->context, context, size) == 0) {
            *next = entry->next;
            return order;
        }
    }
    return 0;
}

void
deal_draft_count(deal_draft *draft, int32_t order, int is_right)
{
    double *rate = &draft->rate[order - 1];
    *rate += MEMORY * ((is_right ? 1.0 : 0.0) - *rate);
}
