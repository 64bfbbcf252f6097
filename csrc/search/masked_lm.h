/* A language model that says no token which a constraint forbids: another one behind
 * masks. It keeps the contract of common/lm.h, so that every search over it obeys the
 * constraint without knowing of it.
 *
 * After the prompt's last token and below, the logits of forbidden tokens are -INFINITY
 * in TOP_K and LOGITS, and their ids come last. All else is the model's own: log_z, and
 * so log-probs, are of its full distribution, and TARGET and TARGETS give its logits.
 *
 * A token that is the only one allowed is known without its context being evaluated:
 * where DEAL_WANT_IDS says that only ids count, the pass is put off until something
 * below needs it, and a chain of such tokens then costs one pass, or none.
 */
#ifndef DEAL_SEARCH_MASKED_LM_H
#define DEAL_SEARCH_MASKED_LM_H

#include "common/lm.h"
#include "search/masks.h"

// `lm` and `masks` are borrowed; completions begin after `n_prompt` tokens. Caller
// frees with deal_masked_lm_free(), which needs all nodes to be given back.
deal_status deal_masked_lm_new(deal_lm *lm, deal_masks *masks, int32_t n_prompt,
                               deal_lm **out, deal_error *err);
void deal_masked_lm_free(deal_lm *lm); // NULL is a no-op

// The place of a node in the masks, borrowed from it; DEAL_MASK_NONE in the prompt.
int32_t deal_masked_lm_place(const deal_lm *lm, deal_node node);

#endif
