#include "tokenizer/detok.h"

#include <string.h>

#include "common/utf8.h"

// Bytes that have arrived but do not make a character yet.
typedef struct byte_carry {
    uint8_t byte[DEAL_UTF8_SIZE_MAX];
    size_t n_byte;
} byte_carry;

void
deal_detok_init(deal_detok *detok, const deal_vocab *vocab, bool continues)
{
    *detok = (deal_detok){
        .is_start =
            !continues && deal_vocab_leading_space(vocab) != DEAL_LEADING_SPACE_KEEP,
    };
}

static deal_status
check_tokens(const deal_vocab *vocab, const int32_t *tokens, int32_t n_tokens,
             int32_t n_tail, deal_error *err)
{
    if (n_tail < 0 || n_tail > n_tokens)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "tokens: expected at least %d since the detokenizer's start, "
                         "got %d",
                         (int)n_tail, (int)n_tokens);
    int32_t n_vocab = deal_vocab_size(vocab);
    for (int32_t i = n_tokens - n_tail; i < n_tokens; i++)
        if (tokens[i] < 0 || tokens[i] >= n_vocab)
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "token id: expected 0 to %d (vocabulary of %d), got %d",
                             (int)n_vocab - 1, (int)n_vocab, (int)tokens[i]);
    return DEAL_OK;
}

// Room for `n_tail` pending bytes and a piece of `size` bytes, each as U+FFFD at worst,
// so that nothing fails once the state has changed.
static deal_status
reserve(deal_bytes *out, size_t n_tail, size_t size, deal_error *err)
{
    size_t room = SIZE_MAX - out->size;
    if (n_tail > room / 8 || size > room / 8)
        return deal_fail_memory(err, "text buffer");
    size_t worst = (n_tail + size) * DEAL_UTF8_REPLACEMENT_SIZE;
    return deal_bytes_reserve(out, out->size + worst, err);
}

// The following append to reserved room.

static void
put(deal_bytes *out, const uint8_t *bytes, size_t size)
{
    if (size == 0)
        return;
    memcpy(out->data + out->size, bytes, size);
    out->size += size;
}

static void
put_replacement(deal_bytes *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        put(out, deal_utf8_replacement, DEAL_UTF8_REPLACEMENT_SIZE);
}

static void
put_lossy(deal_bytes *out, const uint8_t *piece, size_t size)
{
    for (size_t i = 0, n_byte; i < size; i += n_byte) {
        if (deal_utf8_scan(piece + i, size - i, &n_byte) == DEAL_UTF8_VALID)
            put(out, piece + i, n_byte);
        else
            put_replacement(out, 1);
    }
}

// Appends every character that `carry` holds whole and every part that cannot become
// one; `n_per_part` of 0 stands for one U+FFFD for each byte of a part.
static void
settle(byte_carry *carry, size_t n_per_part, deal_bytes *out)
{
    while (carry->n_byte > 0) {
        size_t n_byte;
        deal_utf8_state state = deal_utf8_scan(carry->byte, carry->n_byte, &n_byte);
        if (state == DEAL_UTF8_PARTIAL)
            return;
        if (state == DEAL_UTF8_VALID)
            put(out, carry->byte, n_byte);
        else
            put_replacement(out, n_per_part ? n_per_part : n_byte);
        carry->n_byte -= n_byte;
        memmove(carry->byte, carry->byte + n_byte, carry->n_byte);
    }
}

static void
feed(byte_carry *carry, const uint8_t *piece, size_t size, size_t n_per_part,
     deal_bytes *out)
{
    size_t i = 0;
    while (i < size && carry->n_byte > 0) {
        carry->byte[carry->n_byte++] = piece[i++];
        settle(carry, n_per_part, out);
    }
    for (size_t n_byte; i < size; i += n_byte) {
        deal_utf8_state state = deal_utf8_scan(piece + i, size - i, &n_byte);
        if (state == DEAL_UTF8_PARTIAL) {
            memcpy(carry->byte, piece + i, n_byte);
            carry->n_byte = n_byte;
            return;
        }
        if (state == DEAL_UTF8_VALID)
            put(out, piece + i, n_byte);
        else
            put_replacement(out, n_per_part ? n_per_part : n_byte);
    }
}

