/* Length of the completion against a range, as one counter and few flags.
 *
 * Words are what Python's str.split() gives: maximal runs of characters that are not
 * white space (Unicode White_Space, and U+001C to U+001F). A token is one call of
 * advance with an id, whether it adds text or not.
 *
 * A sentence is a stretch of text with a word character in it, up to a run of . ! ? or
 * of their full-width forms. A run of the ASCII ones alone ends nothing where a word
 * character follows at once, so "3.5" and "example.com" hold no end; at the end of the
 * text it does. Text after the last end is not a sentence yet.
 *
 * A line ends with "\n" and counts from its first character that is not white space; a
 * paragraph likewise, and ends with a blank line.
 */
#include "reward/length.h"

#include <stdbool.h>
#include <string.h>

#include "common/alloc.h"
#include "common/unicode.h"

typedef struct length {
    deal_reward reward; // first: the public part
    deal_length_unit unit;
    int64_t min, max; // max INT64_MAX: no upper limit
} length;

typedef struct state {
    int64_t n;              // complete ones; words, lines, paragraphs: begun ones
    int32_t token_size_max; // bytes
    uint8_t is_inside;      // one is begun. sentences: a word character was seen
    uint8_t is_pending;     // sentences: ended, unless a word character comes next
    uint8_t n_newline;      // paragraphs: since the last text, at most 2
} state;

static int
length_init(void *self, void *state_bytes, const deal_reward_prompt *prompt,
            char *message)
{
    (void)self;
    (void)message;
    state *s = state_bytes;
    memset(s, 0, sizeof *s);
    s->token_size_max = prompt->token_size_max;
    return 0;
}

static bool
is_full_width_stop(uint32_t code)
{
    return code == 0x3002 || code == 0xFF0E || code == 0xFF01 || code == 0xFF1F ||
           code == 0xFF61;
}

static void
advance_sentence(state *s, uint32_t code)
{
    if (code == '.' || code == '!' || code == '?') {
        s->is_pending = s->is_inside;
    } else if (code < 0x80 ? deal_unicode_ascii[code] & DEAL_ASCII_WORD
                           : deal_unicode_is_word(code)) {
        s->is_pending = 0;
        s->is_inside = 1;
    } else if (s->is_pending || (s->is_inside && is_full_width_stop(code))) {
        s->n++;
        s->is_pending = s->is_inside = 0;
    }
}

// The code point at text[*i], and a step to the next one.
static uint32_t
next_code(const uint8_t *text, size_t size, size_t *i)
{
    if (text[*i] < 0x80)
        return text[(*i)++];
    size_t n_byte;
    uint32_t code = deal_unicode_next(text + *i, size - *i, &n_byte);
    *i += n_byte;
    return code;
}

static bool
is_space(uint32_t code)
{
    return code < 0x80 ? deal_unicode_ascii[code] & DEAL_ASCII_SPACE
                       : deal_unicode_is_space(code);
}

static void
advance_words(state *s, const uint8_t *text, size_t size)
{
    bool is_inside = s->is_inside;
    int64_t n = s->n;
    for (size_t i = 0; i < size;) {
        bool was_inside = is_inside;
        is_inside = !is_space(next_code(text, size, &i));
        n += is_inside & !was_inside;
    }
    s->n = n;
    s->is_inside = is_inside;
}

static void
advance_lines(state *s, const uint8_t *text, size_t size)
{
    bool is_inside = s->is_inside;
    for (size_t i = 0; i < size;) {
        uint32_t code = next_code(text, size, &i);
        if (code == '\n') {
            is_inside = false;
        } else if (!is_inside && !is_space(code)) {
            is_inside = true;
            s->n++;
        }
    }
    s->is_inside = is_inside;
}

static void
advance_paragraphs(state *s, const uint8_t *text, size_t size)
{
    int n_newline = s->n_newline;
    for (size_t i = 0; i < size;) {
        uint32_t code = next_code(text, size, &i);
        if (code == '\n') {
            n_newline += n_newline < 2;
        } else if (!is_space(code)) {
            s->n += n_newline == 2 || !s->is_inside;
            s->is_inside = 1; // and stays so: there is a paragraph to end
            n_newline = 0;
        }
    }
    s->n_newline = (uint8_t)n_newline;
}

static void
advance_sentences(state *s, const uint8_t *text, size_t size)
{
    for (size_t i = 0; i < size;)
        advance_sentence(s, next_code(text, size, &i));
}

static void
advance_characters(state *s, const uint8_t *text, size_t size)
{
    int64_t n = 0;
    for (size_t i = 0; i < size; n++)
        next_code(text, size, &i);
    s->n += n;
}

