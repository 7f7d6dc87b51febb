// Batch normalisation over (N, C, H, W); an addition and ReLU or ReLU6 behind it are fused as options.
//
//   y = f(gamma * (x - mean) * inv_std + beta + residual)               mean, inv_std, gamma, beta: (C)
//   dx = gamma * inv_std * (g - sum(g) / M - xhat * sum(g * xhat) / M)  g = grad * f'(y), M = N * H * W
//   dresidual = g
//
// RELU says what f is: 0 nothing, 1 ReLU, 6 ReLU6.
//
// x, residual, y, grad, dx: (images, channels, plane); plane = H * W, or 1 for (N, C). Images are contiguous and lie
// x_pitch, y_pitch, ... elements apart, so that an array may be some channels of a wider one; dx and dresidual are
// contiguous as a whole. gamma, beta, residual may be null.
//
// S is the type of x, y, grad and dx; what is computed, summed and learned has type T = Compute<S>.
//
// Sums over a channel take two launches. First a block takes one channel of a few images, a chunk, and leaves its
// result in (chunks, channels); then one thread per channel combines the chunks in their order. So two runs give the
// same bits. A chunk's variance is taken about the chunk's own mean (two passes, the second from the cache), and
// chunks are merged by Chan's formula, so a large mean costs no digits.
//
// Small planes of one channel lie far apart, and are short beside a vector register. They are reduced by kernels
// `..._in_rows`: a block takes neighbouring channels of a few images, at most WIDTH elements of each image, its threads
// walk along those, and a sum for each of the WIDTH elements lies in shared memory.
//
// Threads: x walks along a plane in strips of LANES elements (32 on the CPU; 1 on the GPU, where neighbouring threads
// read neighbouring elements), y walks over images or planes.
//
// Floor, per element: forward 2 reads (3 with a residual) and 1 write, 7 operations; backward 4 reads and 1 write, 9
// operations; with ReLU and residual 5 reads and 2 writes. Memory bandwidth bounds all.
#include "cupynn.cuh"

constexpr int MAX_THREADS = 256;

// The sum over a block's threads of the sums of their lanes, known to every thread. The order is fixed.
template <typename T, int LANES> __device__ T block_sum(const T (&lanes)[LANES]) {
    __shared__ T partial[MAX_THREADS];
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    T sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += lanes[lane];
    __syncthreads();  // an earlier call's result has been read
    partial[thread] = sum;
    __syncthreads();
    for (int width = blockDim.x * blockDim.y; width > 1;) {
        const int half = (width + 1) / 2;
        if (thread < width - half) partial[thread] += partial[thread + half];
        __syncthreads();
        width = half;
    }
    return partial[0];
}

// Which part of the arrays a block reduces: `channel` of the images first .. last - 1.
struct Chunk {
    int channel, first, last, channels, plane;

    __device__ Chunk(int images, int channels, int plane, int images_per_chunk)
        : channel(blockIdx.x), first(blockIdx.y * images_per_chunk), last(first + images_per_chunk),
          channels(channels), plane(plane) {
        if (last > images) last = images;
    }

    __device__ long long slot() const { return (long long)blockIdx.y * channels + channel; }

    template <typename T> __device__ T count() const { return T(last - first) * T(plane); }

    // body(lane, image, offset in the image) for every element that this thread reduces.
    template <int LANES, typename Body> __device__ __forceinline__ void each(Body body) const {
        for (int n = first + threadIdx.y; n < last; n += blockDim.y) {
            const long long row = (long long)channel * plane;
            int i = threadIdx.x * LANES;
            for (; i + LANES <= plane; i += blockDim.x * LANES) {
                STRIP_LOOP
                for (int lane = 0; lane < LANES; lane++) body(lane, n, row + i + lane);
            }
            STRIP_LOOP
            for (int lane = 0; lane < plane - i; lane++) body(lane, n, row + i + lane);
        }
    }
};

