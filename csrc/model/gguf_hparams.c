#include "model/gguf_hparams.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

// What a file's architecture says beyond its keys.
typedef struct family {
    const char *name; // general.architecture, and the prefix of the keys
    deal_rope_pairing rope_pairing;
    bool has_qk_norm;
    int32_t swa_period; // every so many layers have no window: Gemma
    float rope_base;
} family;

static const family families[] = {
    {"llama", DEAL_ROPE_ADJACENT, false, 0, 1e4f},
    {"qwen2", DEAL_ROPE_HALVES, false, 0, 1e4f},
    {"qwen3", DEAL_ROPE_HALVES, true, 0, 1e4f},
    {"gemma2", DEAL_ROPE_HALVES, false, 2, 1e4f},
    {"gemma3", DEAL_ROPE_HALVES, true, 6, 1e6f},
};
#define FAMILY_NAMES "llama, qwen2, qwen3, gemma2 or gemma3"

// What the reading functions share.
typedef struct reader {
    const deal_gguf *gguf;
    const family *family;
    deal_hparams *hp;
    deal_error *err;
    char key[96]; // looked up last
} reader;

static const char *
key_of(reader *r, const char *name)
{
    snprintf(r->key, sizeof r->key, "%s.%s", r->family->name, name);
    return r->key;
}

static deal_status
get_i32(reader *r, const char *name, bool is_needed, int32_t *value)
{
    const char *key = key_of(r, name);
    uint64_t wide = (uint64_t)(int64_t)*value;
    DEAL_TRY(deal_gguf_get_uint(r->gguf, key, is_needed, &wide, r->err));
    if (wide > INT32_MAX)
        return deal_fail(r->err, DEAL_ERR_FORMAT,
                         "key %s: expected up to %d, got %" PRIu64, key, INT32_MAX,
                         wide);
    *value = (int32_t)wide;
    return DEAL_OK;
}

static deal_status
get_f32(reader *r, const char *name, bool is_needed, float *value)
{
    const char *key = key_of(r, name);
    const deal_gguf_entry *entry = deal_gguf_find(r->gguf, key);
    if (!entry && !is_needed)
        return DEAL_OK;
    if (!entry)
        return deal_fail(r->err, DEAL_ERR_FORMAT, "key %s is missing", key);
    if (entry->is_array ||
        (entry->type != DEAL_GGUF_FLOAT32 && entry->type != DEAL_GGUF_FLOAT64))
        return deal_fail(r->err, DEAL_ERR_FORMAT,
                         "key %s: expected a float, got type %d", key,
                         (int)entry->type);
    if (entry->type == DEAL_GGUF_FLOAT32) {
        memcpy(value, entry->data, sizeof *value);
    } else {
        double wide;
        memcpy(&wide, entry->data, sizeof wide);
        *value = (float)wide;
    }
    return DEAL_OK;
}

// The string under `key`, or NULL where it is missing.
static deal_status
get_string(const deal_gguf *gguf, const char *key, const char **text, size_t *size,
           deal_error *err)
{
    const deal_gguf_entry *entry = deal_gguf_find(gguf, key);
    *text = NULL;
    *size = 0;
    if (!entry)
        return DEAL_OK;
    if (entry->is_array || entry->type != DEAL_GGUF_STRING)
        return deal_fail(err, DEAL_ERR_FORMAT, "key %s: expected a string", key);
    const uint8_t *cursor = entry->data;
    deal_gguf_string_next(&cursor, text, size);
    return DEAL_OK;
}

static bool
is_text(const char *text, size_t size, const char *wanted)
{
    return text && size == strlen(wanted) && memcmp(text, wanted, size) == 0;
}

static deal_status
refuse(const char *key, const char *wanted, const char *text, size_t size,
       deal_error *err)
{
    return deal_fail(err, DEAL_ERR_UNSUPPORTED, "%s: expected %s, got \"%.*s\"", key,
                     wanted, size < 64 ? (int)size : 64, text ? text : "");
}

