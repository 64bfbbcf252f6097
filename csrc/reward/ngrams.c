#include "reward/ngrams.h"

#include <string.h>

#include "common/alloc.h"
#include "common/compiler.h"
#include "common/unicode.h"
#include "common/utf8.h"
#include "reward/hash.h"

#define N_LAST DEAL_NGRAMS_CHARACTERS_MAX
#define N_LINE 64            // characters that are read before their n-grams are
#define WORD UINT64_C(0x51)  // where the hashes of words, n-grams of them and those of
#define WORDS UINT64_C(0xA3) // characters begin
#define CHARACTERS UINT64_C(0x1F7)
#define REPLACEMENT 0xFFFDu // what a byte that is no text counts as

typedef struct place {
    uint64_t key;
    int32_t slot; // -1: free
} place;

struct deal_ngrams {
    deal_ngrams_kind kind;
    int32_t n_slot;
    int32_t words_min, words_max, characters_min, characters_max;
    bool is_within_words, is_folded, is_signed;
    bool is_words_alone; // no characters, and words that are hashed as they come
    uint32_t upper;      // the bit of upper-case ASCII where that is folded
    int32_t word_size_min;
    int32_t shift;                // HASHED: 64 - log2(n_slot)
    place *vocabulary, *stop;     // open addressing
    size_t n_place, n_stop_place; // powers of two
    int32_t n_stop;
};

typedef struct output {
    int32_t *slot;
    size_t n;
} output;

// Characters whose n-grams are still to be made: one does not wait for what another one
// decides.
typedef struct line {
    size_t n;
    uint32_t code[N_LAST + N_LINE]; // those before the line, then its own
    uint8_t n_has[N_LINE];          // characters of the greatest n-gram that ends here
} line;

static int32_t
find(const place *table, size_t n_place, uint64_t key)
{
    size_t mask = n_place - 1, i = key & mask;
    while (table[i].slot >= 0 && table[i].key != key)
        i = (i + 1) & mask;
    return table[i].slot;
}

// ---- MurmurHash3, 32 bits -----------------------------------------------------------

static uint32_t
rotate(uint32_t x, int n)
{
    return x << n | x >> (32 - n);
}

static uint32_t
murmur_block(uint32_t k)
{
    return rotate(k * 0xCC9E2D51u, 15) * 0x1B873593u;
}

static void
murmur_put(deal_ngrams_stream *m, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        m->rest |= (uint32_t)bytes[i] << 8 * (m->size++ & 3u);
        if (m->size & 3u)
            continue;
        m->hash = rotate(m->hash ^ murmur_block(m->rest), 13) * 5u + 0xE6546B64u;
        m->rest = 0;
    }
}

static uint32_t
murmur_end(const deal_ngrams_stream *m)
{
    uint32_t h = m->size & 3u ? m->hash ^ murmur_block(m->rest) : m->hash;
    h ^= m->size;
    h = (h ^ h >> 16) * 0x85EBCA6Bu;
    h = (h ^ h >> 13) * 0xC2B2AE35u;
    return h ^ h >> 16;
}

static void
emit_murmur(const deal_ngrams *g, const deal_ngrams_stream *m, output *out)
{
    uint32_t h = murmur_end(m);
    bool is_negative = h >> 31;
    uint32_t magnitude = is_negative ? 0u - h : h;
    int32_t slot;
    if (magnitude == 0x80000000u) // as scikit-learn takes the one without a negative
        slot =
            (int32_t)((0x7FFFFFFFu - ((uint32_t)g->n_slot - 1u)) % (uint32_t)g->n_slot);
    else
        slot = (int32_t)(magnitude % (uint32_t)g->n_slot);
    out->slot[out->n++] = is_negative && g->is_signed ? ~slot : slot;
}

// ---- Words --------------------------------------------------------------------------

static void
emit(const deal_ngrams *g, uint64_t key, output *out)
{
    int32_t slot = g->kind == DEAL_NGRAMS_HASHED
                       ? (int32_t)(deal_hash_end(key) >> g->shift)
                       : find(g->vocabulary, g->n_place, deal_hash_end(key));
    out->slot[out->n] = slot;
    out->n += slot >= 0;
}

