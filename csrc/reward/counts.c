#include "reward/counts.h"

#include <string.h>

#include "common/alloc.h"
#include "reward/hash.h"

#define N_PLACE_MIN 64

typedef struct item {
    int32_t slot; // -1: free
    int32_t count;
} item;

struct deal_counts {
    uint32_t n_share;
    uint32_t n_item, n_place; // n_place a power of two, at most half of it taken
    item place[];             // (n_place,) open addressing
};

static deal_counts *
make(uint32_t n_place)
{
    deal_counts *c = deal_alloc(1, sizeof *c + n_place * sizeof(item));
    if (!c)
        return NULL;
    c->n_share = 1;
    c->n_item = 0;
    c->n_place = n_place;
    memset(c->place, 0xFF, n_place * sizeof(item)); // slots of -1
    return c;
}

deal_counts *
deal_counts_new(void)
{
    return make(N_PLACE_MIN);
}

deal_counts *
deal_counts_share(deal_counts *c)
{
    c->n_share++;
    return c;
}

void
deal_counts_release(deal_counts *c)
{
    if (c && --c->n_share == 0)
        deal_free(c);
}

// The place that holds `slot`, or the free one where it belongs.
static uint32_t
place_of(const deal_counts *c, int32_t slot)
{
    uint32_t mask = c->n_place - 1;
    uint32_t i = (uint32_t)((uint64_t)(uint32_t)slot * DEAL_HASH_PRIME >> 32) & mask;
    while (c->place[i].slot >= 0 && c->place[i].slot != slot)
        i = (i + 1) & mask;
    return i;
}

int32_t
deal_counts_get(const deal_counts *c, int32_t slot)
{
    const item *at = &c->place[place_of(c, slot)];
    return at->slot < 0 ? 0 : at->count;
}

// A table of its own with the same counts and room for one more.
static deal_counts *
copy(const deal_counts *c)
{
    uint32_t n_place = c->n_place;
    if (2 * (c->n_item + 1) > n_place)
        n_place *= 2;
    deal_counts *to = make(n_place);
    if (!to)
        return NULL;
    to->n_item = c->n_item;
    if (n_place == c->n_place) {
        memcpy(to->place, c->place, n_place * sizeof(item));
        return to;
    }
    for (uint32_t i = 0; i < c->n_place; i++)
        if (c->place[i].slot >= 0)
            to->place[place_of(to, c->place[i].slot)] = c->place[i];
    return to;
}

int32_t *
deal_counts_at(deal_counts **c, int32_t slot)
{
    if ((*c)->n_share > 1 || 2 * ((*c)->n_item + 1) > (*c)->n_place) {
        deal_counts *own = copy(*c);
        if (!own)
            return NULL;
        deal_counts_release(*c);
        *c = own;
    }
    item *at = &(*c)->place[place_of(*c, slot)];
    if (at->slot < 0) {
        *at = (item){.slot = slot};
        (*c)->n_item++;
    }
    return &at->count;
}
