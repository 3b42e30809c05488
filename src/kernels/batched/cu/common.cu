// Shared by all kernels. REAL is the number type of activations, float or double, and decided where this is
// compiled. Activations are (probe, image, channel, row, column); a change that touches one channel per probe
// has one channel here, and a list says which.

typedef unsigned int uint;
typedef long long wide;

// Channel of the network that channel `slot` of a stored change is.
__device__ inline int channel_of(const uint* channels, int probe, int slot) {
    return channels ? (int)channels[probe] : slot;
}

// The change of `channel` at position `at` of a plane, if it is stored: sets `is_there`.
__device__ inline REAL change_at(
    const REAL* delta, const uint* channels, int probe, wide image, int n_channels, int channel, int plane, int at,
    bool* is_there
) {
    *is_there = delta && (!channels || (int)channels[probe] == channel);
    if (!*is_there) return 0;
    return channels ? delta[image * plane + at] : delta[(image * n_channels + channel) * plane + at];
}

// Change of max(a, 0) when a changes by y.
__device__ inline REAL relu_change(REAL a, REAL y) {
    REAL moved = a + y;
    if (a > 0) return moved > 0 ? y : -a;
    // A NaN must not look like zero.
    return moved > 0 || moved != moved ? moved : (REAL)0;
}

// Sum over the threads of a block, in a fixed order; the number of threads is a power of two.
__device__ inline double block_sum(double value, double* shared) {
    shared[threadIdx.x] = value;
    __syncthreads();
    for (uint half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    double sum = shared[0];
    __syncthreads();
    return sum;
}
