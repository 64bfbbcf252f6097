#include "model/head.h"

#include <math.h>
#include <string.h>

#include "common/alloc.h"

static const uint32_t wants_logits = DEAL_WANT_TOP_K | DEAL_WANT_LOG_Z |
                                     DEAL_WANT_LOGITS | DEAL_WANT_TARGET |
                                     DEAL_WANT_TARGETS;

deal_status
deal_head_init(deal_head *head, const deal_matrix *w, float softcap,
               deal_matmul *matmul, deal_error *err)
{
    size_t n_thread = (size_t)deal_pool_n_thread(matmul->pool);
    size_t n_row = DEAL_HEAD_ROWS;
    *head = (deal_head){.w = w, .softcap = softcap, .matmul = matmul};
    head->n_chunk = (w->n_out + DEAL_MATMUL_CHUNK - 1) / DEAL_MATMUL_CHUNK;
    size_t n_part = n_row * (size_t)head->n_chunk, n_x = n_row * (size_t)w->n_in;
    size_t n_logit = n_thread * n_row * DEAL_MATMUL_CHUNK;
    head->x = deal_alloc(n_x, sizeof *head->x);
    head->logits = deal_alloc(n_logit, sizeof *head->logits);
    head->chunk_max = deal_alloc(n_part, sizeof *head->chunk_max);
    head->chunk_sum = deal_alloc(n_part, sizeof *head->chunk_sum);
    head->n_top = deal_alloc(n_thread * n_row, sizeof *head->n_top);
    head->size = (n_x + n_logit + 2 * n_part) * sizeof(float) +
                 n_thread * n_row * sizeof *head->n_top;
    if (head->x && head->logits && head->chunk_max && head->chunk_sum && head->n_top)
        return DEAL_OK;
    deal_head_free(head);
    return deal_fail_memory(err, "head");
}

void
deal_head_free(deal_head *head)
{
    deal_free(head->x);
    deal_free(head->logits);
    deal_free(head->chunk_max);
    deal_free(head->chunk_sum);
    deal_free(head->top_token);
    deal_free(head->top_logit);
    deal_free(head->n_top);
    *head = (deal_head){0};
}

// --- top k ---------------------------------------------------------------------------

// Whether a token comes before another: higher logit, or the lower id of equals.
static bool
is_before(float logit, int32_t token, float other_logit, int32_t other_token)
{
    return logit > other_logit || (logit == other_logit && token < other_token);
}

// Puts a token into a sorted list of at most `k`, where it is good enough.
static void
insert(int32_t token, float logit, int32_t k, int32_t *n, int32_t *top_token,
       float *top_logit)
{
    int32_t at = *n;
    if (at < k)
        (*n)++;
    else if (is_before(logit, token, top_logit[k - 1], top_token[k - 1]))
        at = k - 1;
    else
        return;
    for (; at > 0 && is_before(logit, token, top_logit[at - 1], top_token[at - 1]);
         at--) {
        top_logit[at] = top_logit[at - 1];
        top_token[at] = top_token[at - 1];
    }
    top_logit[at] = logit;
    top_token[at] = token;
}

static void
reduce_top(deal_head *head, int32_t i_row, int32_t i_thread, int32_t o, int32_t n_o,
           const float *logits, float max)
{
    int32_t k = head->item[i_row]->top_k;
    size_t at =
        (size_t)i_thread * head->top_begin[DEAL_HEAD_ROWS] + head->top_begin[i_row];
    int32_t *n = &head->n_top[i_thread * DEAL_HEAD_ROWS + i_row];
    int32_t *token = head->top_token + at;
    float *logit = head->top_logit + at;
    if (*n == k && max < logit[k - 1])
        return;
    for (int32_t i = 0; i < n_o; i++)
        if (*n < k || logits[i] >= logit[k - 1])
            insert(o + i, logits[i], k, n, token, logit);
}

static deal_status
reserve_top(deal_head *head, int32_t n_row, deal_error *err)
{
    size_t n = 0, n_thread = (size_t)deal_pool_n_thread(head->matmul->pool);
    for (int32_t r = 0; r < DEAL_HEAD_ROWS; r++) {
        head->top_begin[r] = n;
        if (r < n_row && (head->item[r]->want & DEAL_WANT_TOP_K))
            n += (size_t)head->item[r]->top_k;
    }
    head->top_begin[DEAL_HEAD_ROWS] = n;
    memset(head->n_top, 0, n_thread * DEAL_HEAD_ROWS * sizeof *head->n_top);
    if (n <= head->top_cap)
        return DEAL_OK;
    size_t cap = deal_grow_cap(head->top_cap, n);
    deal_free(head->top_token);
    deal_free(head->top_logit);
    head->top_cap = 0;
    head->top_token = deal_alloc(n_thread * cap, sizeof *head->top_token);
    head->top_logit = deal_alloc(n_thread * cap, sizeof *head->top_logit);
    if (!head->top_token || !head->top_logit)
        return deal_fail_memory(err, "top_k");
    head->top_cap = cap;
    return DEAL_OK;
}

// --- chunks --------------------------------------------------------------------------

