/* What a forward pass costs, as seconds for the pass and for each of its rows: a line
 * through what was measured, the older the lighter. It decides what is worth guessing;
 * results never depend on it.
 */
#ifndef DEAL_SEARCH_COST_H
#define DEAL_SEARCH_COST_H

#include <stdint.h>

// Zero-initialise.
typedef struct deal_cost {
    double n, x, xx, t, xt; // decayed sums over passes of x rows and t seconds
    double pass, row;       // seconds; 0 before the first pass
    int32_t n_company;
} deal_cost;

// `n_company`: rows of other searches in the pass, beside the `n_row`. The next one is
// taken to have as many.
void deal_cost_add(deal_cost *cost, int32_t n_row, int32_t n_company, double seconds);

// The chance at which one more row pays in a batch of `n_row`: it costs a row now, and
// where it turns out to be needed it saves that row and its share of a pass later.
double deal_cost_chance(const deal_cost *cost, int32_t n_row);

#endif
