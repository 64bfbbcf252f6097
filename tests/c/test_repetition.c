/* The hash trie against a plain array, and the repetition reward: cases by hand, forks
 * that share and go their own ways, allocations that fail or are not made at all.
 */
#include "check.h"
#include "common/alloc.h"
#include "common/rng.h"
#include "reward/hash_trie.h"
#include "reward/repetition.h"

static char message[DEAL_REWARD_MESSAGE_SIZE + 1];
static uint64_t n_draw;

static size_t
draw(size_t n)
{
    return (size_t)(deal_rng_uniform(3, 1, n_draw++) * (double)n);
}

// ---- The trie -----------------------------------------------------------------------

#define N_SET 6
#define N_VALUE 64

// A value; some that agree in all their high bits, so that the trie gets deep.
static uint64_t
value_at(size_t i)
{
    uint64_t spread = i * UINT64_C(0x9E3779B97F4A7C15);
    return i % 4 ? spread : UINT64_C(0xABCDEF0000000000) + 2 * i;
}

static void
test_sets(void)
{
    deal_hash_pool pool = {0};
    uint32_t set[N_SET] = {0};
    char holds[N_SET][N_VALUE] = {{0}};
    for (int step = 0; step < 4000; step++) {
        size_t i = draw(N_SET), j = draw(N_SET), v = draw(N_VALUE);
        if (draw(8) == 0 && i != j) { // j becomes a fork of i
            deal_hash_trie_drop(&pool, set[j]);
            deal_hash_trie_share(&pool, set[i]);
            set[j] = set[i];
            memcpy(holds[j], holds[i], N_VALUE);
        } else if (draw(50) == 0) {
            deal_hash_trie_drop(&pool, set[i]);
            set[i] = DEAL_HASH_TRIE_EMPTY;
            memset(holds[i], 0, N_VALUE);
        } else if (!holds[i][v]) {
            CHECK(deal_hash_trie_add(&pool, &set[i], value_at(v)));
            holds[i][v] = 1;
        }
        int n_wrong = 0;
        for (size_t s = 0; s < N_SET; s++)
            for (size_t k = 0; k < N_VALUE; k++)
                n_wrong +=
                    deal_hash_trie_has(&pool, set[s], value_at(k)) != holds[s][k];
        CHECK_EQ_INT(n_wrong, 0);
    }
    for (size_t s = 0; s < N_SET; s++)
        deal_hash_trie_drop(&pool, set[s]);
    size_t n_free = 0;
    for (uint32_t i = pool.first_free; i; i = pool.node[i].n_owner)
        n_free++;
    CHECK_EQ_INT(n_free, pool.n_node - 1); // every node came back
    deal_hash_pool_free(&pool);
}

// ---- The reward ---------------------------------------------------------------------

#define STATE_SIZE 512

typedef struct block {
    _Alignas(16) char bytes[STATE_SIZE];
} block;

static deal_reward *
make(deal_repetition_measure measure, int32_t n, int64_t allowed)
{
    deal_reward *r = NULL;
    deal_error err;
    CHECK_EQ_INT(deal_reward_repetition_new(measure, n, allowed, &r, &err), DEAL_OK);
    CHECK(r->state_size <= STATE_SIZE);
    return r;
}

static int
start(const deal_reward *r, block *state)
{
    const deal_reward_prompt prompt = {
        .text = "", .n_new_max = 100, .token_size_max = 4};
    return r->init(r->self, state, &prompt, message);
}

static int
say(const deal_reward *r, block *state, const char *text)
{
    return r->advance(r->self, state, 1, text, strlen(text), message);
}

static double
score_of(const deal_reward *r, const block *state)
{
    double score = -1.0;
    CHECK_EQ_INT(r->score(r->self, state, 1, &score, message), 0);
    return score;
}

static double
score_text(deal_repetition_measure measure, int32_t n, int64_t allowed,
           const char *text)
{
    deal_reward *r = make(measure, n, allowed);
    block state;
    CHECK_EQ_INT(start(r, &state), 0);
    CHECK_EQ_INT(say(r, &state, text), 0);
    double score = score_of(r, &state);
    r->drop(r->self, &state);
    deal_reward_repetition_free(r);
    return score;
}