static void
reduce_row(deal_head *head, int32_t i_row, int32_t i_thread, int32_t i_chunk,
           int32_t n_o, const float *logits)
{
    deal_lm_item *item = head->item[i_row];
    const deal_kernels *kernels = head->matmul->kernels;
    int32_t o = i_chunk * DEAL_MATMUL_CHUNK;
    size_t part = (size_t)i_row * (size_t)head->n_chunk + (size_t)i_chunk;
    if (item->want & DEAL_WANT_LOGITS)
        memcpy(item->logits + o, logits, (size_t)n_o * sizeof *logits);
    if ((item->want & DEAL_WANT_TARGET) && item->target >= o && item->target < o + n_o)
        item->target_logit = logits[item->target - o];
    for (int32_t i = 0; (item->want & DEAL_WANT_TARGETS) && i < item->n_target; i++)
        if (item->targets[i] >= o && item->targets[i] < o + n_o)
            item->target_logits[i] = logits[item->targets[i] - o];
    if (!(item->want & (DEAL_WANT_LOG_Z | DEAL_WANT_TOP_K)))
        return;
    float max = kernels->max(n_o, logits);
    if (item->want & DEAL_WANT_LOG_Z) {
        head->chunk_max[part] = max;
        head->chunk_sum[part] = kernels->sum_exp(n_o, logits, max);
    }
    if (item->want & DEAL_WANT_TOP_K)
        reduce_top(head, i_row, i_thread, o, n_o, logits, max);
}

static void
run_chunks(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    deal_head *head = context;
    float *logits =
        head->logits + (size_t)i_thread * DEAL_HEAD_ROWS * (size_t)DEAL_MATMUL_CHUNK;
    for (int32_t c = i_begin; c < i_end; c++) {
        int32_t o = c * DEAL_MATMUL_CHUNK, n_o = head->w->n_out - o;
        n_o = n_o < DEAL_MATMUL_CHUNK ? n_o : DEAL_MATMUL_CHUNK;
        deal_matmul_chunk(head->matmul, &head->inputs, head->w, o, n_o, NULL, false,
                          logits, DEAL_MATMUL_CHUNK, i_thread);
        for (int32_t r = 0; r < head->inputs.n_row; r++) {
            float *row = logits + (size_t)r * DEAL_MATMUL_CHUNK;
            if (head->softcap > 0.0f)
                head->matmul->kernels->softcap(n_o, head->softcap, row);
            reduce_row(head, r, i_thread, c, n_o, row);
        }
    }
}

// --- rows ----------------------------------------------------------------------------

// log Z = m + log(sum over chunks of sum exp(maximum - m)), m the largest maximum
static float
merge_log_z(const deal_head *head, int32_t i_row)
{
    size_t n = (size_t)head->n_chunk;
    const float *max = head->chunk_max + (size_t)i_row * n;
    const float *sum = head->chunk_sum + (size_t)i_row * n;
    float m = head->matmul->kernels->max(head->n_chunk, max);
    float total = 0.0f;
    for (size_t c = 0; c < n; c++)
        total += sum[c] * expf(max[c] - m);
    return m + logf(total);
}

static void
merge_rows(void *context, int32_t i_begin, int32_t i_end, int32_t i_thread)
{
    (void)i_thread;
    deal_head *head = context;
    int32_t n_thread = deal_pool_n_thread(head->matmul->pool);
    for (int32_t r = i_begin; r < i_end; r++) {
        deal_lm_item *item = head->item[r];
        if (item->want & DEAL_WANT_LOG_Z)
            item->log_z = merge_log_z(head, r);
        if (!(item->want & DEAL_WANT_TOP_K))
            continue;
        int32_t n = 0;
        for (int32_t t = 0; t < n_thread; t++) {
            size_t at =
                (size_t)t * head->top_begin[DEAL_HEAD_ROWS] + head->top_begin[r];
            for (int32_t i = 0; i < head->n_top[t * DEAL_HEAD_ROWS + r]; i++)
                insert(head->top_token[at + (size_t)i], head->top_logit[at + (size_t)i],
                       item->top_k, &n, item->top_token, item->top_logit);
        }
    }
}

deal_status
deal_head_run(deal_head *head, deal_lm_item *const *item, const float *const *hidden,
              int32_t n_row, deal_error *err)
{
    uint32_t want = 0;
    for (int32_t r = 0; r < n_row; r++)
        want |= item[r]->want;
    if (!(want & wants_logits))
        return DEAL_OK;
    head->item = item;
    DEAL_TRY(reserve_top(head, n_row, err));
    size_t n_embd = (size_t)head->w->n_in;
    for (int32_t r = 0; r < n_row; r++)
        memcpy(head->x + (size_t)r * n_embd, hidden[r], n_embd * sizeof *head->x);
    head->inputs = deal_matmul_begin(head->matmul, n_row, head->w->n_in, head->x);
    deal_matmul_put_rows(head->matmul, &head->inputs);
    deal_parallel_for(head->matmul->pool, head->n_chunk, 0, run_chunks, head);
    deal_parallel_for(head->matmul->pool, n_row, 0, merge_rows, head);
    return DEAL_OK;
}
