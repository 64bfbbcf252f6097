/* The format reward: each check by hand, text in one piece and byte by byte, phrases,
 * bounds and faults. Random texts are in tests/unit/test_scorers.py.
 */
#include "check.h"
#include "common/alloc.h"
#include "reward/format.h"

static char message[DEAL_REWARD_MESSAGE_SIZE + 1];

typedef struct block {
    _Alignas(16) char bytes[512];
} block;

static const deal_format_options nothing = {
    .n_bullets = -1, .n_paragraphs = -1, .n_placeholders = -1, .n_highlights = -1};

static deal_reward *
make(const deal_format_options *options)
{
    deal_reward *r = NULL;
    deal_error err;
    CHECK_EQ_INT(deal_reward_format_new(options, &r, &err), DEAL_OK);
    CHECK(r->state_size <= sizeof(block));
    return r;
}

static void
start(const deal_reward *r, block *state, int32_t token_size_max)
{
    const deal_reward_prompt prompt = {
        .text = "", .n_new_max = 100, .token_size_max = token_size_max};
    CHECK_EQ_INT(r->init(r->self, state, &prompt, message), 0);
}

static double
score_of(const deal_reward *r, const block *state)
{
    double score = -1.0;
    CHECK_EQ_INT(r->score(r->self, state, 1, &score, message), 0);
    return score;
}

// Whether `text` passes, in one piece and in pieces that cut no character.
static void
check(const deal_format_options *options, const char *text, int passes)
{
    deal_reward *r = make(options);
    block whole, parts;
    start(r, &whole, 4);
    start(r, &parts, 4);
    r->advance(r->self, &whole, 1, text, strlen(text), message);
    for (const char *from = text, *to; *from; from = to) {
        for (to = from + 1; ((unsigned char)*to & 0xC0) == 0x80; to++)
            ;
        r->advance(r->self, &parts, 1, from, (size_t)(to - from), message);
    }
    if (!CHECK(score_of(r, &whole) == passes) | !CHECK(score_of(r, &parts) == passes))
        printf("    \"%s\"\n", text);
    deal_reward_format_free(r);
}

static void
test_counts(void)
{
    deal_format_options o = nothing;
    o.n_bullets = 2;
    check(&o, "* a\n* b", 1);
    check(&o, "-\n  - b\n** c\n*", 1);
    check(&o, "*\n* b\n* c", 1); // the first takes the second line with it
    check(&o, "* a\nb - c", 0);
    check(&o, "- a\n- b\n- c", 0);
    o = nothing;
    o.n_paragraphs = 2;
    check(&o, "a *** b", 1);
    check(&o, "***a***b***", 1);
    check(&o, "a *** *** b", 0);
    check(&o, "a **** b", 1);
    check(&o, "a ***", 0);
    o = nothing;
    o.n_placeholders = 2;
    check(&o, "[a] and []", 1);
    check(&o, "[[a] [b", 0);
    check(&o, "[a\n] [b]", 0);
    o = nothing;
    o.n_highlights = 2;
    check(&o, "*a* and *b*", 1);
    check(&o, "*a* **b**", 1);
    check(&o, "*a* ** ** * *", 0);
    check(&o, "**a** ***b***", 1);
    check(&o, "*a\n* *b*", 0);
}

static void
test_marks(void)
{
    deal_format_options o = nothing;
    o.has_no_commas = true;
    check(&o, "", 1);
    check(&o, "a, b", 0);
    o = nothing;
    o.is_quoted = true;
    check(&o, " \"a\"\n", 1);
    check(&o, "\"", 0);
    check(&o, "\"a\" b", 0);
    check(&o, "\xC2\xA0\"\"", 1); // a no-break space
    o = nothing;
    o.has_title = true;
    check(&o, "so <<a>>", 1);
    check(&o, "<<a> >", 0);
    check(&o, "<<>> <<\n>>", 0);
    check(&o, "<<>>>", 0);
    check(&o, "<<> >>", 1);
    o = nothing;
    o.postscript = DEAL_FORMAT_PS;
    check(&o, "a p. S.", 1);
    check(&o, "p.  s.", 0);
    check(&o, "p.p.s.", 1);
    o.postscript = DEAL_FORMAT_PPS;
    check(&o, "P. p.\xC2\xA0s", 1);
    check(&o, "p.s.", 0);
    check(&o, "p.p.p.s", 1);
    o = nothing;
    o.letter_case = DEAL_FORMAT_LOWER;
    check(&o, "a 1 \xC3\xA9", 1);
    check(&o, "1", 0);
    check(&o, "a\xC3\x89", 0);
    check(&o, "a\xC7\x85", 0); // a letter in title case
    o.letter_case = DEAL_FORMAT_UPPER;
    check(&o, "A \xC3\x89!", 1);
    check(&o, "A\xC3\xA9", 0);
}

