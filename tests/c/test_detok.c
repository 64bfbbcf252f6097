/* The detokenizer against plain twins that decode a whole sequence by the definition of
 * each byte rule: random vocabularies, text cut anywhere, bad arguments, and allocations
 * that fail.
 */
#include "check.h"
#include "common/alloc.h"
#include "common/rng.h"
#include "tokenizer/detok.h"

enum { N_PIECE_MAX = 48, PIECE_SIZE_MAX = 6, N_TOKEN_MAX = 40, TEXT_SIZE_MAX = 2048 };

static uint64_t n_draw;

static int
draw(int n)
{
    return (int)(deal_rng_uniform(11, 3, n_draw++) * n);
}

typedef struct pieces {
    int32_t n;
    uint8_t bytes[N_PIECE_MAX * PIECE_SIZE_MAX];
    int64_t offset[N_PIECE_MAX + 1];
    uint8_t kind[N_PIECE_MAX];
} pieces;

typedef struct text {
    uint8_t byte[TEXT_SIZE_MAX];
    size_t size;
} text;

static void
add_piece(pieces *p, const void *bytes, size_t size, deal_piece_kind kind)
{
    memcpy(p->bytes + p->offset[p->n], bytes, size);
    p->kind[p->n] = (uint8_t)kind;
    p->offset[p->n + 1] = p->offset[p->n] + (int64_t)size;
    p->n++;
}

static deal_vocab *
make_vocab(const pieces *p, deal_byte_rule rule, deal_leading_space space)
{
    deal_vocab *vocab = NULL;
    deal_error err;
    CHECK_EQ_INT(deal_vocab_new(p->n, p->bytes, (size_t)p->offset[p->n], p->offset,
                                p->kind, rule, space, &vocab, &err),
                 DEAL_OK);
    return vocab;
}

// ---- Twins --------------------------------------------------------------------------

// Code point of exactly `size` bytes, -1 where they are no character: from the bits and
// the ranges of Unicode, without the table that utf8.c goes by.
static int32_t
code_point(const uint8_t *b, size_t size)
{
    static const int32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    static const uint8_t lead[] = {0, 0, 0xC0, 0xE0, 0xF0}, mask[] = {0, 0, 31, 15, 7};
    if (size == 1)
        return b[0] < 0x80 ? b[0] : -1;
    if ((b[0] & (uint8_t)~mask[size]) != lead[size])
        return -1;
    int32_t code = b[0] & mask[size];
    for (size_t i = 1; i < size; i++) {
        if ((b[i] & 0xC0) != 0x80)
            return -1;
        code = code << 6 | (b[i] & 0x3F);
    }
    int is_surrogate = code >= 0xD800 && code < 0xE000;
    return code < least[size] || code > 0x10FFFF || is_surrogate ? -1 : code;
}

// Whether some bytes after these make a character, tried out.
static int
begins_character(const uint8_t *b, size_t size)
{
    uint8_t whole[4];
    memcpy(whole, b, size);
    for (size_t n = size + 1; n <= 4; n++)
        for (int first = 0x80; first < 0xC0; first++) {
            memset(whole + size, 0x80, sizeof whole - size);
            whole[size] = (uint8_t)first;
            if (code_point(whole, n) >= 0)
                return 1;
        }
    return 0;
}

static void
put(text *out, const void *bytes, size_t size)
{
    memcpy(out->byte + out->size, bytes, size);
    out->size += size;
}

// One U+FFFD for the longest part that begins a character, or for each byte of it.
static void
put_decoded(text *out, const uint8_t *b, size_t size, int is_each)
{
    for (size_t i = 0; i < size;) {
        size_t n_left = size - i, n = 1;
        while (n <= 4 && n <= n_left && code_point(b + i, n) < 0)
            n++;
        if (n <= 4 && n <= n_left) {
            put(out, b + i, n);
            i += n;
            continue;
        }
        n = n_left < 3 ? n_left : 3;
        while (n > 1 && !begins_character(b + i, n))
            n--;
        for (size_t j = 0; j < (is_each ? n : 1); j++)
            put(out, "\xEF\xBF\xBD", 3);
        i += n;
    }
}

static void
drop_space(text *out, int is_dropped)
{
    if (is_dropped && out->size > 0 && out->byte[0] == ' ')
        memmove(out->byte, out->byte + 1, --out->size);
}

