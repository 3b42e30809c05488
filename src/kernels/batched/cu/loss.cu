// Mean losses, in double precision; one block of threads per probe.

// Cross-entropy of logits.
extern "C" __global__ void cross_entropy(
    const REAL* logits, const uint* labels, const double* scales, double* out, int n_images, int n_classes
) {
    extern __shared__ double shared[];
    int probe = blockIdx.x;
    double scale = scales ? scales[probe] : 1.0, sum = 0;
    for (int image = threadIdx.x; image < n_images; image += blockDim.x) {
        const REAL* row = logits + ((wide)probe * n_images + image) * n_classes;
        double largest = scale * row[0], total = 0;
        for (int k = 1; k < n_classes; k++) largest = fmax(largest, scale * row[k]);
        for (int k = 0; k < n_classes; k++) total += exp(scale * row[k] - largest);
        sum += largest + log(total) - scale * row[labels[image]];
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) out[probe] = sum / n_images;
}

// Its change when logits with these logarithms of probabilities (image, class) change; with `scales`
// (probe, 2) logits are multiplied by the first before and by the second after.
extern "C" __global__ void cross_entropy_change(
    const REAL* delta, const uint* channels, const double* logs, const uint* labels, const double* scales,
    double* out, int n_images, int n_classes
) {
    extern __shared__ double shared[];
    // Beyond this change, and below this sum, the formula overflows or subtracts nearly equal numbers.
    const double LARGE = 500.0, SMALL = -0.5;
    int probe = blockIdx.x;
    double before = scales ? scales[2 * probe] : 1.0, after = scales ? scales[2 * probe + 1] : 1.0;
    // Logarithms of probabilities are logits less a number per image, which the loss does not see.
    double growth = (after - before) / before, sum = 0;
    for (int image = threadIdx.x; image < n_images; image += blockDim.x) {
        const double* base = logs + (wide)image * n_classes;
        wide batched = (wide)probe * n_images + image;
        double grown = 0, largest = -1e300, of_label = 0;
        bool is_there;
        for (int k = 0; k < n_classes; k++) {
            double d = growth * base[k]
                + after * change_at(delta, channels, probe, batched, n_classes, k, 1, 0, &is_there);
            grown += exp(base[k]) * expm1(d);
            if (!(d <= largest)) largest = d;
            if (k == (int)labels[image]) of_label = d;
        }
        double log_of_sum = log1p(grown);
        if (largest > LARGE || grown < SMALL) {
            double top = -1e300, total = 0;
            for (int pass = 0; pass < 2; pass++) {
                for (int k = 0; k < n_classes; k++) {
                    double moved = base[k] * (1 + growth)
                        + after * change_at(delta, channels, probe, batched, n_classes, k, 1, 0, &is_there);
                    if (pass == 0) top = fmax(top, moved);
                    else total += exp(moved - top);
                }
            }
            log_of_sum = top + log(total);
        }
        sum += log_of_sum - of_label;
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) out[probe] = sum / n_images;
}

// Squared error of outputs.
extern "C" __global__ void squared_error(
    const REAL* outputs, const double* targets, double* out, int n_numbers
) {
    extern __shared__ double shared[];
    int probe = blockIdx.x;
    double sum = 0;
    for (int at = threadIdx.x; at < n_numbers; at += blockDim.x) {
        double error = outputs[(wide)probe * n_numbers + at] - targets[at];
        sum += error * error;
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) out[probe] = sum / n_numbers;
}

// Its change when outputs with these errors (image, channel, pixel) change.
extern "C" __global__ void squared_error_change(
    const REAL* delta, const uint* channels, const double* errors, double* out, int n_images, int n_channels,
    int plane
) {
    extern __shared__ double shared[];
    int probe = blockIdx.x, n_numbers = n_images * n_channels * plane;
    double sum = 0;
    for (int at = threadIdx.x; at < n_numbers; at += blockDim.x) {
        bool is_there;
        wide batched = (wide)probe * n_images + at / plane / n_channels;
        double d = change_at(
            delta, channels, probe, batched, n_channels, at / plane % n_channels, plane, at % plane, &is_there
        );
        sum += d * (2 * errors[at] + d);
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) out[probe] = sum / n_numbers;
}
