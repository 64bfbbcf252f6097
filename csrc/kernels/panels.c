#include "kernels/panels.h"

#include <string.h>

static bool
is_4bit(deal_type type)
{
    return type == DEAL_TYPE_Q4_0 || type == DEAL_TYPE_Q4_1 || type == DEAL_TYPE_Q4_K;
}

deal_panels
deal_panels_layout(deal_type type, int32_t n_out, int32_t n_in, bool is_unsigned)
{
    bool is_symmetric = type == DEAL_TYPE_Q8_0;
    deal_panels p = {
        .n_out = n_out,
        .n_in = n_in,
        .n_panel = (n_out + DEAL_PANEL_LEN - 1) / DEAL_PANEL_LEN,
        .n_group = (n_in + DEAL_QUANT_GROUP - 1) / DEAL_QUANT_GROUP,
        .n_bit = is_4bit(type) ? 4 : 8,
        .offset = is_symmetric && is_unsigned ? 128 : 0,
        .has_min = !is_symmetric,
        .has_f32_scale = type == DEAL_TYPE_Q4_K || type == DEAL_TYPE_Q5_K ||
                         type == DEAL_TYPE_Q4_0 || type == DEAL_TYPE_Q5_0,
    };
    size_t size =
        (size_t)p.n_group * (deal_panels_integer_size(&p) + deal_panels_scale_size(&p));
    p.panel_size = (size + 63) / 64 * 64;
    return p;
}

static void
put_number(const deal_panels *p, uint8_t *to, int32_t i, float value)
{
    if (p->has_f32_scale) {
        memcpy(to + 4 * i, &value, sizeof value);
    } else {
        uint16_t bits = deal_f32_to_f16(value); // exact: it was read from one
        memcpy(to + 2 * i, &bits, sizeof bits);
    }
}

// Integers of one output in one group. Minima make them unsigned from `least` on.
static void
put_integers(const deal_panels *p, uint8_t *to, int32_t i_out, const int8_t *q,
             int32_t least)
{
    for (int32_t i = 0; i < DEAL_QUANT_GROUP; i++) {
        uint8_t u = (uint8_t)(q[i] - least + p->offset);
        int32_t quad = i / 4, at = 4 * i_out + i % 4;
        if (p->n_bit == 8)
            to[64 * quad + at] = u;
        else
            to[64 * (quad % 4) + at] |= (uint8_t)(quad < 4 ? u : u << 4);
    }
}

// Smallest integer of the types that have minima; the others are left as they are.
static int32_t
least_of(deal_type type)
{
    switch (type) {
    case DEAL_TYPE_Q4_0:
        return -8;
    case DEAL_TYPE_Q5_0:
        return -16;
    default:
        return 0;
    }
}

void
deal_panels_pack(deal_panels *p, int32_t i_panel, deal_type type, const void *rows,
                 size_t row_size, float *scratch)
{
    size_t n_group = (size_t)p->n_group, n = n_group * DEAL_QUANT_GROUP;
    uint8_t *integers = p->data + (size_t)i_panel * p->panel_size;
    uint8_t *scales = integers + n_group * deal_panels_integer_size(p);
    size_t scale_size = deal_panels_scale_size(p);
    float *scale = scratch, *min = scratch + n_group;
    int8_t *q = (int8_t *)(scratch + 2 * n_group);
    int32_t least = least_of(type);
    memset(integers, 0, p->panel_size);
    int32_t n_row = p->n_out - i_panel * DEAL_PANEL_LEN;
    for (int32_t o = 0; o < DEAL_PANEL_LEN && o < n_row; o++) {
        deal_type_unpack(type, (const uint8_t *)rows + (size_t)o * row_size, (int64_t)n,
                         q, scale, min);
        for (size_t g = 0; g < n_group; g++) {
            put_integers(p, integers + g * deal_panels_integer_size(p), o,
                         q + g * DEAL_QUANT_GROUP, least);
            uint8_t *to = scales + g * scale_size;
            put_number(p, to, o, scale[g]);
            if (p->has_min)
                put_number(p, to + scale_size / 2, o, min[g] + (float)least * scale[g]);
        }
    }
}