static void
decode_stream(const pieces *p, const int32_t *tokens, int32_t n, text *out)
{
    text bytes = {.size = 0};
    for (int32_t i = 0; i < n; i++)
        if (p->kind[tokens[i]] != DEAL_PIECE_SPECIAL)
            put(&bytes, p->bytes + p->offset[tokens[i]],
                (size_t)(p->offset[tokens[i] + 1] - p->offset[tokens[i]]));
    put_decoded(out, bytes.byte, bytes.size, 0);
}

static void
put_run(text *out, text *run)
{
    text decoded = {.size = 0};
    put_decoded(&decoded, run->byte, run->size, 1);
    int is_valid =
        decoded.size == run->size && memcmp(decoded.byte, run->byte, run->size) == 0;
    for (size_t i = 0; i < run->size; i++)
        put(out, is_valid ? (const char *)run->byte + i : "\xEF\xBF\xBD",
            is_valid ? 1 : 3);
    run->size = 0;
}

static void
decode_run(const pieces *p, const int32_t *tokens, int32_t n, text *out)
{
    text run = {.size = 0};
    for (int32_t i = 0; i < n; i++) {
        const uint8_t *piece = p->bytes + p->offset[tokens[i]];
        size_t size = (size_t)(p->offset[tokens[i] + 1] - p->offset[tokens[i]]);
        if (p->kind[tokens[i]] == DEAL_PIECE_SPECIAL)
            continue;
        if (p->kind[tokens[i]] == DEAL_PIECE_BYTE) {
            put(&run, piece, size);
            continue;
        }
        put_run(out, &run);
        put_decoded(out, piece, size, 0);
    }
    put_run(out, &run);
}

static void
decode_char(const pieces *p, const int32_t *tokens, int32_t n, int is_start,
            int drops_each, text *out)
{
    text run = {.size = 0};
    int was_dropped = 0;
    for (int32_t i = 0; i < n; i++) {
        const uint8_t *piece = p->bytes + p->offset[tokens[i]];
        size_t size = (size_t)(p->offset[tokens[i] + 1] - p->offset[tokens[i]]);
        if (p->kind[tokens[i]] == DEAL_PIECE_BYTE) {
            put(&run, piece, size);
            continue;
        }
        put_decoded(out, run.byte, run.size, 1);
        run.size = 0;
        if (p->kind[tokens[i]] == DEAL_PIECE_SPECIAL)
            continue;
        int is_first = is_start && out->size == 0 && (drops_each || !was_dropped);
        if (is_first && p->kind[tokens[i]] == DEAL_PIECE_TEXT && size &&
            *piece == ' ') {
            piece++;
            size--;
            was_dropped = 1;
        }
        put_decoded(out, piece, size, 0);
    }
    put_decoded(out, run.byte, run.size, 1);
}

static void
decode(const pieces *p, deal_byte_rule rule, deal_leading_space space, int continues,
       const int32_t *tokens, int32_t n, text *out)
{
    int drops = space != DEAL_LEADING_SPACE_KEEP && !continues;
    out->size = 0;
    if (rule == DEAL_BYTE_RULE_CHAR) {
        decode_char(p, tokens, n, drops, space == DEAL_LEADING_SPACE_DROP_EACH, out);
        return;
    }
    if (rule == DEAL_BYTE_RULE_STREAM)
        decode_stream(p, tokens, n, out);
    else
        decode_run(p, tokens, n, out);
    drop_space(out, drops);
}

// ---- Random sequences ---------------------------------------------------------------

// Whole characters of 1 to 4 bytes, parts of them, and bytes that are never any.
static const char *const parts[] = {
    " ",
    " a",
    "b",
    "  ",
    "\xC3\xA9",
    "\xE2\x82\xAC",
    "\xF0\x9F\x98\x80",
    "\xC3",
    "\xA9",
    "\xE2\x82",
    "\xAC",
    "\xF0",
    "\x9F\x98",
    "\x80",
    "\xED\xA0\x80",
    "\xC0\x80",
    "\xF4\x90",
    "\xFF",
    "\xE0\x9F",
    " \xF0\x9F",
    "\x98\x80 ",
    "x\xE2",
    "\xEF\xBF\xBD",
};
enum { N_PART = sizeof parts / sizeof *parts };

