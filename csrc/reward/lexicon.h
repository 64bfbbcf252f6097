/* Native reward: weighted words and phrases, turned by negators before them.
 *
 * x is the sum of the weights of the entries that the text contains, each multiplied by
 * `negation` where a negator is among the `window` words before its first one. The
 * window, alpha and the factor follow VADER: C. J. Hutto and E. Gilbert, "VADER: A
 * parsimonious rule-based model for sentiment analysis of social media text", ICWSM
 * 2014; its degree words, capitals and punctuation are left out. The score is
 *
 *     TEXT    x / sqrt(x^2 + alpha)         in (-1, 1)
 *     WORD    x / words                     words that are in no entry count as 0
 *     MATCH   x / entries found             0 where none is
 *
 * Text is cut at white space into chunks. A chunk that is not one word is looked up
 * whole, then without the . , ; : ! ? and quotes at its end, so that emoticons and
 * words with symbols in them are found; where it is no entry it is the words in it.
 * Words are runs of word characters with apostrophes inside, compared after case
 * folding. Phrases are words that follow one another, whatever stands between; the
 * longest entry that begins at a word is taken, and the text goes on after it.
 */
#ifndef DEAL_REWARD_LEXICON_H
#define DEAL_REWARD_LEXICON_H

#include "common/reward.h"
#include "common/status.h"

typedef enum deal_lexicon_per {
    DEAL_LEXICON_PER_TEXT = 0,
    DEAL_LEXICON_PER_WORD = 1,
    DEAL_LEXICON_PER_MATCH = 2,
} deal_lexicon_per;

typedef struct deal_lexicon_params {
    int32_t n_entry, n_negator;
    const char *const *entry;   // (n_entry,) UTF-8
    const size_t *entry_size;   // (n_entry,) bytes
    const double *weight;       // (n_entry,)
    const char *const *negator; // (n_negator,) UTF-8, single words
    const size_t *negator_size; // (n_negator,) bytes
    int32_t window;             // words, >= 0
    double negation;            // finite
    deal_lexicon_per per;
    double alpha; // > 0; TEXT alone
} deal_lexicon_params;

// Copies all. Fails with INVALID_ARG as said there and in lexicon_entries.h. Caller
// frees with deal_reward_lexicon_free().
deal_status deal_reward_lexicon_new(const deal_lexicon_params *params,
                                    deal_reward **reward, deal_error *err);
void deal_reward_lexicon_free(deal_reward *reward);

#endif
