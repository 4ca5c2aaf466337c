// Probes' patch features against references', on the device: worker/core/alignment.py and worker/core/deviation.py are
// the twins, and what each step means stands there. Float32 in the same places; sums may differ in their last bits.
#include <cstdint>
#include <math_constants.h>

struct Grid {  // of one launch: all views have one patch grid and feature depth
    int height, width, depth;
    int factor, coarse_height, coarse_width;  // the grid that is aligned: pooled by `factor`
};

struct View {  // `references` [count, h*w, d] int8, `spread` [h*w], `kept` [h*w]: 1 where no mask lies
    const float *probe;
    const signed char *references;
    const float *spread;
    const unsigned char *kept;
    int count, kept_cells, first_pair, pad;
};

struct Fit {  // one pair of a view and one of its references
    float affine[6];  // displacement (row, col) = (row, col, 1) . affine[3][2]
    int aligned, pad;
};

struct Overlay {  // how the view of a pair lies over its reference: `inliers` of `affine`, be it aligned or not, and the
    float inliers, affine[6], free[6];  // affine that is fitted without the penalty; read by the host as 13 floats
};

constexpr float INT8_ONE = 127.f, POSITION_PENALTY = 0.1f, INLIER_CELLS = 3.f, MAX_DISTORTION = 0.35f;
constexpr double MIN_INLIER_SHARE = 0.35;
constexpr int MIN_INLIERS = 8, ROUNDS = 4, REACH = 2, WINDOW = 2 * REACH + 1, OFFSETS = WINDOW * WINDOW;
constexpr int MOST_DEPTH = 128, MOST_CELLS = 4096, MOST_COARSE = 1024;
constexpr int TILE = 64, SLICE = 16;  // of a product: 64 x 64 cosines by 256 threads, 16 features at a time