static void
random_pieces(pieces *p, deal_byte_rule rule)
{
    *p = (pieces){.n = 0};
    for (int i = 0; i < N_PART; i++)
        add_piece(p, parts[i], strlen(parts[i]),
                  draw(5) == 0 ? DEAL_PIECE_LITERAL : DEAL_PIECE_TEXT);
    add_piece(p, "", 0, DEAL_PIECE_TEXT);
    add_piece(p, "<s>", 3, DEAL_PIECE_SPECIAL);
    add_piece(p, "", 0, DEAL_PIECE_SPECIAL);
    if (rule == DEAL_BYTE_RULE_STREAM)
        return;
    static const uint8_t raw[] = {' ',  'a',  0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0,
                                  0x9F, 0x98, 0x80, 0xED, 0xA0, 0xF4, 0xFF};
    for (size_t i = 0; i < sizeof raw; i++)
        add_piece(p, raw + i, 1, DEAL_PIECE_BYTE);
}

static int
is_text(const deal_bytes *emitted, const deal_bytes *pending, const text *expected)
{
    size_t size = emitted->size + pending->size;
    return size == expected->size &&
           (!emitted->size || !memcmp(emitted->data, expected->byte, emitted->size)) &&
           (!pending->size ||
            !memcmp(pending->data, expected->byte + emitted->size, pending->size));
}

// Pushes a random sequence; returns how often text was pending.
static int
check_sequence(const pieces *p, const deal_vocab *vocab, int continues)
{
    deal_byte_rule rule = deal_vocab_byte_rule(vocab);
    deal_leading_space space = deal_vocab_leading_space(vocab);
    int32_t tokens[N_TOKEN_MAX];
    int32_t n_token = 1 + draw(N_TOKEN_MAX), n_byte_first = N_PART + 3;
    int n_pending = 0;
    deal_bytes emitted = {0}, pending = {0};
    deal_error err;
    deal_detok detok;
    deal_detok_init(&detok, vocab, continues);
    for (int32_t n = 1; n <= n_token; n++) {
        int is_byte = p->n > n_byte_first && draw(2);
        tokens[n - 1] = is_byte ? n_byte_first + draw(p->n - n_byte_first) : draw(p->n);
        size_t size = emitted.size;
        CHECK_EQ_INT(deal_detok_push(vocab, &detok, tokens, n, &emitted, &err), 0);
        text piece = {.size = 0};
        put_decoded(&piece, emitted.data + size, emitted.size - size, 0);
        CHECK_EQ_INT(piece.size, emitted.size - size); // whole characters
        if (rule != DEAL_BYTE_RULE_RUN)
            CHECK(emitted.size - size <= deal_vocab_piece_size_max(vocab));
        pending.size = 0;
        CHECK_EQ_INT(deal_detok_pending(vocab, &detok, tokens, n, &pending, &err), 0);
        n_pending += pending.size > 0;
        text expected;
        decode(p, rule, space, continues, tokens, n, &expected);
        if (!CHECK(is_text(&emitted, &pending, &expected)))
            printf("    rule %d, space %d, %d tokens, last %d\n", (int)rule, (int)space,
                   (int)n, (int)tokens[n - 1]);
    }
    deal_bytes_free(&emitted);
    deal_bytes_free(&pending);
    return n_pending;
}

static void
test_random(void)
{
    for (int rule = DEAL_BYTE_RULE_STREAM; rule <= DEAL_BYTE_RULE_CHAR; rule++)
        for (int space = 0; space <= (rule == DEAL_BYTE_RULE_CHAR ? 2 : 1); space++) {
            int n_pending = 0;
            for (int i = 0; i < 300; i++) {
                pieces p;
                random_pieces(&p, (deal_byte_rule)rule);
                deal_vocab *vocab =
                    make_vocab(&p, (deal_byte_rule)rule, (deal_leading_space)space);
                n_pending += check_sequence(&p, vocab, i % 2);
                deal_vocab_free(vocab);
            }
            CHECK(n_pending > 500);
        }
}

