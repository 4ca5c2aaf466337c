// From decoded photographs on the device to what a graph takes, and what is measured on the way. Everything before the
// normalisation is integer arithmetic as Pillow does it: bilinear with its support, fixed-point weights of 22 bits, the
// pass over rows rounded to bytes. So a square has the very bytes that engines/preprocess.py gives for the same decoded
// pixels, or differs by one level where Pillow takes its two passes in the other order. Compiled ahead of time by
// build.sh without contraction into fused multiply-adds.
//
// Every loop strides by the size of its block, so that a block of one thread computes the same: tests/unit runs this
// very file on a CPU.

#define BITS 22
#define HASH_SIDE 32
#define CELL 8
#define BRIGHT 250

// One photograph of a ragged batch, as eight 64-bit integers; engines/gpu/resample.py writes them.
struct Photograph {
    const unsigned char *pixels; // RGB, interleaved
    long long pitch;             // bytes a row
    long long width, height;     // px, before orientation
    long long orientation;       // of EXIF, 1 to 8
    long long weights;           // where its tables start in `tables`, in integers
    long long taps;              // integers a row of its tables
    long long row;               // of the batch of squares
};

#ifdef __CUDACC__
__device__ static unsigned short half_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

__device__ static double triangle(double x) {
    if (x < 0.0) x = -x;
    return x < 1.0 ? 1.0 - x : 0.0;
}

__device__ static int clipped(int sum) {
    const int level = sum >> BITS;
    return level < 0 ? 0 : level > 255 ? 255 : level;
}

// The weights of every output row and column: grid (photographs, 2 axes). A row of a table is (first tap, number of
// taps, weights); the table of the columns comes first.
extern "C" __global__ void weigh(const Photograph *photographs, int *tables, int side) {
    const Photograph p = photographs[blockIdx.x];
    const int size = (int)(blockIdx.y ? p.height : p.width);
    const int cut = (int)(p.width < p.height ? p.width : p.height);
    const double start = (size - cut) / 2.0;
    const double scale = (double)cut / side, stretch = scale < 1.0 ? 1.0 : scale;
    const double inverse = 1.0 / stretch;
    const int pitch = (int)p.taps + 2;
    int *table = tables + p.weights + (long long)blockIdx.y * side * pitch;
    for (int at = threadIdx.x; at < side; at += blockDim.x) {
        int *row = table + at * pitch;
        const double centre = start + (at + 0.5) * scale;
        int first = (int)(centre - stretch + 0.5), last = (int)(centre + stretch + 0.5);
        if (first < 0) first = 0;
        if (last > size) last = size;
        double total = 0.0;
        for (int tap = first; tap < last; tap++) total += triangle((tap - centre + 0.5) * inverse);
        row[0] = first;
        row[1] = last - first;
        for (int tap = first; tap < last; tap++) {
            double weight = triangle((tap - centre + 0.5) * inverse);
            if (total != 0.0) weight /= total;
            row[2 + tap - first] = (int)(0.5 + weight * (1 << BITS));
        }
    }
}

// Where a pixel of an upright square comes from in the square as it was photographed; the reverse of EXIF's turn.
__device__ static void turned(int orientation, int side, int *x, int *y) {
    const int u = *x, v = *y, end = side - 1;
    switch (orientation) {
    case 2: *x = end - u; break;
    case 3: *x = end - u; *y = end - v; break;
    case 4: *y = end - v; break;
    case 5: *x = v; *y = u; break;
    case 6: *x = v; *y = end - u; break;
    case 7: *x = end - v; *y = end - u; break;
    case 8: *x = end - v; *y = u; break;
    }
}

