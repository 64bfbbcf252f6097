/* Rewards for Python: checks of a capsule, the trampoline to Python callables, and
 * RewardState, which advances any reward by hand.
 */
#ifndef DEAL_PYTHON_PY_REWARD_H
#define DEAL_PYTHON_PY_REWARD_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "common/reward.h"

// Functions of the module, ended by an empty entry:
//
//     python_reward(name, fn, low, high, bounds=None, is_pure=True) -> capsule
//     reward_info(capsule) -> (name, low, high, is_incremental, is_pure, n_hidden)
//     check_scores(name, result, n, low, high) -> list of float
extern PyMethodDef deal_py_reward_methods[];

// Adds the type RewardState to the module; -1 with an exception set on failure.
int deal_py_reward_register(PyObject *module);

// The reward in a capsule, after checks of all that a third party could get wrong; NULL
// with TypeError (no such capsule) or ValueError set. Borrowed from the capsule.
deal_reward *deal_py_reward_get(PyObject *capsule);

// A capsule of a native reward, which `destroy` frees; it is freed on failure, too.
PyObject *deal_py_reward_wrap(deal_reward *reward, PyCapsule_Destructor destroy,
                              void (*free_reward)(deal_reward *));

#endif