// A float as an unsigned number of the same order; 0 is below all of them.
__device__ __forceinline__ unsigned ordered(float value) {
    const unsigned bits = __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float unordered(unsigned key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The larger key is the larger score, and of equal scores the lower index: as argmax decides.
__device__ __forceinline__ unsigned long long key_of(float score, int index) {
    return (unsigned long long)ordered(score) << 32 | (0xffffffffu - (unsigned)index);
}

__device__ __forceinline__ int index_of(unsigned long long key) { return (int)(0xffffffffu - (unsigned)key); }

__device__ __forceinline__ double warp_sum(double value) {
    for (int step = 16; step; step >>= 1) value += __shfl_xor_sync(~0u, value, step);
    return value;
}

// `pooled` [coarse cells, d]: the mean of factor x factor cells, made of length 1. One block (128 threads) a cell.
template <typename Value>
__device__ void pool(const Value *patches, float *pooled, Grid grid) {
    const int cell = blockIdx.x, row = cell / grid.coarse_width * grid.factor, col = cell % grid.coarse_width * grid.factor;
    const int feature = threadIdx.x;
    float total = 0;
    if (feature < grid.depth)
        for (int i = 0; i < grid.factor; i++)
            for (int j = 0; j < grid.factor; j++)
                total += (float)patches[(size_t)((row + i) * grid.width + col + j) * grid.depth + feature];
    float square = total * total;
    for (int step = 16; step; step >>= 1) square += __shfl_xor_sync(~0u, square, step);
    __shared__ float squares[4];
    if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = square;
    __syncthreads();
    const float length = fmaxf(sqrtf(squares[0] + squares[1] + squares[2] + squares[3]), 1e-12f);
    if (feature < grid.depth) pooled[(size_t)cell * grid.depth + feature] = total / length;
}

extern "C" __global__ void pool_probes(const View *views, Grid grid, float *pooled) {
    pool(views[blockIdx.y].probe, pooled + (size_t)blockIdx.y * gridDim.x * grid.depth, grid);
}

extern "C" __global__ void pool_references(const View *views, const int2 *pairs, Grid grid, float *pooled) {
    const int2 pair = pairs[blockIdx.y];
    const size_t cells = (size_t)grid.height * grid.width;
    pool(views[pair.x].references + pair.y * cells * grid.depth, pooled + (size_t)blockIdx.y * gridDim.x * grid.depth, grid);
}

// Sixteen cosines a thread of a 64 x 64 tile: rows of `left` from `first_left`, rows of `right` from `first_right`.
// Rows at or beyond their count read as 0. Thread (x, y) = (t % 16, t / 16) has rows y * 4 + i and columns x * 4 + j.
template <typename Value>
__device__ __forceinline__ void product(const float *left, int left_count, int first_left, const Value *right,
                                        int right_count, int first_right, int depth, float (&sums)[4][4]) {
    __shared__ float lefts[SLICE][TILE + 4], rights[SLICE][TILE + 4];
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) sums[i][j] = 0;
    for (int from = 0; from < depth; from += SLICE) {
        __syncthreads();
        for (int at = threadIdx.x; at < TILE * SLICE; at += blockDim.x) {
            const int row = at / SLICE, k = at % SLICE;
            const int l = first_left + row, r = first_right + row;
            lefts[k][row] = l < left_count ? left[(size_t)l * depth + from + k] : 0.f;
            rights[k][row] = r < right_count ? (float)right[(size_t)r * depth + from + k] : 0.f;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < SLICE; k++) {
            float a[4], b[4];
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = lefts[k][y * 4 + i], b[i] = rights[k][x * 4 + i];
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
        }
    }
}

// `forward` [2, pairs, coarse cells]: the best reference cell of each probe cell; `backward`: the best probe cell of each
// reference cell. First with near matches preferred, then without. As keys, 0 before. One block a tile (x) and pair (y).
extern "C" __global__ void __launch_bounds__(256, 4)
    coarse_nearest(const int2 *pairs, Grid grid, const float *probes, const float *references,
                   unsigned long long *forward, unsigned long long *backward) {
    const int cells = grid.coarse_height * grid.coarse_width, across = (cells + TILE - 1) / TILE;
    const int first_row = blockIdx.x / across * TILE, first_col = blockIdx.x % across * TILE;
    const int pair = blockIdx.y;
    const size_t size = (size_t)cells * grid.depth;
    float sums[4][4];
    product(probes + pairs[pair].x * size, cells, first_row, references + pair * size, cells, first_col, grid.depth, sums);
    __shared__ unsigned long long rows[TILE], cols[TILE];
    const float quarter = (float)max(grid.height, grid.width) / 4.f, scale = quarter * quarter;
#pragma unroll 1
    for (int free = 0; free < 2; free++) {
        if (threadIdx.x < TILE) rows[threadIdx.x] = cols[threadIdx.x] = 0;
        __syncthreads();
        unsigned long long best_row[4] = {}, best_col[4] = {};
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int row = first_row + threadIdx.x / 16 * 4 + i, col = first_col + threadIdx.x % 16 * 4 + j;
                if (row >= cells || col >= cells) continue;
                const float down = (float)((row / grid.coarse_width - col / grid.coarse_width) * grid.factor);
                const float over = (float)((row % grid.coarse_width - col % grid.coarse_width) * grid.factor);
                const float penalty = POSITION_PENALTY * (down * down + over * over) / scale;
                const float near = sums[i][j] - penalty, score = free ? near + penalty : near;  // rounded as the twin's
                best_row[i] = max(best_row[i], key_of(score, col));
                best_col[j] = max(best_col[j], key_of(score, row));
            }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            atomicMax(&rows[threadIdx.x / 16 * 4 + i], best_row[i]);
            atomicMax(&cols[threadIdx.x % 16 * 4 + i], best_col[i]);
        }
        __syncthreads();
        if (threadIdx.x < TILE) {
            const size_t at = ((size_t)free * gridDim.y + pair) * cells;
            const int row = first_row + threadIdx.x, col = first_col + threadIdx.x;
            if (row < cells) atomicMax(&forward[at + row], rows[threadIdx.x]);
            if (col < cells) atomicMax(&backward[at + col], cols[threadIdx.x]);
        }
    }
}

