// WHE: every channel of a group is combined with every other, through a hidden unit of its own.  [WHE, equations 1-2]
//
//   h(i,j) = A(i,j) x(i) + B(i,j) x(j) + C(i,j)        y(i) = sum_j D(i,j) f(h(i,j))        i, j < g, per pixel
//
//   backward, with t(i,j) = dy(i) f'(h(i,j)) and sums over all pixels of the batch:
//   dx(k)   = sum_j t(k,j) D(k,j) A(k,j) + sum_i t(i,k) D(i,k) B(i,k)
//   dA(i,j) = D sum t x(i)      dB(i,j) = D sum t x(j)      dC(i,j) = D sum t      dD(i,j) = sum dy(i) f(h)
//   Where f(h) = f'(h) h (ReLU, leaky ReLU, identity) the last sum is A sum t x(i) + B sum t x(j) + C sum t.
//
// x, y, dy, dx: (N, C, H, W), plane = H W; A, B, C, D: (C/g, g, g). All contiguous. Pixels are counted over the whole
// batch, q = n plane + p, so that strips are full also where a plane is smaller than a strip.
//
// S is the type of x, y, dy and dx; all else has type T = Compute<S>.
//
// A hidden unit exists in registers only. A thread keeps the g inputs of a strip of pixels (in registers on the GPU, in
// the nearest cache on the CPU) and takes ROWS outputs at a time; weights come from shared memory, for all pixels of
// the strip at once. G is the group size as a constant, or 0 for any size up to 32, given at run time.
//
// The backward kernel stages a tile of x and dy. First a thread takes ROWS x ROWS hidden units and sums over the tile's
// pixels, then it takes a strip of pixels and sums over hidden units. A block adds its tiles up in `partial`, and
// `reduce` the blocks, both in order: two runs give the same bits.
//
// Floor, per element: forward reads x and writes y, 3 g multiply-adds and g activations. Backward reads x and dy and
// writes dx; per hidden unit 2 multiply-adds for h, f', 2 multiply-adds and an addition for the weights' sums, 2
// multiply-adds for dx: 9 g instructions. This kernel takes 13 g, as each of its two parts computes t: dx is a sum over
// hidden units, the weights' gradients over pixels, and one of the two would have to go through memory.
#include "exponential.cuh"

enum Activation { RELU, LEAKY_RELU, ELU, TANH, IDENTITY };
constexpr double SLOPE = 0.01;  // of leaky ReLU
constexpr int MOST = 32;        // the largest group
// Whether f(h) = f'(h) h.
__device__ constexpr bool is_homogeneous(int f) { return f == RELU || f == LEAKY_RELU || f == IDENTITY; }
__device__ constexpr int sums_of(int f) { return is_homogeneous(f) ? 3 : 4; }

// On the GPU a strip's inputs are registers, so that j has to be a constant; on the CPU they are memory.
#ifdef CUPYNN_GPU
#define HIDDEN_LOOP CUPYNN_UNROLL
#else
#define HIDDEN_LOOP
#endif

// The weights of one hidden unit: one 128-bit load on the GPU.
template <typename T> struct alignas(16) Unit { T a, b, c, d; };

// x where h > 0, else y.
template <typename T, int N>
__device__ __forceinline__ Strip<T, N> where_positive(Strip<T, N> h, Strip<T, N> x, Strip<T, N> y) {
    CUPYNN_UNROLL
    for (int i = 0; i < Strip<T, N>::PARTS; i++) y.part[i] = h.part[i] > T(0) ? x.part[i] : y.part[i];
    return y;
}