static deal_status
find_family(const deal_gguf *gguf, const family **out, deal_error *err)
{
    const char *key = "general.architecture", *text;
    size_t size;
    DEAL_TRY(get_string(gguf, key, &text, &size, err));
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (is_text(text, size, families[i].name)) {
            *out = &families[i];
            return DEAL_OK;
        }
    return refuse(key, FAMILY_NAMES, text, size, err);
}

static deal_status
get_rope(reader *r)
{
    deal_hparams *hp = r->hp;
    const char *key = key_of(r, "rope.scaling.type"), *text;
    size_t size;
    DEAL_TRY(get_string(r->gguf, key, &text, &size, r->err));
    bool is_linear = is_text(text, size, "linear");
    if (text && !is_linear && !is_text(text, size, "none"))
        return refuse(key, "\"none\" or \"linear\"", text, size, r->err);
    hp->rope_dim = hp->head_dim;
    hp->rope_base = r->family->rope_base;
    DEAL_TRY(get_i32(r, "rope.dimension_count", false, &hp->rope_dim));
    DEAL_TRY(get_f32(r, "rope.freq_base", false, &hp->rope_base));
    if (is_linear) {
        hp->rope_scaling = DEAL_ROPE_SCALING_LINEAR;
        DEAL_TRY(get_f32(r, "rope.scaling.factor", true, &hp->rope_factor));
    }
    return DEAL_OK;
}

static deal_status
get_heads(reader *r)
{
    deal_hparams *hp = r->hp;
    DEAL_TRY(get_i32(r, "attention.head_count", true, &hp->n_head));
    hp->n_head_kv = hp->n_head;
    DEAL_TRY(get_i32(r, "attention.head_count_kv", false, &hp->n_head_kv));
    hp->head_dim = hp->n_head > 0 ? hp->n_embd / hp->n_head : 0;
    DEAL_TRY(get_i32(r, "attention.key_length", false, &hp->head_dim));
    int32_t value_dim = hp->head_dim;
    DEAL_TRY(get_i32(r, "attention.value_length", false, &value_dim));
    if (value_dim != hp->head_dim)
        return deal_fail(r->err, DEAL_ERR_UNSUPPORTED,
                         "%s: expected key_length %d, got %d", r->key, hp->head_dim,
                         value_dim);
    return DEAL_OK;
}

static bool
is_family(const reader *r, const char *name)
{
    return strcmp(r->family->name, name) == 0;
}

// Mistral is a "llama" with a window in every layer. Which layers of a Qwen have one,
// its files do not say.
static deal_status
get_window(reader *r)
{
    deal_hparams *hp = r->hp;
    int32_t n = 0;
    DEAL_TRY(get_i32(r, "attention.sliding_window", false, &n));
    if (n == 0 || n >= hp->n_ctx_train)
        return DEAL_OK;
    if (!is_family(r, "llama"))
        return deal_fail(r->err, DEAL_ERR_UNSUPPORTED,
                         "%s: a window of %d, shorter than the context of %d, is not "
                         "supported",
                         r->key, n, hp->n_ctx_train);
    hp->n_swa = n;
    return DEAL_OK;
}

// The scale of scores is that of the head's dimension, but of n_embd / n_head in the
// models of 27B, which are known by their layers alone.
static deal_status
get_gemma_scores(reader *r)
{
    deal_hparams *hp = r->hp;
    bool is_second = is_family(r, "gemma2");
    if (hp->n_layer == (is_second ? 46 : 62) && hp->n_head > 0)
        hp->attn_scale = 1.0f / sqrtf((float)hp->n_embd / (float)hp->n_head);
    DEAL_TRY(get_f32(r, "attention.scale", false, &hp->attn_scale));
    hp->attn_softcap = is_second ? 50.0f : 0.0f;
    hp->final_softcap = is_second ? 30.0f : 0.0f;
    DEAL_TRY(get_f32(r, "final_logit_softcapping", false, &hp->final_softcap));
    DEAL_TRY(get_f32(r, "attn_logit_softcapping", false, &hp->attn_softcap));
    if (!is_second && hp->attn_softcap != 0.0f)
        return deal_fail(r->err, DEAL_ERR_UNSUPPORTED, "%s: a gemma3 has none, got %g",
                         r->key, (double)hp->attn_softcap);
    return DEAL_OK;
}

