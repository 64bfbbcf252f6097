/* n-grams of words and of characters in a stream of text, as slots of a table.
 *
 * Words are maximal runs of word characters, of `word_size_min` of them at least, that
 * are not stop words; n-grams of words are those that then follow one another.
 * Characters are those of the text, where two or more of white space are one space, or
 * those of its white-space separated words with a space at both ends. These are the
 * analyzers "word", "char" and "char_wb" of scikit-learn, except that marks are word
 * characters here and that folding is simple case folding.
 *
 * A slot is that of a vocabulary, a bucket of our own hash, or a bucket as
 * scikit-learn's HashingVectorizer has it: MurmurHash3 (A. Appleby, 2011) of the
 * n-gram's bytes.
 */
#ifndef DEAL_REWARD_NGRAMS_H
#define DEAL_REWARD_NGRAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#define DEAL_NGRAMS_WORDS_MAX 5
#define DEAL_NGRAMS_CHARACTERS_MAX 8
#define DEAL_NGRAMS_SLOTS_MAX 32 // that one character, or the end, can give

typedef enum deal_ngrams_kind {
    DEAL_NGRAMS_HASHED = 0,     // n_slot is a power of two
    DEAL_NGRAMS_VOCABULARY = 1, // slot i is term i
    DEAL_NGRAMS_MURMUR = 2,
} deal_ngrams_kind;

typedef struct deal_ngrams_params {
    deal_ngrams_kind kind;
    int32_t n_slot;
    int32_t words_min, words_max;           // 0, 0: no words
    int32_t characters_min, characters_max; // 0, 0: no characters
    bool is_within_words;                   // characters: "char_wb"
    bool is_folded;
    bool is_signed;        // MURMUR: the hash also gives a sign
    int32_t word_size_min; // characters, >= 1
    int32_t n_stop;
    const char *const *stop; // (n_stop,) UTF-8, single words
    const size_t *stop_size; // (n_stop,) bytes
    const char *const *term; // (n_slot,) VOCABULARY: UTF-8, words joined by a space
    const size_t *term_size; // (n_slot,) bytes
} deal_ngrams_params;

typedef struct deal_ngrams deal_ngrams;

// One MurmurHash3 in the making.
typedef struct deal_ngrams_stream {
    uint32_t hash, rest, size;
} deal_ngrams_stream;

// Plain bytes; all zero where no text was read.
typedef struct deal_ngrams_state {
    uint64_t word;                              // hash of the word being read
    uint64_t before[DEAL_NGRAMS_WORDS_MAX - 1]; // of words before it, latest first
    // MURMUR: of the last i words, as of the beginning of the word being read, and now.
    deal_ngrams_stream base[DEAL_NGRAMS_WORDS_MAX], now[DEAL_NGRAMS_WORDS_MAX];
    uint32_t last[DEAL_NGRAMS_CHARACTERS_MAX]; // characters, the latest one last
    int32_t n_last;                            // of them that n-grams may hold
    int32_t n_before;
    int32_t n_word; // characters of the word being read, 0 between two
    uint32_t space; // white space that the next character decides on, or 0
} deal_ngrams_state;

// Copies all. Fails with INVALID_ARG on params that are not as said above. Caller frees
// with deal_ngrams_free().
deal_status deal_ngrams_new(const deal_ngrams_params *params, deal_ngrams **ngrams,
                            deal_error *err);
void deal_ngrams_free(deal_ngrams *g);

int32_t deal_ngrams_n_slot(const deal_ngrams *g);

// Reads whole characters as long as there is room for DEAL_NGRAMS_SLOTS_MAX more
// slots; returns the bytes read. slot (slot_cap,) gets `*n_slot` of them; those with a
// negative sign as ~slot.
size_t deal_ngrams_read(const deal_ngrams *g, deal_ngrams_state *s, const uint8_t *text,
                        size_t size, int32_t *slot, size_t slot_cap, size_t *n_slot);

// The slots that the text gets by ending here; at most DEAL_NGRAMS_SLOTS_MAX.
size_t deal_ngrams_finish(const deal_ngrams *g, const deal_ngrams_state *s,
                          int32_t *slot);

// Most slots that the text can get in n_byte more bytes and by ending then.
double deal_ngrams_reach(const deal_ngrams *g, const deal_ngrams_state *s,
                         int64_t n_byte);

#endif