// The centred square of each photograph, upright, side x side: grid (tiles of columns, tiles of rows, photographs).
extern "C" __global__ void resample(const Photograph *photographs, const int *tables, unsigned char *squares, int side) {
    const Photograph p = photographs[blockIdx.z];
    const int pitch = (int)p.taps + 2;
    const int *columns = tables + p.weights, *rows = columns + (long long)side * pitch;
    const int u = blockIdx.x * blockDim.x + threadIdx.x, v = blockIdx.y * blockDim.y + threadIdx.y;
    if (u >= side || v >= side) return;
    int x = u, y = v;
    turned((int)p.orientation, side, &x, &y);
    const int *column = columns + (long long)x * pitch, *row = rows + (long long)y * pitch;
    const unsigned char *line = p.pixels + (long long)row[0] * p.pitch + (long long)column[0] * 3;
    const int half = 1 << (BITS - 1);
    int red = half, green = half, blue = half;
    for (int i = 0; i < row[1]; i++, line += p.pitch) {
        int r = half, g = half, b = half;
        const unsigned char *pixel = line;
        for (int j = 0; j < column[1]; j++, pixel += 3) {
            const int weight = column[2 + j];
            r += pixel[0] * weight;
            g += pixel[1] * weight;
            b += pixel[2] * weight;
        }
        const int weight = row[2 + i];
        red += clipped(r) * weight;
        green += clipped(g) * weight;
        blue += clipped(b) * weight;
    }
    unsigned char *out = squares + ((p.row * side + v) * side + u) * 3;
    out[0] = (unsigned char)clipped(red);
    out[1] = (unsigned char)clipped(green);
    out[2] = (unsigned char)clipped(blue);
}

__device__ static unsigned char grey(const unsigned char *pixel) {
    return (unsigned char)((pixel[0] * 19595 + pixel[1] * 38470 + pixel[2] * 7471 + 0x8000) >> 16);
}

// What engines/quality.py makes its measures of: grid (strips of CELL rows, squares). `levels` [n,256] counts grey
// levels, `edges` [n,2] sums the Laplacian and its square, both zero before; `burnt` [n,cells,cells] is 1 where the
// darkest byte of a cell is bright. Shared memory: (CELL + 2) * side bytes.
extern "C" __global__ void measure(const unsigned char *squares, unsigned int *levels, unsigned long long *edges,
                                   unsigned char *burnt, int side) {
#ifdef __CUDACC__
    extern __shared__ unsigned char strip[];
#else
    unsigned char *strip = shared_bytes;
#endif
    __shared__ unsigned int counts[256];
    __shared__ unsigned long long sums[2];
    const int top = blockIdx.x * CELL, cells = side / CELL;
    const unsigned char *square = squares + (long long)blockIdx.y * side * side * 3;
    for (int i = threadIdx.x; i < 256; i += blockDim.x) counts[i] = 0;
    for (int i = threadIdx.x; i < 2; i += blockDim.x) sums[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < (CELL + 2) * side; i += blockDim.x) {
        const int y = top - 1 + i / side, x = i % side;
        if (y < 0 || y >= side) continue;
        const unsigned char level = grey(square + ((long long)y * side + x) * 3);
        strip[i] = level;
        if (y >= top && y < top + CELL) atomicAdd(&counts[level], 1u);
    }
    __syncthreads();
    long long sum = 0, squared = 0;
    for (int i = threadIdx.x; i < CELL * side; i += blockDim.x) {
        const int y = top + i / side, x = i % side;
        if (y < 1 || y >= side - 1 || x < 1 || x >= side - 1) continue;
        const unsigned char *at = strip + i + side;
        const int edge = at[-1] + at[1] + at[-side] + at[side] - 4 * at[0];
        sum += edge;
        squared += (long long)edge * edge;
    }
    atomicAdd(&sums[0], (unsigned long long)sum);
    atomicAdd(&sums[1], (unsigned long long)squared);
    if (blockIdx.x < (unsigned)cells)
        for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
            int darkest = 255;
            for (int y = 0; y < CELL; y++)
                for (int x = 0; x < CELL * 3; x++) {
                    const int byte = square[((long long)(top + y) * side + cell * CELL) * 3 + x];
                    darkest = byte < darkest ? byte : darkest;
                }
            burnt[((long long)blockIdx.y * cells + blockIdx.x) * cells + cell] = darkest >= BRIGHT;
        }
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += blockDim.x)
        if (counts[i]) atomicAdd(&levels[blockIdx.y * 256 + i], counts[i]);
    for (int i = threadIdx.x; i < 2; i += blockDim.x) atomicAdd(&edges[blockIdx.y * 2 + i], sums[i]);
}

