#include "reward/format.h"

#include <string.h>

#include "common/alloc.h"
#include "common/unicode.h"
#include "common/utf8.h"
#include "reward/format_checks.h"

typedef struct format {
    deal_reward reward; // first: the public part
    deal_format_plan plan;
    deal_format_check check[DEAL_FORMAT_N_CHECK];
    int n_check;
    bool needs_code; // some check looks for a phrase
    uint16_t kind_of_ascii[128];
} format;

// ---- Text to kinds ------------------------------------------------------------------

static uint16_t
kind_of_case(uint32_t code)
{
    static const uint16_t kind[] = {0, DEAL_KIND_LOWER, DEAL_KIND_UPPER,
                                    DEAL_KIND_TITLE_CASE};
    return kind[deal_unicode_case_of(code)];
}

static uint16_t
kind_of(uint32_t code)
{
    if (deal_unicode_is_space(code))
        return code == '\n' ? DEAL_KIND_SPACE | DEAL_KIND_NEWLINE : DEAL_KIND_SPACE;
    switch (code) {
    case '*':
        return DEAL_KIND_STAR;
    case '-':
        return DEAL_KIND_DASH;
    case '[':
        return DEAL_KIND_OPEN;
    case ']':
        return DEAL_KIND_CLOSE;
    case '<':
        return DEAL_KIND_LESS;
    case '>':
        return DEAL_KIND_GREATER;
    case '"':
        return DEAL_KIND_QUOTE;
    case ',':
        return DEAL_KIND_COMMA;
    case '.':
        return DEAL_KIND_DOT;
    case 'p':
    case 'P':
        return DEAL_KIND_P | kind_of_case(code);
    case 's':
    case 'S':
        return DEAL_KIND_S | kind_of_case(code);
    default:
        return kind_of_case(code);
    }
}

// Fills `c` from the beginning of `text`, size >= 1; returns the bytes that it took.
static size_t
fill(const format *f, deal_format_chunk *c, const uint8_t *text, size_t size)
{
    size_t i = 0, n = 0;
    uint16_t any = 0, all = 0xFFFF;
    for (; n < DEAL_FORMAT_CHUNK && i < size; n++) {
        size_t n_byte = 1;
        uint32_t code = text[i];
        uint16_t kind;
        if (code < 0x80) {
            kind = f->kind_of_ascii[code];
        } else {
            code = deal_unicode_next(text + i, size - i, &n_byte);
            kind = kind_of(code);
        }
        if (f->needs_code)
            c->code[n] = code == DEAL_UNICODE_INVALID ? code : deal_unicode_fold(code);
        c->kind[n] = kind;
        any |= kind;
        all &= kind;
        i += n_byte;
    }
    c->n = n;
    c->any = any;
    c->all = all;
    return i;
}

// ---- States and scores --------------------------------------------------------------

static int
format_init(void *self, void *state_bytes, const deal_reward_prompt *prompt,
            char *message)
{
    (void)self;
    (void)message;
    deal_format_state *s = state_bytes;
    memset(s, 0, sizeof *s);
    s->token_size_max = prompt->token_size_max;
    return 0;
}

static int
format_advance(void *self, void *state_bytes, int32_t token, const char *bytes,
               size_t size, char *message)
{
    (void)token;
    (void)message;
    const format *f = self;
    const uint8_t *text = (const uint8_t *)bytes;
    deal_format_chunk chunk;
    for (size_t i = 0; i < size;) {
        i += fill(f, &chunk, text + i, size - i);
        for (int j = 0; j < f->n_check; j++)
            f->check[j].advance(&f->plan, state_bytes, &chunk);
    }
    return 0;
}

static double
value_of(const format *f, int n_met)
{
    return f->plan.options.is_all ? n_met == f->n_check : (double)n_met / f->n_check;
}

static int
format_score(void *self, const void *state_bytes, int32_t is_finished, double *score,
             char *message)
{
    (void)is_finished;
    (void)message;
    const format *f = self;
    int n_met = 0;
    for (int j = 0; j < f->n_check; j++)
        n_met += f->check[j].look(&f->plan, state_bytes, 1).is_met;
    *score = value_of(f, n_met);
    return 0;
}

static int
format_bounds(void *self, const void *state_bytes, int32_t n_tokens_left, double *low,
              double *high, char *message)
{
    const format *f = self;
    const deal_format_state *s = state_bytes;
    int64_t n_left = n_tokens_left > 0 && s->token_size_max > 0
                         ? (int64_t)s->token_size_max * n_tokens_left
                         : 0;
    if (!n_left) {
        *high = 0.0;
        format_score(self, state_bytes, 1, high, message);
        *low = *high;
        return 0;
    }
    int n_kept = 0, n_can_be = 0;
    for (int j = 0; j < f->n_check; j++) {
        deal_format_verdict v = f->check[j].look(&f->plan, s, n_left);
        n_kept += v.is_kept;
        n_can_be += v.can_be;
    }
    *low = value_of(f, n_kept);
    *high = value_of(f, n_can_be);
    return 0;
}