// Solves (a + ridge) x = b for both columns of b; `a` symmetric: 00 01 02 11 12 22. Elimination with the largest pivot.
__device__ void solve(const double (&sums)[12], const double (&ridge)[3], double (&out)[6]) {
    double m[3][5] = {{sums[0] + ridge[0], sums[1], sums[2], sums[6], sums[7]},
                      {sums[1], sums[3] + ridge[1], sums[4], sums[8], sums[9]},
                      {sums[2], sums[4], sums[5] + ridge[2], sums[10], sums[11]}};
    for (int c = 0; c < 3; c++) {
        int pivot = c;
        for (int r = c + 1; r < 3; r++)
            if (fabs(m[r][c]) > fabs(m[pivot][c])) pivot = r;
        for (int k = 0; k < 5; k++) {
            const double held = m[c][k];
            m[c][k] = m[pivot][k], m[pivot][k] = held;
        }
        for (int r = 0; r < 3; r++) {
            if (r == c) continue;
            const double times = m[r][c] / m[c][c];
            for (int k = c; k < 5; k++) m[r][k] -= times * m[c][k];
        }
    }
    for (int r = 0; r < 3; r++) out[r * 2] = m[r][3] / m[r][r], out[r * 2 + 1] = m[r][4] / m[r][r];
}

// One block (128 threads) a pair (x), with near matches preferred or without (y), which `overlays` alone is told. `any`
// [views]: whether one of the view's references is aligned; 0 before.
extern "C" __global__ void __launch_bounds__(128)
    fit_affine(const int2 *pairs, Grid grid, const unsigned long long *forward, const unsigned long long *backward,
               Fit *fits, int *any, Overlay *overlays) {
    const int cells = grid.coarse_height * grid.coarse_width, pair = blockIdx.x, free = blockIdx.y;
    const size_t first = ((size_t)free * gridDim.x + pair) * cells;
    const unsigned long long *to = forward + first, *back = backward + first;
    __shared__ float weights[MOST_COARSE];
    __shared__ double sums[12], warps[4][12], affine[6];
    __shared__ int inliers;
    // Centred coordinates of the coarse cells, and the mean of their squares, in cells of the full grid.
    const double centre_row = (grid.coarse_height - 1) * 0.5 * grid.factor, centre_col = (grid.coarse_width - 1) * 0.5 * grid.factor;
    const double step = (double)grid.factor * grid.factor / 12.0;
    const double ridge[3] = {step * (grid.coarse_height * grid.coarse_height - 1),
                             step * (grid.coarse_width * grid.coarse_width - 1), 1e-3};
    if (threadIdx.x == 0) inliers = 0;
    for (int at = threadIdx.x; at < cells; at += blockDim.x) weights[at] = index_of(back[index_of(to[at])]) == at;
    auto place = [&](int at, double &row, double &col, double &down, double &over) {
        const int of = index_of(to[at]);
        row = at / grid.coarse_width * grid.factor - centre_row, col = at % grid.coarse_width * grid.factor - centre_col;
        down = (of / grid.coarse_width - at / grid.coarse_width) * grid.factor;
        over = (of % grid.coarse_width - at % grid.coarse_width) * grid.factor;
    };
    auto squared = [&](double row, double col, double down, double over) {
        const double off_row = down - (row * affine[0] + col * affine[2] + affine[4]);
        const double off_col = over - (row * affine[1] + col * affine[3] + affine[5]);
        return off_row * off_row + off_col * off_col;
    };
    __syncthreads();
    for (int round = 0; round < ROUNDS; round++) {
        double own[12] = {}, row, col, down, over;
        for (int at = threadIdx.x; at < cells; at += blockDim.x) {
            const double w = weights[at];
            if (w == 0) continue;
            place(at, row, col, down, over);
            const double terms[12] = {row * row, row * col, row, col * col, col, 1, row * down, row * over, col * down, col * over, down, over};
            for (int k = 0; k < 12; k++) own[k] += w * terms[k];
        }
        for (int k = 0; k < 12; k++) {
            const double sum = warp_sum(own[k]);
            if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32][k] = sum;
        }
        __syncthreads();
        if (threadIdx.x < 12) sums[threadIdx.x] = warps[0][threadIdx.x] + warps[1][threadIdx.x] + warps[2][threadIdx.x] + warps[3][threadIdx.x];
        __syncthreads();
        if (threadIdx.x == 0) solve(sums, ridge, affine);
        __syncthreads();
        const double scale = 8.0 - 2.0 * round;
        for (int at = threadIdx.x; at < cells; at += blockDim.x) {
            if (weights[at] == 0) continue;
            place(at, row, col, down, over);
            const double off = squared(row, col, down, over);
            weights[at] = (float)(1.0 / (1.0 + off / (scale * scale)));
            if (round == ROUNDS - 1 && off < (double)INLIER_CELLS * INLIER_CELLS) atomicAdd(&inliers, 1);
        }
        __syncthreads();
    }
    if (threadIdx.x) return;
    // `affine` moves centred places; the grid's own begin half a pooled cell before the first coarse one's centre.
    const double row = centre_row + (grid.factor - 1) * 0.5, col = centre_col + (grid.factor - 1) * 0.5;
    const double shift[2] = {affine[4] - row * affine[0] - col * affine[2], affine[5] - row * affine[1] - col * affine[3]};
    float *const told = free ? overlays[pair].free : overlays[pair].affine;
    for (int k = 0; k < 4; k++) told[k] = (float)affine[k];
    told[4] = (float)shift[0], told[5] = (float)shift[1];
    if (free) return;
    overlays[pair].inliers = (float)inliers;
    float distortion = 0;
    for (int k = 0; k < 4; k++) distortion = fmaxf(distortion, fabsf(told[k]));
    const int aligned = (double)inliers >= fmax((double)MIN_INLIERS, MIN_INLIER_SHARE * cells) && distortion <= MAX_DISTORTION;
    Fit fit = {};
    if (aligned) {
        for (int k = 0; k < 6; k++) fit.affine[k] = told[k];
        atomicOr(&any[pairs[pair].x], 1);
    }
    fit.aligned = aligned;
    fits[pair] = fit;
}