static void
emit_words(const deal_ngrams *g, const deal_ngrams_state *s, output *out)
{
    int32_t n_max = s->n_before + 1 < g->words_max ? s->n_before + 1 : g->words_max;
    if (g->kind == DEAL_NGRAMS_MURMUR) {
        for (int32_t n = g->words_min; n <= n_max; n++)
            emit_murmur(g, &s->now[n - 1], out);
        return;
    }
    uint64_t key = deal_hash_put(WORDS, s->word);
    for (int32_t n = 1; n <= n_max; n++) {
        if (n >= g->words_min)
            emit(g, key, out);
        if (n < n_max)
            key = deal_hash_put(key, s->before[n - 1]);
    }
}

// Whether the word that was read is one that counts.
static bool
is_kept(const deal_ngrams *g, const deal_ngrams_state *s)
{
    return s->n_word >= g->word_size_min &&
           (!g->n_stop || find(g->stop, g->n_stop_place, deal_hash_end(s->word)) < 0);
}

static void
end_word(const deal_ngrams *g, deal_ngrams_state *s, output *out)
{
    bool is_word = is_kept(g, s);
    s->n_word = 0;
    if (!is_word)
        return;
    emit_words(g, s, out);
    for (int32_t i = g->words_max - 1; i-- > 1;)
        s->before[i] = s->before[i - 1];
    s->before[0] = s->word;
    s->n_before += s->n_before < g->words_max - 1;
    if (g->kind == DEAL_NGRAMS_MURMUR)
        for (int32_t i = g->words_max - 1; i > 0; i--) {
            s->base[i] = s->now[i - 1];
            murmur_put(&s->base[i], (const uint8_t *)" ", 1);
        }
}

static inline void
put_word(const deal_ngrams *g, deal_ngrams_state *s, uint32_t code)
{
    if (!s->n_word) {
        s->word = WORD;
        if (g->kind == DEAL_NGRAMS_MURMUR)
            memcpy(s->now, s->base, sizeof s->now);
    }
    s->word = deal_hash_put(s->word, code);
    s->n_word += s->n_word < INT32_MAX;
    if (g->kind == DEAL_NGRAMS_MURMUR) {
        uint8_t bytes[4];
        size_t size = deal_unicode_put(code, bytes);
        for (int32_t i = 0; i < g->words_max; i++)
            murmur_put(&s->now[i], bytes, size);
    }
}

// ---- Characters ---------------------------------------------------------------------

// The n-gram that the n characters up to `last` make.
static void
emit_murmur_characters(const deal_ngrams *g, const uint32_t *last, int32_t n,
                       output *out)
{
    deal_ngrams_stream m = {0};
    for (int32_t i = n; i-- > 0;) {
        uint8_t bytes[4];
        murmur_put(&m, bytes, deal_unicode_put(*(last - i), bytes));
    }
    emit_murmur(g, &m, out);
}

// The n-grams of n_min to n_max characters up to `last`.
static void
emit_characters(const deal_ngrams *g, const uint32_t *last, int32_t n_min,
                int32_t n_max, output *out)
{
    uint64_t key = CHARACTERS;
    for (int32_t n = 1; n <= n_max; n++) {
        key = deal_hash_put(key, *(last - (n - 1)));
        if (n >= n_min && g->kind == DEAL_NGRAMS_MURMUR)
            emit_murmur_characters(g, last, n, out);
        else if (n >= n_min)
            emit(g, key, out);
    }
}

// The same of each character of a line where they are hashed.
static size_t
hash_line(const deal_ngrams *g, const line *l, int32_t *restrict slot)
{
    size_t n_slot = 0;
    int32_t n_min = g->characters_min, n_max = g->characters_max, shift = g->shift;
    for (size_t i = 0; i < l->n; i++) {
        const uint32_t *last = &l->code[N_LAST + i];
        int32_t n_has = l->n_has[i] < n_max ? l->n_has[i] : n_max;
        if (n_has < n_min)
            continue;
        uint64_t key = CHARACTERS;
        int32_t n = 1;
        for (; n < n_min; n++)
            key = deal_hash_put(key, *(last - (n - 1)));
        for (; n <= n_has; n++) {
            key = deal_hash_put(key, *(last - (n - 1)));
            slot[n_slot++] = (int32_t)(deal_hash_end(key) >> shift);
        }
    }
    return n_slot;
}

static void
begin_line(line *l, const deal_ngrams_state *s)
{
    l->n = 0;
    memcpy(l->code, s->last, sizeof s->last);
}

