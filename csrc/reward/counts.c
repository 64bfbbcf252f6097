#include "reward/counts.h"

#include <string.h>

#include "common/alloc.h"

#define BITS_MAX 31
#define BITS_GROWN 2 // a table that is full grows to four times as many
#define N_CHUNK 64   // places that are packed at once

static deal_counts *
make(int32_t bits)
{
    deal_counts *c = deal_alloc_zero(1, sizeof *c + (sizeof *c->place << bits));
    if (!c)
        return NULL;
    c->n_share = 1;
    c->bits = bits;
    return c;
}

deal_counts *
deal_counts_new(int32_t bits)
{
    return make(bits);
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

int32_t
deal_counts_get(const deal_counts *c, int32_t slot)
{
    return c->place[deal_counts_find(c->place, c->bits, (uint32_t)slot + 1)].count;
}

// Places of `from` into the empty `to`; the first of the two steps has no branch on
// what a place holds.
static void
move_all(deal_counts *to, const deal_counts *from)
{
    deal_counts_item packed[N_CHUNK];
    for (size_t first = 0; first < (size_t)1 << from->bits; first += N_CHUNK) {
        size_t n = 0;
        for (size_t i = first; i < first + N_CHUNK; i++) {
            packed[n] = from->place[i];
            n += from->place[i].key != 0;
        }
        for (size_t i = 0; i < n; i++)
            to->place[deal_counts_find(to->place, to->bits, packed[i].key)] = packed[i];
    }
}

bool
deal_counts_reserve(deal_counts **c, size_t n_more)
{
    const deal_counts *from = *c;
    int32_t bits = from->bits;
    while (3 * (from->n_item + n_more) > (size_t)1 << bits)
        bits += BITS_GROWN;
    if (from->n_share == 1 && bits == from->bits)
        return true;
    deal_counts *to = bits <= BITS_MAX ? make(bits) : NULL;
    if (!to)
        return false;
    to->n_item = from->n_item;
    if (bits == from->bits)
        memcpy(to->place, from->place, sizeof *to->place << bits);
    else
        move_all(to, from);
    deal_counts_release(*c);
    *c = to;
    return true;
}
