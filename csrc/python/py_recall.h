/* deal._core.Recall: what searches of one prompt have been told. */
#ifndef DEAL_PYTHON_PY_RECALL_H
#define DEAL_PYTHON_PY_RECALL_H

#include "python/py_model.h"
#include "search/memo.h"
#include "search/recall.h"

typedef struct PyRecall {
    PyObject_HEAD
    PySession *session; // strong references; the recall borrows from both
    PyObject *controls;
    deal_recall *recall;
    deal_memo memo; // of the rewards' scores
} PyRecall;

// The object as one over that session and those controls, borrowed, or NULL for None.
// TypeError, or ValueError where it is over others, and -1 otherwise.
int deal_py_recall_get(PyObject *module, PyObject *object, const PyLm *session,
                       PyObject *controls, PyRecall **recall);

#endif
