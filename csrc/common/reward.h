/* Seam 2: a reward is a state that advances.
 *
 * This header is public: `deal.get_include()` names its folder. It compiles alone, in C
 * and in C++. A C extension offers a scorer of its own as a PyCapsule named
 * DEAL_REWARD_CAPSULE whose pointer is a `deal_reward`; the capsule's destructor frees
 * it. Native functions run without the GIL, on the thread that runs the search; where
 * several prompts are searched at a time, on several: each search has states of its
 * own, but all have the same `self`.
 *
 * A reward is a pure function of the prompt and the completion, unless `is_impure` says
 * that it is not: higher is better. It is written in one of two forms; the other form's
 * members are NULL.
 *
 * - Incremental: `state_size`, `init`, `advance`, `score`. The search keeps one state
 *   for each hypothesis and rollout and advances it token by token.
 * - On texts: `score_texts`, one call per step with every completion to score.
 *
 * An incremental reward can also ask for the model's hidden states: it is then a reward
 * for models of that shape, and `observe` tells its state those of every token.
 *
 * Bytes are UTF-8 and always whole characters. A token may add none (a special token,
 * or part of a character: the character comes with the token that completes it).
 *
 * Functions return 0, or 1 after writing a zero-terminated UTF-8 message of at most
 * DEAL_REWARD_MESSAGE_SIZE bytes; the search then stops with that message and the
 * reward's name. DEAL_REWARD_RAISED is for wrappers that have set a Python exception.
 *
 * A member that is added at the end changes struct_size; any other change
 * DEAL_REWARD_ABI and the capsule's name. Both must be those of the running deal.
 * docs/native-rewards.md has the whole contract, with an example.
 */
#ifndef DEAL_COMMON_REWARD_H
#define DEAL_COMMON_REWARD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DEAL_REWARD_ABI 1u
#define DEAL_REWARD_CAPSULE "deal.reward.v1"
#define DEAL_REWARD_MESSAGE_SIZE 256
#define DEAL_REWARD_RAISED (-1)

// What a reward is told of the request when a generation starts.
typedef struct deal_reward_prompt {
    const char *text;       // UTF-8, not zero-terminated; valid during init only
    size_t size;            // bytes
    int32_t n_new_max;      // most tokens the completion can get
    int32_t token_size_max; // most bytes one token can add
} deal_reward_prompt;

// One completion to score, for `score_texts`.
typedef struct deal_reward_text {
    const char *text; // UTF-8, not zero-terminated; valid during the call only
    size_t size;      // bytes
    int32_t n_tokens;
    int32_t is_finished; // 1: an end token or stop string closed it
} deal_reward_text;

typedef struct deal_reward {
    uint32_t abi_version; // DEAL_REWARD_ABI
    uint32_t struct_size; // sizeof(deal_reward)
    void *self;           // the scorer's own data, first argument of every function
    const char *name;     // zero-terminated UTF-8, for error messages and reports
    double low, high;     // every score lies in [low, high]; -+INFINITY: unknown

    // Incremental form.
    size_t state_size; // bytes of one state; the search allocates it, aligned to 16

    // Writes the state of the empty completion. On failure nothing is left to drop.
    int (*init)(void *self, void *state, const deal_reward_prompt *prompt,
                char *message);

    // Makes `to` (uninitialised) equal to `from`. NULL: the state is plain bytes,
    // copied by memcpy.
    int (*fork)(void *self, void *to, const void *from, char *message);

    // Frees what a state owns besides its own bytes. NULL: nothing.
    void (*drop)(void *self, void *state);

    // Appends one token: its id and the `size` bytes of text that it completes. Id -1
    // is text alone and no token: what the tokens before have left pending, which comes
    // before a score, or a text that was never cut into tokens.
    int (*advance)(void *self, void *state, int32_t token, const char *bytes,
                   size_t size, char *message);

    // Score of the completion so far; `is_finished` as in deal_reward_text.
    int (*score)(void *self, const void *state, int32_t is_finished, double *score,
                 char *message);

    // The range of the scores that this completion can still get when at most
    // `n_tokens_left` tokens follow, ended or not. Bounds only tighten: what those of
    // the completion's beginning, or for more tokens, have ruled out does not come
    // back. NULL: [low, high].
    int (*bounds)(void *self, const void *state, int32_t n_tokens_left, double *low,
                  double *high, char *message);

    // Form on texts: scores (n_texts,) of completions of one prompt.
    int (*score_texts)(void *self, const char *prompt, size_t prompt_size,
                       const deal_reward_text *texts, int32_t n_texts, double *scores,
                       char *message);

    // Form on texts: ranges low and high (n_texts,) of the scores that completions
    // which begin with these texts can still get when at most `n_tokens_left[i]` tokens
    // follow, ended or not. The texts are final, their is_finished 0; tokens whose text
    // is still pending count among those that follow. NULL: [low, high].
    int (*bounds_texts)(void *self, const char *prompt, size_t prompt_size,
                        const deal_reward_text *texts, const int32_t *n_tokens_left,
                        int32_t n_texts, double *low, double *high, char *message);

    // 1: the same text may score differently when it is asked again, by a counter or a
    // draw. Then nothing is memoised and no bounds are asked, and mode "exact" calls
    // score or score_texts for just the completions that mode "naive" scores, in its
    // order and its batches. Only that is promised: states are made, forked and
    // advanced as the search likes, also in vain.
    int32_t is_impure;

    // Hidden states, for the incremental form; zeros where none are asked for.
    int32_t n_hidden_layers;
    const int32_t *hidden_layers; // (n_hidden_layers,) from 0: the residual stream
                                  // after that layer; -1: the final normed state
    int32_t n_embd;               // features of a state, those of the model

    // Tells the states hidden (n_hidden_layers, n_embd) of one token, each once and in
    // order: first, with `n_tokens` 0, those of the prompt's last token, then those of
    // the completion's `n_tokens`-th. An end token has none. They come after the
    // token's advance, maybe after further ones, and all of them before a score;
    // `bounds` is asked of states that were not told the newest.
    int (*observe)(void *self, void *state, int32_t n_tokens, const float *hidden,
                   char *message);

    // 1, for the form on texts: n_tokens and is_finished of a text are not looked at,
    // so that the same text is asked about once, however its tokens fall.
    int32_t is_text_alone;
} deal_reward;

#ifdef __cplusplus
}
#endif

#endif
