/* Runs searches over the table LM for tests/unit/test_search_twin.py: reads cases on
 * stdin, writes one line of JSON for each.
 *
 * A case is words, apart by white space; bytes are in hex with a leading "x":
 *
 *     n_vocab n_ctx n_back table          table (n_context, n_vocab)
 *     byte_rule (kind piece)*n_vocab
 *     n_prompt prompt prompt_text
 *     n_end end_tokens
 *     n_stop stops
 *     n_reward (weight reward)*n_reward   "texts", "plain" or "owning", a salt, 1 where
 *                                         it is impure, low high;
 *                                         "length" unit min max;
 *                                         "keywords" n (concept form)*n;
 *                                         "marks" bytes n_max n_token;
 *                                         "states" salt n layers; "head" pooling bias
 *                                         n layers weight(n, N_EMBD)
 *     mode n_new_max n_return beam_size length_penalty top_k lookahead_len
 *     reward_weight commit tricks skip_above
 *     has_rollouts (n_ctx n_back table)   another model, which rolls out
 *     n_term (kind i n x)*n_term          of a formula over the rewards
 *     n_number numbers                    of its schedules
 *     pass row                            seconds that EXACT takes for measured, or 0 0
 *     n_state (accepts favourite next*n_vocab)*n_state   of a constraint; 0: none
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/alloc.h"
#include "reward/head.h"
#include "reward/keywords.h"
#include "reward/length.h"
#include "search/exact_internal.h"
#include "table_lm.h"
#include "toy_constraint.h"
#include "toy_reward.h"

#define N_MAX 80       // of tokens in a vocabulary or prompt, stops, rewards
#define WORD_SIZE 1024 // bytes of the longest word
#define N_EMBD 3       // features of a hidden state
#define N_IN_MAX ((DEAL_TABLE_LAYERS + 1) * N_EMBD) // of a head

typedef struct test_case {
    deal_table_lm *lm, *rollout_lm; // the second one or NULL
    deal_vocab *vocab;
    int32_t prompt[N_MAX], end_token[N_MAX];
    char prompt_text[WORD_SIZE], stop_text[N_MAX][WORD_SIZE / 16];
    const char *stop[N_MAX];
    toy_reward toy[N_MAX];
    deal_reward *native[N_MAX]; // what toy[i] wraps, or NULL
    void (*free_native[N_MAX])(deal_reward *);
    int32_t layer[N_MAX][DEAL_TABLE_LAYERS + 1]; // that toy[i] asks for
    deal_reward *reward[N_MAX];
    double weight[N_MAX];
    deal_search_request request;
    deal_term term[N_MAX];
    double number[N_MAX];
    double pass, row;
    toy_constraint constraint;
    int32_t next[TOY_N_STATE * N_MAX];
} test_case;

static deal_error err;

// A bad case is a bug of the test.
static void
need(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "search_table: bad case: %s\n", what);
    exit(1);
}

// --- reading -------------------------------------------------------------------------

static double
read_number(void)
{
    double value;
    need(scanf("%lf", &value) == 1, "expected a number");
    return value;
}

static int32_t
read_int(int32_t low, int32_t high)
{
    double value = read_number();
    need(value >= low && value <= high, "a number is out of range");
    return (int32_t)value;
}

// Bytes into `out`, zero-terminated; their number.
static size_t
read_bytes(char *out, size_t cap)
{
    char word[WORD_SIZE];
    need(scanf("%1023s", word) == 1 && word[0] == 'x', "expected bytes");
    size_t size = (strlen(word) - 1) / 2;
    need(size < cap, "too many bytes");
    for (size_t i = 0; i < size; i++) {
        unsigned byte;
        need(sscanf(word + 1 + 2 * i, "%2x", &byte) == 1, "expected hex digits");
        out[i] = (char)byte;
    }
    out[size] = '\0';
    return size;
}

static int32_t
read_ints(int32_t *out, int32_t high)
{
    int32_t n = read_int(0, N_MAX);
    for (int32_t i = 0; i < n; i++)
        out[i] = read_int(0, high);
    return n;
}

static deal_table_lm *
read_lm(int32_t n_vocab)
{
    int32_t n_ctx = read_int(1, INT32_MAX), n_back = read_int(1, 3);
    size_t n = (size_t)n_vocab;
    for (int32_t i = 0; i < n_back; i++)
        n *= (size_t)n_vocab + 1;
    float *table = deal_alloc(n, sizeof *table);
    need(table != NULL, "memory");
    for (size_t i = 0; i < n; i++)
        table[i] = (float)read_number();
    deal_table_lm *lm;
    need(deal_table_lm_new(n_vocab, n_ctx, n_back, table, 0, &lm, &err) == DEAL_OK,
         "table");
    deal_table_lm_set_states(lm, N_EMBD);
    deal_free(table);
    return lm;
}

static void
read_vocab(test_case *t, int32_t n_vocab)
{
    char bytes[N_MAX * 64];
    int64_t offset[N_MAX + 1] = {0};
    uint8_t kind[N_MAX];
    int32_t rule = read_int(0, 2);
    for (int32_t i = 0; i < n_vocab; i++) {
        kind[i] = (uint8_t)read_int(0, 3);
        offset[i + 1] = offset[i] + (int64_t)read_bytes(bytes + offset[i], 64);
    }
    need(deal_vocab_new(n_vocab, (const uint8_t *)bytes, (size_t)offset[n_vocab],
                        offset, kind, (deal_byte_rule)rule, DEAL_LEADING_SPACE_KEEP,
                        &t->vocab, &err) == DEAL_OK,
         err.message);
}

static void
read_keywords(test_case *t, int32_t i)
{
    char form[8][WORD_SIZE / 16];
    const char *text[8];
    size_t size[8];
    int32_t i_concept[8], n = read_int(1, 8);
    for (int32_t j = 0; j < n; j++) {
        i_concept[j] = read_int(0, n - 1);
        size[j] = read_bytes(form[j], sizeof form[j]);
        text[j] = form[j];
    }
    int32_t n_concept = i_concept[n - 1] + 1;
    need(deal_reward_keywords_new(DEAL_KEYWORDS_FRACTION, n_concept, 0, n, text, size,
                                  i_concept, &t->native[i], &err) == DEAL_OK,
         err.message);
    t->free_native[i] = deal_reward_keywords_free;
    toy_reward_wrap(&t->toy[i], t->native[i]);
}

static int32_t
read_layers(test_case *t, int32_t i)
{
    int32_t n = read_int(1, DEAL_TABLE_LAYERS + 1);
    for (int32_t j = 0; j < n; j++)
        t->layer[i][j] = read_int(-1, DEAL_TABLE_LAYERS - 1);
    return n;
}

static void
read_head(test_case *t, int32_t i)
{
    double weight[N_IN_MAX], hidden_bias[N_IN_MAX], hidden[N_IN_MAX * N_IN_MAX];
    deal_head_params params = {.weight = weight,
                               .layer = t->layer[i],
                               .n_embd = N_EMBD,
                               .hidden_weight = hidden,
                               .hidden_bias = hidden_bias};
    params.pooling = (deal_pooling)read_int(0, 1);
    params.bias = read_number();
    params.n_layer = read_layers(t, i);
    params.n_hidden = read_int(0, N_IN_MAX);
    params.activation = (deal_activation)read_int(0, DEAL_ACTIVATION_GELU);
    int32_t n_in = params.n_layer * N_EMBD;
    for (int32_t j = 0; j < (params.n_hidden ? params.n_hidden : n_in); j++)
        weight[j] = read_number();
    for (int32_t k = 0; k < params.n_hidden; k++) {
        hidden_bias[k] = read_number();
        for (int32_t j = 0; j < n_in; j++)
            hidden[k * n_in + j] = read_number();
    }
    need(deal_reward_head_new(&params, &t->native[i], &err) == DEAL_OK, err.message);
    t->free_native[i] = deal_reward_head_free;
    toy_reward_wrap(&t->toy[i], t->native[i]);
}

static void
read_reward(test_case *t, int32_t i)
{
    static const char *const form[] = {"texts", "plain", "owning"};
    char word[16];
    t->native[i] = NULL;
    t->weight[i] = read_number();
    need(scanf("%15s", word) == 1, "expected a reward");
    if (strcmp(word, "keywords") == 0) {
        read_keywords(t, i);
    } else if (strcmp(word, "length") == 0) {
        int32_t unit = read_int(0, 3), min = read_int(0, N_MAX),
                max = read_int(-1, N_MAX);
        need(deal_reward_length_new((deal_length_unit)unit, min, max, &t->native[i],
                                    &err) == DEAL_OK,
             err.message);
        t->free_native[i] = deal_reward_length_free;
        toy_reward_wrap(&t->toy[i], t->native[i]);
    } else if (strcmp(word, "marks") == 0) {
        char mark[2];
        need(read_bytes(mark, sizeof mark) == 1, "expected one byte");
        int32_t n_max = read_int(1, INT32_MAX), n_token = read_int(0, INT32_MAX);
        toy_reward_init_marks(&t->toy[i], mark[0], n_max, n_token);
    } else if (strcmp(word, "head") == 0) {
        read_head(t, i);
    } else if (strcmp(word, "states") == 0) {
        toy_reward_init(&t->toy[i], TOY_STATES, (uint32_t)read_int(0, INT32_MAX));
        toy_reward_ask(&t->toy[i], t->layer[i], read_layers(t, i), N_EMBD);
    } else {
        int32_t j = 0;
        while (j < 3 && strcmp(word, form[j]) != 0)
            j++;
        need(j < 3, "unknown reward");
        toy_reward_init(&t->toy[i], (toy_form)j, (uint32_t)read_int(0, INT32_MAX));
        t->toy[i].reward.is_impure = read_int(0, 1);
        t->toy[i].reward.low = read_number();
        t->toy[i].reward.high = read_number();
    }
    t->reward[i] = &t->toy[i].reward;
}

static void
read_params(deal_search_params *params)
{
    *params = (deal_search_params){.repetition_penalty = 1.0, .top_p = 1.0};
    params->mode = (deal_search_mode)read_int(0, DEAL_SEARCH_SEGMENT);
    params->n_new_max = read_int(1, INT32_MAX);
    params->n_return = read_int(1, INT32_MAX);
    params->beam_size = read_int(1, INT32_MAX);
    params->length_penalty = read_number();
    params->top_k = read_int(0, INT32_MAX);
    params->lookahead_len = read_int(0, INT32_MAX);
    params->reward_weight = read_number();
    params->commit = read_int(1, INT32_MAX);
    params->tricks = (uint32_t)read_int(0, 15);
    params->skip_above = read_number();
    if (params->mode != DEAL_SEARCH_SEGMENT)
        return;
    params->n_proposal = read_int(1, INT32_MAX);
    params->temperature = read_number();
    params->top_k = read_int(0, INT32_MAX);
    params->top_p = read_number();
    params->repetition_penalty = read_number();
    params->seed = (uint64_t)read_int(0, INT32_MAX);
}

static void
read_formula(test_case *t)
{
    deal_formula *formula = &t->request.formula;
    formula->term = t->term;
    formula->number = t->number;
    formula->n_term = read_int(0, N_MAX);
    for (int32_t i = 0; i < formula->n_term; i++) {
        deal_term *term = &t->term[i];
        term->kind = (deal_term_kind)read_int(0, DEAL_N_TERM - 1);
        term->i = read_int(0, N_MAX);
        term->n = read_int(0, N_MAX);
        term->x = read_number();
    }
    formula->n_number = read_int(0, N_MAX);
    for (int32_t i = 0; i < formula->n_number; i++)
        t->number[i] = read_number();
}

static void
read_constraint(test_case *t, int32_t n_vocab)
{
    int32_t n = read_int(0, TOY_N_STATE);
    toy_constraint_init(&t->constraint, n, n_vocab, t->next);
    for (int32_t i = 0; i < n; i++) {
        t->constraint.accepts[i] = read_int(0, 1);
        t->constraint.favourite[i] = read_int(-1, n_vocab - 1);
        for (int32_t j = 0; j < n_vocab; j++)
            t->next[i * n_vocab + j] = read_int(-1, n - 1);
    }
    t->request.constraint = n > 0 ? &t->constraint.constraint : NULL;
}

static void
read_case(test_case *t, int32_t n_vocab)
{
    t->lm = read_lm(n_vocab);
    read_vocab(t, n_vocab);
    deal_search_request *request = &t->request;
    *request = (deal_search_request){
        .lm = &t->lm->lm,
        .vocab = t->vocab,
        .prompt = t->prompt,
        .prompt_text = t->prompt_text,
        .end_token = t->end_token,
        .stop = t->stop,
        .reward = t->reward,
        .weight = t->weight,
    };
    request->n_prompt = read_ints(t->prompt, n_vocab - 1);
    request->prompt_text_size = read_bytes(t->prompt_text, sizeof t->prompt_text);
    request->n_end = read_ints(t->end_token, n_vocab - 1);
    request->n_stop = read_int(0, N_MAX);
    for (int32_t i = 0; i < request->n_stop; i++) {
        read_bytes(t->stop_text[i], sizeof t->stop_text[i]);
        t->stop[i] = t->stop_text[i];
    }
    request->n_reward = read_int(0, N_MAX);
    for (int32_t i = 0; i < request->n_reward; i++)
        read_reward(t, i);
    read_params(&request->params);
    t->rollout_lm = read_int(0, 1) ? read_lm(n_vocab) : NULL;
    request->rollout_lm = t->rollout_lm ? &t->rollout_lm->lm : NULL;
    read_formula(t);
    t->pass = read_number();
    t->row = read_number();
    read_constraint(t, n_vocab);
}

// --- writing -------------------------------------------------------------------------

static void
put_number(const char *before, double value)
{
    printf("%s", before);
    if (isfinite(value))
        printf("%.17g", value);
    else
        printf("%s", isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity");
}

static void
put_numbers(const double *value, size_t n)
{
    printf("[");
    for (size_t i = 0; i < n; i++)
        put_number(i ? "," : "", value[i]);
    printf("]");
}

static void
put_ints(const int32_t *value, size_t n)
{
    printf("[");
    for (size_t i = 0; i < n; i++)
        printf("%s%d", i ? "," : "", (int)value[i]);
    printf("]");
}

static void
put_bytes(const char *bytes, size_t size)
{
    printf("\"");
    for (size_t i = 0; i < size; i++)
        printf("%02x", (unsigned)(uint8_t)bytes[i]);
    printf("\"");
}

// What the LM says is log Z after each path of n_back tokens at most, in the order of
// its table; 0 for no token.
static void
put_log_z(test_case *t)
{
    deal_lm *lm = &t->lm->lm;
    int32_t n_ctx = lm->n_ctx, n_vocab = lm->n_vocab;
    lm->n_ctx = INT32_MAX;
    printf("\"log_z\":[");
    for (size_t i = 0; i < t->lm->n_context; i++) {
        deal_node node;
        float log_z = 0.0f;
        need(lm->ops->root(lm, &node, &err) == DEAL_OK, "root");
        size_t place = t->lm->n_context;
        for (int32_t j = 0; j < t->lm->n_back; j++) {
            place /= (size_t)n_vocab + 1;
            int32_t digit = (int32_t)(i / place % ((size_t)n_vocab + 1));
            if (digit == n_vocab)
                continue;
            deal_lm_item item = {.parent = node,
                                 .i_parent = -1,
                                 .token = digit,
                                 .want = DEAL_WANT_LOG_Z};
            need(lm->ops->extend(lm, &item, 1, &err) == DEAL_OK, err.message);
            lm->ops->release(lm, node);
            node = item.node;
            log_z = item.log_z;
        }
        lm->ops->release(lm, node);
        put_number(i ? "," : "", (double)log_z);
    }
    printf("]");
    lm->n_ctx = n_ctx;
    t->lm->n_extend = 0;
}

static void
put_results(const deal_search *search, int32_t n_reward)
{
    static const char *const reason[] = {"none", "end", "stop", "length", "dead end"};
    printf(",\"results\":[");
    for (int32_t i = 0; i < deal_search_n_result(search); i++) {
        deal_search_result r;
        deal_search_result_get(search, i, &r);
        printf("%s{\"tokens\":", i ? "," : "");
        put_ints(r.token, (size_t)r.n_token);
        printf(",\"text\":");
        put_bytes(r.text, r.text_size);
        put_number(",\"logprob\":", r.logprob);
        put_number(",\"h\":", r.h);
        put_number(",\"score\":", r.score);
        printf(",\"finish\":\"%s\",\"rewards\":", reason[r.finish_reason]);
        put_numbers(r.reward, (size_t)n_reward);
        printf("}");
    }
    printf("]");
}

static void
put_trace(const deal_search *search, int32_t n_reward)
{
    deal_trace trace;
    deal_search_trace_get(search, &trace);
    printf(",\"trace\":[");
    for (size_t i = 0; i < trace.n_row; i++) {
        const deal_trace_row *row = &trace.row[i];
        printf("%s{\"step\":%d,\"beam\":%d,\"n_committed\":%d,\"token\":%d",
               i ? "," : "", (int)row->i_step, (int)row->i_beam, (int)row->n_committed,
               (int)row->token);
        put_number(",\"logprob\":", row->logprob);
        put_number(",\"h\":", row->h);
        put_number(",\"score\":", row->score);
        put_number(",\"low\":", row->low);
        put_number(",\"high\":", row->high);
        printf(",\"is_finished\":%s,\"is_chosen\":%s,\"is_skipped\":%s,\"rollout\":",
               row->is_finished ? "true" : "false", row->is_chosen ? "true" : "false",
               row->is_skipped ? "true" : "false");
        put_ints(trace.rollout + row->i_rollout, (size_t)row->n_rollout);
        printf(",\"rewards\":");
        put_numbers(trace.reward + i * (size_t)n_reward, (size_t)n_reward);
        printf("}");
    }
    printf("]");
}

static void
put_stats(const deal_search *search)
{
    deal_search_stats s;
    deal_search_stats_get(search, &s);
    printf(",\"stats\":{\"n_prompt_tokens\":%lld,\"n_forward_tokens\":%lld,"
           "\"n_forward_passes\":%lld,\"n_steps\":%lld,\"n_rollouts\":%lld,"
           "\"n_rollout_tokens\":%lld,\"n_reward_calls\":%lld,\"n_reward_texts\":%lld",
           (long long)s.n_prompt_tokens, (long long)s.n_forward_tokens,
           (long long)s.n_forward_passes, (long long)s.n_steps, (long long)s.n_rollouts,
           (long long)s.n_rollout_tokens, (long long)s.n_reward_calls,
           (long long)s.n_reward_texts);
    printf(",\"n_skipped\":%lld", (long long)s.n_skipped);
    printf(",\"n_draft_tokens\":%lld,\"n_draft_accepted\":%lld",
           (long long)s.n_draft_tokens, (long long)s.n_draft_accepted);
    printf(",\"n_ahead_tokens\":%lld,\"n_in_vain\":%lld", (long long)s.n_ahead_tokens,
           (long long)s.n_in_vain);
    printf(",\"n_rollout_model_tokens\":%lld,\"n_rollout_model_passes\":%lld",
           (long long)s.n_rollout_model_tokens, (long long)s.n_rollout_model_passes);
    put_number(",\"seconds_rollout_model\":", s.seconds_rollout_model);
    put_number(",\"seconds_prefill\":", s.seconds_prefill);
    put_number(",\"seconds_forward\":", s.seconds_forward);
    put_number(",\"seconds_reward\":", s.seconds_reward);
    put_number(",\"seconds_total\":", s.seconds_total);
    printf("}");
}

// --- one case ------------------------------------------------------------------------

// Outweighs all that will be measured, so that no result hangs on the clock.
static void
preset_cost(const test_case *t, deal_search *search)
{
    if (!search->exact || t->pass <= 0.0)
        return;
    deal_cost *cost = &search->exact->cost;
    *cost = (deal_cost){.pass = t->pass, .row = t->row};
    for (double x = 1.0; x <= 16.0; x += 15.0) {
        double weight = 1e100, seconds = t->pass + t->row * x;
        cost->n += weight;
        cost->x += weight * x;
        cost->xx += weight * x * x;
        cost->t += weight * seconds;
        cost->xt += weight * x * seconds;
    }
}

// Steps to the end; writes the extend calls of every step and the text after it.
static void
run(test_case *t, deal_search *search)
{
    printf(",\"steps\":[");
    bool is_done = false;
    for (int i = 0; !is_done; i++) {
        const char *text;
        size_t size;
        t->lm->n_extend = 0;
        need(deal_search_step(search, &is_done, &err) == DEAL_OK, err.message);
        deal_search_text(search, &text, &size);
        printf("%s[%d,", i ? "," : "", (int)t->lm->n_extend);
        put_bytes(text, size);
        printf("]");
    }
    printf("]");
}

static void
put_rest(const test_case *t)
{
    int64_t n_calls = 0;
    int32_t n_state = t->constraint.n_live, n_node = t->lm->n_live;
    n_node += t->rollout_lm ? t->rollout_lm->n_live : 0;
    printf(",\"reward_counts\":[");
    for (int32_t i = 0; i < t->request.n_reward; i++) {
        const toy_reward *toy = &t->toy[i];
        printf("%s[%lld,%lld,%lld]", i ? "," : "", (long long)toy->n_calls,
               (long long)toy->n_texts, (long long)toy->n_bounds);
        n_calls += toy->n_calls;
        n_state += toy->n_state;
    }
    printf("],\"n_masks\":%lld", (long long)t->constraint.n_masks);
    printf(",\"n_calls\":%lld,\"n_state\":%d,\"n_node\":%d}\n", (long long)n_calls,
           (int)n_state, (int)n_node);
}

int
main(void)
{
    static test_case t;
    int n_vocab;
    while (scanf("%d", &n_vocab) == 1) {
        need(n_vocab >= 1 && n_vocab <= N_MAX, "n_vocab");
        read_case(&t, n_vocab);
        printf("{");
        put_log_z(&t);
        deal_search *search;
        need(deal_search_new(&t.request, &search, &err) == DEAL_OK, err.message);
        preset_cost(&t, search);
        run(&t, search);
        put_results(search, t.request.n_reward);
        put_trace(search, t.request.n_reward);
        put_stats(search);
        deal_search_free(search);
        put_rest(&t);
        for (int32_t i = 0; i < t.request.n_reward; i++)
            if (t.native[i])
                t.free_native[i](t.native[i]);
        deal_table_lm_free(t.lm);
        deal_table_lm_free(t.rollout_lm);
        deal_vocab_free(t.vocab);
    }
    return 0;
}