// chunk_mean, chunk_squares (chunks, channels): a chunk's mean, and its sum of squared deviations from that mean.
template <typename S, int LANES, typename T = Compute<S>>
__global__ void statistics(const S* __restrict__ x, T* __restrict__ chunk_mean, T* __restrict__ chunk_squares,
                           long long x_pitch, int images, int channels, int plane, int images_per_chunk) {
    const Chunk chunk(images, channels, plane, images_per_chunk);
    const T count = chunk.template count<T>();
    T sum[LANES] = {};
    chunk.template each<LANES>([&](int lane, int n, long long at) { sum[lane] += x[n * x_pitch + at]; });
    const T about = block_sum(sum) / count;
    T rest[LANES] = {}, squares[LANES] = {};
    chunk.template each<LANES>([&](int lane, int n, long long at) {
        const T deviation = x[n * x_pitch + at] - about;
        rest[lane] += deviation;
        squares[lane] += deviation * deviation;
    });
    const T left = block_sum(rest);  // 0 but for rounding in `about`
    const T total = block_sum(squares);
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        chunk_mean[chunk.slot()] = about + left / count;
        chunk_squares[chunk.slot()] = total;  // about `about`: (left / count)^2 more per element, lost in the rounding
    }
}

// Which part of the arrays a block of the `..._in_rows` kernels takes: `width` neighbouring elements of the images first
// .. last - 1, which are channels from `channel` on.
constexpr int WIDTH = 1024;

struct Rows {
    int channel, width, first, last, channels, plane;

    __device__ Rows(int images, int channels, int plane, int images_per_chunk)
        : channel(blockIdx.x * (WIDTH / plane)), first(blockIdx.y * images_per_chunk), last(first + images_per_chunk),
          channels(channels), plane(plane) {
        const int here = channels - channel < WIDTH / plane ? channels - channel : WIDTH / plane;
        width = here * plane;
        if (last > images) last = images;
    }

    __device__ long long slot(int c) const { return (long long)blockIdx.y * channels + channel + c; }

    template <typename T> __device__ T count() const { return T(last - first) * T(plane); }

    // body(element of the block's width, image, offset in the image, sums[element], more[element]) for every element of
    // this thread. Sums are read and written once for TOGETHER images.
    template <typename T, typename Body> __device__ __forceinline__ void reduce(T* sums, T* more, Body body) const {
        constexpr int TOGETHER = 4;
        const long long row = (long long)channel * plane;
        int n = first;
        for (; n + TOGETHER <= last; n += TOGETHER) {
            STRIP_LOOP
            for (int i = threadIdx.x; i < width; i += blockDim.x) {
                T a = sums[i], b = more[i];
                CUPYNN_UNROLL
                for (int k = 0; k < TOGETHER; k++) body(i, n + k, row + i, a, b);
                sums[i] = a, more[i] = b;
            }
        }
        for (; n < last; n++) {
            STRIP_LOOP
            for (int i = threadIdx.x; i < width; i += blockDim.x) body(i, n, row + i, sums[i], more[i]);
        }
    }

    // body(channel of the block) for every channel of this thread, once all sums are there and before they are used.
    template <typename Body> __device__ __forceinline__ void each_channel(Body body) const {
        __syncthreads();
        for (int c = threadIdx.x; c * plane < width; c += blockDim.x) body(c);
        __syncthreads();
    }

    // The sum of a channel's sums.
    template <typename T> __device__ __forceinline__ T total(const T* sums, int c) const {
        T sum = 0;
        STRIP_SUM(sum)
        for (int i = c * plane; i < (c + 1) * plane; i++) sum += sums[i];
        return sum;
    }

    // to[i] = value for every element of a channel.
    template <typename T> __device__ __forceinline__ void spread(T* to, int c, T value) const {
        STRIP_LOOP
        for (int i = c * plane; i < (c + 1) * plane; i++) to[i] = value;
    }
};

