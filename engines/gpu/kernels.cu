// Photographs as bytes to what a graph takes: (level - mean) * scale, from [n,S,S,3] to [n,3,S,S].
// Compiled ahead of time by build.sh without contraction into fused multiply-adds, so that it gives the very bits
// that engines/preprocess.py gives on a CPU.
extern "C" __global__ void normalise(const unsigned char *pixels, float *images, const float *mean, const float *scale,
                                     int side, int count) {
    const long long area = (long long)side * side;
    const long long total = area * count;
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < total; at += step) {
        const long long image = at / area, place = at % area;
        const unsigned char *pixel = pixels + at * 3;
        float *first = images + image * 3 * area + place;
        for (int channel = 0; channel < 3; channel++)
            first[channel * area] = ((float)pixel[channel] - mean[channel]) * scale[channel];
    }
}
