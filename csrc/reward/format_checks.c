/* Every check leaves out a chunk that cannot matter to it, which most are: what is left
 * to do for a character is then to look up its kind.
 */
#include "reward/format_checks.h"

typedef const deal_format_plan plan_in;
typedef const deal_format_state state_in;
typedef const deal_format_chunk chunk_in;
typedef deal_format_verdict verdict;

// Passes or not, and needs `n_needed` bytes to pass; whatever follows may undo it.
static verdict
open_verdict(bool is_met, int64_t n_needed, int64_t n_left)
{
    return (verdict){is_met, is_met || n_needed <= n_left, false};
}

// The same, where nothing undoes it.
static verdict
final_verdict(bool is_met, int64_t n_needed, int64_t n_left)
{
    return (verdict){is_met, is_met || n_needed <= n_left, is_met};
}

static const verdict never = {false, false, false};

// ---- Commas, letter case, quotation marks -------------------------------------------

static void
advance_commas(plan_in *plan, deal_format_state *s, chunk_in *c)
{
    (void)plan;
    s->has_comma |= (c->any & DEAL_KIND_COMMA) != 0;
}

static verdict
look_commas(plan_in *plan, state_in *s, int64_t n_left)
{
    (void)plan;
    return s->has_comma ? never : open_verdict(true, 0, n_left);
}

static void
advance_case(plan_in *plan, deal_format_state *s, chunk_in *c)
{
    (void)plan;
    s->has_lower |= (c->any & DEAL_KIND_LOWER) != 0;
    s->has_upper |= (c->any & DEAL_KIND_UPPER) != 0;
    s->has_title_case |= (c->any & DEAL_KIND_TITLE_CASE) != 0;
}

static verdict
look_case(plan_in *plan, state_in *s, int64_t n_left)
{
    bool is_lower = plan->options.letter_case == DEAL_FORMAT_LOWER;
    if (s->has_title_case || (is_lower ? s->has_upper : s->has_lower))
        return never;
    return open_verdict(is_lower ? s->has_lower : s->has_upper, 1, n_left);
}

static void
advance_quoted(plan_in *plan, deal_format_state *s, chunk_in *c)
{
    (void)plan;
    if (c->all & DEAL_KIND_SPACE)
        return;
    size_t first = 0, last = c->n - 1;
    while (c->kind[first] & DEAL_KIND_SPACE)
        first++;
    while (c->kind[last] & DEAL_KIND_SPACE)
        last--;
    if (!s->n_text)
        s->is_first_quote = (c->kind[first] & DEAL_KIND_QUOTE) != 0;
    s->is_last_quote = (c->kind[last] & DEAL_KIND_QUOTE) != 0;
    s->n_text = s->n_text || first < last ? 2 : 1;
}

static verdict
look_quoted(plan_in *plan, state_in *s, int64_t n_left)
{
    (void)plan;
    if (s->n_text && !s->is_first_quote)
        return never;
    return open_verdict(s->n_text == 2 && s->is_last_quote, s->n_text ? 1 : 2, n_left);
}

// ---- Title --------------------------------------------------------------------------

// States within a line: nothing, one "<", "<<" and more of them, what follows these.
// All up to the last ">>" of a line is one title, which is blank where nothing but ">"
// at its end and white space are left of it. Once it is not, more text changes nothing.
enum { TITLE_NONE, TITLE_LESS, TITLE_BEGUN, TITLE_INSIDE };

