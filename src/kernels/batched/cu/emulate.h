// Runs CUDA kernels on the host, one thread of a block after the other, so that tests can hold their source to
// the functions on the CPU where there is no GPU. Every thread has a stack of its own and gives way at barriers.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <ucontext.h>
#include <utility>

#define __device__
#define __global__
#define __launch_bounds__(n)
#define __shared__

struct Position {
    unsigned x, y, z;
};
static Position threadIdx, blockIdx, blockDim;

extern "C" {
// Dynamic shared memory of one block: as much as a kernel has without asking for more.
double shared[48 * 1024 / sizeof(double)];
}

template <class T>
static T min(T a, T b) {
    return a < b ? a : b;
}

static const unsigned MAX_THREADS = 1024;
static const size_t STACK = 64 * 1024;
static char stacks[MAX_THREADS][STACK];
static ucontext_t scheduler, threads[MAX_THREADS];
static bool is_done[MAX_THREADS];

static void __syncthreads() { swapcontext(&threads[threadIdx.x], &scheduler); }

static void (*body)(void*);
static void* body_args;

static void enter() {
    body(body_args);
    is_done[threadIdx.x] = true;
    // Returning goes on in the scheduler.
}

// Runs one block. False if some threads ended while others wait at a barrier.
static bool run_block() {
    for (unsigned thread = 0; thread < blockDim.x; thread++) {
        getcontext(&threads[thread]);
        threads[thread].uc_stack.ss_sp = stacks[thread];
        threads[thread].uc_stack.ss_size = STACK;
        threads[thread].uc_link = &scheduler;
        makecontext(&threads[thread], enter, 0);
        is_done[thread] = false;
    }
    // What a kernel does not write must not look written.
    memset(shared, 0xFF, sizeof shared);
    for (;;) {
        unsigned n_done = 0;
        for (unsigned thread = 0; thread < blockDim.x; thread++) {
            threadIdx.x = thread;
            swapcontext(&scheduler, &threads[thread]);
            n_done += is_done[thread];
        }
        if (n_done == blockDim.x) return true;
        if (n_done > 0) return false;
    }
}

template <class... Args, size_t... I>
static void call(void (*kernel)(Args...), void** args, std::index_sequence<I...>) {
    kernel(*(Args*)args[I]...);
}

template <class... Args>
static int launch(void (*kernel)(Args...), const unsigned* grid, unsigned n_threads, void** args, int n_args) {
    static void (*wanted)(Args...);
    wanted = kernel;
    if (sizeof...(Args) != (size_t)n_args) return 2;
    body = [](void* args) { call(wanted, (void**)args, std::index_sequence_for<Args...>()); };
    body_args = args;
    blockDim = {n_threads, 1, 1};
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++)
                if (!run_block()) return 3;
    return 0;
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// To nearest, ties away from zero; 13 bits of the mantissa are lost.
static uint32_t host_tf32(float value) { return (bits_of(value) + 0x1000u) & ~0x1FFFu; }

// To nearest, ties to even; the upper half remains.
static uint32_t host_bf16(float value) {
    uint32_t bits = bits_of(value);
    return (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16;
}

// The product of a warp's fragments, as the documentation of the instruction places them.
static void host_multiply(float* sums, const uint32_t* a, const uint32_t* b, bool is_bf16) {
    static uint32_t all_a[MAX_THREADS][4], all_b[MAX_THREADS][2];
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x - lane;
    memcpy(all_a[threadIdx.x], a, sizeof all_a[0]);
    memcpy(all_b[threadIdx.x], b, sizeof all_b[0]);
    __syncthreads();
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        double sum = sums[i];
        for (unsigned k = 0; k < 8; k++) {
            uint32_t left = all_a[warp + row % 8 * 4 + k % 4][row / 8 + k / 4 * 2];
            uint32_t right = all_b[warp + column * 4 + k % 4][k / 4];
            if (is_bf16) {
                sum += (double)float_of(left << 16) * float_of(right << 16);
                sum += (double)float_of(left & 0xFFFF0000u) * float_of(right & 0xFFFF0000u);
            } else {
                sum += (double)float_of(left) * float_of(right);
            }
        }
        sums[i] = (float)sum;
    }
    __syncthreads();
}