// As `statistics`.
template <typename S, typename T = Compute<S>>
__global__ void statistics_in_rows(const S* __restrict__ x, T* __restrict__ chunk_mean, T* __restrict__ chunk_squares,
                                   long long x_pitch, int images, int channels, int plane, int images_per_chunk) {
    __shared__ T all[3][WIDTH];
    T *sum = register_pointer(all[0]), *squares = register_pointer(all[1]), *about = register_pointer(all[2]);
    const Rows rows(images, channels, plane, images_per_chunk);
    const T count = rows.template count<T>();
    for (int i = threadIdx.x; i < rows.width; i += blockDim.x) sum[i] = squares[i] = 0;
    rows.reduce(sum, squares, [&](int i, int n, long long at, T& a, T& b) { a += x[n * x_pitch + at]; });
    rows.each_channel([&](int c) {
        rows.spread(about, c, rows.total(sum, c) / count);
        rows.spread(sum, c, T(0));
    });
    rows.reduce(sum, squares, [&](int i, int n, long long at, T& a, T& b) {
        const T deviation = x[n * x_pitch + at] - about[i];
        a += deviation;
        b += deviation * deviation;
    });
    rows.each_channel([&](int c) {
        const T left = rows.total(sum, c), more = left * (left / count);  // one sum after the other rounds more
        const T total = rows.total(squares, c);
        chunk_mean[rows.slot(c)] = about[c * plane] + left / count;
        chunk_squares[rows.slot(c)] = total > more ? total - more : total - total;
    });
}

// mean, variance (biased), inv_std (channels), from all chunks. One thread per channel. [Chan et al. 1979]
template <typename T>
__global__ void combine_statistics(const T* __restrict__ chunk_mean, const T* __restrict__ chunk_squares,
                                   T* __restrict__ mean, T* __restrict__ variance, T* __restrict__ inv_std, T eps,
                                   int images, int channels, int plane, int images_per_chunk) {
    for (int c = blockIdx.x * blockDim.x + threadIdx.x; c < channels; c += gridDim.x * blockDim.x) {
        T count = 0, average = 0, squares = 0;
        for (int first = 0, chunk = 0; first < images; first += images_per_chunk, chunk++) {
            const long long slot = (long long)chunk * channels + c;
            const int chunk_images = images - first < images_per_chunk ? images - first : images_per_chunk;
            const T more = T(chunk_images) * T(plane);
            const T apart = chunk_mean[slot] - average;
            const T share = more / (count + more);
            average += apart * share;
            squares += chunk_squares[slot] + apart * apart * share * count;
            count += more;
        }
        mean[c] = average;
        variance[c] = squares / count;
        inv_std[c] = T(1) / sqrt(squares / count + eps);
    }
}

// From image n, channel c, to the plane that a thread of `normalise` and `gradient` takes next.
__device__ __forceinline__ void step(int& n, int& c, int channels) {
    c += blockDim.y;
    if (c < channels) return;
    n += c / channels;
    c %= channels;
}

// f(value), written so that a NaN stays one.
template <int RELU, typename T> __device__ __forceinline__ T activate(T value) {
    if (RELU) value = value < T(0) ? T(0) : value;
    if (RELU == 6) value = value > T(6) ? T(6) : value;
    return value;
}

// y before f and without a residual. Backward computes it as forward does, to the same bits, and reads no y.
template <typename T> __device__ __forceinline__ T affine(T x, T about, T scale, T shift) {
    return (x - about) * scale + shift;
}

// grad f'(y), y behind f or before. A product, as of `keep ? grad : 0` g++ makes a load that waits for the mask, and so
// leaves half of the memory's bandwidth unused. It turns an infinite gradient where f is flat into a NaN.
template <int RELU, typename T> __device__ __forceinline__ T masked(T grad, T y) {
    return grad * (y > T(0) && (RELU != 6 || y < T(6)) ? T(1) : T(0));
}

