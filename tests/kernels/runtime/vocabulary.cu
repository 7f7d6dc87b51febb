// Test kernels: each uses one part of CUDA's vocabulary, so that a test can hold the CPU's answer against NumPy's.
#include "cupynn.cuh"

// Every thread writes its coordinates: out is (blocks, threads, 6) in linear order of blocks and threads.
__global__ void coordinates(int* out) {
    int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    int* mine = out + 6 * (block * block_threads() + block_thread());
    mine[0] = blockIdx.x, mine[1] = blockIdx.y, mine[2] = blockIdx.z;
    mine[3] = threadIdx.x, mine[4] = threadIdx.y, mine[5] = threadIdx.z;
}

// y = a * x + b, with every kind of argument.
template <typename T>
__global__ void __launch_bounds__(256)
affine(const T* __restrict__ x, const T* b, T* __restrict__ y, T a, int n, long long stride, bool negate, unsigned shift) {
    for (long long i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x) {
        T value = a * __ldg(x + i * stride) + (b ? b[i] : T(0));
        y[i] = (negate ? -value : value) + T(shift);
    }
}

// Each block reverses its row of n elements through dynamic shared memory; threads stride over the row.
template <typename T> __global__ void reverse_rows(const T* x, T* y, int n) {
    extern __shared__ unsigned char shared_memory[];
    T* row = reinterpret_cast<T*>(shared_memory);
    for (int i = threadIdx.x; i < n; i += blockDim.x) row[i] = x[blockIdx.x * n + i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[blockIdx.x * n + i] = row[n - 1 - i];
}

// As many barriers as there are rounds: in each, every thread takes its neighbour's value. n: threads in the block.
__global__ void rotate(int* values, int rounds) {
    __shared__ int ring[1024];
    int thread = threadIdx.x, n = blockDim.x;
    int value = values[blockIdx.x * n + thread];
    for (int round = 0; round < rounds; ++round) {
        ring[thread] = value;
        __syncthreads();
        value = ring[(thread + 1) % n];
        __syncthreads();
    }
    values[blockIdx.x * n + thread] = value;
}

// Each thread writes one byte, four threads a word; every fourth thread reads the word they made.
__global__ void bytes_of_words(int* out) {
    __shared__ unsigned bytes[32];
    reinterpret_cast<unsigned char*>(bytes)[threadIdx.x] = threadIdx.x;
    __syncthreads();
    if (threadIdx.x % 4 == 0) out[threadIdx.x / 4] = bytes[threadIdx.x / 4];
}

// Threads beyond n leave at once; those that stay meet at a barrier.
__global__ void early_exit(int* out, int n) {
    __shared__ int total;
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    if (threadIdx.x >= n) return;
    atomicAdd(&total, 1);
    __syncthreads();
    out[threadIdx.x] = total;
}

template <typename T> __global__ void block_reductions(const T* x, T* sums, T* largest, int n) {
    const T* row = x + blockIdx.x * n;
    T sum = 0, most = row[0];
    for (int i = block_thread(); i < n; i += block_threads()) {
        sum += row[i];
        most = row[i] > most ? row[i] : most;
    }
    sum = block_reduce_sum(sum);
    most = block_reduce_max(most);
    sums[blockIdx.x * block_threads() + block_thread()] = sum;  // every thread has the result
    largest[blockIdx.x * block_threads() + block_thread()] = most;
}

// out is (4, threads): shuffles in groups of `width` lanes.
template <typename T> __global__ void shuffles(const T* x, T* out, int amount, int width) {
    int i = threadIdx.x, n = blockDim.x;
    unsigned mask = 0xffffffff;
    out[0 * n + i] = __shfl_sync(mask, x[i], amount, width);
    out[1 * n + i] = __shfl_up_sync(mask, x[i], amount, width);
    out[2 * n + i] = __shfl_down_sync(mask, x[i], amount, width);
    out[3 * n + i] = __shfl_xor_sync(mask, x[i], amount, width);
}

// out is (7, threads): votes over the warp, over its even lanes, and over the block.
__global__ void votes(const int* x, unsigned* out) {
    int i = threadIdx.x, n = blockDim.x;
    unsigned mask = 0xffffffff;
    out[0 * n + i] = __ballot_sync(mask, x[i]);
    out[1 * n + i] = __any_sync(mask, x[i]);
    out[2 * n + i] = __all_sync(mask, x[i]);
    out[3 * n + i] = i % 2 == 0 ? __ballot_sync(0x55555555, x[i]) : 0;
    __syncwarp();
    out[4 * n + i] = __syncthreads_count(x[i]);
    out[5 * n + i] = __syncthreads_or(x[i]);
    out[6 * n + i] = __syncthreads_and(x[i]);
}

// A warp adds up its values through shared memory with nothing but __syncwarp between the steps.
__global__ void warp_tree(const int* x, int* out) {
    __shared__ int tree[32];
    int lane = threadIdx.x;
    tree[lane] = x[blockIdx.x * 32 + lane];
    __syncwarp();
    for (int half = 16; half > 0; half /= 2) {
        if (lane < half) tree[lane] += tree[lane + half];
        __syncwarp();
    }
    if (lane == 0) out[blockIdx.x] = tree[0];
}

// out: [sum, maximum, minimum, last exchanged is some x, number of successful compare-and-swaps on slot 4]
template <typename T> __global__ void atomics(const T* x, T* out, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        atomicAdd(out, x[i]);
        atomicExch(out + 1, x[i]);
    }
}
template <typename T> __global__ void integer_atomics(const T* x, T* out, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        atomicMax(out, x[i]);
        atomicMin(out + 1, x[i]);
        T old = out[2], seen;  // a lock-free count by compare-and-swap
        while ((seen = atomicCAS(out + 2, old, T(old + 1))) != old) old = seen;
        atomicOr(out + 3, T(1) << (i % 31));
        atomicXor(out + 4, x[i]);
    }
}

// y is (5, n): functions of one number.
__global__ void float_functions(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i];
    y[0 * n + i] = rsqrtf(v);
    y[1 * n + i] = __expf(v);
    y[2 * n + i] = __logf(v);
    y[3 * n + i] = __fdividef(v, 3.0f);
    y[4 * n + i] = fmaf(v, v, max(v, 0.5f)) + min(v, 2.0f) + (isnan(v) ? 1.0f : 0.0f);
}
__global__ void bit_functions(const int* x, int* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    y[0 * n + i] = __popc(x[i]);
    y[1 * n + i] = __clz(x[i]);
    y[2 * n + i] = __ffs(x[i]);
    y[3 * n + i] = __float_as_int(__int_as_float(x[i]));
}

// Four neighbours by one 16-byte load: y = 2 x.
__global__ void vector_loads(const float4* x, float4* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float4 v = x[i];
    y[i] = make_float4(2 * v.x, 2 * v.y, 2 * v.z, 2 * v.w);
}

// y = 3 x + w, elements of a strip; out is the strip's sum; both addresses are odd on purpose.
template <typename T, int N> __global__ void strips(const T* x, T w, T* y, T* out) {
    using S = Strip<T, N>;
    S strip = S::load(x + 1);
    fma(strip, T(3), S::broadcast(w)).store(y + 1);
    out[0] = strip.sum();
    out[1] = maximum(strip, T(0)).sum();
    out[2] = ((strip + strip) * T(2) - T(1) * strip).sum();
    out[3] = strip[N / 2];
}

__constant__ float table[4] = {1, 10, 100, 1000};
__global__ void constants(float* y) { y[threadIdx.x] = table[threadIdx.x % 4]; }
