// Convolution. A block of threads computes a tile of output pixels of one probe, for a group of output
// channels: the input that the tile needs, halo included, and the weights are staged in shared memory a few
// input channels at a time.

// Where a block of threads works.
struct Tile {
    int probe, first_image, first_row, first_column, first_channel;
    // Input rows and columns that a tile of one image needs, and numbers per staged channel.
    int rows, columns, numbers;

    __device__ Tile(
        int out_height, int out_width, int kernel, int stride, int images, int height, int width, int group
    ) {
        int across = (out_width + width - 1) / width, down = (out_height + height - 1) / height;
        int tile = blockIdx.x;
        first_column = tile % across * width;
        tile /= across;
        first_row = tile % down * height;
        first_image = tile / down * images;
        first_channel = blockIdx.y * group;
        probe = blockIdx.z;
        rows = (height - 1) * stride + kernel;
        columns = (width - 1) * stride + kernel;
        numbers = images * rows * columns;
    }
};

// Pixel number `pixel` of a tile.
struct Pixel {
    int image, row, column;
    bool is_inside;

    __device__ Pixel(int pixel, int images, int height, int width) {
        is_inside = pixel < images * height * width;
        if (!is_inside) pixel = 0;
        image = pixel / (height * width);
        row = pixel / width % height;
        column = pixel % width;
    }
};

// An input number of a tile: position `at` of its staged plane, zero outside the image.
__device__ inline REAL staged(
    const Tile& tile, const REAL* x, wide probe_stride, int n_images, int n_in, int channel, int height, int width,
    int stride, int padding, int at
) {
    int image = tile.first_image + at / (tile.rows * tile.columns);
    int row = tile.first_row * stride + at / tile.columns % tile.rows - padding;
    int column = tile.first_column * stride + at % tile.columns - padding;
    bool is_inside = image < n_images && row >= 0 && row < height && column >= 0 && column < width;
    if (!is_inside) return 0;
    return x[tile.probe * probe_stride + (((wide)image * n_in + channel) * height + row) * width + column];
}

struct alignas(16) Four {
    REAL of[4];
};

// Fused multiply-adds. A warp holds 8 output channels and 128 pixels, a thread 4 of these. `chunk` input
// channels are staged at a time.
extern "C" __global__ void conv(
    const REAL* x, const REAL* weight, const uint* channels, REAL* out, wide x_stride, wide weight_stride,
    int n_images, int n_in, int n_weight_in, int n_out, int height, int width, int out_height, int out_width,
    int kernel, int stride, int padding, int tile_images, int tile_height, int tile_width, int chunk
) {
    extern __shared__ double shared[];
    const int PIXELS = 4, OUTPUTS = 8;
    int group = blockDim.x / 32 * OUTPUTS;
    Tile tile(out_height, out_width, kernel, stride, tile_images, tile_height, tile_width, group);
    int taps = kernel * kernel;
    // Weights first: eight in a row are then read in two pieces of four.
    REAL* tile_weight = (REAL*)shared;
    REAL* tile_x = tile_weight + chunk * taps * group;
    int lane = threadIdx.x % 32, first_output = threadIdx.x / 32 * OUTPUTS;

    REAL sums[PIXELS][OUTPUTS];
    int offsets[PIXELS];
    for (int p = 0; p < PIXELS; p++) {
        Pixel pixel(lane + 32 * p, tile_images, tile_height, tile_width);
        offsets[p] = (pixel.image * tile.rows + pixel.row * stride) * tile.columns + pixel.column * stride;
        for (int o = 0; o < OUTPUTS; o++) sums[p][o] = 0;
    }
    for (int first = 0; first < n_in; first += chunk) {
        int n = min(chunk, n_in - first);
        for (int i = threadIdx.x; i < n * tile.numbers; i += blockDim.x) {
            tile_x[i] = staged(
                tile, x, x_stride, n_images, n_in, first + i / tile.numbers, height, width, stride, padding,
                i % tile.numbers
            );
        }
        for (int i = threadIdx.x; i < group * n * taps; i += blockDim.x) {
            int output = tile.first_channel + i / (n * taps), part = i % (n * taps);
            int input = channel_of(channels, tile.probe, first + part / taps);
            wide at = ((wide)output * n_weight_in + input) * taps + part % taps;
            tile_weight[part * group + i / (n * taps)] =
                output < n_out ? weight[tile.probe * weight_stride + at] : (REAL)0;
        }
        __syncthreads();
        for (int c = 0; c < n; c++) {
            for (int tap = 0; tap < taps; tap++) {
                const REAL* from = tile_x + c * tile.numbers + tap / kernel * tile.columns + tap % kernel;
                const Four* by = (const Four*)(tile_weight + (c * taps + tap) * group + first_output);
                Four halves[2] = {by[0], by[1]};
                REAL values[PIXELS];
                for (int p = 0; p < PIXELS; p++) values[p] = from[offsets[p]];
                for (int o = 0; o < OUTPUTS; o++) {
                    for (int p = 0; p < PIXELS; p++) sums[p][o] += halves[o / 4].of[o % 4] * values[p];
                }
            }
        }
        __syncthreads();
    }
    for (int p = 0; p < PIXELS; p++) {
        Pixel pixel(lane + 32 * p, tile_images, tile_height, tile_width);
        int image = tile.first_image + pixel.image;
        int row = tile.first_row + pixel.row, column = tile.first_column + pixel.column;
        if (!pixel.is_inside || image >= n_images || row >= out_height || column >= out_width) continue;
        for (int o = 0; o < OUTPUTS; o++) {
            int output = tile.first_channel + first_output + o;
            if (output >= n_out) break;
            wide plane = ((wide)tile.probe * n_images + image) * n_out + output;
            out[(plane * out_height + row) * out_width + column] = sums[p][o];
        }
    }
}

