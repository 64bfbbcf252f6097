/* The GGUF reader on arbitrary bytes: no crash, no read outside the file.
 *
 * libFuzzer's entry point; built with DEAL_FUZZ_MAIN it is a program of its own that
 * mutates a small valid file, deterministic, for compilers without libFuzzer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rng.h"
#include "model/gguf_hparams.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    deal_gguf gguf;
    deal_hparams hparams;
    deal_error err;
    if (deal_gguf_parse(data, size, &gguf, &err) != DEAL_OK)
        return 0;
    unsigned sum = 0;
    for (int32_t i = 0; i < gguf.n_entry; i++) {
        const deal_gguf_entry *entry = &gguf.entry[i];
        const uint8_t *cursor = entry->data;
        for (uint64_t j = 0; entry->type == DEAL_GGUF_STRING && j < entry->n_value;
             j++) {
            const char *text;
            size_t text_size;
            deal_gguf_string_next(&cursor, &text, &text_size);
            for (size_t k = 0; k < text_size; k++)
                sum += (unsigned char)text[k];
        }
    }
    for (int32_t i = 0; i < gguf.tensors.n_tensor; i++) {
        const deal_tensor *tensor = &gguf.tensors.tensor[i];
        for (size_t k = 0; k < tensor->size; k++)
            sum += ((const uint8_t *)tensor->data)[k];
    }
    (void)deal_gguf_hparams(&gguf, &hparams, &err);
    deal_gguf_close(&gguf);
    return sum == 0xdeadbeef; // uses what was read
}

#ifdef DEAL_FUZZ_MAIN

#    define N_RUN 200000

static uint8_t file[4096];
static size_t n_file;

static void
put(uint64_t value, int n_byte)
{
    for (int i = 0; i < n_byte; i++)
        file[n_file++] = (uint8_t)(value >> (8 * i));
}

static void
put_text(const char *text)
{
    put(strlen(text), 8);
    memcpy(file + n_file, text, strlen(text));
    n_file += strlen(text);
}

static void
put_u32(const char *key, uint32_t value)
{
    put_text(key);
    put(DEAL_GGUF_UINT32, 4);
    put(value, 4);
}

static void
make_file(void)
{
    put(0x46554747u, 4);
    put(3, 4);
    put(2, 8);
    put(9, 8);
    put_text("general.architecture");
    put(DEAL_GGUF_STRING, 4);
    put_text("llama");
    put_u32("llama.block_count", 1);
    put_u32("llama.context_length", 8);
    put_u32("llama.embedding_length", 4);
    put_u32("llama.feed_forward_length", 4);
    put_u32("llama.attention.head_count", 2);
    put_u32("general.alignment", 32);
    put_text("llama.attention.layer_norm_rms_epsilon");
    put(DEAL_GGUF_FLOAT32, 4);
    put(0x3727c5ac, 4);
    put_text("tokenizer.ggml.tokens");
    put(DEAL_GGUF_ARRAY, 4);
    put(DEAL_GGUF_STRING, 4);
    put(2, 8);
    put_text("a");
    put_text("b");
    put_text("token_embd.weight");
    put(2, 4);
    put(4, 8);
    put(2, 8);
    put(DEAL_TYPE_F32, 4);
    put(0, 8);
    put_text("output_norm.weight");
    put(1, 4);
    put(4, 8);
    put(DEAL_TYPE_F32, 4);
    put(32, 8);
    n_file = (n_file + 31) / 32 * 32 + 48;
}

int
main(void)
{
    make_file();
    deal_gguf gguf;
    deal_hparams hparams;
    deal_error err;
    if (deal_gguf_parse(file, n_file, &gguf, &err) != DEAL_OK ||
        deal_gguf_hparams(&gguf, &hparams, &err) != DEAL_OK) {
        printf("the valid file was refused: %s\n", err.message);
        return 1;
    }
    deal_gguf_close(&gguf);
    int n_accepted = 0;
    for (uint64_t run = 0; run < N_RUN; run++) {
        size_t size = n_file;
        if (deal_rng_uniform(1, 0, run) < 0.2)
            size = (size_t)(deal_rng_uniform(1, 1, run) * (double)n_file);
        uint8_t *copy = malloc(size ? size : 1); // exact, so that ASan sees the end
        memcpy(copy, file, size);
        int n_change = (int)(deal_rng_uniform(1, 2, run) * 5);
        for (int i = 0; i < n_change && size > 0; i++) {
            size_t at =
                (size_t)(deal_rng_uniform(2 + (uint64_t)i, 3, run) * (double)size);
            double kind = deal_rng_uniform(2 + (uint64_t)i, 4, run);
            uint8_t any = (uint8_t)(deal_rng_uniform(2 + (uint64_t)i, 5, run) * 256);
            copy[at] = kind < 0.3 ? 0xff : (kind < 0.5 ? 0 : any);
        }
        LLVMFuzzerTestOneInput(copy, size);
        if (deal_gguf_parse(copy, size, &gguf, &err) == DEAL_OK) {
            n_accepted++;
            deal_gguf_close(&gguf);
        }
        free(copy);
    }
    printf("fuzz_gguf: %d runs, %d files accepted\n", N_RUN, n_accepted);
    return n_accepted == 0 || n_accepted == N_RUN;
}

#endif