static void
advance_title(plan_in *plan, deal_format_state *s, chunk_in *c)
{
    (void)plan;
    if (s->has_title || (s->title == TITLE_NONE && !(c->any & DEAL_KIND_LESS)))
        return;
    for (size_t i = 0; i < c->n && !s->has_title; i++) {
        uint16_t kind = c->kind[i];
        if (kind & DEAL_KIND_NEWLINE) {
            s->title = TITLE_NONE;
        } else if (s->title == TITLE_INSIDE && (kind & DEAL_KIND_GREATER)) {
            s->n_greater = s->n_greater ? 2 : 1;
            s->has_title = s->n_greater == 2 && s->has_title_text;
        } else if (s->title == TITLE_INSIDE) {
            s->has_title_text |= s->n_greater || !(kind & DEAL_KIND_SPACE);
            s->n_greater = 0;
        } else if (kind & DEAL_KIND_LESS) {
            s->title = s->title == TITLE_NONE ? TITLE_LESS : TITLE_BEGUN;
        } else if (s->title == TITLE_BEGUN) {
            s->title = TITLE_INSIDE;
            s->n_greater = (kind & DEAL_KIND_GREATER) != 0;
            s->has_title_text = !(kind & (DEAL_KIND_GREATER | DEAL_KIND_SPACE));
        } else {
            s->title = TITLE_NONE;
        }
    }
}

static verdict
look_title(plan_in *plan, state_in *s, int64_t n_left)
{
    (void)plan;
    int64_t n_needed = 5 - s->title; // of "<<a>>"
    if (s->title == TITLE_INSIDE)
        n_needed = s->has_title_text ? 2 - s->n_greater : 3;
    return final_verdict(s->has_title, n_needed, n_left);
}

// ---- Postscript ---------------------------------------------------------------------

// Shift-And over the elements "p", ".", white space, "s", "." or "p", ".", white space,
// "p", ".", white space, "s", where white space may be left out.
typedef struct postscript_pattern {
    unsigned p, dot, space, s;
    unsigned before_space, last;
    int8_t n_needed[8]; // after the elements 0 to i
    int8_t n_whole;
} postscript_pattern;

static const postscript_pattern ps = {
    .p = 1,
    .dot = 2 | 16,
    .space = 4,
    .s = 8,
    .before_space = 2,
    .last = 16,
    .n_needed = {3, 2, 2, 1, 0},
    .n_whole = 4,
};
static const postscript_pattern pps = {
    .p = 1 | 8,
    .dot = 2 | 16,
    .space = 4 | 32,
    .s = 64,
    .before_space = 2 | 16,
    .last = 64,
    .n_needed = {4, 3, 3, 2, 1, 1, 0},
    .n_whole = 5,
};

static const postscript_pattern *
postscript_of(plan_in *plan)
{
    return plan->options.postscript == DEAL_FORMAT_PS ? &ps : &pps;
}

static void
advance_postscript(plan_in *plan, deal_format_state *s, chunk_in *c)
{
    const postscript_pattern *pattern = postscript_of(plan);
    if (s->has_postscript)
        return;
    unsigned at = s->postscript;
    size_t i = 0;
    if (at <= 1 && !(c->any & DEAL_KIND_DOT)) { // only the last one can be a beginning
        at = 0;
        i = c->n - 1;
    }
    for (; i < c->n; i++) {
        uint16_t kind = c->kind[i];
        unsigned accepts = (kind & DEAL_KIND_P ? pattern->p : 0) |
                           (kind & DEAL_KIND_DOT ? pattern->dot : 0) |
                           (kind & DEAL_KIND_SPACE ? pattern->space : 0) |
                           (kind & DEAL_KIND_S ? pattern->s : 0);
        at = (at << 1 | (at & pattern->before_space) << 2 | 1) & accepts;
        s->has_postscript |= (at & pattern->last) != 0;
    }
    s->postscript = (uint8_t)at;
}

static verdict
look_postscript(plan_in *plan, state_in *s, int64_t n_left)
{
    const postscript_pattern *pattern = postscript_of(plan);
    int n_needed = pattern->n_whole;
    for (int i = 0; i < 8; i++)
        if (s->postscript >> i & 1 && pattern->n_needed[i] < n_needed)
            n_needed = pattern->n_needed[i];
    return final_verdict(s->has_postscript, n_needed, n_left);
}

// ---- Bullets ------------------------------------------------------------------------