#ifdef TENSOR_CORES

// What tensor cores multiply. A word holds one number in TF32, or two of neighboring channels in bf16; eight
// words of a pixel are one step of a sum. The fragments of both instructions are the same in words.
struct Tf32 {
    enum { PER_WORD = 1 };
#ifdef __CUDACC__
    __device__ static uint word(const float* values) {
        uint bits;
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(values[0]));
        return bits;
    }
    __device__ static void multiply(float* sums, const uint* a, const uint* b) {
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])
        );
    }
#else
    static uint word(const float* values) { return host_tf32(values[0]); }
    static void multiply(float* sums, const uint* a, const uint* b) { host_multiply(sums, a, b, false); }
#endif
};

struct Bf16 {
    enum { PER_WORD = 2 };
#ifdef __CUDACC__
    __device__ static uint word(const float* values) {
        uint bits;
        // The second operand goes to the lower half.
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(values[1]), "f"(values[0]));
        return bits;
    }
    __device__ static void multiply(float* sums, const uint* a, const uint* b) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])
        );
    }
#else
    static uint word(const float* values) { return host_bf16(values[0]) | host_bf16(values[1]) << 16; }
    static void multiply(float* sums, const uint* a, const uint* b) { host_multiply(sums, a, b, true); }
#endif
};