// Valid text cut anywhere comes out as it was, and no sooner than it is whole.
static void
test_cuts(void)
{
    const char *whole =
        " h\xC3\xA9 \xE2\x82\xAC\xF0\x9F\x98\x80! \xE4\xB8\x96 \xC3\xBC";
    size_t size = strlen(whole);
    for (int i = 0; i < 500; i++) {
        pieces p = {.n = 0};
        int32_t tokens[N_PIECE_MAX];
        for (size_t at = 0, n; at < size; at += n) {
            n = (size_t)(1 + draw(PIECE_SIZE_MAX - 1));
            n = n > size - at ? size - at : n;
            tokens[p.n] = p.n;
            add_piece(&p, whole + at, n, DEAL_PIECE_TEXT);
        }
        deal_vocab *vocab =
            make_vocab(&p, DEAL_BYTE_RULE_STREAM, DEAL_LEADING_SPACE_KEEP);
        deal_bytes out = {0};
        deal_error err;
        deal_detok detok;
        deal_detok_init(&detok, vocab, false);
        for (int32_t n = 1; n <= p.n; n++) {
            CHECK_EQ_INT(deal_detok_push(vocab, &detok, tokens, n, &out, &err), 0);
            size_t end = (size_t)p.offset[n];
            while (end < size && ((uint8_t)whole[end] & 0xC0) == 0x80)
                end--; // where the last character that is not whole begins
            CHECK_EQ_INT(out.size, end);
        }
        CHECK(out.size == size && memcmp(out.data, whole, size) == 0);
        deal_bytes_free(&out);
        deal_vocab_free(vocab);
    }
}

// ---- Faults -------------------------------------------------------------------------

