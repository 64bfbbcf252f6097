/* Ids lie in a heap, the most likely first, and only those that the draw needs are
 * taken out, in order. Every filter keeps a prefix of that order, mostly a short one:
 * ids of little weight come into the heap when all others are taken.
 */
#include "search/draw.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/alloc.h"

#define LITTLE 16.0 // the weights begin at exp(-LITTLE)

deal_status
deal_draw_init(deal_draw *draw, int32_t n_vocab, deal_error *err)
{
    *draw = (deal_draw){.n_vocab = n_vocab};
    draw->x = deal_alloc((size_t)n_vocab, sizeof *draw->x);
    draw->heap = deal_alloc((size_t)n_vocab, sizeof *draw->heap);
    draw->taken = deal_alloc((size_t)n_vocab, sizeof *draw->taken);
    draw->mark = deal_alloc_zero((size_t)n_vocab, sizeof *draw->mark);
    if (draw->x && draw->heap && draw->taken && draw->mark)
        return DEAL_OK;
    deal_draw_free(draw);
    return deal_fail_memory(err, "sampler");
}

void
deal_draw_free(deal_draw *draw)
{
    deal_free(draw->x);
    deal_free(draw->heap);
    deal_free(draw->taken);
    deal_free(draw->mark);
    *draw = (deal_draw){0};
}

deal_status
deal_draw_load(deal_draw *draw, const float *logits, deal_error *err)
{
    float largest = -INFINITY;
    for (int32_t i = 0; i < draw->n_vocab; i++) {
        if (isnan(logits[i]))
            return deal_fail(err, DEAL_ERR_FORMAT, "logits: token %d has NaN", (int)i);
        if (logits[i] > largest)
            largest = logits[i];
        draw->x[i] = (double)logits[i];
    }
    if (!isfinite(largest))
        return deal_fail(err, DEAL_ERR_FORMAT,
                         "logits: expected a finite maximum, got %g", (double)largest);
    if (++draw->n_load == 0) { // wrapped: forget the marks
        memset(draw->mark, 0, (size_t)draw->n_vocab * sizeof *draw->mark);
        draw->n_load = 1;
    }
    return DEAL_OK;
}

void
deal_draw_penalise(deal_draw *draw, double penalty, const int32_t *token,
                   int32_t n_token)
{
    for (int32_t i = 0; i < n_token; i++) {
        int32_t id = token[i];
        if (draw->mark[id] == draw->n_load)
            continue;
        draw->mark[id] = draw->n_load;
        draw->x[id] = draw->x[id] < 0 ? draw->x[id] * penalty : draw->x[id] / penalty;
    }
}

int32_t
deal_draw_argmax(const deal_draw *draw)
{
    int32_t best = 0;
    for (int32_t i = 1; i < draw->n_vocab; i++)
        if (draw->x[i] > draw->x[best])
            best = i;
    return best;
}

// Whether id `a` comes before id `b`.
static bool
is_before(const deal_draw *draw, int32_t a, int32_t b)
{
    return draw->x[a] != draw->x[b] ? draw->x[a] > draw->x[b] : a < b;
}

static void
sift_down(deal_draw *draw, int32_t i)
{
    int32_t *heap = draw->heap, n = draw->n_heap, id = heap[i];
    while (i < n / 2) {
        int32_t child = 2 * i + 1;
        if (child + 1 < n && is_before(draw, heap[child + 1], heap[child]))
            child++;
        if (!is_before(draw, heap[child], id))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = id;
}

// A heap of the ids whose logits are at least `x_low`, or of all others.
static void
fill(deal_draw *draw, double x_low, bool is_above)
{
    draw->n_heap = 0;
    for (int32_t i = 0; i < draw->n_vocab; i++) {
        draw->heap[draw->n_heap] = i;
        draw->n_heap += (draw->x[i] >= x_low) == is_above;
    }
    for (int32_t i = draw->n_heap / 2; i-- > 0;)
        sift_down(draw, i);
}

// The j-th most likely id, j < n_vocab; j rises by at most one between calls.
static int32_t
id_at(deal_draw *draw, int32_t j)
{
    if (j == draw->n_taken) {
        if (draw->n_heap == 0)
            fill(draw, draw->x_low, false);
        draw->taken[draw->n_taken++] = draw->heap[0];
        draw->heap[0] = draw->heap[--draw->n_heap];
        sift_down(draw, 0);
    }
    return draw->taken[j];
}

// exp(z) for z <= 0, to an ulp or two; 0 where that would be subnormal. It has no
// branch and calls nothing, so that a loop over the vocabulary runs in vectors.
static inline double
exp_of(double z)
{
    const double shift = 0x1.8p52; // an integer of up to 51 bits added to it is exact
    double clamped = z > -708.0 ? z : -708.0;
    double shifted = clamped * 0x1.71547652b82fep+0 + shift, n = shifted - shift;
    double r = clamped - n * 0x1.62e42fee00000p-1 - n * 0x1.a39ef35793c76p-33;
    double sum = 1.0 / 6227020800.0; // 1 / 13!, and down to 1 / 0!; |r| <= ln(2) / 2
    sum = sum * r + 1.0 / 479001600.0;
    sum = sum * r + 1.0 / 39916800.0;
    sum = sum * r + 1.0 / 3628800.0;
    sum = sum * r + 1.0 / 362880.0;
    sum = sum * r + 1.0 / 40320.0;
    sum = sum * r + 1.0 / 5040.0;
    sum = sum * r + 1.0 / 720.0;
    sum = sum * r + 1.0 / 120.0;
    sum = sum * r + 1.0 / 24.0;
    sum = sum * r + 1.0 / 6.0;
    sum = sum * r + 0.5;
    sum = sum * r + 1.0;
    sum = sum * r + 1.0;
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 1023) << 52; // 2 to the power of n
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    return z > -708.0 ? sum * scale : 0.0;
}