// f(h); a NaN stays one.
template <int F, typename T, int N> __device__ __forceinline__ Strip<T, N> activate(Strip<T, N> h) {
    if constexpr (F == RELU) return maximum(Strip<T, N>::broadcast(T(0)), h);
    if constexpr (F == LEAKY_RELU) return maximum(h * T(SLOPE), h);
    if constexpr (F == IDENTITY) return h;
    T values[N];
    h.store(values);
    STRIP_LOOP
    for (int i = 0; i < N; i++) {
        const T value = values[i];
        if constexpr (F == ELU) {
            const T negative = expm1_of_negative(value > T(0) ? T(0) : value);
            values[i] = value > T(0) ? value : negative;
        } else {  // tanh |h| = -E / (E + 2), E = exp(-2 |h|) - 1
            const T e = expm1_of_negative(T(-2) * fabs(value)), t = -e / (e + T(2));
            values[i] = value < T(0) ? -t : t;
        }
    }
    return Strip<T, N>::load(values);
}

// grad f'(h), given f = f(h).
template <int F, typename T, int N>
__device__ __forceinline__ Strip<T, N> slope(Strip<T, N> h, Strip<T, N> f, Strip<T, N> grad) {
    if constexpr (F == RELU) return where_positive(h, grad, Strip<T, N>::broadcast(T(0)));
    if constexpr (F == LEAKY_RELU) return where_positive(h, grad, grad * T(SLOPE));
    if constexpr (F == ELU) return where_positive(h, grad, fma(grad, f, grad));
    if constexpr (F == TANH) return grad - grad * f * f;
    return grad;
}

// Where pixels of one group are in the arrays.
struct Images {
    long long pixels;  // of the batch
    int channels, plane, channel;  // channel: the group's first

    // The offset of pixel q = n * plane + p in the group's first channel.
    __device__ long long at(long long n, long long p) const { return (n * channels + channel) * plane + p; }
};

// LANES pixels, `spacing` apart. Those behind the batch's end are read as 0 and not written.
template <typename T, int LANES> struct Pixels {
    long long at[LANES];
    int present;
    bool neighbours;

    __device__ __forceinline__ Pixels(const Images& images, long long origin, int first, int spacing) {
        // The origin, the same for all threads, takes the one long division.
        const long long n0 = origin / images.plane, left = images.pixels - origin - first;
        const unsigned p0 = unsigned(origin - n0 * images.plane), plane = images.plane, p = (p0 + first) % plane;
        present = left <= 0 ? 0 : left > (long long)(LANES - 1) * spacing ? LANES : int((left + spacing - 1) / spacing);
        neighbours = LANES > 1 && spacing == 1 && present == LANES && p + LANES <= plane;
        at[0] = images.at(n0 + (p0 + first) / plane, p);
        if (neighbours) return;
        CUPYNN_UNROLL
        for (int lane = 1; lane < LANES; lane++) {
            const unsigned q = p0 + first + lane * spacing;
            at[lane] = images.at(n0 + q / plane, q % plane);
        }
    }
    template <typename S> __device__ __forceinline__ Strip<T, LANES> load(const S* channel) const {
        if (neighbours) return Strip<T, LANES>::load(channel + at[0]);
        T values[LANES];
        CUPYNN_UNROLL
        for (int lane = 0; lane < LANES; lane++) values[lane] = lane < present ? T(channel[at[lane]]) : T(0);
        return Strip<T, LANES>::load(values);
    }
    template <typename S> __device__ __forceinline__ void store(S* channel, const Strip<T, LANES>& strip) const {
        if (neighbours) return strip.store(channel + at[0]);
        T values[LANES];
        strip.store(values);
        CUPYNN_UNROLL
        for (int lane = 0; lane < LANES; lane++)
            if (lane < present) channel[at[lane]] = values[lane];
    }
};

// On the CPU: the lines of LANES elements come to the cache while the thread goes on. Without it a forward pass with
// g = 4 whose arrays are in no cache takes 1.4 times as long; with g = 16 it makes no difference.
template <int LANES, bool TO_WRITE, typename T> __device__ __forceinline__ void fetch(const T* address) {
#ifdef CUPYNN_CPU
    CUPYNN_UNROLL
    for (int k = 0; k < LANES; k += 64 / sizeof(T)) __builtin_prefetch(address + k, TO_WRITE);
#endif
}