// Both kinds are looked for on their own. In white space at the beginning of lines,
// blank ones included; after a "*" that a second one would undo; in the rest of a line.
// A "*" at the end of a line takes the next one with it.
enum { BULLET_BEGIN, BULLET_STAR, BULLET_REST };

static void
advance_bullets(plan_in *plan, deal_format_state *s, chunk_in *c)
{
    (void)plan;
    if (s->star == BULLET_REST && s->dash == BULLET_REST &&
        !(c->any & DEAL_KIND_NEWLINE))
        return;
    uint8_t star = s->star, dash = s->dash;
    for (size_t i = 0; i < c->n; i++) {
        uint16_t kind = c->kind[i];
        if (star == BULLET_STAR) {
            s->n_bullet += !(kind & DEAL_KIND_STAR);
            star = BULLET_REST;
        } else if (star == BULLET_REST) {
            star = kind & DEAL_KIND_NEWLINE ? BULLET_BEGIN : BULLET_REST;
        } else if (!(kind & DEAL_KIND_SPACE)) {
            star = kind & DEAL_KIND_STAR ? BULLET_STAR : BULLET_REST;
        }
        if (dash == BULLET_REST) {
            dash = kind & DEAL_KIND_NEWLINE ? BULLET_BEGIN : BULLET_REST;
        } else if (!(kind & DEAL_KIND_SPACE)) {
            s->n_bullet += (kind & DEAL_KIND_DASH) != 0;
            dash = BULLET_REST;
        }
    }
    s->star = star;
    s->dash = dash;
}

static verdict
look_bullets(plan_in *plan, state_in *s, int64_t n_left)
{
    int64_t n = plan->options.n_bullets - s->n_bullet; // that are missing
    if (n < 0)
        return never;
    int64_t n_gain = n_left / 2; // "\n-"
    if (s->star == BULLET_STAR)  // "\n" completes one and begins the next
        n_gain = n_left / 2 + 1;
    else if (s->dash == BULLET_BEGIN)
        n_gain = n_left / 2 + n_left % 2;
    return (verdict){n == 0, n <= n_gain, false};
}

// ---- Paragraphs ---------------------------------------------------------------------

static void
advance_paragraphs(plan_in *plan, deal_format_state *s, chunk_in *c)
{
    (void)plan;
    if (!s->n_star && !(c->any & DEAL_KIND_STAR)) {
        s->has_text |= !(c->all & DEAL_KIND_SPACE);
        return;
    }
    for (size_t i = 0; i < c->n; i++) {
        if (!(c->kind[i] & DEAL_KIND_STAR)) { // those before it, too few, are text
            s->has_text |= s->n_star || !(c->kind[i] & DEAL_KIND_SPACE);
            s->n_star = 0;
        } else if (++s->n_star == 3) {
            if (!s->has_text && s->n_separator)
                s->has_blank_paragraph = true;
            else if (!s->has_text)
                s->is_first_blank = true;
            s->n_separator++;
            s->n_star = 0;
            s->has_text = false;
        }
    }
}

static verdict
look_paragraphs(plan_in *plan, state_in *s, int64_t n_left)
{
    if (s->has_blank_paragraph)
        return never;
    bool has_text = s->has_text || s->n_star;
    int64_t n = s->n_separator + has_text - s->is_first_blank;
    int64_t n_missing = plan->options.n_paragraphs - n;
    if (n_missing < 0)
        return never;
    // Text, or what is missing of a separator and text; stars that are all the text
    // there is need more of it first. Then "***a" for each further one.
    int64_t n_first = !has_text ? 1 : s->has_text ? 4 - s->n_star : 5;
    bool can_be = n_left >= n_first && (n_left - n_first) / 4 >= n_missing - 1;
    return (verdict){n_missing == 0, n_missing == 0 || can_be, false};
}

// ---- Placeholders and highlighted sections ------------------------------------------

