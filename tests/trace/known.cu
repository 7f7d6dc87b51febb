// Kernels whose traffic is known; blocks of 32 threads unless said otherwise.
#include "cupynn.cuh"

__global__ void copy(const float* x, float* y, int from, int stride) {
  y[threadIdx.x] = x[from + threadIdx.x * stride];
}

template <typename V> __global__ void copy_wide(const V* x, V* y) { y[threadIdx.x] = x[threadIdx.x]; }

// Writes a row of shared memory with `pitch` words, reads a column.
__global__ void columns(const float* x, float* y, int pitch) {
  extern __shared__ unsigned char shared_memory[];
  float* tile = (float*)shared_memory;
  for (int row = 0; row < 32; row++) tile[row * pitch + threadIdx.x] = x[row * 32 + threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x * pitch + 5];
}

// All threads read one word, then each of them the two halves of its neighbour's.
__global__ void one_word(float* y) {
  __shared__ float values[32];
  __shared__ short halves[64];
  values[threadIdx.x] = threadIdx.x;
  halves[2 * threadIdx.x] = halves[2 * threadIdx.x + 1] = 3;
  __syncthreads();
  y[threadIdx.x] = values[7] + halves[threadIdx.x];
}

// Accesses of sizeof(V) bytes, `stride` of them apart.
template <typename V> __global__ void shared_wide(float* y, int stride) {
  extern __shared__ unsigned char shared_memory[];
  V* values = (V*)shared_memory;
  V value = {};
  values[threadIdx.x * stride] = value;
  __syncthreads();
  y[threadIdx.x] = values[threadIdx.x * stride].x;
}

__device__ __noinline__ float halved(const float* x, int k) {
  return x[k] / 2;
}

// Two warps. Odd lanes take another way than even ones, and thread k goes k % 4 times round.
__global__ void ways(const float* x, float* y) {
  float sum = 0;
  if (threadIdx.x % 2)
    sum = halved(x, threadIdx.x);
  else
    y[threadIdx.x] = x[threadIdx.x];  // even ones
  for (int k = 0; k < threadIdx.x % 4; k++) sum += x[64 + k];
  sum = __shfl_xor_sync(~0u, sum, 1);
  if (threadIdx.x % 2) y[threadIdx.x] = sum;
}

__global__ void past_the_end(float* y, int n) { y[threadIdx.x + n] = 0; }