// The weights of one group to shared memory, side by side.
template <typename T>
__device__ Unit<T>* stage_units(unsigned char* shared, const T* __restrict__ a, const T* __restrict__ b,
                                const T* __restrict__ c, const T* __restrict__ d, int group, int g) {
    Unit<T>* units = register_pointer((Unit<T>*)shared);
    const int first = group * g * g;
    for (int k = threadIdx.x; k < g * g; k += blockDim.x) {
        const Unit<T> unit = {a[first + k], b[first + k], c[first + k], d[first + k]};
        units[k] = unit;
    }
    return units;
}

// Grid (parts of the batch, groups). A block takes `strips` strips per thread; neighbouring threads take neighbouring
// pixels.
template <typename S, int G, int LANES, int ROWS, int F, typename T = Compute<S>>
__global__ void forward(const S* __restrict__ x, const T* __restrict__ a, const T* __restrict__ b,
                        const T* __restrict__ c, const T* __restrict__ d, S* __restrict__ y, long long pixels,
                        int channels, int plane, int any_g, int strips) {
    extern __shared__ unsigned char shared_memory[];
    using Lanes = Strip<T, LANES>;
    const int g = G ? G : any_g;
    const Images images = {pixels, channels, plane, int(blockIdx.y) * g};
    const Unit<T>* units = stage_units(shared_memory, a, b, c, d, blockIdx.y, g);
    __syncthreads();
    const int share = strips * LANES * blockDim.x;
    for (int first = threadIdx.x; first < share; first += LANES * blockDim.x) {
        const Pixels<T, LANES> strip(images, (long long)blockIdx.x * share, first, blockDim.x);
        if (strip.present == 0) break;
        Lanes xs[G ? G : MOST];
        HIDDEN_LOOP
        for (int j = 0; j < g; j++) {
            const long long channel = (long long)j * plane, ahead = channel + strip.at[0] + 2 * LANES;
            fetch<LANES, false>(x + ahead);
            fetch<LANES, true>(y + ahead);
            xs[j] = strip.load(x + channel);
        }
        for (int i = 0; i < g; i += ROWS) {
            Lanes own[ROWS], sum[ROWS];
            CUPYNN_UNROLL
            for (int r = 0; r < ROWS; r++) {
                own[r] = in_register(strip.load(x + (long long)(i + r) * plane));
                sum[r] = Lanes::broadcast(T(0));
            }
            HIDDEN_LOOP
            for (int j = 0; j < g; j++) {
                CUPYNN_UNROLL
                for (int r = 0; r < ROWS; r++) {
                    const Unit<T> w = units[(i + r) * g + j];
                    const Lanes h = fma(own[r], w.a, fma(xs[j], w.b, Lanes::broadcast(w.c)));
                    sum[r] = fma(activate<F>(h), w.d, sum[r]);
                }
            }
            CUPYNN_UNROLL
            for (int r = 0; r < ROWS; r++) strip.store(y + (long long)(i + r) * plane, sum[r]);
        }
    }
}

