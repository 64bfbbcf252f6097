/* What rewards on texts have answered already, so that no text is asked about twice.
 *
 * The key is all that such a reward is told: text, number of tokens, whether it is
 * finished; for bounds also how many tokens may follow. Of a reward that looks at the
 * text alone, the caller leaves n_tokens and is_finished 0. The memo forgets everything
 * once its texts pass DEAL_MEMO_SIZE_MAX, which bounds its memory; only
 * deal_memo_trim() and deal_memo_clear() forget.
 */
#ifndef DEAL_SEARCH_MEMO_H
#define DEAL_SEARCH_MEMO_H

#include <stdbool.h>

#include "common/bytes.h"
#include "common/reward.h"

#define DEAL_MEMO_SIZE_MAX ((size_t)16 << 20)
#define DEAL_MEMO_SCORE (-1)

typedef struct deal_memo_entry {
    uint64_t hash;
    size_t i_text, size; // in `text`
    int32_t i_reward, n_tokens, is_finished;
    int32_t n_tokens_left; // DEAL_MEMO_SCORE: none, the entry is a score
    double low, high;      // bounds; of a score, both are it
} deal_memo_entry;

// Zero-initialise; free with deal_memo_free().
typedef struct deal_memo {
    deal_memo_entry *entry; // (n_entry,) in the order they came
    size_t n_entry, entry_cap;
    size_t *slot; // (n_slot,) index into `entry` plus 1, 0: free; n_slot a power of 2
    size_t n_slot;
    deal_bytes text;
} deal_memo;

void deal_memo_clear(deal_memo *memo); // forgets everything
void deal_memo_trim(deal_memo *memo);
void deal_memo_free(deal_memo *memo);

// Index of the entry for `key`, made where there is none; `is_new` tells. The numbers
// of a new entry are the caller's to fill in.
deal_status deal_memo_find(deal_memo *memo, int32_t i_reward,
                           const deal_reward_text *key, int32_t n_tokens_left,
                           size_t *i_entry, bool *is_new, deal_error *err);

#endif
