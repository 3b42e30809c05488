// All kernels as functions of a shared library; see emulate.h.

#include "emulate.h"

#include "common.cu"
#include "conv.cu"
#include "norm.cu"
#include "pointwise.cu"
#include "loss.cu"

#define KERNEL(name) \
    if (!strcmp(wanted_name, #name)) return launch(name, grid, n_threads, args, n_args);

// 0, or what is wrong: 1 no such kernel, 2 another number of arguments, 3 a barrier that not all threads reach.
extern "C" int emulate(const char* wanted_name, const unsigned* grid, unsigned n_threads, void** args, int n_args) {
    KERNEL(conv)
#ifdef TENSOR_CORES
    KERNEL(conv_tf32)
    KERNEL(conv_bf16)
#endif
    KERNEL(conv_seed)
    KERNEL(moments)
    KERNEL(normalize)
    KERNEL(norm_affine)
    KERNEL(norm_change)
    KERNEL(add_change)
    KERNEL(relu_rule)
    KERNEL(max_pool_change)
    KERNEL(cross_entropy)
    KERNEL(cross_entropy_change)
    KERNEL(squared_error)
    KERNEL(squared_error_change)
    return 1;
}