// Sums over the pixels [low, high) of a tile for the hidden units (i .. i + ROWS - 1, j .. j + ROWS - 1):
// sums[s][r * ROWS + q] with s = sum t x(i), sum t x(j), sum t, and sum dy f(h) where it does not follow from these.
template <int LANES, int ROWS, int F, typename T>
__device__ __forceinline__ void sum_units(const T* xs, const T* grads, const Unit<T>* units, int g, int pitch, int i,
                                          int j, int low, int high, int step, T (&sums)[4][ROWS * ROWS]) {
    using S = Strip<T, LANES>;
    constexpr int UNITS = ROWS * ROWS;
    S total[sums_of(F)][UNITS];
    CUPYNN_UNROLL
    for (int s = 0; s < sums_of(F); s++)
        CUPYNN_UNROLL
        for (int u = 0; u < UNITS; u++) total[s][u] = S::broadcast(T(0));
    Unit<T> w[UNITS];
    CUPYNN_UNROLL
    for (int u = 0; u < UNITS; u++) w[u] = units[(i + u / ROWS) * g + j + u % ROWS];
    for (int p = low; p < high; p += step) {
        S left[ROWS], right[ROWS], grad[ROWS];
        CUPYNN_UNROLL
        for (int r = 0; r < ROWS; r++) {
            left[r] = in_register(S::load(xs + (i + r) * pitch + p));
            right[r] = in_register(S::load(xs + (j + r) * pitch + p));
            grad[r] = in_register(S::load(grads + (i + r) * pitch + p));
        }
        CUPYNN_UNROLL
        for (int u = 0; u < UNITS; u++) {
            const S xi = left[u / ROWS], xj = right[u % ROWS], dy = grad[u / ROWS];
            const S h = fma(xi, w[u].a, fma(xj, w[u].b, S::broadcast(w[u].c)));
            S f = h;
            if constexpr (!is_homogeneous(F)) f = activate<F>(h);
            const S t = slope<F>(h, f, dy);
            total[0][u] = fma(t, xi, total[0][u]);
            total[1][u] = fma(t, xj, total[1][u]);
            total[2][u] = total[2][u] + t;
            if constexpr (!is_homogeneous(F)) total[3][u] = fma(dy, f, total[3][u]);
        }
    }
    CUPYNN_UNROLL
    for (int s = 0; s < sums_of(F); s++) sum_each(total[s], sums[s]);
}

// dx of the strip at `at` of a tile. The part of dx(i) that comes from h(i,j) takes the place of dy(i), which no other
// thread reads any more.
template <typename T, int G, int LANES, int ROWS, int F, typename Storage>
__device__ __forceinline__ void input_gradient(const T* xs, T* grads, const Unit<T>* units, int g, int pitch, int at,
                                               const Pixels<T, LANES>& strip, Storage* dx, int plane) {
    using S = Strip<T, LANES>;
    S in[G ? G : MOST], out[G ? G : MOST];
    HIDDEN_LOOP
    for (int j = 0; j < g; j++) {
        in[j] = S::load(xs + j * pitch + at);
        out[j] = S::broadcast(T(0));
    }
    for (int i = 0; i < g; i += ROWS) {
        S own[ROWS], grad[ROWS], sum[ROWS];
        CUPYNN_UNROLL
        for (int r = 0; r < ROWS; r++) {
            own[r] = in_register(S::load(xs + (i + r) * pitch + at));
            grad[r] = in_register(S::load(grads + (i + r) * pitch + at));
            sum[r] = S::broadcast(T(0));
        }
        HIDDEN_LOOP
        for (int j = 0; j < g; j++) {
            S other = in_register(in[j]), back = out[j];
            CUPYNN_UNROLL
            for (int r = 0; r < ROWS; r++) {
                const Unit<T> w = units[(i + r) * g + j];
                const S h = fma(own[r], w.a, fma(other, w.b, S::broadcast(w.c)));
                S f = h;
                if constexpr (!is_homogeneous(F)) f = activate<F>(h);
                const S t = slope<F>(h, f, grad[r]);
                sum[r] = fma(t, w.d * w.a, sum[r]);
                back = fma(t, w.d * w.b, back);
            }
            out[j] = back;
        }
        CUPYNN_UNROLL
        for (int r = 0; r < ROWS; r++) sum[r].store(grads + (i + r) * pitch + at);
    }
    HIDDEN_LOOP
    for (int j = 0; j < g; j++) strip.store(dx + (long long)j * plane, out[j] + S::load(grads + j * pitch + at));
}

