// Tensor cores and asynchronous copies: what a GPU of compute capability 8.0 or more has beyond plain CUDA C++, as device
// functions. On the GPU each is one PTX instruction; on the CPU each is the same function of the same registers, spelled
// out (PTX ISA, "Matrix multiply-accumulate instructions" and "cp.async").
//
// All are functions of a whole warp but the copies, which are each thread's own.
#pragma once
#include "cupynn.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "tensor_core.cuh: TF32 and bfloat16 products and cp.async need compute capability 8.0 or more"
#endif

// Before loops over a thread's registers: the GPU must unroll them, and on the CPU, which only emulates this, compiling
// them unrolled would take longer than running them.
#ifdef CUPYNN_GPU
#define REGISTER_LOOP CUPYNN_UNROLL
#define EMULATED __device__ __forceinline__
#else
#define REGISTER_LOOP
#define EMULATED __noinline__
#endif

// A number as a tensor core takes it from storage type E: Half and BFloat16 round to nearest even; float keeps TF32's 10
// digits, to nearest, ties away from zero, as cvt.rna.tf32.f32 does. Rounded once, when arrays are laid out for the
// copies, so that products depend on no hardware's way of dropping the other 13.
template <typename E> __device__ __forceinline__ E tensor_core_number(float value) { return E(value); }
template <> __device__ __forceinline__ float tensor_core_number<float>(float value) {
  const unsigned bits = __float_as_uint(value);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;  // whose last 13 digits may be all that is not 0
  return __uint_as_float(nan ? 0x7fffffffu : (bits + 0x1000u) & 0xffffe000u);
}

// Copies of 16 bytes from global to shared memory that a thread starts and does not wait for. Addresses are multiples of
// 16. Copies since the last `commit` are a group; `wait<N>` returns when at most the N latest groups are still under way:
// the calling thread then sees its own copies, other threads after a barrier.
// On the CPU a copy arrives as late as it may, in `wait`, and until then its place holds NaNs: whoever forgets a wait or a
// barrier reads them, or is caught by the checker. One from an address that is no multiple of 16 never arrives.
struct AsyncCopies {
#ifdef CUPYNN_GPU
  // `there` false: nothing is read, 16 bytes of 0 are written.
  __device__ __forceinline__ void copy(void* to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"((unsigned)__cvta_generic_to_shared(to)), "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
                 : "memory");
  }
  __device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" : : : "memory"); }
  template <int N> __device__ __forceinline__ void wait() {
    asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory");
  }
#else
  struct Copy { void* to; const void* from; int group; };
  static constexpr int MOST = 64;
  Copy pending[MOST];
  int count = 0, group = 0;

  EMULATED void copy(void* to, const void* from, bool there) {
    memset(to, 0xff, 16);
    if (count < MOST) pending[count++] = {to, there ? from : nullptr, group};
  }
  void commit() { ++group; }
  template <int N> EMULATED void wait() {
    int left = 0;  // copies that may still be under way
    for (int i = 0; i < count; ++i) {
      const Copy& one = pending[i];
      if (one.group >= group - N) pending[left++] = one;
      else if (!one.from) memset(one.to, 0, 16);
      else if (((uintptr_t)one.to | (uintptr_t)one.from) % 16 == 0) memcpy(one.to, one.from, 16);
    }
    count = left;
  }
#endif
};

// Write 16 bytes at once; both addresses are multiples of 16.
__device__ __forceinline__ void store_16_bytes(void* to, const void* from) {
#ifdef CUPYNN_GPU
  *(uint4*)to = *(const uint4*)from;
#else
  memcpy(to, from, 16);
#endif
}

#ifdef CUPYNN_CPU
// What the lanes of a warp bring to a product. The checker need not follow it: it stands for registers.
struct CupynnOperands { unsigned a[4], b[2]; };
inline thread_local CupynnOperands cupynn_operands[32][32];  // warp, lane
#define CUPYNN_REGISTERS __attribute__((noinline, no_sanitize("thread")))