static void
test_scores(void)
{
    const deal_repetition_measure share = DEAL_REPETITION_SHARE;
    const deal_repetition_measure longest = DEAL_REPETITION_LONGEST;
    CHECK_NEAR(score_text(share, 1, 0, ""), 1.0, 0.0);
    CHECK_NEAR(score_text(share, 1, 0, "a b c"), 1.0, 0.0);
    CHECK_NEAR(score_text(share, 1, 0, "a b A!"), 2.0 / 3, 1e-15);
    CHECK_NEAR(score_text(share, 2, 0, "a b a b"), 2.0 / 3, 1e-15);
    CHECK_NEAR(score_text(share, 2, 0, "a b a bc"), 1.0, 0.0);
    CHECK_NEAR(score_text(share, 3, 0, "a b"), 1.0, 0.0);
    CHECK_NEAR(score_text(share, 1, 0, "\xC3\x89t\xC3\xA9 \xC3\xA9T\xC3\xA9"), 0.5,
               0.0);
    CHECK_NEAR(score_text(share, 1, 0,
                          "a\xFF"
                          "a"),
               0.5, 0.0);
    CHECK_NEAR(score_text(longest, 2, 2, "a b c a b d"), 1.0, 0.0);
    CHECK_NEAR(score_text(longest, 2, 2, "a b c a b c"), 1.0 / 1.5, 1e-15);
    CHECK_NEAR(score_text(longest, 1, 0, "a b a b"), 1.0 / 3, 1e-15);
}

// Two forks of one text, one dropped first, and the text itself, which goes on.
static void
test_forks(void)
{
    deal_reward *r = make(DEAL_REPETITION_SHARE, 1, 0);
    block first, second, third;
    CHECK_EQ_INT(start(r, &first), 0);
    CHECK_EQ_INT(say(r, &first, "a b "), 0);
    CHECK_EQ_INT(r->fork(r->self, &second, &first, message), 0);
    CHECK_EQ_INT(r->fork(r->self, &third, &first, message), 0);
    CHECK_EQ_INT(say(r, &second, "c d "), 0);
    CHECK_EQ_INT(say(r, &third, "a e "), 0);
    r->drop(r->self, &second);
    CHECK_EQ_INT(say(r, &first, "c a "), 0);
    CHECK_NEAR(score_of(r, &first), 0.75, 0.0); // "c" of the second is not its own
    r->drop(r->self, &first);
    CHECK_EQ_INT(say(r, &third, "c "), 0);
    CHECK_NEAR(score_of(r, &third), 0.8, 1e-15);
    r->drop(r->self, &third);
    deal_reward_repetition_free(r);
}

// What a search does over and over allocates nothing once it has done it before.
static void
test_steady_state(void)
{
    deal_reward *r = make(DEAL_REPETITION_SHARE, 2, 0);
    block kept, fork;
    CHECK_EQ_INT(start(r, &kept), 0);
    CHECK_EQ_INT(say(r, &kept, "one two three four five six seven eight nine ten "), 0);
    size_t n_alloc = 0;
    for (int i = 0; i < 50; i++) {
        if (i == 1)
            n_alloc = deal_alloc_count();
        CHECK_EQ_INT(r->fork(r->self, &fork, &kept, message), 0);
        CHECK_EQ_INT(say(r, &fork, "eleven twelve three four thirteen "), 0);
        r->drop(r->self, &fork);
    }
    CHECK_EQ_INT(deal_alloc_count(), n_alloc);
    r->drop(r->self, &kept);
    deal_reward_repetition_free(r);
}

static void
test_faults(void)
{
    deal_reward *reward = NULL;
    deal_error err;
    CHECK_EQ_INT(deal_reward_repetition_new(DEAL_REPETITION_SHARE, 0, 0, &reward, &err),
                 DEAL_ERR_INVALID_ARG);
    CHECK_HAS(err.message, "1 to 32, got 0");
    CHECK_EQ_INT(
        deal_reward_repetition_new(DEAL_REPETITION_LONGEST, 3, -1, &reward, &err),
        DEAL_ERR_INVALID_ARG);
    CHECK_EQ_INT(
        deal_reward_repetition_new((deal_repetition_measure)2, 3, 0, &reward, &err),
        DEAL_ERR_INVALID_ARG);
    deal_alloc_fail_at(1);
    CHECK_EQ_INT(deal_reward_repetition_new(DEAL_REPETITION_SHARE, 3, 0, &reward, &err),
                 DEAL_ERR_NO_MEMORY);
    deal_alloc_fail_at(0);
    CHECK(reward == NULL);
    deal_reward_repetition_free(NULL);

    deal_reward *r = make(DEAL_REPETITION_SHARE, 1, 0);
    block state;
    deal_alloc_fail_at(1);
    CHECK_EQ_INT(start(r, &state), 1);
    CHECK_HAS(message, "memory");
    CHECK_EQ_INT(start(r, &state), 0);
    deal_alloc_fail_at(1);
    CHECK_EQ_INT(say(r, &state, "a b "), 1); // and can still be dropped
    deal_alloc_fail_at(0);
    r->drop(r->self, &state);
    deal_reward_repetition_free(r);
}

int
main(void)
{
    test_sets();
    test_scores();
    test_forks();
    test_steady_state();
    test_faults();
    return check_report("test_repetition");
}