// dx, and partial (blocks, slices, sums, C/g, g, g): the weights' sums over a block's tiles. Grid (blocks, groups).
// A tile has `tile` pixels; `slices` threads share the pixels of a tile for the same hidden units.
template <typename S, int G, int LANES, int STRIPS, int ROWS, int F, typename T = Compute<S>>
__global__ void backward(const S* __restrict__ grad, const S* __restrict__ x, const T* __restrict__ a,
                         const T* __restrict__ b, const T* __restrict__ c, const T* __restrict__ d, S* __restrict__ dx,
                         T* __restrict__ partial, long long pixels, int channels, int plane, int any_g, int tile,
                         int pitch, int tiles, int slices) {
    extern __shared__ unsigned char shared_memory[];
    constexpr int WIDE = LANES * STRIPS;
    const int g = G ? G : any_g, group = blockIdx.y, across = g / ROWS, thread = threadIdx.x;
    const Images images = {pixels, channels, plane, group * g};
    const Unit<T>* units = stage_units(shared_memory, a, b, c, d, group, g);
    T* xs = register_pointer((T*)(units + g * g));
    T* grads = register_pointer(xs + g * pitch);
    const long long weights = (long long)channels * g;
    partial += (long long)blockIdx.x * slices * sums_of(F) * weights + (long long)group * g * g;

    for (int number = 0; number < tiles; number++) {
        const long long origin = ((long long)blockIdx.x * tiles + number) * tile;
        if (origin >= pixels) break;
        __syncthreads();  // of the tile before, everything has been read
        for (int at = thread * WIDE; at < tile; at += blockDim.x * WIDE) {
            const Pixels<T, WIDE> strip(images, origin, at, 1);
            for (int k = 0; k < g; k++) {
                strip.load(x + (long long)k * plane).store(xs + k * pitch + at);
                strip.load(grad + (long long)k * plane).store(grads + k * pitch + at);
            }
        }
        __syncthreads();
        for (int task = thread; task < slices * across * across; task += blockDim.x) {
            const int slice = task / (across * across), i = task / across % across * ROWS, j = task % across * ROWS;
            T sums[4][ROWS * ROWS];
            sum_units<LANES, ROWS, F>(xs, grads, units, g, pitch, i, j, slice * LANES, tile, slices * LANES, sums);
            T* to = partial + slice * sums_of(F) * weights;
            CUPYNN_UNROLL
            for (int s = 0; s < sums_of(F); s++)
                CUPYNN_UNROLL
                for (int u = 0; u < ROWS * ROWS; u++) {
                    T& sum = to[s * weights + (i + u / ROWS) * g + j + u % ROWS];
                    sum = number > 0 ? sum + sums[s][u] : sums[s][u];
                }
        }
        __syncthreads();
        for (int at = thread * WIDE; at < tile; at += blockDim.x * WIDE) {
            const Pixels<T, WIDE> strip(images, origin, at, 1);
            if (strip.present == 0) break;
            input_gradient<T, G, WIDE, ROWS, F>(xs, grads, units, g, pitch, at, strip, dx, plane);
        }
    }
}

// da, db, dc, dd (C/g, g, g) from the sums of all blocks and slices, in their order. A thread takes LANES neighbouring
// weights.
template <typename T, int LANES, int F>
__global__ void reduce(const T* __restrict__ partial, const T* __restrict__ a, const T* __restrict__ b,
                       const T* __restrict__ c, const T* __restrict__ d, T* __restrict__ da, T* __restrict__ db,
                       T* __restrict__ dc, T* __restrict__ dd, int weights, int parts) {
    constexpr int SUMS = sums_of(F);
    const int first = (blockIdx.x * blockDim.x + threadIdx.x) * LANES;
    const int lanes = LANES == 1 ? first < weights : weights - first < LANES ? weights - first : LANES;
    T sums[SUMS][LANES] = {};
    for (int part = 0; part < parts; part++)
        CUPYNN_UNROLL
        for (int s = 0; s < SUMS; s++) {
            const T* from = partial + ((long long)part * SUMS + s) * weights + first;
            STRIP_LOOP
            for (int k = 0; k < lanes; k++) sums[s][k] += from[k];
        }
    for (int k = 0; k < lanes; k++) {
        const int at = first + k;
        const T left = sums[0][k], right = sums[1][k], plain = sums[2][k];
        da[at] = d[at] * left;
        db[at] = d[at] * right;
        dc[at] = d[at] * plain;
        dd[at] = SUMS == 4 ? sums[SUMS - 1][k] : a[at] * left + b[at] * right + c[at] * plain;
    }
}