static void
test_phrases(void)
{
    deal_format_options o = nothing;
    o.ends_with = " \"That is all. ";
    o.ends_size = strlen(o.ends_with);
    check(&o, "Well, THAT IS ALL.\"\" \n", 1);
    check(&o, "That is all. \"", 0);
    check(&o, "That is all", 0);
    o.ends_with = "aab"; // borders
    o.ends_size = 3;
    check(&o, "aaab", 1);
    check(&o, "aabaab", 1);
    check(&o, "aaba", 0);
    o = nothing;
    o.starts_with = "\xC3\x89t\xC3\xA9";
    o.starts_size = 5;
    check(&o, " \"\xC3\xA9T\xC3\xA9 1", 1);
    check(&o, "\" \xC3\xA9t\xC3\xA9", 0);
    check(&o, "\xC3\xA9te", 0);
}

static void
test_many(void)
{
    deal_format_options o = nothing;
    o.has_no_commas = o.has_title = o.is_quoted = true;
    o.n_placeholders = 1;
    deal_reward *r = make(&o);
    block state;
    double low, high;
    start(r, &state, 2);
    r->advance(r->self, &state, 1, "[a] <<", 6, message);
    CHECK_NEAR(score_of(r, &state), 0.5, 0.0);
    r->bounds(r->self, &state, 1, &low, &high, message);
    CHECK(low == 0.25 && high == 0.5); // no quotation any more; ">>" is too short
    r->bounds(r->self, &state, 2, &low, &high, message);
    CHECK(low == 0.25 && high == 0.75);
    r->bounds(r->self, &state, 0, &low, &high, message);
    CHECK(low == 0.5 && high == 0.5);
    deal_reward_format_free(r);
    o.is_all = true;
    check(&o, "\"<<a>> [b]\"", 1);
    check(&o, "\"<<a>>, [b]\"", 0);
}

static void
test_faults(void)
{
    deal_reward *reward = NULL;
    deal_error err;
    deal_format_options o = nothing;
    CHECK_EQ_INT(deal_reward_format_new(&o, &reward, &err), DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "at least one check");
    o.starts_with = " \"";
    o.starts_size = 2;
    CHECK_EQ_INT(deal_reward_format_new(&o, &reward, &err), DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "starts with");
    o.starts_with = "a\xFF";
    CHECK_EQ_INT(deal_reward_format_new(&o, &reward, &err), DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "UTF-8");
    o = nothing;
    o.n_paragraphs = 0;
    CHECK_EQ_INT(deal_reward_format_new(&o, &reward, &err), DEAL_ERR_INVALID_ARG);
    o = nothing;
    o.ends_with = "end";
    o.ends_size = 3;
    int n_failed = 0;
    for (size_t n = 1;; n++) {
        deal_alloc_fail_at(n);
        deal_status status = deal_reward_format_new(&o, &reward, &err);
        deal_alloc_fail_at(0);
        if (status == DEAL_OK)
            break;
        CHECK_EQ_INT(status, DEAL_ERR_NO_MEMORY);
        CHECK(reward == NULL);
        n_failed++;
    }
    CHECK_EQ_INT(n_failed, 4);
    deal_reward_format_free(reward);
    deal_reward_format_free(NULL);
}

int
main(void)
{
    test_counts();
    test_marks();
    test_phrases();
    test_many();
    test_faults();
    return check_report("test_format");
}
