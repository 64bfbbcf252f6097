/* n-grams on cases worked out by hand, MurmurHash3 on its known values, shared counts,
 * and allocations that fail. Random text against twins and scikit-learn, and bounds:
 * tests/unit/test_ngram.py.
 */
#include "check.h"
#include "common/alloc.h"
#include "reward/counts.h"
#include "reward/ngram_model.h"

static char message[DEAL_REWARD_MESSAGE_SIZE + 1];

// Slots of a text, the last ones those of its end.
static size_t
read(const deal_ngrams_params *params, const char *text, int32_t slot[256])
{
    deal_ngrams *g = NULL;
    deal_error err;
    CHECK(deal_ngrams_new(params, &g, &err) == DEAL_OK);
    deal_ngrams_state s;
    size_t n;
    memset(&s, 0, sizeof s);
    CHECK(deal_ngrams_read(g, &s, (const uint8_t *)text, strlen(text), slot, 200, &n) ==
          strlen(text));
    n += deal_ngrams_finish(g, &s, slot + n);
    deal_ngrams_free(g);
    return n;
}

static void
test_words(void)
{
    const char *const term[] = {"not", "good", "not good", "\xC3\xA9t\xC3\xA9"};
    const size_t term_size[] = {3, 4, 8, 5};
    const char *const stop[] = {"a"};
    const size_t stop_size[] = {1};
    const deal_ngrams_params params = {.kind = DEAL_NGRAMS_VOCABULARY,
                                       .n_slot = 4,
                                       .words_min = 1,
                                       .words_max = 2,
                                       .is_folded = true,
                                       .word_size_min = 1,
                                       .n_stop = 1,
                                       .stop = stop,
                                       .stop_size = stop_size,
                                       .term = term,
                                       .term_size = term_size};
    const int32_t expected[] = {0, 1, 2, 0, 1, 2, 3};
    int32_t slot[256];
    size_t n = read(&params, "Not, good. not a GOOD x \xC3\x89t\xC3\xA9", slot);
    CHECK(n == 7 && memcmp(slot, expected, sizeof expected) == 0);
}

static void
test_characters(void)
{
    deal_ngrams_params params = {.kind = DEAL_NGRAMS_HASHED,
                                 .n_slot = 1 << 20,
                                 .characters_min = 2,
                                 .characters_max = 3,
                                 .word_size_min = 1};
    int32_t slot[256], same[256];
    CHECK(read(&params, "abcd", slot) == 5); // ab bc abc cd bcd
    CHECK(read(&params, "a  b", slot) == 3); // "a ", " b", "a b"
    CHECK(read(&params, "a\t\nb", same) == 3);
    CHECK(memcmp(slot, same, 3 * sizeof *slot) == 0);
    CHECK(read(&params, "a ", slot) == 1);
    params.is_within_words = true;
    CHECK(read(&params, " ab  c", slot) == 5 + 3); // of " ab " and of " c "
    params.characters_min = params.characters_max = 5;
    CHECK(read(&params, "ab c", slot) == 2); // as a whole
    CHECK(read(&params, " ", slot) == 0);
}

static void
test_murmur(void)
{
    static const struct {
        const char *text;
        uint32_t hash;
        int32_t n_word;
    } row[] = {{"hello", 0x248BFA47, 1}, {"hello world", 0x5E928F0F, 2}};
    for (int i = 0; i < 2; i++) {
        const deal_ngrams_params params = {.kind = DEAL_NGRAMS_MURMUR,
                                           .n_slot = 1 << 30,
                                           .words_min = row[i].n_word,
                                           .words_max = row[i].n_word,
                                           .is_signed = true,
                                           .word_size_min = 1};
        int32_t slot[256];
        CHECK(read(&params, row[i].text, slot) == 1);
        CHECK_EQ_INT(slot[0], row[i].hash % (1u << 30));
    }
}

// Adds n to the count of a slot; what it was.
static int32_t
add(deal_counts **c, int32_t slot, int32_t n)
{
    CHECK(deal_counts_reserve(c, 1));
    return deal_counts_add((*c)->place, (*c)->bits, slot, n, &(*c)->n_item);
}