static deal_status
get_gemma(reader *r)
{
    deal_hparams *hp = r->hp;
    bool is_second = is_family(r, "gemma2");
    hp->has_post_norm = true;
    hp->activation = DEAL_ACTIVATION_GELU;
    hp->embd_scale = sqrtf((float)hp->n_embd);
    hp->n_swa = is_second ? 4096 : 0;
    hp->swa_period = r->family->swa_period;
    DEAL_TRY(get_i32(r, "attention.sliding_window", false, &hp->n_swa));
    DEAL_TRY(get_i32(r, "attention.sliding_window_pattern", false, &hp->swa_period));
    if (hp->swa_period == 0)
        return deal_fail(r->err, DEAL_ERR_FORMAT, "key %s: expected 1 or more, got 0",
                         r->key);
    if (!is_second) {
        hp->rope_base_local = 10000.0f;
        DEAL_TRY(get_f32(r, "rope.freq_base_swa", false, &hp->rope_base_local));
    }
    return get_gemma_scores(r);
}

// The vocabulary's size is said up to three times; all must agree.
static deal_status
get_vocab(reader *r)
{
    deal_hparams *hp = r->hp;
    const deal_tensor *embedding =
        deal_tensor_find(&r->gguf->tensors, "token_embd.weight");
    if (!embedding || embedding->n_dim != 2)
        return deal_fail(r->err, DEAL_ERR_FORMAT,
                         "tensor token_embd.weight: expected two dimensions, got %d",
                         embedding ? embedding->n_dim : 0);
    hp->n_vocab = (int32_t)embedding->dim[0];
    int32_t n_said = hp->n_vocab;
    DEAL_TRY(get_i32(r, "vocab_size", false, &n_said));
    if (n_said != hp->n_vocab)
        return deal_fail(r->err, DEAL_ERR_FORMAT,
                         "key %s: expected %d (rows of token_embd.weight), got %d",
                         r->key, hp->n_vocab, n_said);
    const deal_gguf_entry *tokens = deal_gguf_find(r->gguf, "tokenizer.ggml.tokens");
    if (tokens && tokens->n_value != (uint64_t)hp->n_vocab)
        return deal_fail(r->err, DEAL_ERR_FORMAT,
                         "key tokenizer.ggml.tokens: expected %d tokens (rows of "
                         "token_embd.weight), got %" PRIu64,
                         hp->n_vocab, tokens->n_value);
    return DEAL_OK;
}

deal_status
deal_gguf_hparams(const deal_gguf *gguf, deal_hparams *out, deal_error *err)
{
    deal_hparams hp = {0};
    reader r = {.gguf = gguf, .hp = &hp, .err = err};
    DEAL_TRY(find_family(gguf, &r.family, err));
    hp.rope_pairing = r.family->rope_pairing;
    hp.has_qk_norm = r.family->has_qk_norm;
    int32_t n_expert = 0;
    DEAL_TRY(get_i32(&r, "expert_count", false, &n_expert));
    if (n_expert > 0)
        return deal_fail(err, DEAL_ERR_UNSUPPORTED,
                         "%s: mixtures of experts are not supported, got %d", r.key,
                         n_expert);
    DEAL_TRY(get_i32(&r, "block_count", true, &hp.n_layer));
    DEAL_TRY(get_i32(&r, "context_length", true, &hp.n_ctx_train));
    DEAL_TRY(get_i32(&r, "embedding_length", true, &hp.n_embd));
    DEAL_TRY(get_i32(&r, "feed_forward_length", true, &hp.n_ff));
    DEAL_TRY(get_f32(&r, "attention.layer_norm_rms_epsilon", true, &hp.norm_eps));
    DEAL_TRY(get_heads(&r));
    DEAL_TRY(get_rope(&r));
    DEAL_TRY(r.family->swa_period ? get_gemma(&r) : get_window(&r));
    DEAL_TRY(get_vocab(&r));
    hp.is_tied = deal_tensor_find(&gguf->tensors, "output.weight") == NULL;
    DEAL_TRY(deal_hparams_check(&hp, err));
    *out = hp;
    return DEAL_OK;
}
