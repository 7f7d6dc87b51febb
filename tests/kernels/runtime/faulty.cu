// Kernels with planted faults: each must be caught by checked mode. `sound` must not.
#include "cupynn.cuh"

template <typename T> __global__ void sound(const T* x, T* y, int n) {
    __shared__ T tile[32];
    T sum = block_reduce_sum(threadIdx.x < n ? x[threadIdx.x] : T(0));
    tile[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    y[blockIdx.x * blockDim.x + threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x] + sum;
}

__global__ void missing_barrier(const float* x, float* y) {
    __shared__ float tile[32];
    tile[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

// The barrier stands before the write it should follow: threads read what their neighbours write.
__global__ void shared_race(const float* x, float* y) {
    __shared__ float tile[32];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    tile[threadIdx.x] += tile[(threadIdx.x + 1) % blockDim.x];
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}

__global__ void same_element(const float* x, float* y) { y[threadIdx.x / 2] = x[threadIdx.x]; }

// Each thread reads what its neighbour overwrites, in global memory.
__global__ void global_race(float* y, int n) { y[threadIdx.x] = y[(threadIdx.x + 1) % n] + 1; }

__global__ void between_blocks(const float* x, float* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = x[i];  // should start at blockIdx.x
}
__global__ void reads_other_block(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = x[i];
    __syncthreads();
    y[i] += y[(i + blockDim.x) % n];
}

__global__ void reads_past_end(const float* x, float* y, int n) { y[threadIdx.x] = x[threadIdx.x + n]; }
__global__ void reads_before(const float* x, float* y) { y[threadIdx.x] = x[int(threadIdx.x) - 1]; }
__global__ void writes_past_end(const float* x, float* y, int n) { y[threadIdx.x + n] = x[threadIdx.x]; }
__global__ void vector_past_end(const float4* x, float* y) { y[threadIdx.x] = x[threadIdx.x].w; }
__global__ void strip_past_end(const float* x, float* y, int n) { Strip<float, 16>::load(x + n).store(y); }
__global__ void memcpy_past_end(const float* x, float* y, int n) { memcpy(y, x + n, 4 * sizeof(float)); }
__global__ void memset_past_end(const float* x, float* y, int n) { memset(y + n, 0, 4 * sizeof(float)); }
struct Row { float values[5]; };  // wider than any register: the compiler copies a range
__global__ void struct_past_end(const float* x, float* y, int n) {
    reinterpret_cast<Row*>(y)[0] = reinterpret_cast<const Row*>(x + n)[0];
}
__global__ void writes_const(const float* x, float* y) { y[threadIdx.x] = const_cast<float*>(x)[threadIdx.x] = 1; }
__global__ void null_pointer(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }

__global__ void leaves_out(const float* x, float* y, int n) {
    int i = threadIdx.x;
    if (i != n) y[i] = x[i];
}
__global__ void reads_output(float* y) { y[threadIdx.x] += 1; }

__global__ void uninitialised(float* y) {
    __shared__ float tile[32];
    if (threadIdx.x != 3) tile[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}
__global__ void dynamic_past_end(float* y, int n) {
    extern __shared__ unsigned char shared_memory[];
    float* tile = reinterpret_cast<float*>(shared_memory);
    tile[threadIdx.x + n] = 1;
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x + n];
}

__global__ void different_barriers(float* y) {
    if (threadIdx.x % 2) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    y[threadIdx.x] = 1;
}
__global__ void skips_barrier(float* y) {
    y[threadIdx.x] = 1;
    if (threadIdx.x == 5) return;
    __syncthreads();
}
__global__ void stuck(float* y) {
    if (threadIdx.x == 0) __syncwarp();
    else __syncthreads();
    y[threadIdx.x] = 1;
}
__global__ void absent_lane(float* y) {
    y[threadIdx.x] = threadIdx.x;
    if (threadIdx.x < 4) y[threadIdx.x] = __shfl_sync(0xf, y[threadIdx.x], 8);
}
__global__ void atomic_and_plain(int* count, int* y) {
    atomicAdd(count, 1);
    y[threadIdx.x] = *count;
}
