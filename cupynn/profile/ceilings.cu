// What a processor can do at most: multiply-adds on registers, and a copy. No data dependence hides either.
#include "cupynn.cuh"

// y[thread] = the sum of CHAINS independent chains of `steps` multiply-adds on strips: 2 * CHAINS * LANES * steps operations.
template <typename T, int LANES, int CHAINS>
__global__ void multiply_add(T* __restrict__ y, int steps, T factor) {
  const int thread = blockIdx.x * blockDim.x + threadIdx.x;
  Strip<T, LANES> chain[CHAINS], start = Strip<T, LANES>::broadcast(T(thread));
  CUPYNN_UNROLL
  for (int i = 0; i < CHAINS; i++) chain[i] = Strip<T, LANES>::broadcast(T(i));
  for (int step = 0; step < steps; step++) {
    CUPYNN_UNROLL
    for (int i = 0; i < CHAINS; i++) chain[i] = fma(chain[i], factor, start);
  }
  CUPYNN_UNROLL
  for (int i = 1; i < CHAINS; i++) chain[0] = chain[0] + chain[i];
  y[thread] = chain[0].sum();
}

// y = x, `span` neighbours per block.
template <typename T>
__global__ void copy(const T* __restrict__ x, T* __restrict__ y, int span) {
  const long long first = (long long)blockIdx.x * span;
  STRIP_LOOP
  for (int i = threadIdx.x; i < span; i += blockDim.x) y[first + i] = x[first + i];
}
