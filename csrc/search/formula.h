/* How a request's rewards make one number, where that is more than a weighted sum.
 *
 * A formula is a list of terms in postfix order: each pushes a number, or takes the
 * last one or two and pushes what it makes of them; one number is left. Every operation
 * but MULTIPLY rises with what it takes, and rounding is monotone: over ranges, each
 * operation at the ends encloses what it gives in between, to the last bit.
 */
#ifndef DEAL_SEARCH_FORMULA_H
#define DEAL_SEARCH_FORMULA_H

#include <stdint.h>

#include "common/status.h"

#define DEAL_FORMULA_DEPTH 64 // most numbers that wait for an operation

typedef enum deal_term_kind {
    DEAL_TERM_REWARD,   // pushes the score of reward `i`
    DEAL_TERM_NUMBER,   // pushes `x`
    DEAL_TERM_SCHEDULE, // pushes one of number[i .. i + n), the one at the position of
                        // the decision or the last
    DEAL_TERM_ADD,      // of two
    DEAL_TERM_MULTIPLY,
    DEAL_TERM_MIN,
    DEAL_TERM_MAX,
    DEAL_TERM_AT_LEAST, // of one: 1 where it is at least `x`, else 0
    DEAL_N_TERM
} deal_term_kind;

typedef struct deal_term {
    deal_term_kind kind;
    int32_t i, n;
    double x; // finite
} deal_term;

// All borrowed. Without terms there is no formula.
typedef struct deal_formula {
    const deal_term *term;
    int32_t n_term;
    const double *number; // (n_number,) of schedules, finite
    int32_t n_number;
} deal_formula;

// Fails with INVALID_ARG where the terms do not make one number of `n_reward` scores.
deal_status deal_formula_check(const deal_formula *formula, int32_t n_reward,
                               deal_error *err);

// Of a checked formula. `position`: tokens that the text had before the decision.
double deal_formula_value(const deal_formula *formula, const double *score,
                          int32_t position);

// The range of that where every score lies in [low[i], high[i]]; ends may be infinite.
void deal_formula_range(const deal_formula *formula, const double *low,
                        const double *high, int32_t position, double *from, double *to);

#endif