static void
test_counts(void)
{
    deal_counts *a = deal_counts_new(10), *b;
    for (int32_t i = 0; i < 3000; i++)
        CHECK_EQ_INT(add(&a, i % 1000 * 7, 1), i / 1000);
    CHECK(a->n_item == 1000);
    b = deal_counts_share(a);
    CHECK(b == a);
    CHECK_EQ_INT(add(&b, 7, -1), 3); // the other share stays as it was
    CHECK(b != a && deal_counts_get(a, 7) == 3 && deal_counts_get(b, 7) == 2);
    CHECK(deal_counts_get(a, 1) == 0 && deal_counts_get(b, 999 * 7) == 3);
    deal_counts *c = deal_counts_share(b), *was = c;
    deal_alloc_fail_at(1);
    CHECK(!deal_counts_reserve(&c, 1) && c == was);
    deal_alloc_fail_at(0);
    deal_counts_release(c);
    size_t n_alloc = deal_alloc_count();
    CHECK_EQ_INT(add(&b, 7, 1), 2); // its own again
    CHECK(deal_alloc_count() == n_alloc);
    deal_counts_release(a);
    deal_counts_release(b);
    deal_counts_release(NULL);
}

static void
test_model(void)
{
    const char *const term[] = {"good", "bad"};
    const size_t term_size[] = {4, 3};
    const float weight[] = {2.0f, -1.0f}, idf[] = {1.0f, 3.0f};
    const deal_ngram_model_params params = {.ngrams = {.kind = DEAL_NGRAMS_VOCABULARY,
                                                       .n_slot = 2,
                                                       .words_min = 1,
                                                       .words_max = 1,
                                                       .is_folded = true,
                                                       .word_size_min = 1,
                                                       .term = term,
                                                       .term_size = term_size},
                                            .weight = weight,
                                            .idf = idf,
                                            .intercept = 0.5,
                                            .tf = DEAL_NGRAM_TF_LOG,
                                            .is_normed = true};
    deal_reward *r = NULL;
    deal_error err;
    int n_failed = 0;
    for (size_t n = 1;; n++, n_failed++) {
        deal_alloc_fail_at(n);
        deal_status status = deal_reward_ngram_model_new(&params, &r, &err);
        deal_alloc_fail_at(0);
        if (status == DEAL_OK)
            break;
        CHECK(status == DEAL_ERR_NO_MEMORY && !r);
    }
    CHECK(n_failed >= 5);
    _Alignas(16) char a[1024], b[1024];
    CHECK(r->state_size <= sizeof a);
    const deal_reward_prompt prompt = {.text = "", .token_size_max = 100};
    double score, other;
    deal_alloc_fail_at(1);
    CHECK(r->init(r->self, a, &prompt, message) == 1);
    deal_alloc_fail_at(0);
    CHECK_STR(message, "out of memory");
    CHECK(r->init(r->self, a, &prompt, message) == 0);
    r->advance(r->self, a, 1, "good bad ", 9, message);
    r->fork(r->self, b, a, message);
    deal_alloc_fail_at(1);
    CHECK(r->advance(r->self, b, 1, "good ", 5, message) == 1);
    deal_alloc_fail_at(0);
    r->drop(r->self, b);
    r->fork(r->self, b, a, message);
    r->advance(r->self, b, 1, "Good", 4, message);
    r->score(r->self, a, 1, &score, message);
    CHECK_NEAR(score, 1.0 / (1.0 + exp(-(2.0 - 3.0) / sqrt(10.0) - 0.5)), 1e-9);
    r->score(r->self, b, 1, &other, message);
    double v = 1.0 + log(2.0);
    CHECK_NEAR(other, 1.0 / (1.0 + exp(-(2.0 * v - 3.0) / sqrt(v * v + 9.0) - 0.5)),
               1e-5);
    r->drop(r->self, a);
    r->drop(r->self, b);
    deal_reward_ngram_model_free(r);
    deal_reward_ngram_model_free(NULL);
}

static void
test_faults(void)
{
    const deal_ngrams_params plain = {.kind = DEAL_NGRAMS_HASHED,
                                      .n_slot = 16,
                                      .words_min = 1,
                                      .words_max = 1,
                                      .word_size_min = 1};
    deal_ngrams *g = NULL;
    deal_error err;
    deal_ngrams_params p = plain;
    p.n_slot = 15;
    CHECK(deal_ngrams_new(&p, &g, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "power of two");
    p = plain;
    p.words_max = 6;
    CHECK(deal_ngrams_new(&p, &g, &err) == DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "(1, 6)");
    p = plain;
    p.words_min = p.words_max = 0;
    CHECK(deal_ngrams_new(&p, &g, &err) == DEAL_ERR_INVALID_ARG);
    CHECK(!g);
    deal_ngrams_free(NULL);
}

int
main(void)
{
    test_words();
    test_characters();
    test_murmur();
    test_counts();
    test_model();
    test_faults();
    return check_report("test_ngrams");
}
