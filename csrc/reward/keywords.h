/* Native reward: the fraction of concepts that the completion covers.
 *
 * A concept is a list of accepted forms; it is covered once any form occurs as a whole
 * word (or phrase), compared after case folding. Incremental: an Aho-Corasick automaton
 * over the folded bytes of all forms, plus one bit for each covered concept. Range [0,
 * 1].
 */
#ifndef DEAL_REWARD_KEYWORDS_H
#define DEAL_REWARD_KEYWORDS_H

#include "common/reward.h"
#include "common/status.h"

// Forms are UTF-8, `form[i]` of `form_size[i]` bytes, and belong to concept
// `i_concept[i]` in [0, n_concept). Copies all. Fails with INVALID_ARG on an empty
// form, a form that is not UTF-8, or a concept without forms. Caller frees with
// deal_reward_keywords_free().
deal_status deal_reward_keywords_new(int32_t n_concept, int32_t n_form,
                                     const char *const *form, const size_t *form_size,
                                     const int32_t *i_concept, deal_reward **reward,
                                     deal_error *err);
void deal_reward_keywords_free(deal_reward *reward);

#endif