static void
advance_placeholders(plan_in *plan, deal_format_state *s, chunk_in *c)
{
    (void)plan;
    if (!(c->any & (DEAL_KIND_OPEN | DEAL_KIND_CLOSE | DEAL_KIND_NEWLINE)))
        return;
    for (size_t i = 0; i < c->n; i++) {
        if (c->kind[i] & DEAL_KIND_OPEN) {
            s->is_open = true;
        } else if (c->kind[i] & (DEAL_KIND_CLOSE | DEAL_KIND_NEWLINE)) {
            s->n_placeholder += s->is_open && (c->kind[i] & DEAL_KIND_CLOSE);
            s->is_open = false;
        }
    }
}

static verdict
look_placeholders(plan_in *plan, state_in *s, int64_t n_left)
{
    bool is_met = s->n_placeholder >= plan->options.n_placeholders;
    int64_t n_gain = n_left / 2 + (s->is_open & n_left % 2); // "[]"
    bool can_be = n_gain >= plan->options.n_placeholders - s->n_placeholder;
    return (verdict){is_met, is_met || can_be, is_met};
}

// Both kinds are looked for on their own. Single: outside, or inside with nothing but
// white space, or with text. Pair: n stars (of three, the last two may begin one; four
// are an empty one), inside, one star after that; each of these blank or with text.
enum { SINGLE_NONE, SINGLE_BLANK, SINGLE_TEXT };
enum {
    PAIR_NONE,
    PAIR_1,
    PAIR_2,
    PAIR_3,
    PAIR_BLANK,
    PAIR_TEXT,
    PAIR_BLANK_END,
    PAIR_TEXT_END,
};

static void
advance_star(deal_format_state *s)
{
    static const uint8_t next[] = {
        PAIR_1,         PAIR_2,        PAIR_3,    PAIR_NONE,
        PAIR_BLANK_END, PAIR_TEXT_END, PAIR_NONE, PAIR_NONE,
    };
    s->n_highlight += (s->single == SINGLE_TEXT) + (s->pair == PAIR_TEXT_END);
    s->single = s->single == SINGLE_NONE ? SINGLE_BLANK : SINGLE_NONE;
    s->pair = next[s->pair];
}

static void
advance_highlights(plan_in *plan, deal_format_state *s, chunk_in *c)
{
    (void)plan;
    static const uint8_t after_text[] = {
        PAIR_NONE, PAIR_NONE, PAIR_TEXT, PAIR_TEXT,
        PAIR_TEXT, PAIR_TEXT, PAIR_NONE, PAIR_NONE,
    };
    static const uint8_t after_space[] = {
        PAIR_NONE,  PAIR_NONE, PAIR_BLANK, PAIR_BLANK,
        PAIR_BLANK, PAIR_TEXT, PAIR_NONE,  PAIR_NONE,
    };
    if (!(c->any & DEAL_KIND_STAR) && !s->single && !s->pair)
        return;
    for (size_t i = 0; i < c->n; i++) {
        if (c->kind[i] & DEAL_KIND_STAR) {
            advance_star(s);
        } else if (c->kind[i] & DEAL_KIND_NEWLINE) {
            s->single = SINGLE_NONE;
            s->pair = PAIR_NONE;
        } else if (c->kind[i] & DEAL_KIND_SPACE) {
            s->pair = after_space[s->pair];
        } else {
            s->single = s->single ? SINGLE_TEXT : SINGLE_NONE;
            s->pair = after_text[s->pair];
        }
    }
}

static verdict
look_highlights(plan_in *plan, state_in *s, int64_t n_left)
{
    // What a state has of the 3 bytes of "*a*", and of the 5 of "**a**".
    static const int8_t of_single[] = {0, 1, 2}, of_pair[] = {0, 1, 2, 2, 2, 3, 0, 4};
    bool is_met = s->n_highlight >= plan->options.n_highlights;
    int64_t n_gain =
        (n_left + of_single[s->single]) / 3 + (n_left + of_pair[s->pair]) / 5;
    bool can_be = n_gain >= plan->options.n_highlights - s->n_highlight;
    return (verdict){is_met, is_met || can_be, is_met};
}