// Probability over that of the most likely token, so in [0, 1].
static double
weight_of(const deal_draw *draw, int32_t id, double temperature)
{
    return exp_of((draw->x[id] - draw->x_max) / temperature);
}

static double
sum_all(const deal_draw *draw, double temperature)
{
    enum { N_BLOCK = 512 };
    double weight[N_BLOCK], sum = 0.0;
    for (int32_t first = 0; first < draw->n_vocab; first += N_BLOCK) {
        int32_t n = draw->n_vocab - first < N_BLOCK ? draw->n_vocab - first : N_BLOCK;
        for (int32_t i = 0; i < n; i++)
            weight[i] = weight_of(draw, first + i, temperature);
        for (int32_t i = 0; i < n; i++)
            sum += weight[i];
    }
    return sum;
}

// Tokens that top_k leaves, and the sum of their weights.
static int32_t
keep_top_k(deal_draw *draw, const deal_search_params *params, double *sum)
{
    if (params->top_k == 0 || params->top_k >= draw->n_vocab) {
        *sum = sum_all(draw, params->temperature);
        return draw->n_vocab;
    }
    *sum = 0.0;
    int32_t n = 0;
    double x_last = 0.0;
    for (; n < draw->n_vocab; n++) {
        int32_t id = id_at(draw, n);
        if (n >= params->top_k && draw->x[id] < x_last)
            break;
        x_last = draw->x[id];
        *sum += weight_of(draw, id, params->temperature);
    }
    return n;
}

// Of the first `n` tokens, those that top_p and min_p leave, and the sum of their
// weights; `sum` comes with that of all `n`.
static int32_t
keep_top_p_min_p(deal_draw *draw, const deal_search_params *params, int32_t n,
                 double *sum)
{
    if (params->top_p >= 1.0 && params->min_p <= 0.0)
        return n;
    double reached = 0.0;
    int32_t n_kept = 0;
    for (; n_kept < n; n_kept++) {
        double weight = weight_of(draw, id_at(draw, n_kept), params->temperature);
        bool is_past = params->top_p < 1.0 && reached >= params->top_p * *sum;
        if (n_kept > 0 && (is_past || weight < params->min_p))
            break;
        reached += weight;
    }
    *sum = reached;
    return n_kept;
}

int32_t
deal_draw_token(deal_draw *draw, const deal_search_params *params, double u)
{
    draw->x_max = draw->x[deal_draw_argmax(draw)];
    draw->x_low = draw->x_max - LITTLE * params->temperature;
    draw->n_taken = 0;
    fill(draw, draw->x_low, true);
    double sum;
    int32_t n = keep_top_k(draw, params, &sum);
    n = keep_top_p_min_p(draw, params, n, &sum);
    double reached = 0.0;
    int32_t chosen = id_at(draw, 0);
    for (int32_t j = 0; j < n; j++) {
        int32_t id = id_at(draw, j);
        double weight = weight_of(draw, id, params->temperature);
        if (weight == 0.0)
            break; // so are all that follow; rounding alone leads here
        chosen = id;
        reached += weight;
        if (reached > u * sum)
            break;
    }
    return chosen;
}