// y from the statistics. A block takes `planes_per_block` neighbouring planes.
template <typename S, int RELU, bool RESIDUAL, typename T = Compute<S>>
__global__ void normalise(const S* __restrict__ x, const T* __restrict__ mean, const T* __restrict__ inv_std,
                          const T* __restrict__ gamma, const T* __restrict__ beta, const S* __restrict__ residual,
                          S* __restrict__ y, long long x_pitch, long long residual_pitch, long long y_pitch,
                          long long planes, int channels, int plane, int planes_per_block) {
    const long long first = (long long)blockIdx.x * planes_per_block;
    const long long last = first + planes_per_block < planes ? first + planes_per_block : planes;
    int n = int((first + threadIdx.y) / channels), c = int((first + threadIdx.y) % channels);
    for (long long p = first + threadIdx.y; p < last; p += blockDim.y) {
        const T about = mean[c], scale = gamma ? gamma[c] * inv_std[c] : inv_std[c], shift = beta ? beta[c] : T(0);
        const long long channel = (long long)c * plane;
        const S *from = x + n * x_pitch + channel, *more = residual + n * residual_pitch + channel;
        S* to = y + n * y_pitch + channel;
        STRIP_LOOP
        for (int i = threadIdx.x; i < plane; i += blockDim.x) {
            T value = affine(T(from[i]), about, scale, shift);
            if (RESIDUAL) value += T(more[i]);
            to[i] = activate<RELU>(value);
        }
        step(n, c, channels);
    }
}

// chunk_grad, chunk_product (chunks, channels): a chunk's sums of g and of g * (x - mean). KEEP: there was a residual, so
// y is read, and g goes to dresidual.
template <typename S, int LANES, int RELU, bool KEEP, typename T = Compute<S>>
__global__ void gradient_sums(const S* __restrict__ grad, const S* __restrict__ x, const S* __restrict__ y,
                              const T* __restrict__ mean, const T* __restrict__ inv_std, const T* __restrict__ gamma,
                              const T* __restrict__ beta, T* __restrict__ chunk_grad, T* __restrict__ chunk_product,
                              S* __restrict__ dresidual, long long grad_pitch, long long x_pitch, long long y_pitch,
                              int images, int channels, int plane, int images_per_chunk) {
    const Chunk chunk(images, channels, plane, images_per_chunk);
    const int c = chunk.channel;
    const T about = mean[c], scale = gamma ? gamma[c] * inv_std[c] : inv_std[c], shift = beta ? beta[c] : T(0);
    const long long pitch = (long long)channels * plane;
    T sum[LANES] = {}, product[LANES] = {};
    chunk.template each<LANES>([&](int lane, int n, long long at) {
        const T value = x[n * x_pitch + at];
        T g = grad[n * grad_pitch + at];
        if (RELU) g = masked<RELU>(g, KEEP ? T(y[n * y_pitch + at]) : affine(value, about, scale, shift));
        if (KEEP) dresidual[n * pitch + at] = g;
        sum[lane] += g;
        product[lane] += g * (value - about);
    });
    const T total = block_sum(sum), total_product = block_sum(product);
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        chunk_grad[chunk.slot()] = total;
        chunk_product[chunk.slot()] = total_product;
    }
}

// As `gradient_sums`.
template <typename S, int RELU, bool KEEP, typename T = Compute<S>>
__global__ void gradient_sums_in_rows(const S* __restrict__ grad, const S* __restrict__ x, const S* __restrict__ y,
                                      const T* __restrict__ mean, const T* __restrict__ inv_std,
                                      const T* __restrict__ gamma, const T* __restrict__ beta,
                                      T* __restrict__ chunk_grad, T* __restrict__ chunk_product,
                                      S* __restrict__ dresidual, long long grad_pitch, long long x_pitch,
                                      long long y_pitch, int images, int channels, int plane, int images_per_chunk) {
    __shared__ T all[5][WIDTH];
    T *sum = register_pointer(all[0]), *product = register_pointer(all[1]), *about = register_pointer(all[2]);
    T *scale = register_pointer(all[3]), *shift = register_pointer(all[4]);
    const Rows rows(images, channels, plane, images_per_chunk);
    const long long pitch = (long long)channels * plane;
    rows.each_channel([&](int block_channel) {
        const int c = rows.channel + block_channel;
        rows.spread(sum, block_channel, T(0));
        rows.spread(product, block_channel, T(0));
        rows.spread(about, block_channel, mean[c]);
        if (RELU && !KEEP) {
            rows.spread(scale, block_channel, gamma ? gamma[c] * inv_std[c] : inv_std[c]);
            rows.spread(shift, block_channel, beta ? beta[c] : T(0));
        }
    });
    rows.reduce(sum, product, [&](int i, int n, long long at, T& a, T& b) {
        const T value = x[n * x_pitch + at];
        T g = grad[n * grad_pitch + at];
        if (RELU) g = masked<RELU>(g, KEEP ? T(y[n * y_pitch + at]) : affine(value, about[i], scale[i], shift[i]));
        if (KEEP) dresidual[n * pitch + at] = g;
        a += g;
        b += g * (value - about[i]);
    });
    rows.each_channel([&](int c) {
        chunk_grad[rows.slot(c)] = rows.total(sum, c);
        chunk_product[rows.slot(c)] = rows.total(product, c);
    });
}

