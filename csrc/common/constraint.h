/* Seam 3: a constraint is a matcher that says which tokens may come next.
 *
 * This header is public: `deal.get_include()` names its folder. It compiles alone, in C
 * and in C++. A C extension offers a constraint of its own as a PyCapsule named
 * DEAL_CONSTRAINT_CAPSULE whose pointer is a `deal_constraint`; the capsule's
 * destructor frees it. Functions run without the GIL, on the thread of the search.
 *
 * A constraint is a pure function of the tokens of the completion. The search keeps a
 * state for the contexts that it may still reach and asks each of them once.
 *
 * End tokens are not the constraint's to allow: the search allows them where the state
 * is accepting, and where no other token is allowed, so that every text can end.
 *
 * Functions return 0, or 1 after writing a zero-terminated UTF-8 message of at most
 * DEAL_CONSTRAINT_MESSAGE_SIZE bytes; the search then stops with that message and the
 * constraint's name. DEAL_CONSTRAINT_RAISED is for wrappers that have set a Python
 * exception.
 */
#ifndef DEAL_COMMON_CONSTRAINT_H
#define DEAL_COMMON_CONSTRAINT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DEAL_CONSTRAINT_ABI 1u
#define DEAL_CONSTRAINT_CAPSULE "deal.constraint.v1"
#define DEAL_CONSTRAINT_MESSAGE_SIZE 256
#define DEAL_CONSTRAINT_RAISED (-1)

typedef struct deal_constraint {
    uint32_t abi_version; // DEAL_CONSTRAINT_ABI
    uint32_t struct_size; // sizeof(deal_constraint)
    void *self;           // the constraint's own data, first argument of every function
    const char *name;     // zero-terminated UTF-8, for error messages
    int32_t n_vocab;      // ids that it knows: [0, n_vocab); others are never allowed
    size_t state_size;    // bytes of a state; the search allocates it, aligned to 16

    // Writes the state of the empty completion. On failure nothing is left to drop.
    int (*init)(void *self, void *state, char *message);

    // Makes `to` (uninitialised) equal to `from`. NULL: the state is plain bytes,
    // copied by memcpy.
    int (*fork)(void *self, void *to, const void *from, char *message);

    // Frees what a state owns besides its own bytes. NULL: nothing.
    void (*drop)(void *self, void *state);

    // Appends one token, which the state allows and which is no end token.
    int (*advance)(void *self, void *state, int32_t token, char *message);

    // Sets bit `id % 32` of word `id / 32` of `bits`, ((n_vocab + 31) / 32,) zeros, for
    // every token that may come next; bits of end tokens are not looked at.
    // `is_accepting`: 1 where the completion may end here. The state stays what it is,
    // but for what it remembers.
    int (*mask)(void *self, void *state, uint32_t *bits, int32_t *is_accepting,
                char *message);

    // Up to `n_max` tokens that will probably follow, all of them allowed one after the
    // other, and their number: where the form leaves no choice but how it is cut into
    // tokens. A guess that spares passes and changes nothing. NULL: none.
    int (*guess)(void *self, void *state, int32_t *token, int32_t n_max, int32_t *n,
                 char *message);
} deal_constraint;

#ifdef __cplusplus
}
#endif

#endif
