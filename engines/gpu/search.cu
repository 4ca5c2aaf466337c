// The exact nearest rows of a large gallery. Half-precision scores on tensor cores leave the chip only as the largest of
// each group of 32 rows; the groups that can hold one of the nearest, by a bound on the rounding, are scored again in
// double precision. engines/gpu/search.py is the host's side and says why nothing is missed.
#include <cuda_fp16.h>
#include <math_constants.h>

constexpr int GROUP = 32;          // rows whose largest score is kept
constexpr int TILE_ROWS = 128;     // gallery rows a block multiplies at once
constexpr int DEPTH = 64;          // elements of a row a stage holds: 128 bytes
constexpr int STAGES = 4;
constexpr int THREADS = 256;       // 8 warps
constexpr int CHUNKS = DEPTH / 8;  // 16-byte pieces of a row of a stage
constexpr int SLOTS = 256;         // groups a probe may have scored again

__device__ __forceinline__ unsigned shared_address(const void *pointer) {
    return (unsigned)__cvta_generic_to_shared(pointer);
}

__device__ __forceinline__ void copy_16_bytes(unsigned to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

__device__ __forceinline__ void load_matrices(unsigned (&out)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void multiply(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Byte offset of 16-byte piece `chunk` of row `row`: pieces are exchanged within a row so that the eight rows that
// ldmatrix reads at once lie in different banks.
__device__ __forceinline__ unsigned piece(int row, int chunk) {
    return (unsigned)(row * CHUNKS + (chunk ^ (row & (CHUNKS - 1)))) * 16u;
}

__device__ __forceinline__ double warp_sum(double value) {
    for (int step = 16; step; step >>= 1) value += __shfl_xor_sync(~0u, value, step);
    return value;
}

// One block a row of `halves` [gridDim.x, depth]; rows from `count` on and columns from `dims` on become 0. `lengths`
// [gridDim.x]: of what rounding took from the row, and of what it left; rounded up.
extern "C" __global__ void halve(const float *rows, int count, int dims, int depth, __half *halves, float2 *lengths) {
    const size_t row = blockIdx.x;
    double lost = 0, kept = 0;
    for (int at = threadIdx.x; at < depth; at += blockDim.x) {
        const float exact = row < count && at < dims ? rows[row * dims + at] : 0.f;
        const __half half = __float2half_rn(exact);
        const double back = (double)__half2float(half), off = (double)exact - back;
        halves[row * depth + at] = half;
        lost += off * off;
        kept += back * back;
    }
    __shared__ double sums[2][32];
    lost = warp_sum(lost), kept = warp_sum(kept);
    if (threadIdx.x % 32 == 0) sums[0][threadIdx.x / 32] = lost, sums[1][threadIdx.x / 32] = kept;
    __syncthreads();
    if (threadIdx.x) return;
    lost = kept = 0;
    for (int warp = 0; warp < blockDim.x / 32; warp++) lost += sums[0][warp], kept += sums[1][warp];
    lengths[row] = make_float2(__double2float_ru(sqrt(lost)), __double2float_ru(sqrt(kept)));
}

// How far a half-precision score may lie from the exact one, for a probe and gallery rows whose lengths (lost to
// rounding, left by it) are at most these: Cauchy-Schwarz on both roundings, and each of the tensor cores' additions
// off by two units in the last place of the longest product.
__device__ float score_bound(float2 probe, float2 gallery, int depth) {
    const double added = (double)(depth + depth / 16) * 0x1p-22;
    const double off = (double)probe.x * ((double)gallery.x + gallery.y) + (double)probe.y * gallery.x;
    return __double2float_ru(1.0001 * (off + added * probe.y * gallery.y) + 1e-7);
}

// `largest` [PROBES, tiles * 4]: the largest score of each group of 32 rows of `gallery` [tiles * 128, depth] with each
// row of `probes` [PROBES, depth]. Blocks take one tile after another; loads of the next tile run under this one's end.
template <int PROBES, int WARPS_DOWN>
__device__ __forceinline__ void group_maxima(const __half *gallery, const __half *probes, int tiles, int depth,
                                             float *largest) {
    constexpr int WARPS_ACROSS = 8 / WARPS_DOWN;
    constexpr int DOWN = TILE_ROWS / WARPS_DOWN / 16;      // 16-row pieces of a warp
    constexpr int ACROSS = PROBES / WARPS_ACROSS / 8;      // 8-column pieces of a warp
    constexpr int STAGE_BYTES = (TILE_ROWS + PROBES) * DEPTH * 2;
    extern __shared__ __align__(128) unsigned char shared[];
    float *staged = reinterpret_cast<float *>(shared + STAGES * STAGE_BYTES);  // [PROBES][4]
    const unsigned base = shared_address(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_row = (warp / WARPS_ACROSS) * DOWN * 16, first_probe = (warp % WARPS_ACROSS) * ACROSS * 8;
    const int parts = depth / DEPTH;
    const int own_tiles = blockIdx.x < tiles ? (tiles - 1 - blockIdx.x) / gridDim.x + 1 : 0;
    const int steps = own_tiles * parts;

    auto load = [&](int step) {
        const unsigned stage = base + (step % STAGES) * STAGE_BYTES;
        const size_t tile = blockIdx.x + (size_t)(step / parts) * gridDim.x;
        const int from = (step % parts) * DEPTH;
#pragma unroll
        for (int at = threadIdx.x; at < TILE_ROWS * CHUNKS; at += THREADS) {
            const int row = at / CHUNKS, chunk = at % CHUNKS;
            copy_16_bytes(stage + piece(row, chunk), gallery + (tile * TILE_ROWS + row) * depth + from + chunk * 8);
        }
#pragma unroll
        for (int at = threadIdx.x; at < PROBES * CHUNKS; at += THREADS) {
            const int row = at / CHUNKS, chunk = at % CHUNKS;
            copy_16_bytes(stage + TILE_ROWS * DEPTH * 2 + piece(row, chunk), probes + (size_t)row * depth + from + chunk * 8);
        }
    };

    float sums[DOWN][ACROSS][4] = {};
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < steps) load(step);
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    for (int step = 0; step < steps; step++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
        __syncthreads();  // this step's stage is there for all, and the one before is free
        if (step + STAGES - 1 < steps) load(step + STAGES - 1);
        asm volatile("cp.async.commit_group;" ::: "memory");
        const unsigned rows = base + (step % STAGES) * STAGE_BYTES, columns = rows + TILE_ROWS * DEPTH * 2;
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++) {
            unsigned a[DOWN][4], b[ACROSS / 2][4];
#pragma unroll
            for (int i = 0; i < DOWN; i++)
                load_matrices(a[i], rows + piece(first_row + i * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
            for (int j = 0; j < ACROSS / 2; j++)
                load_matrices(b[j], columns + piece(first_probe + j * 16 + (lane / 16) * 8 + lane % 8, k * 2 + (lane / 8) % 2));
#pragma unroll
            for (int i = 0; i < DOWN; i++)
#pragma unroll
                for (int j = 0; j < ACROSS; j++)
                    multiply(sums[i][j], a[i], b[j / 2][(j % 2) * 2], b[j / 2][(j % 2) * 2 + 1]);
        }
        if ((step + 1) % parts) continue;
#pragma unroll
        for (int pair = 0; pair < DOWN / 2; pair++)
#pragma unroll
            for (int j = 0; j < ACROSS; j++)
#pragma unroll
                for (int column = 0; column < 2; column++) {
                    float best = fmaxf(fmaxf(sums[pair * 2][j][column], sums[pair * 2][j][column + 2]),
                                       fmaxf(sums[pair * 2 + 1][j][column], sums[pair * 2 + 1][j][column + 2]));
                    best = fmaxf(best, __shfl_xor_sync(~0u, best, 4));
                    best = fmaxf(best, __shfl_xor_sync(~0u, best, 8));
                    best = fmaxf(best, __shfl_xor_sync(~0u, best, 16));
                    if (lane < 4)
                        staged[(first_probe + j * 8 + lane * 2 + column) * 4 + first_row / GROUP + pair] = best;
                }
#pragma unroll
        for (int i = 0; i < DOWN; i++)
#pragma unroll
            for (int j = 0; j < ACROSS; j++) sums[i][j][0] = sums[i][j][1] = sums[i][j][2] = sums[i][j][3] = 0.f;
        __syncthreads();
        const size_t tile = blockIdx.x + (size_t)(step / parts) * gridDim.x;
        for (int probe = threadIdx.x; probe < PROBES; probe += THREADS)
            reinterpret_cast<float4 *>(largest)[(size_t)probe * tiles + tile] = reinterpret_cast<float4 *>(staged)[probe];
        // No thread writes `staged` again before the next step's barrier.
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    group_maxima_256(const __half *gallery, const __half *probes, int tiles, int depth, float *largest) {
    group_maxima<256, 2>(gallery, probes, tiles, depth, largest);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    group_maxima_64(const __half *gallery, const __half *probes, int tiles, int depth, float *largest) {
    group_maxima<64, 4>(gallery, probes, tiles, depth, largest);
}

// The largest (value, index) over a block of up to 1024 threads; ties go to the lower index. Every thread gets it.
template <typename Value>
__device__ void block_best(Value &value, int &index) {
    __shared__ Value values[32];
    __shared__ int indexes[32];
    auto fold = [&](int step) {
        const Value other = __shfl_xor_sync(~0u, value, step);
        const int of = __shfl_xor_sync(~0u, index, step);
        if (other > value || (other == value && of < index)) value = other, index = of;
    };
    for (int step = 16; step; step >>= 1) fold(step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = value, indexes[threadIdx.x / 32] = index;
    __syncthreads();
    const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
    value = lane < warps ? values[lane] : values[0];
    index = lane < warps ? indexes[lane] : indexes[0];
    for (int step = 16; step; step >>= 1) fold(step);
}

// One block a probe: the groups that may hold one of its `wanted` nearest rows, into `groups` [count, SLOTS] and their
// number into `found` [count] (above SLOTS: too many, the host goes another way). Rows of `own` [count][2] (from, to)
// are not looked for.
extern "C" __global__ void choose_groups(const float *largest, const float2 *lengths, float2 longest, int depth,
                                         const int2 *own, int rows, int tiles, int wanted, int *groups, int *found) {
    const int probe = blockIdx.x;
    const float *scores = largest + (size_t)probe * tiles * 4;
    const int whole = rows / GROUP, all = (rows + GROUP - 1) / GROUP;
    const int from = own[probe].x, to = own[probe].y;
    const int own_from = to > from ? from / GROUP : 0, own_to = to > from ? (to - 1) / GROUP + 1 : 0;
    __shared__ int taken;
    if (threadIdx.x == 0) taken = 0;
    float best = -CUDART_INF_F;
    for (int group = threadIdx.x; group < whole; group += blockDim.x)
        if (group < own_from || group >= own_to) best = fmaxf(best, scores[group]);
    float last = -CUDART_INF_F;
    for (int round = 0; round < wanted; round++) {
        float value = best;
        int index = threadIdx.x;
        block_best(value, index);
        if (index == threadIdx.x) best = -CUDART_INF_F;
        last = value;
    }
    // `wanted` different groups reach `last` in half precision, so the least of the nearest is at least that less the
    // bound; its own half-precision score, and so its group's, is at most a bound lower still.
    const float least = last - 2.f * score_bound(lengths[probe], longest, depth);
    for (int group = threadIdx.x; group < all; group += blockDim.x) {
        const bool touched = group >= own_from && group < own_to;
        const bool inside = touched && group * GROUP >= from && (group + 1) * GROUP <= to;
        const bool judged = group < whole && !touched;
        if (inside || (judged && !(scores[group] >= least))) continue;
        const int slot = atomicAdd(&taken, 1);
        if (slot < SLOTS) groups[(size_t)probe * SLOTS + slot] = group;
    }
    __syncthreads();
    if (threadIdx.x == 0) found[probe] = taken;
}

// `exact` [count, SLOTS * 32]: the scores of the chosen groups' rows in double precision. A warp a row.
extern "C" __global__ void score_again(const float *gallery, const float *probes, const int2 *own, const int *groups,
                                       const int *found, int rows, int dims, double *exact) {
    const int probe = blockIdx.y, lane = threadIdx.x % 32;
    const int slots = min(found[probe], SLOTS), warps = blockDim.x / 32;
    const float *wanted = probes + (size_t)probe * dims;
    for (int at = blockIdx.x * warps + threadIdx.x / 32; at < slots * GROUP; at += gridDim.x * warps) {
        const int row = groups[(size_t)probe * SLOTS + at / GROUP] * GROUP + at % GROUP;
        double sum = -CUDART_INF;
        if (row < rows && (row < own[probe].x || row >= own[probe].y)) {
            sum = 0;
            const float *found_row = gallery + (size_t)row * dims;
            for (int k = lane; k < dims; k += 32) sum += (double)found_row[k] * (double)wanted[k];
            sum = warp_sum(sum);
        }
        if (lane == 0) exact[(size_t)probe * SLOTS * GROUP + at] = sum;
    }
}

// One block a probe: its `wanted` nearest rows and their scores, best first, ties by row; -1 where there are fewer.
extern "C" __global__ void best_rows(double *exact, const int *groups, const int *found, int wanted, int *best_row,
                                     double *best_score) {
    const int probe = blockIdx.x, count = min(found[probe], SLOTS) * GROUP;
    double *scores = exact + (size_t)probe * SLOTS * GROUP;
    const int *chosen = groups + (size_t)probe * SLOTS;
    for (int round = 0; round < wanted; round++) {
        double value = -CUDART_INF;
        int row = 0x7fffffff;
        for (int at = threadIdx.x; at < count; at += blockDim.x) {
            const int of = chosen[at / GROUP] * GROUP + at % GROUP;
            if (scores[at] > value || (scores[at] == value && of < row)) value = scores[at], row = of;
        }
        block_best(value, row);
        for (int at = threadIdx.x; at < count; at += blockDim.x)
            if (chosen[at / GROUP] * GROUP + at % GROUP == row) scores[at] = -CUDART_INF;
        if (threadIdx.x == 0) {
            best_row[probe * wanted + round] = value == -CUDART_INF ? -1 : row;
            best_score[probe * wanted + round] = value;
        }
        __syncthreads();
    }
}