// The reference cell under (row, col).
__device__ __forceinline__ int cell_under(const Fit &fit, int row, int col, Grid grid) {
    const float down = __fadd_rn(__fmul_rn(row, fit.affine[0]), __fadd_rn(__fmul_rn(col, fit.affine[2]), fit.affine[4]));
    const float over = __fadd_rn(__fmul_rn(row, fit.affine[1]), __fadd_rn(__fmul_rn(col, fit.affine[3]), fit.affine[5]));
    const int r = min(max((int)rintf(row + down), 0), grid.height - 1);
    const int c = min(max((int)rintf(col + over), 0), grid.width - 1);
    return r * grid.width + c;
}

// `cosines` [views, h*w, 25]: each probe cell with the best aligned reference's cells around its place. One block (128
// threads) a cell (x) and view (y); a thread has one or more pairs of an offset and a reference.
extern "C" __global__ void __launch_bounds__(128)
    local_cosines(const View *views, Grid grid, const Fit *fits, const int *any, float *cosines) {
    if (!any[blockIdx.y]) return;
    const View view = views[blockIdx.y];
    const int cell = blockIdx.x, row = cell / grid.width, col = cell % grid.width;
    const size_t cells = (size_t)grid.height * grid.width;
    __shared__ __align__(16) float probe[MOST_DEPTH];
    __shared__ unsigned best[OFFSETS];
    if (threadIdx.x < grid.depth) probe[threadIdx.x] = view.probe[(size_t)cell * grid.depth + threadIdx.x] / INT8_ONE;
    if (threadIdx.x < OFFSETS) best[threadIdx.x] = 0;
    __syncthreads();
    for (int at = threadIdx.x; at < OFFSETS * view.count; at += blockDim.x) {
        const int offset = at % OFFSETS, reference = at / OFFSETS;
        const Fit fit = fits[view.first_pair + reference];
        if (!fit.aligned) continue;
        const int near_row = min(max(row + offset / WINDOW - REACH, 0), grid.height - 1);
        const int near_col = min(max(col + offset % WINDOW - REACH, 0), grid.width - 1);
        const int of = cell_under(fit, near_row, near_col, grid);
        const int4 *features = reinterpret_cast<const int4 *>(view.references + (reference * cells + of) * grid.depth);
        float sum = 0;
        for (int k = 0; k < grid.depth / 16; k++) {
            const int4 packed = features[k];
            const int words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
            for (int word = 0; word < 4; word++)
#pragma unroll
                for (int byte = 0; byte < 4; byte++)
                    sum = fmaf(probe[k * 16 + word * 4 + byte], (float)(signed char)(words[word] >> (byte * 8)), sum);
        }
        atomicMax(&best[offset], ordered(sum));
    }
    __syncthreads();
    if (threadIdx.x < OFFSETS) cosines[(blockIdx.y * cells + cell) * OFFSETS + threadIdx.x] = unordered(best[threadIdx.x]);
}

