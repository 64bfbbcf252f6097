#include "tokenizer/vocab.h"

#include <string.h>

#include "common/alloc.h"
#include "common/utf8.h"

struct deal_vocab {
    int32_t n_vocab;
    deal_byte_rule byte_rule;
    deal_leading_space leading_space;
    size_t piece_size_max;
    uint8_t *bytes;  // (offset[n_vocab],)
    int64_t *offset; // (n_vocab + 1,) from 0
    uint8_t *kind;   // (n_vocab,) deal_piece_kind
};

static deal_status
check_pieces(int32_t n_vocab, size_t bytes_size, const int64_t *offset,
             const uint8_t *kind, deal_error *err)
{
    if (offset[0] < 0)
        return deal_fail(err, DEAL_ERR_FORMAT,
                         "offset[0]: expected 0 or more, got %lld",
                         (long long)offset[0]);
    for (int32_t i = 0; i < n_vocab; i++) {
        if (offset[i + 1] < offset[i] || (uint64_t)offset[i + 1] > bytes_size)
            return deal_fail(
                err, DEAL_ERR_FORMAT, "offset[%d]: expected %lld to %zu, got %lld",
                (int)i + 1, (long long)offset[i], bytes_size, (long long)offset[i + 1]);
        if (kind[i] > DEAL_PIECE_LITERAL)
            return deal_fail(err, DEAL_ERR_FORMAT, "kind[%d]: expected 0 to %d, got %d",
                             (int)i, (int)DEAL_PIECE_LITERAL, (int)kind[i]);
        if (kind[i] == DEAL_PIECE_BYTE && offset[i + 1] - offset[i] != 1)
            return deal_fail(err, DEAL_ERR_FORMAT,
                             "byte piece %d: expected 1 byte, got %lld", (int)i,
                             (long long)(offset[i + 1] - offset[i]));
    }
    return DEAL_OK;
}

// Half a character that was pending comes with the piece that closes it: as one U+FFFD
// where the byte stream is decoded, one for each byte where characters are.
static size_t
text_size_max(const deal_vocab *vocab)
{
    size_t size_max = 0;
    for (int32_t i = 0; i < vocab->n_vocab; i++) {
        if (vocab->kind[i] == DEAL_PIECE_SPECIAL)
            continue;
        size_t size;
        const uint8_t *piece = deal_vocab_piece(vocab, i, &size);
        size_t lossy_size = deal_utf8_lossy_size(piece, size);
        if (lossy_size > size_max)
            size_max = lossy_size;
    }
    switch (vocab->byte_rule) {
    case DEAL_BYTE_RULE_STREAM:
        return size_max + DEAL_UTF8_REPLACEMENT_SIZE;
    case DEAL_BYTE_RULE_CHAR:
        return size_max + (DEAL_UTF8_SIZE_MAX - 1) * DEAL_UTF8_REPLACEMENT_SIZE;
    case DEAL_BYTE_RULE_RUN:
        break;
    }
    return size_max;
}

deal_status
deal_vocab_new(int32_t n_vocab, const uint8_t *bytes, size_t bytes_size,
               const int64_t *offset, const uint8_t *kind, deal_byte_rule byte_rule,
               deal_leading_space leading_space, deal_vocab **vocab, deal_error *err)
{
    if (n_vocab < 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "vocabulary: expected at least 1 piece, got %d", (int)n_vocab);
    if ((int)byte_rule < DEAL_BYTE_RULE_STREAM || (int)byte_rule > DEAL_BYTE_RULE_CHAR)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "byte_rule: expected 0 to %d, got %d",
                         (int)DEAL_BYTE_RULE_CHAR, (int)byte_rule);
    int leading_max = byte_rule == DEAL_BYTE_RULE_CHAR ? DEAL_LEADING_SPACE_DROP_EACH
                                                       : DEAL_LEADING_SPACE_DROP_ONE;
    if ((int)leading_space < 0 || (int)leading_space > leading_max)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "leading_space: expected 0 to %d with byte_rule %d, got %d",
                         leading_max, (int)byte_rule, (int)leading_space);
    DEAL_TRY(check_pieces(n_vocab, bytes_size, offset, kind, err));

    size_t n = (size_t)n_vocab;
    size_t used_size = (size_t)(offset[n_vocab] - offset[0]);
    deal_vocab *made = deal_alloc_zero(1, sizeof *made);
    if (!made)
        return deal_fail_memory(err, "vocabulary");
    made->bytes = deal_alloc(used_size, 1);
    made->offset = deal_alloc(n + 1, sizeof *made->offset);
    made->kind = deal_alloc(n, 1);
    if (!made->bytes || !made->offset || !made->kind) {
        deal_vocab_free(made);
        return deal_fail_memory(err, "vocabulary");
    }
    made->n_vocab = n_vocab;
    made->byte_rule = byte_rule;
    made->leading_space = leading_space;
    if (used_size > 0)
        memcpy(made->bytes, bytes + offset[0], used_size);
    for (size_t i = 0; i <= n; i++)
        made->offset[i] = offset[i] - offset[0];
    memcpy(made->kind, kind, n);
    made->piece_size_max = text_size_max(made);
    *vocab = made;
    return DEAL_OK;
}

void
deal_vocab_free(deal_vocab *vocab)
{
    if (!vocab)
        return;
    deal_free(vocab->bytes);
    deal_free(vocab->offset);
    deal_free(vocab->kind);
    deal_free(vocab);
}

int32_t
deal_vocab_size(const deal_vocab *vocab)
{
    return vocab->n_vocab;
}

const uint8_t *
deal_vocab_piece(const deal_vocab *vocab, int32_t token, size_t *size)
{
    *size = (size_t)(vocab->offset[token + 1] - vocab->offset[token]);
    return vocab->bytes + vocab->offset[token];
}

deal_piece_kind
deal_vocab_piece_kind(const deal_vocab *vocab, int32_t token)
{
    return (deal_piece_kind)vocab->kind[token];
}

size_t
deal_vocab_piece_size_max(const deal_vocab *vocab)
{
    return vocab->piece_size_max;
}

deal_byte_rule
deal_vocab_byte_rule(const deal_vocab *vocab)
{
    return vocab->byte_rule;
}

deal_leading_space
deal_vocab_leading_space(const deal_vocab *vocab)
{
    return vocab->leading_space;
}