static void
end_line(const deal_ngrams *g, const line *l, deal_ngrams_state *s, output *out)
{
    if (g->kind == DEAL_NGRAMS_HASHED)
        out->n += hash_line(g, l, out->slot + out->n);
    else
        for (size_t i = 0; i < l->n; i++) {
            int32_t n_has = l->n_has[i];
            emit_characters(g, &l->code[N_LAST + i], g->characters_min,
                            n_has < g->characters_max ? n_has : g->characters_max, out);
        }
    memcpy(s->last, l->code + l->n, sizeof s->last);
}

// Ends a line and begins the next, so that n-grams come in the order of the text.
static void
flush_line(const deal_ngrams *g, line *l, deal_ngrams_state *s, output *out)
{
    end_line(g, l, s, out);
    begin_line(l, s);
}

static inline void
push(deal_ngrams_state *s, uint32_t code, line *l)
{
    s->n_last += s->n_last < N_LAST;
    l->n_has[l->n] = (uint8_t)s->n_last;
    l->code[N_LAST + l->n++] = code;
}

// White space, or the end of the text, after a white-space separated word.
static void
end_padded(const deal_ngrams *g, deal_ngrams_state *s, line *l, output *out)
{
    push(s, ' ', l);
    if (s->n_last < g->characters_min) { // as one n-gram, once
        flush_line(g, l, s, out);
        emit_characters(g, &l->code[N_LAST - 1], s->n_last, s->n_last, out);
    }
    s->n_last = 0;
}

static inline void
put_character(const deal_ngrams *g, deal_ngrams_state *s, uint32_t code, bool is_space,
              line *l, output *out)
{
    if (g->is_within_words) {
        if (!is_space) {
            if (!s->n_last)
                push(s, ' ', l);
            push(s, code, l);
        } else if (s->n_last) {
            end_padded(g, s, l, out);
        }
        return;
    }
    if (is_space) {
        s->space = s->space ? ' ' : code;
        return;
    }
    if (s->space)
        push(s, s->space, l);
    s->space = 0;
    push(s, code, l);
}

// ---- Reading ------------------------------------------------------------------------

// A character that is not ASCII, or a byte that is no text, and its kind as bits of
// deal_unicode_ascii.
static uint32_t
next_other(const deal_ngrams *g, const uint8_t *text, size_t size, size_t *n_byte,
           uint32_t *kind)
{
    uint32_t code = deal_unicode_next(text, size, n_byte);
    if (code == DEAL_UNICODE_INVALID)
        code = REPLACEMENT;
    else if (g->is_folded)
        code = deal_unicode_fold(code);
    *kind = (deal_unicode_is_word(code) ? DEAL_ASCII_WORD : 0) |
            (deal_unicode_is_space(code) ? DEAL_ASCII_SPACE : 0);
    return code;
}

// The ASCII word characters at the beginning of the text, of which there are some;
// returns their number.
static size_t
read_word(const deal_ngrams *g, deal_ngrams_state *s, const uint8_t *text, size_t size)
{
    uint64_t word = s->n_word ? s->word : WORD;
    uint32_t kind = deal_unicode_ascii[text[0]];
    size_t i = 0;
    do {
        word = deal_hash_put(word, text[i] + ((kind & g->upper) << 3));
        kind = ++i < size ? deal_unicode_ascii[text[i]] : 0;
    } while (kind & DEAL_ASCII_WORD);
    s->word = word;
    s->n_word =
        i < (size_t)(INT32_MAX - s->n_word) ? s->n_word + (int32_t)i : INT32_MAX;
    return i;
}

size_t
deal_ngrams_read(const deal_ngrams *g, deal_ngrams_state *s, const uint8_t *text,
                 size_t size, int32_t *slot, size_t slot_cap, size_t *n_slot)
{
    output out = {.slot = slot};
    line l;
    size_t i = 0, n_byte,
           n_of_one = (size_t)(g->characters_max - g->characters_min + 1);
    begin_line(&l, s);
    for (; i < size && l.n + 2 <= N_LINE &&
           out.n + l.n * n_of_one + DEAL_NGRAMS_SLOTS_MAX <= slot_cap;
         i += n_byte) {
        uint32_t kind = deal_unicode_ascii[text[i]], code = text[i];
        n_byte = 1;
        if (DEAL_UNLIKELY(kind & DEAL_ASCII_NOT)) {
            code = next_other(g, text + i, size - i, &n_byte, &kind);
        } else if (g->is_words_alone && kind & DEAL_ASCII_WORD) {
            n_byte = read_word(g, s, text + i, size - i);
            continue;
        } else {
            code += (kind & g->upper) << 3; // to lower case
        }
        if (g->words_max) {
            if (kind & DEAL_ASCII_WORD)
                put_word(g, s, code);
            else if (s->n_word) {
                flush_line(g, &l, s, &out);
                end_word(g, s, &out);
            }
        }
        if (g->characters_max)
            put_character(g, s, code, kind & DEAL_ASCII_SPACE, &l, &out);
    }
    if (g->characters_max)
        end_line(g, &l, s, &out);
    *n_slot = out.n;
    return i;
}