// The pending bytes, read again from the pieces. There are at most three: a fourth
// would have closed the character or broken it.
static byte_carry
read_carry(const deal_vocab *vocab, const deal_detok *detok, const int32_t *tail)
{
    byte_carry carry = {.n_byte = 0};
    size_t i_first = (size_t)detok->n_skip;
    for (int32_t i = 0; i < detok->n_pending; i++) {
        size_t size;
        const uint8_t *piece = deal_vocab_piece(vocab, tail[i], &size);
        if (deal_vocab_piece_kind(vocab, tail[i]) == DEAL_PIECE_SPECIAL)
            continue;
        for (size_t j = i_first; j < size && carry.n_byte + 1 < DEAL_UTF8_SIZE_MAX; j++)
            carry.byte[carry.n_byte++] = piece[j];
        i_first = 0;
    }
    return carry;
}

// Drops the text's first character where it is a space and the rule says so; what was
// appended since `i_start` is the first text there is.
static void
drop_leading_space(deal_detok *detok, size_t i_start, deal_bytes *out)
{
    if (!detok->is_start || out->size == i_start)
        return;
    detok->is_start = false;
    if (out->data[i_start] != ' ')
        return;
    out->size--;
    memmove(out->data + i_start, out->data + i_start + 1, out->size - i_start);
}

// Rule STREAM: special pieces are not there at all, the bytes of all others are one
// stream, and an invalid part of it is one U+FFFD.
static deal_status
push_stream(const deal_vocab *vocab, deal_detok *detok, const int32_t *tail,
            deal_bytes *out, deal_error *err)
{
    int32_t token = tail[detok->n_pending];
    size_t size;
    const uint8_t *piece = deal_vocab_piece(vocab, token, &size);
    if (deal_vocab_piece_kind(vocab, token) == DEAL_PIECE_SPECIAL)
        size = 0;
    if (size == 0) {
        detok->n_pending += detok->n_pending > 0;
        return DEAL_OK;
    }
    DEAL_TRY(reserve(out, DEAL_UTF8_SIZE_MAX, size, err));
    size_t i_start = out->size;
    byte_carry carry = read_carry(vocab, detok, tail);
    feed(&carry, piece, size, 1, out);
    if (carry.n_byte == 0) {
        detok->n_pending = 0;
        detok->n_skip = 0;
    } else if (carry.n_byte <= size) { // the character begins in this piece
        detok->n_pending = 1;
        detok->n_skip = (int32_t)(size - carry.n_byte);
    } else {
        detok->n_pending++;
    }
    drop_leading_space(detok, i_start, out);
    return DEAL_OK;
}

// Appends the pending run of rule RUN: valid UTF-8 as a whole, or one U+FFFD each.
static void
put_run(const deal_vocab *vocab, const deal_detok *detok, const int32_t *tail,
        deal_bytes *out)
{
    size_t i_start = out->size;
    for (int32_t i = 0; i < detok->n_pending; i++) {
        size_t size;
        const uint8_t *piece = deal_vocab_piece(vocab, tail[i], &size);
        if (deal_vocab_piece_kind(vocab, tail[i]) == DEAL_PIECE_BYTE)
            put(out, piece, size);
    }
    size_t n_byte = out->size - i_start;
    if (n_byte == 0 || deal_utf8_is_valid(out->data + i_start, n_byte))
        return;
    out->size = i_start;
    put_replacement(out, n_byte);
}