// ---- Phrases ------------------------------------------------------------------------

enum { START_SPACE, START_QUOTES, START_PHRASE, START_FOUND, START_MISSED };

static void
advance_start(plan_in *plan, deal_format_state *s, chunk_in *c)
{
    for (size_t i = 0; i < c->n && s->start < START_FOUND; i++) {
        if (s->start == START_SPACE && (c->kind[i] & DEAL_KIND_SPACE))
            continue;
        if (s->start <= START_QUOTES && (c->kind[i] & DEAL_KIND_QUOTE))
            s->start = START_QUOTES;
        else if (c->code[i] != plan->starts.code[s->n_start])
            s->start = START_MISSED;
        else
            s->start = ++s->n_start == plan->starts.n ? START_FOUND : START_PHRASE;
    }
}

static verdict
look_start(plan_in *plan, state_in *s, int64_t n_left)
{
    if (s->start == START_MISSED)
        return never;
    return final_verdict(s->start == START_FOUND, plan->starts.need[s->n_start],
                         n_left);
}

// The phrase by D. E. Knuth, J. H. Morris and V. R. Pratt's algorithm; and whether all
// that came since it last matched is quotation marks, or these and then white space.
enum { END_ELSEWHERE, END_QUOTES, END_SPACE };

static void
advance_end(plan_in *plan, deal_format_state *s, chunk_in *c)
{
    const deal_format_phrase *phrase = &plan->ends;
    size_t n = s->n_end;
    uint8_t end = s->end;
    for (size_t i = 0; i < c->n; i++) {
        while (n && (n == phrase->n || c->code[i] != phrase->code[n]))
            n = phrase->fail[n];
        n += c->code[i] == phrase->code[n];
        if (n == phrase->n || (end == END_QUOTES && (c->kind[i] & DEAL_KIND_QUOTE)))
            end = END_QUOTES;
        else
            end = end && (c->kind[i] & DEAL_KIND_SPACE) ? END_SPACE : END_ELSEWHERE;
    }
    s->n_end = n;
    s->end = end;
}

static verdict
look_end(plan_in *plan, state_in *s, int64_t n_left)
{
    size_t n = s->n_end == plan->ends.n ? plan->ends.fail[s->n_end] : s->n_end;
    return open_verdict(s->end != END_ELSEWHERE, plan->ends.need[n], n_left);
}

int
deal_format_checks_of(const deal_format_plan *plan,
                      deal_format_check check[DEAL_FORMAT_N_CHECK])
{
    const deal_format_options *o = &plan->options;
    const struct {
        bool is_asked;
        deal_format_check check;
    } all[DEAL_FORMAT_N_CHECK] = {
        {o->has_no_commas, {advance_commas, look_commas}},
        {o->letter_case != DEAL_FORMAT_ANY_CASE, {advance_case, look_case}},
        {o->is_quoted, {advance_quoted, look_quoted}},
        {o->has_title, {advance_title, look_title}},
        {o->postscript != DEAL_FORMAT_NO_POSTSCRIPT,
         {advance_postscript, look_postscript}},
        {o->n_bullets >= 0, {advance_bullets, look_bullets}},
        {o->n_paragraphs >= 0, {advance_paragraphs, look_paragraphs}},
        {o->n_placeholders >= 0, {advance_placeholders, look_placeholders}},
        {o->n_highlights >= 0, {advance_highlights, look_highlights}},
        {plan->starts.n > 0, {advance_start, look_start}},
        {plan->ends.n > 0, {advance_end, look_end}},
    };
    int n = 0;
    for (int i = 0; i < DEAL_FORMAT_N_CHECK; i++)
        if (all[i].is_asked)
            check[n++] = all[i].check;
    return n;
}