size_t
deal_ngrams_finish(const deal_ngrams *g, const deal_ngrams_state *s, int32_t *slot)
{
    output out = {.slot = slot};
    if (s->n_word && is_kept(g, s))
        emit_words(g, s, &out);
    if (g->characters_max && (s->space || (g->is_within_words && s->n_last))) {
        deal_ngrams_state end = *s;
        line l;
        begin_line(&l, s);
        if (g->is_within_words)
            end_padded(g, &end, &l, &out);
        else
            push(&end, s->space, &l);
        end_line(g, &l, &end, &out);
    }
    return out.n;
}

double
deal_ngrams_reach(const deal_ngrams *g, const deal_ngrams_state *s, int64_t n_byte)
{
    double n = 0.0;
    if (g->words_max) { // each word takes its characters and one before it
        int64_t n_has = s->n_word < g->word_size_min ? s->n_word : g->word_size_min;
        n += (double)((n_byte + 1 + n_has) / (g->word_size_min + 1)) *
             (g->words_max - g->words_min + 1);
    }
    if (g->characters_max) {
        int64_t n_character = n_byte + (s->space != 0);
        if (g->is_within_words) // and two spaces for each word, of 2 bytes at least
            n_character =
                s->n_last ? n_byte + 1 + n_byte / 2 * 2 : n_byte + (n_byte + 1) / 2 * 2;
        n += (double)n_character * (g->characters_max - g->characters_min + 1);
    }
    return n;
}

int32_t
deal_ngrams_n_slot(const deal_ngrams *g)
{
    return g->n_slot;
}

// ---- Construction -------------------------------------------------------------------

static deal_status
check_range(const char *what, int32_t min, int32_t max, int32_t most, deal_error *err)
{
    if ((min == 0 && max == 0) || (1 <= min && min <= max && max <= most))
        return DEAL_OK;
    return deal_fail(err, DEAL_ERR_INVALID_ARG,
                     "ngrams: %s: expected 1 <= min <= max <= %d, got (%d, %d)", what,
                     (int)most, (int)min, (int)max);
}

static deal_status
check_params(const deal_ngrams_params *p, deal_error *err)
{
    DEAL_TRY(
        check_range("words", p->words_min, p->words_max, DEAL_NGRAMS_WORDS_MAX, err));
    DEAL_TRY(check_range("characters", p->characters_min, p->characters_max,
                         DEAL_NGRAMS_CHARACTERS_MAX, err));
    if (!p->words_max && !p->characters_max)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "ngrams: expected words, characters or both");
    if (p->kind == DEAL_NGRAMS_VOCABULARY && p->words_max && p->characters_max)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "ngrams: expected a vocabulary of words or of characters");
    if ((int)p->kind < DEAL_NGRAMS_HASHED || (int)p->kind > DEAL_NGRAMS_MURMUR)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "ngrams: kind: expected 0 to 2, got %d", (int)p->kind);
    if (p->n_slot < 1 || p->n_slot > 1 << 30 ||
        (p->kind == DEAL_NGRAMS_HASHED &&
         (p->n_slot & (p->n_slot - 1) || p->n_slot < 2)))
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "ngrams: expected 1 to 2^30 slots, a power of two where they "
                         "are hashed, got %d",
                         (int)p->n_slot);
    if (p->word_size_min < 1)
        return deal_fail(err, DEAL_ERR_INVALID_ARG,
                         "ngrams: word_size_min: expected at least 1, got %d",
                         (int)p->word_size_min);
    return DEAL_OK;
}

// The hashes of a word's characters, joined or not.
static uint64_t
hash_word(const deal_ngrams *g, const uint8_t *text, size_t size, size_t *n_read)
{
    uint64_t hash = WORD;
    size_t i = 0, n_byte;
    for (; i < size && text[i] != ' '; i += n_byte) {
        uint32_t code = deal_unicode_next(text + i, size - i, &n_byte);
        hash = deal_hash_put(hash, g->is_folded ? deal_unicode_fold(code) : code);
    }
    *n_read = i;
    return hash;
}