static int
length_advance(void *self, void *state_bytes, int32_t token, const char *bytes,
               size_t size, char *message)
{
    (void)message;
    const length *l = self;
    state *s = state_bytes;
    const uint8_t *text = (const uint8_t *)bytes;
    switch (l->unit) {
    case DEAL_LENGTH_TOKENS:
        s->n += token >= 0; // text that is pending comes without one
        break;
    case DEAL_LENGTH_CHARACTERS:
        advance_characters(s, text, size);
        break;
    case DEAL_LENGTH_WORDS:
        advance_words(s, text, size);
        break;
    case DEAL_LENGTH_SENTENCES:
        advance_sentences(s, text, size);
        break;
    case DEAL_LENGTH_LINES:
        advance_lines(s, text, size);
        break;
    case DEAL_LENGTH_PARAGRAPHS:
        advance_paragraphs(s, text, size);
        break;
    }
    return 0;
}

static double
score_of(const length *l, int64_t n)
{
    double distance = 0.0, bound = 1.0;
    if (n < l->min) {
        distance = (double)(l->min - n);
        bound = (double)l->min;
    } else if (n > l->max) {
        distance = (double)(n - l->max);
        bound = (double)l->max;
    }
    return 1.0 / (1.0 + distance / (bound > 1.0 ? bound : 1.0));
}

static int
length_score(void *self, const void *state_bytes, int32_t is_finished, double *score,
             char *message)
{
    (void)is_finished;
    (void)message;
    const state *s = state_bytes;
    *score = score_of(self, s->n + s->is_pending);
    return 0;
}

// Most units that the text can have after `n_left` more bytes, at least one of them.
static int64_t
n_max_after(const length *l, const state *s, int64_t n_left)
{
    switch (l->unit) {
    case DEAL_LENGTH_WORDS: // a space and one character each
    case DEAL_LENGTH_LINES: // a newline and one character each
        return s->n + (n_left + !s->is_inside) / 2;
    case DEAL_LENGTH_SENTENCES: {
        // The first takes what it lacks of "a.", each further one " a."; a full-width
        // stop is 3 bytes and saves the space, "a" and it are 4.
        int64_t n_lacking = s->is_pending ? 0 : s->is_inside ? 1 : 2;
        return n_left < n_lacking ? s->n : s->n + 1 + (n_left - n_lacking) / 3;
    }
    case DEAL_LENGTH_PARAGRAPHS: { // the first what it lacks of "\n\na"
        int64_t n_lacking = s->is_inside ? 3 - s->n_newline : 1;
        return n_left < n_lacking ? s->n : s->n + 1 + (n_left - n_lacking) / 3;
    }
    case DEAL_LENGTH_TOKENS:
    case DEAL_LENGTH_CHARACTERS:
        break;
    }
    return s->n + n_left;
}

static int
length_bounds(void *self, const void *state_bytes, int32_t n_tokens_left, double *low,
              double *high, char *message)
{
    (void)message;
    const length *l = self;
    const state *s = state_bytes;
    int64_t n_low = s->n, n_high;
    if (n_tokens_left <= 0)
        n_low = n_high = s->n + s->is_pending;
    else if (l->unit == DEAL_LENGTH_TOKENS)
        n_high = n_max_after(l, s, n_tokens_left);
    else
        n_high = n_max_after(l, s,
                             (int64_t)(s->token_size_max > 0 ? s->token_size_max : 0) *
                                 n_tokens_left);
    // The score rises up to min, is 1 up to max and falls from there.
    double at_low = score_of(l, n_low), at_high = score_of(l, n_high);
    *low = at_low < at_high ? at_low : at_high;
    if (n_high < l->min)
        *high = at_high;
    else
        *high = n_low > l->max ? at_low : 1.0;
    return 0;
}

deal_status
deal_reward_length_new(deal_length_unit unit, int64_t min, int64_t max,
                       deal_reward **reward, deal_error *err)
{
    if ((int)unit < DEAL_LENGTH_TOKENS || (int)unit > DEAL_LENGTH_PARAGRAPHS)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "length: unit: expected 0 to %d, got %d",
                         (int)DEAL_LENGTH_PARAGRAPHS, (int)unit);
    if (min < 0)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "length: min: expected at least 0, got %lld", (long long)min);
    if (max >= 0 && max < min)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "length: max: expected at least min, %lld, got %lld",
                         (long long)min, (long long)max);
    length *l = deal_alloc_zero(1, sizeof *l);
    if (!l)
        return deal_fail_memory(err, "length");
    l->unit = unit;
    l->min = min;
    l->max = max < 0 ? INT64_MAX : max;
    l->reward = (deal_reward){
        .abi_version = DEAL_REWARD_ABI,
        .struct_size = sizeof(deal_reward),
        .self = l,
        .name = "length",
        .low = 0.0,
        .high = 1.0,
        .state_size = sizeof(state),
        .init = length_init,
        .advance = length_advance,
        .score = length_score,
        .bounds = length_bounds,
    };
    *reward = &l->reward;
    return DEAL_OK;
}

void
deal_reward_length_free(deal_reward *reward)
{
    deal_free(reward); // the first member of the block
}
