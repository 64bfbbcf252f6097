/* The kernels in plain C, for any processor. */
#include "kernels/multiply_plain.h"

#define DEAL_KERNELS_SET deal_kernels_plain
#define DEAL_KERNELS_NAME "plain"
#define DEAL_KERNELS_UNSIGNED false
#define N_VEC 4
#define N_QUERY 1
#include "kernels/kernels_body.h"
