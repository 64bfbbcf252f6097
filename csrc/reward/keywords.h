/* Native reward: which of the wanted words occur, and which of the forbidden ones.
 *
 * A concept is a list of accepted forms; it occurs where any form does as a whole word
 * (or phrase), compared after case folding. With n the wanted concepts, c those that
 * occur and f the share of forbidden concepts that occur, the score is
 *
 *     FRACTION   (1 - f) c / n
 *     ORDERED    (1 - f) p / n, p the most concepts from the first one on that occur
 *                one after the other, without overlap
 *     ALL, ANY   1 where all, or any, of the wanted occur and no forbidden one does
 *
 * Without wanted concepts what stands before them is 1. Range [0, 1]. Incremental: an
 * automaton over the folded bytes of all forms, plus one bit for each concept.
 */
#ifndef DEAL_REWARD_KEYWORDS_H
#define DEAL_REWARD_KEYWORDS_H

#include "common/reward.h"
#include "common/status.h"

typedef enum deal_keywords_mode {
    DEAL_KEYWORDS_FRACTION = 0,
    DEAL_KEYWORDS_ALL = 1,
    DEAL_KEYWORDS_ANY = 2,
    DEAL_KEYWORDS_ORDERED = 3,
} deal_keywords_mode;

// Forms are UTF-8, `form[i]` of `form_size[i]` bytes, and belong to concept
// `i_concept[i]`: [0, n_wanted) are wanted, in this order, [n_wanted, n_wanted +
// n_forbidden) forbidden. Copies all. Fails with INVALID_ARG without concepts, on an
// empty form, a form that is not UTF-8, or a concept without forms. Caller frees with
// deal_reward_keywords_free().
deal_status deal_reward_keywords_new(deal_keywords_mode mode, int32_t n_wanted,
                                     int32_t n_forbidden, int32_t n_form,
                                     const char *const *form, const size_t *form_size,
                                     const int32_t *i_concept, deal_reward **reward,
                                     deal_error *err);
void deal_reward_keywords_free(deal_reward *reward);

#endif
