// Softmax cross-entropy over the rows of logits (rows, classes), targets (rows).
//
//   forward:   probabilities[n, k] = exp(logits[n, k] - max_n) / sum_k exp(logits[n, k] - max_n)
//              row_loss[n] = log(sum_k exp(logits[n, k] - max_n)) - (logits[n, targets[n]] - max_n)
//   mean:      loss = sum_n row_loss[n] / rows, by one block
//   backward:  dlogits[n, k] = (probabilities[n, k] - (k == targets[n])) * grad / rows
//
// A block takes rows blockIdx.x, blockIdx.x + gridDim.x, ...; its threads share a row's classes. The sums have a fixed
// order. A NaN among the logits makes its row's exponentials NaN, whatever the maximum, and so the loss. A target outside
// 0 .. classes - 1 makes NaN of its row's loss and gradients; nothing is read there.
//
// Floor, per logit: forward 1 read, 1 write, 5 operations and an exp; backward 1 read, 1 write, 2 operations.
#include "cupynn.cuh"

#ifdef CUPYNN_GPU
#define STRIP_MAX(s)
#else
#define STRIP_MAX(s) CUPYNN_PRAGMA(omp simd reduction(max : s))
#endif

constexpr int MAX_THREADS = 256;

struct Sum {
    template <typename T> static __device__ T of(T a, T b) { return a + b; }
};
struct Maximum {
    template <typename T> static __device__ T of(T a, T b) { return a < b ? b : a; }
};

// The operation over the values of a block's threads, known to every thread. The order is fixed.
template <typename Operation, typename T> __device__ T block_reduce(T value) {
    __shared__ T partial[MAX_THREADS];
    const int thread = threadIdx.x;
    __syncthreads();  // an earlier call's result has been read
    partial[thread] = value;
    __syncthreads();
    for (int width = blockDim.x; width > 1;) {
        const int half = (width + 1) / 2;
        if (thread < width - half) partial[thread] = Operation::of(partial[thread], partial[thread + half]);
        __syncthreads();
        width = half;
    }
    return partial[0];
}

__device__ __forceinline__ double exponential(double x) { return exp(x); }

// exp(x) for x <= 0, within 2 units in the last place, in operations that a C++ compiler turns into vector code:
// exp(x) = 2^n exp(r) with n = round(x / ln 2), |r| <= ln 2 / 2, and Cephes' polynomial for exp(r). What would be
// below the smallest normal number is 0. A NaN stays one.
__device__ __forceinline__ float exponential(float x) {
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer and leaves that in the low bits
    const float shifted = x * 1.44269504f + shift, n = shifted - shift;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const float power = __int_as_float((__float_as_int(shifted) - __float_as_int(shift) + 127) * (1 << 23));
    return x < -87.3f ? 0.0f : p * power;
}

__device__ __forceinline__ bool is_class(long long target, int classes) { return target >= 0 && target < classes; }

template <typename T>
__global__ void forward(const T* __restrict__ logits, const long long* __restrict__ targets, T* __restrict__ row_loss,
                        T* __restrict__ probabilities, int rows, int classes) {
    for (int n = blockIdx.x; n < rows; n += gridDim.x) {
        const T* __restrict__ row = logits + (long long)n * classes;
        T* __restrict__ out = probabilities + (long long)n * classes;
        T largest = row[0];
        STRIP_MAX(largest)
        for (int k = threadIdx.x; k < classes; k += blockDim.x) largest = Maximum::of(largest, row[k]);
        largest = block_reduce<Maximum>(largest);
        STRIP_LOOP
        for (int k = threadIdx.x; k < classes; k += blockDim.x) out[k] = exponential(row[k] - largest);
        T sum = 0;
        STRIP_SUM(sum)
        for (int k = threadIdx.x; k < classes; k += blockDim.x) sum += out[k];
        sum = block_reduce<Sum>(sum);
        STRIP_LOOP
        for (int k = threadIdx.x; k < classes; k += blockDim.x) out[k] /= sum;
        if (threadIdx.x == 0)
            row_loss[n] = is_class(targets[n], classes) ? log(sum) - (row[targets[n]] - largest) : T(0) / T(0);
    }
}

template <typename T> __global__ void mean(const T* __restrict__ row_loss, T* __restrict__ loss, int rows) {
    T sum = 0;
    STRIP_SUM(sum)
    for (int n = threadIdx.x; n < rows; n += blockDim.x) sum += row_loss[n];
    sum = block_reduce<Sum>(sum);
    if (threadIdx.x == 0) loss[0] = sum / T(rows);
}

template <typename T>
__global__ void backward(const T* __restrict__ grad, const T* __restrict__ probabilities,
                         const long long* __restrict__ targets, T* __restrict__ dlogits, int rows, int classes) {
    const T share = grad[0] / T(rows);
    for (int n = blockIdx.x; n < rows; n += gridDim.x) {
        const T* row = probabilities + (long long)n * classes;
        T* out = dlogits + (long long)n * classes;
        const int target = int(targets[n]);
        const T scale = is_class(targets[n], classes) ? share : T(0) / T(0);
        STRIP_LOOP
        for (int k = threadIdx.x; k < classes; k += blockDim.x) out[k] = (row[k] - T(k == target)) * scale;
    }
}