inline CUPYNN_REGISTERS void cupynn_bring(const unsigned* a, const unsigned* b) {
  CupynnOperands& mine = cupynn_operands[block_thread() / 32][block_thread() % 32];
  for (int i = 0; i < 4; ++i) mine.a[i] = a[i];
  for (int i = 0; i < 2; ++i) mine.b[i] = b[i];
}
template <typename E> CUPYNN_REGISTERS void cupynn_multiply_add(float* c) {
  const CupynnOperands* lanes = cupynn_operands[block_thread() / 32];
  constexpr int PACKED = 4 / sizeof(E);  // numbers in a register
  const int group = block_thread() % 32 / 4, member = block_thread() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = group + i / 2 * 8, column = member * 2 + i % 2;
    for (int k = 0; k < 8 * PACKED; ++k) {
      const int word = k / PACKED;
      const unsigned pair[2] = {lanes[row % 8 * 4 + word % 4].a[word / 4 * 2 + row / 8],
                                lanes[column * 4 + word % 4].b[word / 4]};
      float factors[2];
      for (int j = 0; j < 2; ++j) {
        if constexpr (PACKED == 1) {
          factors[j] = __uint_as_float(pair[j] & 0xffffe000u);
        } else {
          E number;
          number.bits = (unsigned short)(pair[j] >> k % 2 * 16);
          factors[j] = number;
        }
      }
      c[i] += factors[0] * factors[1];
    }
  }
}
#endif

template <typename E> constexpr bool IS_HALF = false;
template <> constexpr bool IS_HALF<Half> = true;

// c += a b, by one warp: a (16, K), b (K, 8), c (16, 8), where a row of `a` has 32 bytes: K = 8 TF32 or 16 numbers of 16 bits.
// Registers of lane l, g = l / 4, t = l % 4, as words of 4 bytes along K:
//     a[0..3]: words t of rows g and g + 8, words t + 4 of the same rows      b[0..1]: words t and t + 4 of column g
//     c[0..3]: columns 2t and 2t + 1 of row g, then of row g + 8
template <typename E>
EMULATED void multiply_add(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef CUPYNN_GPU
#define CUPYNN_MMA(shape_and_types) \
  asm volatile("mma.sync.aligned." shape_and_types " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
  if constexpr (sizeof(E) == 4) CUPYNN_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
  else if constexpr (IS_HALF<E>) CUPYNN_MMA("m16n8k16.row.col.f32.f16.f16.f32");
  else CUPYNN_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
#undef CUPYNN_MMA
#else
  cupynn_bring(a, b);
  __syncwarp();
  cupynn_multiply_add<E>(c);
  __syncwarp();  // nobody brings the next operands before all have read these
#endif
}

// Four 8 x 8 matrices of 2-byte elements from shared memory to registers, by one warp. Lane l gives the address of row l % 8
// of matrix l / 8: 16 bytes, at a multiple of 16. Register i of lane l gets elements 2t and 2t + 1 (a word) of row g of
// matrix i, g = l / 4, t = l % 4; with TRANSPOSED, element g of rows 2t and 2t + 1.
template <bool TRANSPOSED> EMULATED void load_matrices(unsigned (&to)[4], const void* row) {
#ifdef CUPYNN_GPU
  const unsigned address = (unsigned)__cvta_generic_to_shared(row);
#define CUPYNN_LDMATRIX(kind) \
  asm volatile("ldmatrix.sync.aligned.m8n8.x4" kind ".shared.b16 {%0, %1, %2, %3}, [%4];" \
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) \
               : "r"(address) \
               : "memory")
  if constexpr (TRANSPOSED) CUPYNN_LDMATRIX(".trans");
  else CUPYNN_LDMATRIX("");
#undef CUPYNN_LDMATRIX
#else
  typedef const unsigned short* Row;
  const int group = block_thread() % 32 / 4, member = block_thread() % 4;
  for (int i = 0; i < 4; ++i) {
    Row first = __shfl_sync(~0u, (Row)row, i * 8 + (TRANSPOSED ? 2 * member : group));
    Row second = __shfl_sync(~0u, (Row)row, i * 8 + (TRANSPOSED ? 2 * member + 1 : group));
    const int column = TRANSPOSED ? group : 2 * member;
    to[i] = first[column] | (unsigned)second[TRANSPOSED ? column : column + 1] << 16;
    if (((uintptr_t)first | (uintptr_t)second) % 16) to[i] = ~0u;  // NaNs
  }
#endif
}
