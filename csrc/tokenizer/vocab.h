/* The piece table: what every token id stands for, as bytes. Immutable after creation.
 *
 * Encoding text is the tokenizer library's work; this is the way back, which rewards
 * need at every step without the GIL. See detok.h for the incremental part.
 */
#ifndef DEAL_TOKENIZER_VOCAB_H
#define DEAL_TOKENIZER_VOCAB_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

typedef enum deal_piece_kind {
    DEAL_PIECE_TEXT = 0,    // bytes stand for themselves
    DEAL_PIECE_SPECIAL = 1, // decodes to nothing (skip_special_tokens)
    DEAL_PIECE_BYTE = 2,    // byte fallback: one raw byte, `<0xNN>`
    DEAL_PIECE_LITERAL = 3, // as TEXT, and a leading space of its own is never dropped
} deal_piece_kind;

// How raw bytes that are not UTF-8 become text, as the library that encodes has it.
typedef enum deal_byte_rule {
    DEAL_BYTE_RULE_STREAM =
        0,                   // byte-level BPE: lossy decoding of the whole byte stream
    DEAL_BYTE_RULE_RUN = 1,  // tokenizers' ByteFallback: a run of byte pieces is valid
                             // as a whole, or one U+FFFD for each byte
    DEAL_BYTE_RULE_CHAR = 2, // sentencepiece: U+FFFD for each byte outside a character
} deal_byte_rule;

// What becomes of spaces before the text. CHAR drops those of TEXT pieces
// (sentencepiece decodes piece by piece); the other rules drop a space of the text
// itself, whatever piece it came from. `false` and `true` convert to the first two.
typedef enum deal_leading_space {
    DEAL_LEADING_SPACE_KEEP = 0,
    DEAL_LEADING_SPACE_DROP_ONE = 1, // the text's first piece loses one leading space
    DEAL_LEADING_SPACE_DROP_EACH =
        2, // so does every piece until there is text; for CHAR
} deal_leading_space;

typedef struct deal_vocab deal_vocab;

// Copies `n_vocab` pieces. Piece i is bytes[offset[i], offset[i + 1]), already with
// real spaces instead of U+2581 and raw bytes instead of byte-level symbols; kind[i] is
// a deal_piece_kind. Fails with FORMAT where offsets do not rise, a kind is unknown or
// a BYTE piece is not one byte, INVALID_ARG for an unknown rule. Caller frees with
// deal_vocab_free().
deal_status deal_vocab_new(int32_t n_vocab, const uint8_t *bytes, size_t bytes_size,
                           const int64_t *offset, const uint8_t *kind,
                           deal_byte_rule byte_rule, deal_leading_space leading_space,
                           deal_vocab **vocab, deal_error *err);
void deal_vocab_free(deal_vocab *vocab);

int32_t deal_vocab_size(const deal_vocab *vocab);
// Bytes of piece `token`, in [0, n_vocab); borrowed from `vocab`.
const uint8_t *deal_vocab_piece(const deal_vocab *vocab, int32_t token, size_t *size);
deal_piece_kind deal_vocab_piece_kind(const deal_vocab *vocab, int32_t token);
// Most bytes of text that one token can complete on its own. With RUN, a piece that
// ends a run of n pending byte pieces brings up to 3 n bytes besides.
size_t deal_vocab_piece_size_max(const deal_vocab *vocab);
deal_byte_rule deal_vocab_byte_rule(const deal_vocab *vocab);
deal_leading_space deal_vocab_leading_space(const deal_vocab *vocab);

#endif