// The taps of a box filter from side to HASH_SIDE: how many there are, and where they start.
__device__ static int boxed(int at, int side, int *first) {
    const double scale = (double)side / HASH_SIDE, stretch = scale < 1.0 ? 1.0 : scale;
    const double centre = (at + 0.5) * scale;
    int from = (int)(centre - 0.5 * stretch + 0.5), to = (int)(centre + 0.5 * stretch + 0.5);
    if (from < 0) from = 0;
    if (to > side) to = side;
    int count = 0;
    for (int tap = from; tap < to; tap++) {
        const double x = (tap - centre + 0.5) * (1.0 / stretch);
        if (!(x > -0.5 && x <= 0.5)) continue;
        if (count++ == 0) *first = tap;
    }
    return count;
}

// What the perceptual hash looks at, [n,32,32] grey bytes: grid (squares).
extern "C" __global__ void shrink(const unsigned char *squares, unsigned char *small, int side) {
    const unsigned char *square = squares + (long long)blockIdx.x * side * side * 3;
    for (int i = threadIdx.x; i < HASH_SIDE * HASH_SIDE; i += blockDim.x) {
        int left = 0, top = 0;
        const int wide = boxed(i % HASH_SIDE, side, &left), high = boxed(i / HASH_SIDE, side, &top);
        const int across = (int)(0.5 + 1.0 / wide * (1 << BITS)), down = (int)(0.5 + 1.0 / high * (1 << BITS));
        int sum = 1 << (BITS - 1);
        for (int y = top; y < top + high; y++) {
            int line = 1 << (BITS - 1);
            const unsigned char *pixel = square + ((long long)y * side + left) * 3;
            for (int x = 0; x < wide; x++, pixel += 3) line += grey(pixel) * across;
            sum += clipped(line) * down;
        }
        small[(long long)blockIdx.x * HASH_SIDE * HASH_SIDE + i] = (unsigned char)clipped(sum);
    }
}

// (level - mean) * scale, from [n,S,S,3] bytes to [n,channels,S,S]; channels above the third are zero. In single
// precision these are the very bits of engines/preprocess.py.
extern "C" __global__ void normalise(const unsigned char *pixels, float *images, const float *mean, const float *scale,
                                     int side, int count, int channels) {
    const long long area = (long long)side * side, total = area * count;
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < total; at += step) {
        const unsigned char *pixel = pixels + at * 3;
        float *first = images + at / area * channels * area + at % area;
        for (int channel = 0; channel < channels; channel++)
            first[channel * area] = channel < 3 ? ((float)pixel[channel] - mean[channel]) * scale[channel] : 0.0f;
    }
}

// The same in half precision.
extern "C" __global__ void normalise_half(const unsigned char *pixels, unsigned short *images, const float *mean,
                                          const float *scale, int side, int count, int channels) {
    const long long area = (long long)side * side, total = area * count;
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < total; at += step) {
        const unsigned char *pixel = pixels + at * 3;
        unsigned short *first = images + at / area * channels * area + at % area;
        for (int channel = 0; channel < channels; channel++)
            first[channel * area] =
                channel < 3 ? half_bits(((float)pixel[channel] - mean[channel]) * scale[channel]) : (unsigned short)0;
    }
}

// The same as levels of a quantised input, four bytes a pixel, [n,S,S,4] (TensorRT's CHW4 of four channels); `step_size`
// is the input's scale. Rounds half to even, as QuantizeLinear does.
extern "C" __global__ void quantise(const unsigned char *pixels, signed char *images, const float *mean,
                                    const float *scale, float step_size, int side, int count) {
    const long long total = (long long)side * side * count, step = (long long)gridDim.x * blockDim.x;
    for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < total; at += step) {
        const unsigned char *pixel = pixels + at * 3;
        signed char *out = images + at * 4;
        for (int channel = 0; channel < 3; channel++) {
            const float level = rintf(((float)pixel[channel] - mean[channel]) * scale[channel] / step_size);
            out[channel] = (signed char)(level < -128.0f ? -128.0f : level > 127.0f ? 127.0f : level);
        }
        out[3] = 0;
    }
}
