/* Native reward: which checks of a text's form it passes. Range [0, 1].
 *
 * The checks are those of IFEval (J. Zhou et al., "Instruction-following evaluation for
 * large language models", arXiv:2311.07911) and agree with its checkers, with two
 * differences: letter case does not look at the language, and what begins a text is not
 * looked for at every line. White space is that of Python's str.isspace().
 *
 *     starts, ends   the text, less white space and then double quotation marks at its
 *                    ends, begins or ends with a phrase, in whatever case; the phrase
 *                    is taken without them too
 *     bullets        just so many lines that begin with "-", or with one "*"
 *     paragraphs     just so many parts between "***" that are not blank, none blank
 *                    between two others
 *     placeholders   at least so many [brackets], each within a line
 *     highlights     at least so many *sections* and **sections**, each within a line;
 *                    the two are counted apart and may share stars
 *     case           some letters, all lower or all upper case
 *     no commas      no ","
 *     quoted         but for white space, double quotation marks at both ends
 *     title          <<brackets>> within a line, not blank
 *     postscript     "P.S." or "P.P.S", in whatever case, a space allowed after a dot
 *
 * Each check is a small automaton over characters, so that the state is a few bytes.
 */
#ifndef DEAL_REWARD_FORMAT_H
#define DEAL_REWARD_FORMAT_H

#include <stdbool.h>

#include "common/reward.h"
#include "common/status.h"

typedef enum deal_format_case {
    DEAL_FORMAT_ANY_CASE = 0,
    DEAL_FORMAT_LOWER = 1,
    DEAL_FORMAT_UPPER = 2,
} deal_format_case;

typedef enum deal_format_postscript {
    DEAL_FORMAT_NO_POSTSCRIPT = 0,
    DEAL_FORMAT_PS = 1,  // "P.S."
    DEAL_FORMAT_PPS = 2, // "P.P.S"
} deal_format_postscript;

typedef struct deal_format_options {
    const char *starts_with; // UTF-8, `starts_size` bytes; NULL: no such check
    size_t starts_size;
    const char *ends_with;
    size_t ends_size;
    int64_t n_bullets, n_paragraphs, n_placeholders, n_highlights; // < 0: no such check
    deal_format_case letter_case;
    deal_format_postscript postscript;
    bool has_no_commas, is_quoted, has_title;
    bool is_all; // score 1 where all checks pass, else 0; false: the share that does
} deal_format_options;

// Fails with INVALID_ARG where nothing is to be checked, on a phrase that is not UTF-8
// or has nothing in it, and where n_paragraphs is 0. Copies the phrases. Caller frees
// with deal_reward_format_free().
deal_status deal_reward_format_new(const deal_format_options *options,
                                   deal_reward **reward, deal_error *err);
void deal_reward_format_free(deal_reward *reward);

#endif
