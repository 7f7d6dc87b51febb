// Test kernels: one for each function of tensor_core.cuh, by one warp.
#include "tensor_core.cuh"

// d = the registers of c += a b, given those of each lane: a (32, 4), b (32, 2), c and d (32, 4).
template <typename E>
__global__ void multiply(const unsigned* a, const unsigned* b, const float* c, float* d) {
  const int lane = threadIdx.x;
  unsigned mine_a[4], mine_b[2];
  float sums[4];
  REGISTER_LOOP for (int i = 0; i < 4; i++) mine_a[i] = a[lane * 4 + i], sums[i] = c[lane * 4 + i];
  REGISTER_LOOP for (int i = 0; i < 2; i++) mine_b[i] = b[lane * 2 + i];
  multiply_add<E>(sums, mine_a, mine_b);
  multiply_add<E>(sums, mine_a, mine_b);  // once more: nobody may bring new factors before all have used the old ones
  REGISTER_LOOP for (int i = 0; i < 4; i++) d[lane * 4 + i] = sums[i];
}

// out (32, 4): the registers of four matrices whose rows lie at `rows` (32), in units of 16 bytes, of 512 bytes of x, or
// `shift` bytes after that.
template <bool TRANSPOSED>
__global__ void matrices(const unsigned short* x, const int* rows, unsigned* out, int shift) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  unsigned short* staged = (unsigned short*)shared_memory;
  for (int i = threadIdx.x; i < 264; i += 32) staged[i] = i < 256 ? x[i] : 0;
  __syncthreads();
  unsigned registers[4];
  load_matrices<TRANSPOSED>(registers, shared_memory + rows[threadIdx.x] * 16 + shift);
  REGISTER_LOOP for (int i = 0; i < 4; i++) out[threadIdx.x * 4 + i] = registers[i];
}

template <typename E> __global__ void round_numbers(const float* x, float* y, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = tensor_core_number<E>(x[i]);
}

// y = x, 16 bytes of each thread in each of `rounds` rounds, through two stages of shared memory; each thread writes what
// its neighbour has copied. x begins `shift` bytes in; of thread `absent` zeros are copied, from nowhere.
template <bool WAITS, bool MEETS>
__global__ void pass_on(const float* x, float* y, int rounds, int shift, int absent) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  float* stages = (float*)shared_memory;
  const int thread = threadIdx.x, threads = blockDim.x, other = (thread + 1) % threads;
  const unsigned char* from = (const unsigned char*)x + shift + thread * 16;
  AsyncCopies copies;
  auto start = [&](int round) {
    const unsigned char* here = from + round * threads * 16LL;
    copies.copy(stages + (round % 2 * threads + thread) * 4, thread == absent ? nullptr : here, thread != absent);
    copies.commit();
  };
  start(0);
  for (int round = 0; round < rounds; round++) {
    if (round + 1 < rounds) start(round + 1);
    else copies.commit();
    if constexpr (WAITS) copies.wait<1>();
    if constexpr (MEETS) __syncthreads();
    for (int i = 0; i < 4; i++)
      y[(round * threads + other) * 4 + i] = stages[(round % 2 * threads + other) * 4 + i];
    __syncthreads();
  }
}
