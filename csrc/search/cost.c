#include "search/cost.h"

#define DECAY 0.98
#define RATIO 0.25 // a row's share of the pass before anything else is known

static void
add(deal_cost *cost, double x, double t, double weight)
{
    cost->n += weight;
    cost->x += weight * x;
    cost->xx += weight * x * x;
    cost->t += weight * t;
    cost->xt += weight * x * t;
}

void
deal_cost_add(deal_cost *cost, int32_t n_row, int32_t n_company, double seconds)
{
    double x = (double)n_row + (double)n_company;
    cost->n_company = n_company;
    if (cost->n == 0.0) {
        double pass = seconds / (1.0 + RATIO * x);
        add(cost, 1.0, pass * (1.0 + RATIO), 2.0);
        add(cost, 16.0, pass * (1.0 + 16.0 * RATIO), 2.0);
    }
    cost->n *= DECAY;
    cost->x *= DECAY;
    cost->xx *= DECAY;
    cost->t *= DECAY;
    cost->xt *= DECAY;
    add(cost, x, seconds, 1.0);
    double spread = cost->n * cost->xx - cost->x * cost->x;
    double mean = cost->t / (cost->n + RATIO * cost->x);
    double row = spread > 0.0 ? (cost->n * cost->xt - cost->x * cost->t) / spread : 0.0;
    double pass = (cost->t - row * cost->x) / cost->n;
    if (row < 0.01 * mean || pass < 0.01 * mean) { // noise, or all of one size
        pass = mean;
        row = RATIO * mean;
    }
    cost->pass = pass;
    cost->row = row;
}

double
deal_cost_chance(const deal_cost *cost, int32_t n_row)
{
    if (cost->n == 0.0)
        return 0.5;
    double n = (double)(n_row > 0 ? n_row : 1) + (double)cost->n_company;
    return cost->row / (cost->row + cost->pass / n);
}