// The key of a term: its words or characters, the last one first. False where it has
// more than an n-gram can have.
static bool
key_of_term(const deal_ngrams *g, const uint8_t *text, size_t size, uint64_t *key)
{
    uint64_t part[DEAL_NGRAMS_CHARACTERS_MAX];
    int32_t n = 0, n_max = g->words_max ? g->words_max : g->characters_max;
    for (size_t i = 0, n_byte; i < size; i += n_byte) {
        if (n == n_max)
            return false;
        if (g->words_max) {
            part[n++] = hash_word(g, text + i, size - i, &n_byte);
            n_byte += i + n_byte < size; // the space after it
        } else {
            uint32_t code = deal_unicode_next(text + i, size - i, &n_byte);
            part[n++] = g->is_folded ? deal_unicode_fold(code) : code;
        }
    }
    *key = g->words_max ? WORDS : CHARACTERS;
    while (n-- > 0)
        *key = deal_hash_put(*key, part[n]);
    *key = deal_hash_end(*key);
    return true;
}

static deal_status
make_table(place **table, size_t *n_place, int32_t n, deal_error *err)
{
    *n_place = 16;
    while (*n_place < 2 * (size_t)n)
        *n_place *= 2;
    *table = deal_alloc(*n_place, sizeof **table);
    if (!*table)
        return deal_fail_memory(err, "ngrams");
    for (size_t i = 0; i < *n_place; i++)
        (*table)[i] = (place){0, -1};
    return DEAL_OK;
}

static void
put_key(place *table, size_t n_place, uint64_t key, int32_t slot)
{
    size_t mask = n_place - 1, i = key & mask;
    while (table[i].slot >= 0 && table[i].key != key)
        i = (i + 1) & mask;
    table[i] = (place){key, slot};
}

static deal_status
fill_tables(deal_ngrams *g, const deal_ngrams_params *p, deal_error *err)
{
    DEAL_TRY(make_table(&g->stop, &g->n_stop_place, p->n_stop, err));
    for (int32_t i = 0; i < p->n_stop; i++) {
        size_t n_read;
        uint64_t hash =
            hash_word(g, (const uint8_t *)p->stop[i], p->stop_size[i], &n_read);
        put_key(g->stop, g->n_stop_place, deal_hash_end(hash), i);
    }
    if (p->kind != DEAL_NGRAMS_VOCABULARY)
        return DEAL_OK;
    DEAL_TRY(make_table(&g->vocabulary, &g->n_place, p->n_slot, err));
    for (int32_t i = 0; i < p->n_slot; i++) {
        uint64_t key;
        if (!deal_utf8_is_valid((const uint8_t *)p->term[i], p->term_size[i]))
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "ngrams: term %d is not valid UTF-8", (int)i);
        if (!key_of_term(g, (const uint8_t *)p->term[i], p->term_size[i], &key))
            return deal_fail(err, DEAL_ERR_INVALID_ARG,
                             "ngrams: term %d is longer than n-grams are", (int)i);
        put_key(g->vocabulary, g->n_place, key, i);
    }
    return DEAL_OK;
}

deal_status
deal_ngrams_new(const deal_ngrams_params *p, deal_ngrams **ngrams, deal_error *err)
{
    DEAL_TRY(check_params(p, err));
    deal_ngrams *g = deal_alloc_zero(1, sizeof *g);
    if (!g)
        return deal_fail_memory(err, "ngrams");
    g->kind = p->kind;
    g->n_slot = p->n_slot;
    g->words_min = p->words_min;
    g->words_max = p->words_max;
    g->characters_min = p->characters_min;
    g->characters_max = p->characters_max;
    g->is_within_words = p->is_within_words;
    g->is_folded = p->is_folded;
    g->is_signed = p->is_signed;
    g->is_words_alone = !p->characters_max && p->kind != DEAL_NGRAMS_MURMUR;
    g->upper = p->is_folded ? DEAL_ASCII_UPPER : 0;
    g->word_size_min = p->word_size_min;
    g->n_stop = p->n_stop;
    for (g->shift = 64; (INT64_C(1) << (64 - g->shift)) < p->n_slot; g->shift--)
        continue;
    deal_status status = fill_tables(g, p, err);
    if (status != DEAL_OK) {
        deal_ngrams_free(g);
        return status;
    }
    *ngrams = g;
    return DEAL_OK;
}

void
deal_ngrams_free(deal_ngrams *g)
{
    if (!g)
        return;
    deal_free(g->vocabulary);
    deal_free(g->stop);
    deal_free(g);
}
