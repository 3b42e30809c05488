// Changes of activations through layers without parameters.

// Sum of two changes, over the channels that either touches; the second may be missing.
extern "C" __global__ void add_change(
    const REAL* a, const uint* a_channels, const REAL* b, const uint* b_channels, const uint* out_channels,
    REAL* out, int n_images, int n_stored, int n_channels, int plane
) {
    int probe = blockIdx.z;
    wide at = (wide)blockIdx.x * blockDim.x + threadIdx.x, n = (wide)n_images * n_stored * plane;
    if (at >= n) return;
    int pixel = (int)(at % plane), channel = channel_of(out_channels, probe, (int)(at / plane % n_stored));
    wide batched = (wide)probe * n_images + at / ((wide)plane * n_stored);
    bool is_there;
    out[probe * n + at] = change_at(a, a_channels, probe, batched, n_channels, channel, plane, pixel, &is_there)
        + change_at(b, b_channels, probe, batched, n_channels, channel, plane, pixel, &is_there);
}

// Change of max(z, 0).
extern "C" __global__ void relu_rule(
    const REAL* delta, const uint* channels, const REAL* z, REAL* out, int n_images, int n_stored, int n_channels,
    int plane
) {
    int probe = blockIdx.z;
    wide at = (wide)blockIdx.x * blockDim.x + threadIdx.x, n = (wide)n_images * n_stored * plane;
    if (at >= n) return;
    int channel = channel_of(channels, probe, (int)(at / plane % n_stored));
    wide image = at / ((wide)plane * n_stored);
    REAL value = z[(image * n_channels + channel) * plane + at % plane];
    out[probe * n + at] = relu_change(value, delta[probe * n + at]);
}

// Change of the maximum over windows of 2 x 2.
extern "C" __global__ void max_pool_change(
    const REAL* delta, const uint* channels, const REAL* z, REAL* out, int n_images, int n_stored, int n_channels,
    int height, int width
) {
    int probe = blockIdx.z, out_width = width / 2, out_plane = height / 2 * out_width;
    wide at = (wide)blockIdx.x * blockDim.x + threadIdx.x, n = (wide)n_images * n_stored * out_plane;
    if (at >= n) return;
    int slot = (int)(at / out_plane % n_stored), channel = channel_of(channels, probe, slot);
    wide image = at / ((wide)out_plane * n_stored), pixel = at % out_plane;
    wide corner = pixel / out_width * 2 * width + pixel % out_width * 2;
    const REAL* base = z + (image * n_channels + channel) * height * width + corner;
    const REAL* moved =
        delta + (((wide)probe * n_images + image) * n_stored + slot) * height * width + corner;
    REAL largest = base[0];
    for (int i = 1; i < 4; i++) {
        REAL value = base[i / 2 * width + i % 2];
        if (value > largest) largest = value;
    }
    // δ less the distance to the old maximum, which is exactly zero for the winner. A NaN wins, and stays.
    REAL change = moved[0] - (largest - base[0]);
    for (int i = 1; i < 4; i++) {
        int offset = i / 2 * width + i % 2;
        REAL value = moved[offset] - (largest - base[offset]);
        if (value > change || value != value) change = value;
    }
    out[probe * n + at] = change;
}
