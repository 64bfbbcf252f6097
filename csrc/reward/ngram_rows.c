#include "reward/ngram_rows.h"

#include <math.h>
#include <string.h>

#include "common/alloc.h"

#define N_BUFFER 512 // slots that are read at once

typedef struct slots {
    int32_t *slot; // (n,) of one text, negative signs as ~slot
    size_t n, cap;
} slots;

static deal_status
append(slots *to, const int32_t *slot, size_t n, deal_error *err)
{
    if (!deal_reserve(&to->slot, &to->cap, to->n, to->n + n, sizeof *slot))
        return deal_fail_memory(err, "ngram rows");
    memcpy(to->slot + to->n, slot, n * sizeof *slot);
    to->n += n;
    return DEAL_OK;
}

static deal_status
read_text(const deal_ngrams *g, const char *text, size_t size, slots *found,
          deal_error *err)
{
    deal_ngrams_state s;
    int32_t slot[N_BUFFER];
    size_t n_slot;
    memset(&s, 0, sizeof s);
    found->n = 0;
    for (size_t i = 0; i < size;) {
        i += deal_ngrams_read(g, &s, (const uint8_t *)text + i, size - i, slot,
                              N_BUFFER, &n_slot);
        DEAL_TRY(append(found, slot, n_slot, err));
    }
    return append(found, slot, deal_ngrams_finish(g, &s, slot), err);
}

static int32_t
place(int32_t slot)
{
    return slot < 0 ? ~slot : slot;
}

// By slot, whatever the sign: a heap sort, as qsort may allocate.
static void
sift(int32_t *slot, size_t i, size_t n)
{
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && place(slot[child]) < place(slot[child + 1]);
        if (place(slot[i]) >= place(slot[child]))
            return;
        int32_t swap = slot[i];
        slot[i] = slot[child];
        slot[child] = swap;
    }
}

static void
sort(int32_t *slot, size_t n)
{
    for (size_t i = n / 2; i-- > 0;)
        sift(slot, i, n);
    for (size_t end = n; end-- > 1;) {
        int32_t swap = slot[0];
        slot[0] = slot[end];
        slot[end] = swap;
        sift(slot, 0, end);
    }
}

static deal_status
append_row(deal_ngram_rows *rows, size_t *cap, const slots *found, deal_error *err)
{
    size_t n = rows->first[rows->n_row];
    if (n + found->n > *cap) {
        size_t grown = deal_grow_cap(*cap, n + found->n);
        int32_t *column = deal_realloc(rows->column, n, grown, sizeof *column);
        if (!column)
            return deal_fail_memory(err, "ngram rows");
        rows->column = column;
        float *value = deal_realloc(rows->value, n, grown, sizeof *value);
        if (!value)
            return deal_fail_memory(err, "ngram rows");
        rows->value = value;
        *cap = grown;
    }
    for (size_t i = 0; i < found->n; i++) {
        int32_t slot = place(found->slot[i]);
        if (i == 0 || slot != rows->column[n - 1]) {
            rows->column[n] = slot;
            rows->value[n++] = 0.0f;
        }
        rows->value[n - 1] += found->slot[i] < 0 ? -1.0f : 1.0f;
    }
    rows->first[++rows->n_row] = n;
    return DEAL_OK;
}

deal_status
deal_ngram_rows_init(deal_ngram_rows *rows, const deal_ngrams *ngrams, int32_t n_text,
                     const char *const *text, const size_t *size, deal_error *err)
{
    rows->n_col = deal_ngrams_n_slot(ngrams);
    rows->first = deal_alloc_zero((size_t)n_text + 1, sizeof *rows->first);
    if (!rows->first)
        return deal_fail_memory(err, "ngram rows");
    slots found = {0};
    size_t cap = 0;
    deal_status status = DEAL_OK;
    for (int32_t i = 0; i < n_text; i++) {
        DEAL_TRY_GOTO(read_text(ngrams, text[i], size[i], &found, err), done);
        sort(found.slot, found.n);
        DEAL_TRY_GOTO(append_row(rows, &cap, &found, err), done);
    }
done:
    deal_free(found.slot);
    return status;
}

void
deal_ngram_rows_idf(const deal_ngram_rows *rows, double *n_held, float *idf)
{
    memset(n_held, 0, (size_t)rows->n_col * sizeof *n_held);
    for (size_t k = 0; k < rows->first[rows->n_row]; k++)
        n_held[rows->column[k]] += 1.0;
    for (int32_t j = 0; j < rows->n_col; j++)
        idf[j] = (float)(log((1.0 + rows->n_row) / (1.0 + n_held[j])) + 1.0);
}

void
deal_ngram_rows_weigh(deal_ngram_rows *rows, deal_ngram_tf tf, const float *idf,
                      bool is_normed)
{
    for (int32_t i = 0; i < rows->n_row; i++) {
        double square = 0.0;
        for (size_t k = rows->first[i]; k < rows->first[i + 1]; k++) {
            double v = deal_ngram_tf_of(tf, (int32_t)rows->value[k]);
            if (idf)
                v *= (double)idf[rows->column[k]];
            rows->value[k] = (float)v;
            square += v * v;
        }
        if (!is_normed || square == 0.0)
            continue;
        for (size_t k = rows->first[i]; k < rows->first[i + 1]; k++)
            rows->value[k] = (float)((double)rows->value[k] / sqrt(square));
    }
}

void
deal_ngram_rows_free(deal_ngram_rows *rows)
{
    deal_free(rows->first);
    deal_free(rows->column);
    deal_free(rows->value);
    *rows = (deal_ngram_rows){0};
}