// Four warps with 32 pixels each; every warp holds all output channels of the block, up to 64. Of a 16x8
// product, thread `lane` holds rows lane / 4 and lane / 4 + 8 of the outputs, and columns lane % 4 · 2 and
// the next one.
template <class Kind>
__device__ void conv_tensor(
    uint* shared, const float* x, const float* weight, float* out, wide x_stride, wide weight_stride, int n_images, int n_in,
    int n_out, int height, int width, int out_height, int out_width, int kernel, int stride, int padding,
    int tile_images, int tile_height, int tile_width, int plane_words, int group
) {
    const int ROWS = 8, OUTPUT_TILES = 4, PIXEL_TILES = 4, CHUNK = ROWS * Kind::PER_WORD;
    Tile tile(out_height, out_width, kernel, stride, tile_images, tile_height, tile_width, group);
    int taps = kernel * kernel;
    // Four more words per output channel keep the threads of a warp in different banks.
    int weight_words = taps * ROWS + 4;
    uint* tile_x = shared;
    uint* tile_weight = tile_x + ROWS * plane_words;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int major = lane / 4, minor = lane % 4;
    int n_tiles = group / 16;

    float sums[OUTPUT_TILES][PIXEL_TILES][4];
    int offsets[PIXEL_TILES];
#pragma unroll
    for (int p = 0; p < PIXEL_TILES; p++) {
        Pixel pixel(warp * 32 + p * 8 + major, tile_images, tile_height, tile_width);
        offsets[p] = (pixel.image * tile.rows + pixel.row * stride) * tile.columns + pixel.column * stride;
#pragma unroll
        for (int o = 0; o < OUTPUT_TILES; o++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[o][p][i] = 0;
        }
    }
    for (int first = 0; first < n_in; first += CHUNK) {
        for (int i = threadIdx.x; i < ROWS * tile.numbers; i += blockDim.x) {
            int row = i / tile.numbers, at = i % tile.numbers;
            float values[Kind::PER_WORD];
            for (int k = 0; k < Kind::PER_WORD; k++) {
                int channel = first + row * Kind::PER_WORD + k;
                values[k] = channel < n_in ? staged(
                    tile, x, x_stride, n_images, n_in, channel, height, width, stride, padding, at
                ) : 0.0f;
            }
            tile_x[row * plane_words + at] = Kind::word(values);
        }
        for (int i = threadIdx.x; i < group * ROWS * taps; i += blockDim.x) {
            int local = i / (ROWS * taps), row = i / taps % ROWS, tap = i % taps;
            int output = tile.first_channel + local;
            float values[Kind::PER_WORD];
            for (int k = 0; k < Kind::PER_WORD; k++) {
                int channel = first + row * Kind::PER_WORD + k;
                wide at = ((wide)output * n_in + channel) * taps + tap;
                values[k] = output < n_out && channel < n_in ? weight[tile.probe * weight_stride + at] : 0.0f;
            }
            tile_weight[local * weight_words + tap * ROWS + row] = Kind::word(values);
        }
        __syncthreads();
        for (int tap = 0; tap < taps; tap++) {
            const uint* from = tile_x + minor * plane_words + tap / kernel * tile.columns + tap % kernel;
            uint b[PIXEL_TILES][2];
#pragma unroll
            for (int p = 0; p < PIXEL_TILES; p++) {
                b[p][0] = from[offsets[p]];
                b[p][1] = from[4 * plane_words + offsets[p]];
            }
#pragma unroll
            for (int o = 0; o < OUTPUT_TILES; o++) {
                if (o >= n_tiles) break;
                const uint* by = tile_weight + (o * 16 + major) * weight_words + tap * ROWS + minor;
                uint a[4] = {by[0], by[8 * weight_words], by[4], by[8 * weight_words + 4]};
#pragma unroll
                for (int p = 0; p < PIXEL_TILES; p++) Kind::multiply(sums[o][p], a, b[p]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int p = 0; p < PIXEL_TILES; p++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            Pixel pixel(warp * 32 + p * 8 + minor * 2 + half, tile_images, tile_height, tile_width);
            int image = tile.first_image + pixel.image;
            int row = tile.first_row + pixel.row, column = tile.first_column + pixel.column;
            if (!pixel.is_inside || image >= n_images || row >= out_height || column >= out_width) continue;
#pragma unroll
            for (int o = 0; o < OUTPUT_TILES; o++) {
#pragma unroll
                for (int lower = 0; lower < 2; lower++) {
                    int output = tile.first_channel + o * 16 + major + 8 * lower;
                    if (o >= n_tiles || output >= n_out) continue;
                    wide plane = ((wide)tile.probe * n_images + image) * n_out + output;
                    out[(plane * out_height + row) * out_width + column] = sums[o][p][2 * lower + half];
                }
            }
        }
    }
}

#define CONV_TENSOR(name, Kind)                                                                                  \
    extern "C" __global__ void name(                                                                             \
        const float* x, const float* weight, float* out, wide x_stride, wide weight_stride, int n_images,        \
        int n_in, int n_out, int height, int width, int out_height, int out_width, int kernel, int stride,       \
        int padding, int tile_images, int tile_height, int tile_width, int plane_words, int group                \
    ) {                                                                                                          \
        extern __shared__ double shared[];                                                                       \
        conv_tensor<Kind>(                                                                                       \
            (uint*)shared, x, weight, out, x_stride, weight_stride, n_images, n_in, n_out, height, width, out_height,           \
            out_width, kernel, stride, padding, tile_images, tile_height, tile_width, plane_words, group         \
        );                                                                                                       \
    }

CONV_TENSOR(conv_tf32, Tf32)
CONV_TENSOR(conv_bf16, Bf16)

#endif

// What a step of a convolution's own weight changes: per probe, one input plane of the base, shifted, times
// the step; a bias, without an input plane, changes by the step everywhere.
extern "C" __global__ void conv_seed(
    const REAL* x, const int* inputs, const uint* taps, const REAL* steps, REAL* out, int n_images, int n_in,
    int height, int width, int out_height, int out_width, int kernel, int stride, int padding
) {
    int probe = blockIdx.z, plane = out_height * out_width;
    wide at = (wide)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (wide)n_images * plane) return;
    REAL step = steps[probe];
    int input = inputs[probe], tap = taps[probe];
    int image = (int)(at / plane), pixel = (int)(at % plane);
    int row = pixel / out_width * stride + tap / kernel - padding;
    int column = pixel % out_width * stride + tap % kernel - padding;
    REAL value = step;
    if (input >= 0) {
        bool is_inside = row >= 0 && row < height && column >= 0 && column < width;
        value = is_inside ? step * x[(((wide)image * n_in + input) * height + row) * width + column] : (REAL)0;
    }
    out[(wide)probe * n_images * plane + at] = value;
}