static void
test_vocab_faults(void)
{
    const uint8_t bytes[] = "abc";
    const int64_t good[] = {0, 1, 3}, falls[] = {0, 2, 1}, past[] = {0, 1, 4};
    const int64_t below[] = {-1, 1, 2};
    const uint8_t text_kind[] = {0, 0}, byte_kind[] = {2, 2}, no_kind[] = {0, 4};
    const struct {
        int32_t n_vocab;
        const int64_t *offset;
        const uint8_t *kind;
        int rule, space;
        deal_status status;
        const char *has;
    } bad[] = {
        {0, good, text_kind, 0, 0, DEAL_ERR_INVALID_ARG, "at least 1 piece, got 0"},
        {-5, good, text_kind, 0, 0, DEAL_ERR_INVALID_ARG, "got -5"},
        {2, good, text_kind, 3, 0, DEAL_ERR_INVALID_ARG, "byte_rule"},
        {2, good, text_kind, -1, 0, DEAL_ERR_INVALID_ARG, "byte_rule"},
        {2, good, text_kind, 0, 2, DEAL_ERR_INVALID_ARG, "leading_space"},
        {2, good, text_kind, 2, 3, DEAL_ERR_INVALID_ARG, "leading_space"},
        {2, falls, text_kind, 0, 0, DEAL_ERR_FORMAT, "offset[2]: expected 2 to 3"},
        {2, past, text_kind, 0, 0, DEAL_ERR_FORMAT, "offset[2]: expected 1 to 3"},
        {2, below, text_kind, 0, 0, DEAL_ERR_FORMAT, "offset[0]"},
        {2, good, no_kind, 0, 0, DEAL_ERR_FORMAT, "kind[1]: expected 0 to 3, got 4"},
        {2, good, byte_kind, 1, 0, DEAL_ERR_FORMAT, "byte piece 1: expected 1 byte"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        deal_vocab *const untouched = (deal_vocab *)(void *)&n_draw;
        deal_vocab *vocab = untouched;
        deal_error err;
        deal_status status =
            deal_vocab_new(bad[i].n_vocab, bytes, 3, bad[i].offset, bad[i].kind,
                           (deal_byte_rule)bad[i].rule,
                           (deal_leading_space)bad[i].space, &vocab, &err);
        CHECK_EQ_INT(status, bad[i].status);
        CHECK_HAS(err.message, bad[i].has);
        CHECK(vocab == untouched);
    }
    deal_vocab_free(NULL);
}

static void
test_ids_out_of_range(void)
{
    pieces p = {.n = 0};
    add_piece(&p, "\xE2", 1, DEAL_PIECE_BYTE);
    add_piece(&p, "x", 1, DEAL_PIECE_TEXT);
    for (int rule = DEAL_BYTE_RULE_STREAM; rule <= DEAL_BYTE_RULE_CHAR; rule++) {
        deal_vocab *vocab =
            make_vocab(&p, (deal_byte_rule)rule, DEAL_LEADING_SPACE_KEEP);
        const int32_t bad[] = {2, -1, INT32_MAX, INT32_MIN};
        for (int i = 0; i < 4; i++) {
            int32_t tokens[] = {0, bad[i]};
            deal_bytes out = {0};
            deal_error err;
            deal_detok detok;
            deal_detok_init(&detok, vocab, false);
            CHECK_EQ_INT(deal_detok_push(vocab, &detok, tokens, 1, &out, &err), 0);
            deal_detok before = detok;
            CHECK_EQ_INT(deal_detok_push(vocab, &detok, tokens, 2, &out, &err),
                         DEAL_ERR_INVALID_ARG);
            CHECK_HAS(err.message, "token id: expected 0 to 1 (vocabulary of 2), got");
            CHECK_EQ_INT(deal_detok_push(vocab, &detok, tokens, 0, &out, &err),
                         DEAL_ERR_INVALID_ARG);
            CHECK_HAS(err.message, "expected at least 2");
            CHECK_EQ_INT(deal_detok_pending(vocab, &detok, tokens, 0, &out, &err),
                         DEAL_ERR_INVALID_ARG);
            CHECK(detok.n_pending == before.n_pending && out.size == 0);
            tokens[1] = 1; // and on it goes
            CHECK_EQ_INT(deal_detok_push(vocab, &detok, tokens, 2, &out, &err), 0);
            CHECK(out.size == 4 && memcmp(out.data, "\xEF\xBF\xBDx", 4) == 0);
            deal_bytes_free(&out);
        }
        deal_vocab_free(vocab);
    }
}

// A sequence in which any one allocation fails: nothing changes, and it can go on.
static int
run_short_of_memory(const pieces *p, const deal_vocab *vocab, size_t i_fail)
{
    int32_t tokens[N_PIECE_MAX];
    deal_bytes out = {0}, pending = {0};
    deal_error err;
    deal_detok detok;
    int n_failed = 0;
    deal_detok_init(&detok, vocab, false);
    deal_alloc_fail_at(i_fail);
    for (int32_t n = 1; n <= p->n; n++) {
        tokens[n - 1] = (7 * n) % p->n;
        deal_detok before = detok;
        size_t size = out.size;
        deal_status status = deal_detok_push(vocab, &detok, tokens, n, &out, &err);
        if (status != DEAL_OK) {
            CHECK_EQ_INT(status, DEAL_ERR_NO_MEMORY);
            CHECK_HAS(err.message, "text buffer");
            CHECK(out.size == size && detok.n_pending == before.n_pending &&
                  detok.n_skip == before.n_skip && detok.is_start == before.is_start);
            CHECK_EQ_INT(deal_detok_push(vocab, &detok, tokens, n, &out, &err), 0);
            n_failed++;
        }
        pending.size = 0;
        status = deal_detok_pending(vocab, &detok, tokens, n, &pending, &err);
        if (status != DEAL_OK) {
            CHECK_EQ_INT(status, DEAL_ERR_NO_MEMORY);
            CHECK_EQ_INT(pending.size, 0);
            CHECK_EQ_INT(deal_detok_pending(vocab, &detok, tokens, n, &pending, &err),
                         0);
            n_failed++;
        }
    }
    deal_alloc_fail_at(0);
    text expected;
    decode(p, deal_vocab_byte_rule(vocab), deal_vocab_leading_space(vocab), 0, tokens,
           p->n, &expected);
    CHECK(is_text(&out, &pending, &expected));
    deal_bytes_free(&out);
    deal_bytes_free(&pending);
    return n_failed;
}

static void
test_out_of_memory(void)
{
    for (int rule = DEAL_BYTE_RULE_STREAM; rule <= DEAL_BYTE_RULE_CHAR; rule++) {
        pieces p;
        random_pieces(&p, (deal_byte_rule)rule);
        deal_vocab *vocab = NULL;
        deal_error err;
        int n_failed = 0;
        for (size_t n = 1; !vocab; n++) {
            deal_alloc_fail_at(n);
            deal_status status = deal_vocab_new(
                p.n, p.bytes, (size_t)p.offset[p.n], p.offset, p.kind,
                (deal_byte_rule)rule, DEAL_LEADING_SPACE_DROP_ONE, &vocab, &err);
            deal_alloc_fail_at(0);
            CHECK_EQ_INT(status, vocab ? DEAL_OK : DEAL_ERR_NO_MEMORY);
            n_failed += !vocab;
        }
        CHECK_EQ_INT(n_failed, 4);
        size_t n = 1;
        while (run_short_of_memory(&p, vocab, n) > 0)
            n++;
        CHECK(n > 3);
        deal_vocab_free(vocab);
    }
}

int
main(void)
{
    test_random();
    test_cuts();
    test_vocab_faults();
    test_ids_out_of_range();
    test_out_of_memory();
    return check_report("test_detok");
}
