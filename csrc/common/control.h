/* An edit of the final normed state, written in C.
 *
 * This header is public: `deal.get_include()` names its folder. It compiles alone, in C
 * and in C++. A C extension offers an edit as a PyCapsule named DEAL_CONTROL_CAPSULE
 * whose pointer is a `deal_control`; the capsule's destructor frees it. The function
 * runs without the GIL, on the thread that runs the forward pass.
 *
 * A state's edit is a pure function of that state: which others came with it depends on
 * the batch, and results do not depend on the batch.
 *
 * The function returns 0, or 1 after writing a zero-terminated UTF-8 message of at most
 * DEAL_CONTROL_MESSAGE_SIZE bytes; the pass then fails with that message and the
 * control's name. DEAL_CONTROL_RAISED is for wrappers that have set a Python exception.
 */
#ifndef DEAL_COMMON_CONTROL_H
#define DEAL_COMMON_CONTROL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DEAL_CONTROL_ABI 1u
#define DEAL_CONTROL_CAPSULE "deal.control.v1"
#define DEAL_CONTROL_MESSAGE_SIZE 256
#define DEAL_CONTROL_RAISED (-1)

typedef struct deal_control {
    uint32_t abi_version; // DEAL_CONTROL_ABI
    uint32_t struct_size; // sizeof(deal_control)
    void *self;           // the edit's own data, first argument of the function
    const char *name;     // zero-terminated UTF-8, for error messages

    // Edits states (n_state, n_embd) in place; every number must stay finite.
    int (*edit)(void *self, float *states, int32_t n_state, int32_t n_embd,
                char *message);
} deal_control;

#ifdef __cplusplus
}
#endif

#endif