// Where nothing is aligned: each patch's best in all of each reference, both ways, into `forward` and `backward`
// [views, h*w] as ordered numbers, 0 before. Blocks take one tile of a pair after another.
extern "C" __global__ void __launch_bounds__(256)
    free_cosines(const View *views, const int2 *pairs, int pair_count, Grid grid, const int *any, unsigned *forward,
                 unsigned *backward) {
    const int cells = grid.height * grid.width, across = (cells + TILE - 1) / TILE, tiles = across * across;
    __shared__ unsigned rows[TILE], cols[TILE];
    for (int at = blockIdx.x; at < pair_count * tiles; at += gridDim.x) {
        const int2 pair = pairs[at / tiles];
        if (any[pair.x]) continue;  // the same for the whole block
        const View view = views[pair.x];
        const int first_row = at % tiles / across * TILE, first_col = at % across * TILE;
        float sums[4][4];
        product(view.probe, cells, first_row, view.references + (size_t)pair.y * cells * grid.depth, cells, first_col, grid.depth, sums);
        if (threadIdx.x < TILE) rows[threadIdx.x] = cols[threadIdx.x] = 0;
        __syncthreads();
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) {
                const int row = threadIdx.x / 16 * 4 + i, col = threadIdx.x % 16 * 4 + j;
                if (first_row + row >= cells || first_col + col >= cells) continue;
                const unsigned key = ordered(sums[i][j] / INT8_ONE);
                atomicMax(&rows[row], key);
                atomicMax(&cols[col], key);
            }
        __syncthreads();
        if (threadIdx.x < TILE) {
            const size_t view_cells = (size_t)pair.x * cells;
            if (first_row + threadIdx.x < cells) atomicMax(&forward[view_cells + first_row + threadIdx.x], rows[threadIdx.x]);
            if (first_col + threadIdx.x < cells) atomicMax(&backward[view_cells + first_col + threadIdx.x], cols[threadIdx.x]);
        }
        __syncthreads();
    }
}

// From cosines to what travels back: `maps` [views, h*w] (distance over spread, 0 where masked) and `totals` [views][4]:
// the mean of the largest 5 % of the kept cells, the mean distance, whether aligned, whether the probe is finite. One block (256 threads) a view.
extern "C" __global__ void __launch_bounds__(256)
    finish(const View *views, Grid grid, const int *any, const float *cosines, const unsigned *forward,
           const unsigned *backward, float *maps, float4 *totals) {
    const View view = views[blockIdx.x];
    const int cells = grid.height * grid.width, aligned = any[blockIdx.x];
    int size = 1;
    while (size < cells) size *= 2;
    int finite = 1;
    for (int at = threadIdx.x; at < cells * grid.depth; at += blockDim.x) finite &= isfinite(view.probe[at]);
    finite = __syncthreads_and(finite);
    __shared__ float values[MOST_CELLS];
    __shared__ double sums[8];
    double distances = 0;
    for (int cell = threadIdx.x; cell < size; cell += blockDim.x) {
        values[cell] = -1.f;  // below every distance
        if (cell >= cells) continue;
        float ahead = -1.f, back = -1.f;
        if (aligned) {
            const float *of = cosines + (size_t)blockIdx.x * cells * OFFSETS;
            const int row = cell / grid.width, col = cell % grid.width;
            ahead = of[(size_t)cell * OFFSETS];
            for (int offset = 1; offset < OFFSETS; offset++) ahead = fmaxf(ahead, of[(size_t)cell * OFFSETS + offset]);
            for (int offset = 0; offset < OFFSETS; offset++) {
                const int from_row = row - (offset / WINDOW - REACH), from_col = col - (offset % WINDOW - REACH);
                if (from_row < 0 || from_row >= grid.height || from_col < 0 || from_col >= grid.width) continue;
                back = fmaxf(back, of[(size_t)(from_row * grid.width + from_col) * OFFSETS + offset]);
            }
        } else {
            ahead = unordered(forward[(size_t)blockIdx.x * cells + cell]);
            back = unordered(backward[(size_t)blockIdx.x * cells + cell]);
        }
        const float distance = fmaxf(1.f - fminf(ahead, back), 0.f);
        const bool kept = view.kept[cell];
        const float over = kept ? distance / view.spread[cell] : 0.f;
        maps[(size_t)blockIdx.x * cells + cell] = over;
        if (kept) values[cell] = over;
        distances += distance;
    }
    distances = warp_sum(distances);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = distances;
    __syncthreads();
    for (int run = 2; run <= size; run *= 2)  // bitonic, the largest first
        for (int step = run / 2; step; step /= 2) {
            for (int at = threadIdx.x; at < size; at += blockDim.x) {
                const int other = at ^ step;
                if (other <= at) continue;
                const bool falling = (at & run) == 0;
                if ((values[at] < values[other]) == falling) {
                    const float held = values[at];
                    values[at] = values[other], values[other] = held;
                }
            }
            __syncthreads();
        }
    if (threadIdx.x >= 32) return;
    // As Python rounds: half to even.
    const int top = view.kept_cells ? max(1, (int)rint(0.05 * view.kept_cells)) : 0;
    double largest = 0, all = 0;
    for (int at = threadIdx.x; at < top; at += 32) largest += values[at];
    largest = warp_sum(largest);
    for (int warp = 0; warp < 8; warp++) all += sums[warp];
    if (threadIdx.x == 0) totals[blockIdx.x] = make_float4(top ? (float)(largest / top) : 0.f, (float)(all / cells), aligned, finite);
}

