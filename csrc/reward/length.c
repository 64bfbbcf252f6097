/* Length of the completion against a range, as one counter and two flags.
 *
 * Words are what Python's str.split() gives: maximal runs of characters that are not
 * white space (Unicode White_Space, and U+001C to U+001F). A token is one call of
 * advance with an id, whether it adds text or not.
 *
 * A sentence is a stretch of text with a word character in it, up to a run of . ! ? or
 * of their full-width forms. A run of the ASCII ones alone ends nothing where a word
 * character follows at once, so "3.5" and "example.com" hold no end; at the end of the
 * text it does. Text after the last end is not a sentence yet.
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
    int64_t n;              // complete ones; words: begun ones
    int32_t token_size_max; // bytes
    uint8_t is_inside;      // words: in a word. sentences: a word character was seen
    uint8_t is_pending;     // sentences: ended, unless a word character comes next
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
    } else if (deal_unicode_is_word(code)) {
        s->is_pending = 0;
        s->is_inside = 1;
    } else if (s->is_pending || (s->is_inside && is_full_width_stop(code))) {
        s->n++;
        s->is_pending = s->is_inside = 0;
    }
}

static int
length_advance(void *self, void *state_bytes, int32_t token, const char *bytes,
               size_t size, char *message)
{
    (void)message;
    const length *l = self;
    state *s = state_bytes;
    if (l->unit == DEAL_LENGTH_TOKENS) {
        s->n += token >= 0; // text that is pending comes without one
        return 0;
    }
    size_t n_byte;
    for (size_t i = 0; i < size; i += n_byte) {
        uint32_t code =
            deal_unicode_next((const uint8_t *)bytes + i, size - i, &n_byte);
        if (l->unit == DEAL_LENGTH_CHARACTERS) {
            s->n++;
        } else if (l->unit == DEAL_LENGTH_WORDS) {
            bool is_inside = !deal_unicode_is_space(code);
            s->n += is_inside && !s->is_inside;
            s->is_inside = is_inside;
        } else {
            advance_sentence(s, code);
        }
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
        return s->n + (n_left + !s->is_inside) / 2;
    case DEAL_LENGTH_SENTENCES: {
        // The first takes what it lacks of "a.", each further one " a."; a full-width
        // stop is 3 bytes and saves the space, "a" and it are 4.
        int64_t n_lacking = s->is_pending ? 0 : s->is_inside ? 1 : 2;
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
    if ((int)unit < DEAL_LENGTH_TOKENS || (int)unit > DEAL_LENGTH_SENTENCES)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "length: unit: expected 0 to %d, got %d",
                         (int)DEAL_LENGTH_SENTENCES, (int)unit);
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
