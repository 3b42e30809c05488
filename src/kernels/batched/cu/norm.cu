// Batch normalization.

// Where a thread stands in a channel, and its step to the numbers that are blockDim.x on: a division of 64-bit
// numbers per number would cost more than all the rest.
struct Walk {
    wide image, at, images, pixels;
    int plane;
    __device__ Walk(int plane) : image(threadIdx.x / plane), at(threadIdx.x % plane), images(blockDim.x / plane), pixels(blockDim.x % plane), plane(plane) {}
    __device__ void step() {
        image += images;
        at += pixels;
        if (at >= plane) {
            at -= plane;
            image++;
        }
    }
};

// Mean and biased variance of every channel (blockIdx.x) of every probe's activation.
extern "C" __global__ __launch_bounds__(1024) void moments(const REAL* x, double* out, int n_images, int n_channels, int plane) {
    extern __shared__ double shared[];
    int channel = blockIdx.x % n_channels, probe = blockIdx.x / n_channels;
    wide n = (wide)n_images * plane;
    const REAL* first = x + ((wide)probe * n_images * n_channels + channel) * plane;
    double sum = 0;
    wide stride = (wide)n_channels * plane;
    for (Walk walk(plane); walk.image < n_images; walk.step()) sum += first[walk.image * stride + walk.at];
    double mean = block_sum(sum, shared) / n;
    // Deviations from the rounded mean; what the rounding moves is put right exactly.
    REAL center = (REAL)mean;
    sum = 0;
    for (Walk walk(plane); walk.image < n_images; walk.step()) {
        double deviation = first[walk.image * stride + walk.at] - center;
        sum += deviation * deviation;
    }
    double squares = block_sum(sum, shared) / n;
    if (threadIdx.x == 0) {
        double shift = mean - (double)center;
        out[2 * blockIdx.x] = mean;
        out[2 * blockIdx.x + 1] = squares - shift * shift;
    }
}

// The map itself, the addition of `other` and a ReLU. Strides are zero where all probes share something.
extern "C" __global__ void normalize(
    const REAL* x, const double* moments, const REAL* scales, const REAL* shifts, const REAL* other, REAL* out,
    wide x_stride, int moments_stride, wide scale_stride, wide shift_stride, wide other_stride, int n_images, int n_channels,
    int plane, double epsilon, int is_relu
) {
    int probe = blockIdx.z;
    wide at = (wide)blockIdx.x * blockDim.x + threadIdx.x, n = (wide)n_images * n_channels * plane;
    if (at >= n) return;
    int channel = (int)(at / plane % n_channels);
    const double* of = moments + (wide)probe * moments_stride + 2 * channel;
    REAL factor = (REAL)(scales[probe * scale_stride + channel] / sqrt(of[1] + epsilon));
    REAL value = (x[probe * x_stride + at] - (REAL)of[0]) * factor + shifts[probe * shift_stride + channel];
    if (other) value += other[probe * other_stride + at];
    if (is_relu && value < 0) value = 0;
    out[probe * n + at] = value;
}

// Per stored channel of every probe's change, with batch statistics: the map delta · (δ − pivot) +
// base · (z − mean) + constant that the change of the output is. Sums are of d = δ − pivot and of
// d (2 (z − mean) + d); the pivot, a number near δ, keeps the variance of a nearly uniform change.
extern "C" __global__ __launch_bounds__(1024) void norm_affine(
    const REAL* delta, const uint* channels, const REAL* z, const double* moments, const double* scales, REAL* out,
    int n_images, int n_stored, int n_channels, int plane, double epsilon
) {
    extern __shared__ double shared[];
    int slot = blockIdx.x % n_stored, probe = blockIdx.x / n_stored;
    int channel = channel_of(channels, probe, slot);
    wide n = (wide)n_images * plane;
    const REAL* first = delta + ((wide)probe * n_images * n_stored + slot) * plane;
    const REAL* first_z = z + (wide)channel * plane;
    REAL pivot = first[0], center = (REAL)moments[2 * channel];
    double sum = 0, sum_square = 0;
    wide stride = (wide)n_stored * plane, z_stride = (wide)n_channels * plane;
    for (Walk walk(plane); walk.image < n_images; walk.step()) {
        REAL d = first[walk.image * stride + walk.at] - pivot;
        sum += d;
        sum_square += d * (2 * (first_z[walk.image * z_stride + walk.at] - center) + d);
    }
    double mean = block_sum(sum, shared) / n;
    double square = block_sum(sum_square, shared) / n;
    if (threadIdx.x == 0) {
        double variance = moments[2 * channel + 1], change = square - mean * mean, scale = scales[channel];
        double r = 1 / sqrt(variance + epsilon);
        // A variance is not negative; rounding may say otherwise where it vanishes.
        double moved = 1 / sqrt(fmax(variance + change, 0.0) + epsilon);
        // The larger of a number and NaN is the number: what became NaN stays so.
        if (change != change) moved = change;
        REAL* at = out + 4 * (wide)blockIdx.x;
        at[0] = (REAL)(scale * moved);
        at[1] = pivot;
        at[2] = (REAL)(scale * (-change * r * moved / (1 / r + 1 / moved)));
        at[3] = (REAL)(-scale * moved * mean);
    }
}

// Change of the output of a batch norm, of the addition after it and of the ReLU after that.
extern "C" __global__ void norm_change(
    const REAL* delta, const uint* delta_channels, const REAL* affine, const REAL* added, const uint* added_channels,
    const REAL* z, const REAL* base, const REAL* other, const uint* out_channels, REAL* out, int affine_stride,
    int n_images, int n_stored, int n_channels, int plane, int is_seed, int is_relu
) {
    int probe = blockIdx.z;
    wide at = (wide)blockIdx.x * blockDim.x + threadIdx.x, n = (wide)n_images * n_stored * plane;
    if (at >= n) return;
    int pixel = (int)(at % plane), channel = channel_of(out_channels, probe, (int)(at / plane % n_stored));
    wide image = at / ((wide)plane * n_stored);
    wide batched = (wide)probe * n_images + image, here = (image * n_channels + channel) * plane + pixel;
    // Per channel of the base: mean, scale / sqrt(variance + epsilon), shift.
    REAL centered = z[here] - base[3 * channel];
    bool is_there;
    REAL change = change_at(delta, delta_channels, probe, batched, n_channels, channel, plane, pixel, &is_there);
    if (is_there || is_seed) {
        const REAL* of = affine + (wide)probe * affine_stride;
        // One entry where one channel changes; in eval mode one per channel of the network.
        if (affine_stride != 4) of += 4 * channel;
        change = of[0] * (change - of[1]) + (of[2] * centered + of[3]);
    }
    change += change_at(added, added_channels, probe, batched, n_channels, channel, plane, pixel, &is_there);
    if (is_relu) {
        REAL value = base[3 * channel + 1] * centered + base[3 * channel + 2];
        if (other) value += other[here];
        change = relu_change(value, change);
    }
    out[probe * n + at] = change;
}