// Rule RUN: special pieces are not there at all, any other piece ends a run of bytes.
static deal_status
push_run(const deal_vocab *vocab, deal_detok *detok, const int32_t *tail,
         deal_bytes *out, deal_error *err)
{
    int32_t token = tail[detok->n_pending];
    deal_piece_kind kind = deal_vocab_piece_kind(vocab, token);
    if (kind == DEAL_PIECE_BYTE || kind == DEAL_PIECE_SPECIAL) {
        detok->n_pending += kind == DEAL_PIECE_BYTE || detok->n_pending > 0;
        return DEAL_OK;
    }
    size_t size;
    const uint8_t *piece = deal_vocab_piece(vocab, token, &size);
    DEAL_TRY(reserve(out, (size_t)detok->n_pending, size, err));
    size_t i_start = out->size;
    put_run(vocab, detok, tail, out);
    put_lossy(out, piece, size);
    detok->n_pending = 0;
    drop_leading_space(detok, i_start, out);
    return DEAL_OK;
}

// Rule CHAR: every piece that is not a byte ends a run, special ones too. A space is
// dropped from a piece, not from the text, so bytes keep theirs.
static deal_status
push_char(const deal_vocab *vocab, deal_detok *detok, const int32_t *tail,
          deal_bytes *out, deal_error *err)
{
    int32_t token = tail[detok->n_pending];
    size_t size;
    const uint8_t *piece = deal_vocab_piece(vocab, token, &size);
    deal_piece_kind kind = deal_vocab_piece_kind(vocab, token);
    DEAL_TRY(reserve(out, DEAL_UTF8_SIZE_MAX, size, err));
    byte_carry carry = read_carry(vocab, detok, tail);
    if (kind == DEAL_PIECE_BYTE) {
        feed(&carry, piece, size, 0, out);
        detok->n_pending = (int32_t)carry.n_byte;
        detok->is_start = false;
        return DEAL_OK;
    }
    put_replacement(out, carry.n_byte);
    detok->n_pending = 0;
    if (kind == DEAL_PIECE_SPECIAL || size == 0)
        return DEAL_OK;
    if (detok->is_start && kind == DEAL_PIECE_TEXT && piece[0] == ' ') {
        piece++;
        size--;
        if (deal_vocab_leading_space(vocab) == DEAL_LEADING_SPACE_DROP_ONE)
            detok->is_start = false;
    }
    if (size > 0)
        detok->is_start = false;
    put_lossy(out, piece, size);
    return DEAL_OK;
}

deal_status
deal_detok_push(const deal_vocab *vocab, deal_detok *detok, const int32_t *tokens,
                int32_t n_tokens, deal_bytes *out, deal_error *err)
{
    int32_t n_tail = detok->n_pending + 1;
    DEAL_TRY(check_tokens(vocab, tokens, n_tokens, n_tail, err));
    const int32_t *tail = tokens + (n_tokens - n_tail);
    switch (deal_vocab_byte_rule(vocab)) {
    case DEAL_BYTE_RULE_STREAM:
        return push_stream(vocab, detok, tail, out, err);
    case DEAL_BYTE_RULE_RUN:
        return push_run(vocab, detok, tail, out, err);
    case DEAL_BYTE_RULE_CHAR:
        break;
    }
    return push_char(vocab, detok, tail, out, err);
}

deal_status
deal_detok_pending(const deal_vocab *vocab, const deal_detok *detok,
                   const int32_t *tokens, int32_t n_tokens, deal_bytes *out,
                   deal_error *err)
{
    DEAL_TRY(check_tokens(vocab, tokens, n_tokens, detok->n_pending, err));
    if (detok->n_pending == 0)
        return DEAL_OK;
    const int32_t *tail = tokens + (n_tokens - detok->n_pending);
    DEAL_TRY(reserve(out, (size_t)detok->n_pending, 0, err));
    size_t i_start = out->size;
    if (deal_vocab_byte_rule(vocab) == DEAL_BYTE_RULE_RUN) {
        deal_detok copy = *detok;
        put_run(vocab, detok, tail, out);
        drop_leading_space(&copy, i_start, out);
        return DEAL_OK;
    }
    byte_carry carry = read_carry(vocab, detok, tail);
    bool is_stream = deal_vocab_byte_rule(vocab) == DEAL_BYTE_RULE_STREAM;
    put_replacement(out, is_stream ? 1 : carry.n_byte);
    return DEAL_OK;
}

int32_t
deal_detok_n_pending(const deal_detok *detok)
{
    return detok->n_pending;
}