// ---- Public -------------------------------------------------------------------------

static bool
is_trimmed(uint32_t code)
{
    return code == '"' || deal_unicode_is_space(code);
}

// What the search for a phrase needs: borders and the bytes that are missing.
static void
link_phrase(deal_format_phrase *p)
{
    p->fail[0] = 0;
    for (size_t i = 1, n = 0; i <= p->n; i++) {
        p->fail[i] = n;
        if (i == p->n)
            break;
        while (n && p->code[i] != p->code[n])
            n = p->fail[n];
        n += p->code[i] == p->code[n];
    }
    p->need[p->n] = 0;
    for (size_t i = p->n; i-- > 0;)
        p->need[i] = p->need[i + 1] + (int64_t)deal_unicode_fold_size_min(p->code[i]);
}

static deal_status
read_phrase(deal_format_phrase *p, const char *what, const char *bytes, size_t size,
            deal_error *err)
{
    const uint8_t *text = (const uint8_t *)bytes;
    if (!text)
        return DEAL_OK;
    if (!deal_utf8_is_valid(text, size))
        return deal_fail(err, DEAL_ERR_INVALID_ARG, "format: %s: is not valid UTF-8",
                         what);
    if (size > INT32_MAX)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "format: %s: expected at most %d bytes, got %zu", what,
                         (int)INT32_MAX, size);
    p->code = deal_alloc(size, sizeof *p->code);
    p->fail = deal_alloc(size + 1, sizeof *p->fail);
    p->need = deal_alloc(size + 1, sizeof *p->need);
    if (!p->code || !p->fail || !p->need)
        return deal_fail_memory(err, "format");
    size_t n_byte, n = 0;
    for (size_t i = 0; i < size; i += n_byte) {
        uint32_t code =
            deal_unicode_fold(deal_unicode_next(text + i, size - i, &n_byte));
        if (n || !is_trimmed(code))
            p->code[n++] = code;
    }
    while (n && is_trimmed(p->code[n - 1]))
        n--;
    if (!n)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "format: %s: expected a phrase, got \"%.*s\"", what,
                         (int)(size < 40 ? size : 40), bytes);
    p->n = n;
    link_phrase(p);
    return DEAL_OK;
}

static void
free_phrase(deal_format_phrase *p)
{
    deal_free(p->code);
    deal_free(p->fail);
    deal_free(p->need);
}

void
deal_reward_format_free(deal_reward *reward)
{
    if (!reward)
        return;
    format *f = (format *)reward;
    free_phrase(&f->plan.starts);
    free_phrase(&f->plan.ends);
    deal_free(f);
}

static deal_status
check_options(const deal_format_options *o, deal_error *err)
{
    if (o->n_paragraphs == 0)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "format: paragraphs: expected at least 1, got 0");
    if ((int)o->letter_case < 0 || o->letter_case > DEAL_FORMAT_UPPER)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "format: letter case: expected 0 to 2, got %d",
                         (int)o->letter_case);
    if ((int)o->postscript < 0 || o->postscript > DEAL_FORMAT_PPS)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "format: postscript: expected 0 to 2, got %d",
                         (int)o->postscript);
    return DEAL_OK;
}

static deal_status
plan_checks(format *f, const deal_format_options *options, deal_error *err)
{
    DEAL_TRY(check_options(options, err));
    f->plan.options = *options;
    f->plan.options.starts_with = f->plan.options.ends_with = NULL;
    DEAL_TRY(read_phrase(&f->plan.starts, "starts with", options->starts_with,
                         options->starts_size, err));
    DEAL_TRY(read_phrase(&f->plan.ends, "ends with", options->ends_with,
                         options->ends_size, err));
    f->needs_code = f->plan.starts.n || f->plan.ends.n;
    f->n_check = deal_format_checks_of(&f->plan, f->check);
    if (!f->n_check)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "format: expected at least one check, got none");
    return DEAL_OK;
}

deal_status
deal_reward_format_new(const deal_format_options *options, deal_reward **reward,
                       deal_error *err)
{
    format *f = deal_alloc_zero(1, sizeof *f);
    if (!f)
        return deal_fail_memory(err, "format");
    deal_status status = plan_checks(f, options, err);
    if (status != DEAL_OK) {
        deal_reward_format_free(&f->reward);
        return status;
    }
    for (uint32_t code = 0; code < 128; code++)
        f->kind_of_ascii[code] = kind_of(code);
    f->reward = (deal_reward){
        .abi_version = DEAL_REWARD_ABI,
        .struct_size = sizeof(deal_reward),
        .self = f,
        .name = "format",
        .low = 0.0,
        .high = 1.0,
        .state_size = sizeof(deal_format_state),
        .init = format_init,
        .advance = format_advance,
        .score = format_score,
        .bounds = format_bounds,
    };
    *reward = &f->reward;
    return DEAL_OK;
}