struct Rows {  // `embedding` against `count` rows of `dims`, less those of `own` (from, to); `skus` [count]: whose each is
    const float *embedding, *rows;
    const int *skus;
    int count, dims, own_from, own_to, out, pad;
};

__device__ __forceinline__ float row_cosine(const Rows &of, int row) {
    float sum = 0;
    for (int k = threadIdx.x % 32; k < of.dims; k += 32) sum = fmaf(of.rows[(size_t)row * of.dims + k], of.embedding[k], sum);
    for (int step = 16; step; step >>= 1) sum += __shfl_xor_sync(~0u, sum, step);
    return fminf(fmaxf(sum, -1.f), 1.f);
}

// `cosines` from `out` on: all of them. Blocks (x) share a view's (y) rows, a warp a row; so in the next two.
extern "C" __global__ void row_cosines(const Rows *views, float *cosines) {
    const Rows of = views[blockIdx.y];
    const int warps = blockDim.x / 32;
    for (int row = blockIdx.x * warps + threadIdx.x / 32; row < of.count; row += gridDim.x * warps) {
        const float cosine = row_cosine(of, row);
        if (threadIdx.x % 32 == 0) cosines[of.out + row] = cosine;
    }
}

// `best` [views]: the key of the nearest row that is not of `own`; 0 before, and after where there is none.
extern "C" __global__ void nearest_row(const Rows *views, unsigned long long *best) {
    const Rows of = views[blockIdx.y];
    const int warps = blockDim.x / 32;
    unsigned long long own = 0;
    for (int row = blockIdx.x * warps + threadIdx.x / 32; row < of.count; row += gridDim.x * warps)
        if (row < of.own_from || row >= of.own_to) own = max(own, key_of(row_cosine(of, row), row));
    if (threadIdx.x % 32 == 0 && own) atomicMax(&best[blockIdx.y], own);
}

// `best` from `out` on: the best cosine of each SKU as an ordered number; 0 before.
extern "C" __global__ void sku_cosines(const Rows *views, unsigned *best) {
    const Rows of = views[blockIdx.y];
    const int warps = blockDim.x / 32;
    for (int row = blockIdx.x * warps + threadIdx.x / 32; row < of.count; row += gridDim.x * warps) {
        const unsigned key = ordered(row_cosine(of, row));
        if (threadIdx.x % 32 == 0) atomicMax(&best[of.out + of.skus[row]], key);
    }
}