// dgamma, dbeta (channels), from all chunks. One thread per channel.
template <typename T>
__global__ void combine_gradients(const T* __restrict__ chunk_grad, const T* __restrict__ chunk_product,
                                  const T* __restrict__ inv_std, T* __restrict__ dgamma, T* __restrict__ dbeta,
                                  int chunks, int channels) {
    for (int c = blockIdx.x * blockDim.x + threadIdx.x; c < channels; c += gridDim.x * blockDim.x) {
        T sum = 0, product = 0;
        for (int chunk = 0; chunk < chunks; chunk++) {
            sum += chunk_grad[(long long)chunk * channels + c];
            product += chunk_product[(long long)chunk * channels + c];
        }
        dbeta[c] = sum;
        dgamma[c] = product * inv_std[c];
    }
}

// dx. In evaluation the statistics are constants: dx = gamma * inv_std * g, and x is read for ReLU only.
template <typename S, int RELU, bool TRAINING, typename T = Compute<S>>
__global__ void gradient(const S* __restrict__ grad, const S* __restrict__ x, const T* __restrict__ mean,
                         const T* __restrict__ inv_std, const T* __restrict__ gamma, const T* __restrict__ beta,
                         const T* __restrict__ dgamma, const T* __restrict__ dbeta, S* __restrict__ dx, T count,
                         long long grad_pitch, long long x_pitch, long long planes, int channels, int plane,
                         int planes_per_block) {
    const long long first = (long long)blockIdx.x * planes_per_block;
    const long long last = first + planes_per_block < planes ? first + planes_per_block : planes;
    int n = int((first + threadIdx.y) / channels), c = int((first + threadIdx.y) % channels);
    for (long long p = first + threadIdx.y; p < last; p += blockDim.y) {
        const T about = mean[c], scale = gamma ? gamma[c] * inv_std[c] : inv_std[c], shift = beta ? beta[c] : T(0);
        const T constant = dbeta[c] / count, slope = dgamma[c] * inv_std[c] / count;
        const long long channel = (long long)c * plane;
        const S *grad_row = grad + n * grad_pitch + channel, *x_row = x + n * x_pitch + channel;
        S* dx_row = dx + p * plane;
        STRIP_LOOP
        for (int i = threadIdx.x; i < plane; i += blockDim.x) {
            T g = grad_row[i];
            if (RELU) g = masked<RELU>(g, affine(T(x_row[i]), about, scale, shift));
            dx_row[i] = TRAINING ? scale * (g - constant - (x_row[i] - about) * slope) : scale * g;
        }
        step(n, c, channels);
    }
}

// The running statistics of `size` channels: running = keep * running + share * batch's.
template <typename T>
__global__ void move_running(T* __restrict__ running_mean, T* __restrict__ running_var, const T* __restrict__ mean,
                             const T* __restrict__ variance, long long size, T keep, T share, T variance_share) {
    const long long c = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= size) return;
    running_mean[c] = keep * running_mean[c] + share * mean[c];
    running_var[c] = keep * running_var[c] + variance_share * variance[c];
}
