// The first include of every kernel. Kernels are plain CUDA C++; this header adds the few pieces that let one source
// be fast on two processors. CUPYNN_GPU or CUPYNN_CPU says which one is being compiled for.
#pragma once

#ifdef __CUDACC__
#define CUPYNN_GPU 1
#define CUPYNN_UNROLL _Pragma("unroll")
#else
#define CUPYNN_CPU 1
#ifdef __clang__
#define CUPYNN_UNROLL _Pragma("unroll")
#else
#define CUPYNN_UNROLL _Pragma("GCC unroll 64")
#endif
#include "cuda_on_cpu.h"
#endif

// STRIP_LOOP stands before the innermost loop, over a thread's strip of neighbouring elements; its iterations are
// independent. The GPU unrolls it into registers, the CPU turns it into vector instructions.
// STRIP_SUM(s) stands before a loop that adds to the scalar s. On the CPU its partial sums are combined in an order
// that the compiler fixes: two runs give the same bits.
#ifdef CUPYNN_GPU
#define STRIP_LOOP _Pragma("unroll")
#define STRIP_SUM(s) _Pragma("unroll")
#else
#define CUPYNN_PRAGMA(text) _Pragma(#text)
#define STRIP_LOOP _Pragma("omp simd")
#define STRIP_SUM(s) CUPYNN_PRAGMA(omp simd reduction(+ : s))
#endif

// Numbers of 16 bits, as arrays hold them: a kernel reads them into float, computes there, and rounds to nearest even
// when it writes. Half is IEEE 754's binary16, BFloat16 the upper half of a float.
// On the CPU both are bit arithmetic, which compilers turn into vector code; g++ 12 converts _Float16 one at a time, and
// makes no vector code of a loop that assigns structs: hence operator=.
#define CUPYNN_STORAGE_TYPES
struct Half {
    unsigned short bits;

    Half() = default;
    __device__ __forceinline__ Half(float value) {
#ifdef CUPYNN_GPU
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
        const unsigned all = __float_as_uint(value), size = all & 0x7fffffffu;
        // A power of two is added that pushes out the digits to be rounded off; too large a value became infinite.
        const float scaled = __uint_as_float(size) * 0x1p112f * 0x1p-110f;
        unsigned exponent = size & 0x7f800000u;
        exponent = exponent < 0x38800000u ? 0x38800000u : exponent;
        const unsigned rounded = __float_as_uint(__uint_as_float(exponent + 0x07800000u) + scaled);
        const unsigned number = (rounded >> 13 & 0x7c00u) + (rounded & 0x0fffu);
        bits = (unsigned short)((all >> 16 & 0x8000u) | (size > 0x7f800000u ? 0x7e00u : number));
#endif
    }
    __device__ __forceinline__ Half& operator=(float value) {
        bits = Half(value).bits;
        return *this;
    }
    __device__ __forceinline__ operator float() const {
#ifdef CUPYNN_GPU
        float value;
        asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
        return value;
#else
        const unsigned size = (bits & 0x7fffu) << 13, special = size >= 0x0f800000u ? 0x7f800000u : 0u;
        const unsigned number = __float_as_uint(__uint_as_float(size) * 0x1p112f);  // exact, subnormal numbers included
        return __uint_as_float((bits & 0x8000u) << 16 | special | number);
#endif
    }
};
struct BFloat16 {
    unsigned short bits;

    BFloat16() = default;
    __device__ __forceinline__ BFloat16(float value) {
        const unsigned all = __float_as_uint(value), rounded = (all + 0x7fffu + (all >> 16 & 1u)) >> 16;
        bits = (unsigned short)((all & 0x7fffffffu) > 0x7f800000u ? all >> 16 | 0x40u : rounded);  // a NaN stays one
    }
    __device__ __forceinline__ BFloat16& operator=(float value) {
        bits = BFloat16(value).bits;
        return *this;
    }
    __device__ __forceinline__ operator float() const { return __uint_as_float((unsigned)bits << 16); }
};

// The type in which numbers of storage type S are computed with, and in which parameters and sums are held.
template <typename S> struct ComputeType { using type = S; };
template <> struct ComputeType<Half> { using type = float; };
template <> struct ComputeType<BFloat16> { using type = float; };
template <typename S> using Compute = typename ComputeType<S>::type;

// N neighbouring elements (a power of two) that stay in registers: N scalar registers on the GPU, one or a few vector
// registers on the CPU. Addresses need only be aligned to T. Arithmetic is element by element:
//     using S = Strip<T, 16>;
//     S sum = S::broadcast(bias);
//     sum = fma(S::load(x + i), w, sum);  // w: a Strip or a T
//     sum.store(y + i);
// load and store also take an array of another type, such as Half, whose elements they convert.
template <typename T, int N> struct Strip {
    static_assert(N > 0 && (N & (N - 1)) == 0, "a strip's length is a power of two");
#if defined(CUPYNN_CPU) && !defined(CUPYNN_CHECKED)
    static constexpr int WIDEST = __BIGGEST_ALIGNMENT__ / sizeof(T);  // elements in a vector register
    static constexpr int LANES = N < WIDEST ? N : WIDEST;
    typedef T Vector __attribute__((vector_size(LANES * sizeof(T))));
    typedef Vector Unaligned __attribute__((aligned(alignof(T)), may_alias));
#else  // checked mode watches every element's address, so it takes one at a time, as the GPU does
    static constexpr int LANES = 1;
    typedef T Vector;
    typedef T Unaligned;
#endif
    static constexpr int PARTS = N / LANES;
    Vector part[PARTS];

    static __device__ __forceinline__ Strip load(const T* address) {
        Strip strip;
        CUPYNN_UNROLL
        for (int i = 0; i < PARTS; ++i) strip.part[i] = *reinterpret_cast<const Unaligned*>(address + i * LANES);
        return strip;
    }
    template <typename S> static __device__ __forceinline__ Strip load(const S* address) {
        T lanes[N];
        STRIP_LOOP
        for (int i = 0; i < N; ++i) lanes[i] = address[i];
        return load(lanes);
    }
    static __device__ __forceinline__ Strip broadcast(T value) {
        Strip strip;
        CUPYNN_UNROLL
        for (int i = 0; i < PARTS; ++i) strip.part[i] = value - Vector{};
        return strip;
    }
    __device__ __forceinline__ void store(T* address) const {
        CUPYNN_UNROLL
        for (int i = 0; i < PARTS; ++i) *reinterpret_cast<Unaligned*>(address + i * LANES) = part[i];
    }
    template <typename S> __device__ __forceinline__ void store(S* address) const {
        T lanes[N];
        store(lanes);
        STRIP_LOOP
        for (int i = 0; i < N; ++i) address[i] = lanes[i];
    }
    __device__ __forceinline__ T operator[](int i) const {
        return reinterpret_cast<const T*>(part)[i];
    }
    // The sum of the elements, by a fixed tree.
    __device__ __forceinline__ T sum() const {
        T values[N];
        store(values);
        CUPYNN_UNROLL
        for (int half = N / 2; half > 0; half /= 2) {
            CUPYNN_UNROLL
            for (int i = 0; i < half; ++i) values[i] += values[i + half];
        }
        return values[0];
    }

#define CUPYNN_STRIP_OPERATOR(op) \
    friend __device__ __forceinline__ Strip operator op(Strip a, Strip b) { \
        CUPYNN_UNROLL \
        for (int i = 0; i < PARTS; ++i) a.part[i] = a.part[i] op b.part[i]; \
        return a; \
    } \
    friend __device__ __forceinline__ Strip operator op(Strip a, T b) { return a op broadcast(b); } \
    friend __device__ __forceinline__ Strip operator op(T a, Strip b) { return broadcast(a) op b; }
    CUPYNN_STRIP_OPERATOR(+)
    CUPYNN_STRIP_OPERATOR(-)
    CUPYNN_STRIP_OPERATOR(*)
    CUPYNN_STRIP_OPERATOR(/)
#undef CUPYNN_STRIP_OPERATOR

    // a * b + c; both compilers contract it to a fused multiply-add.
    friend __device__ __forceinline__ Strip fma(Strip a, Strip b, Strip c) {
        CUPYNN_UNROLL
        for (int i = 0; i < PARTS; ++i) c.part[i] = a.part[i] * b.part[i] + c.part[i];
        return c;
    }
    friend __device__ __forceinline__ Strip fma(Strip a, T b, Strip c) { return fma(a, broadcast(b), c); }
    friend __device__ __forceinline__ Strip fma(T a, Strip b, Strip c) { return fma(broadcast(a), b, c); }

    // The larger of each pair; where either is NaN, b.
    friend __device__ __forceinline__ Strip maximum(Strip a, Strip b) {
        CUPYNN_UNROLL
        for (int i = 0; i < PARTS; ++i) a.part[i] = a.part[i] > b.part[i] ? a.part[i] : b.part[i];
        return a;
    }
    friend __device__ __forceinline__ Strip maximum(Strip a, T b) { return maximum(a, broadcast(b)); }
};

// The same pointer, kept in a register. On the CPU shared memory is thread-local: without this g++ computes its address
// anew in the innermost loop, by a call before which every accumulator is stored.
template <typename T> __device__ __forceinline__ T* register_pointer(T* pointer) {
#ifdef CUPYNN_CPU
    asm("" : "+r"(pointer));
#endif
    return pointer;
}

// The same strip, loaded into registers once. Without this g++ may load it anew for every product it is used in.
template <typename T, int N> __device__ __forceinline__ Strip<T, N> in_register(Strip<T, N> strip) {
#if defined(CUPYNN_CPU) && defined(__AVX512F__)
    for (auto& part : strip.part) asm("" : "+v"(part));
#elif defined(CUPYNN_CPU) && defined(__x86_64__)
    for (auto& part : strip.part) asm("" : "+x"(part));
#elif defined(CUPYNN_CPU) && defined(__aarch64__)
    for (auto& part : strip.part) asm("" : "+w"(part));
#endif
    return strip;
}

// Ask for the cache line of an address that will be read or written soon. A GPU hides the wait by other threads.
template <typename T> __device__ __forceinline__ void prefetch(const T* address) {
#ifdef CUPYNN_CPU
    __builtin_prefetch(address);
#endif
}

#if defined(CUPYNN_CPU) && !defined(CUPYNN_CHECKED) && !defined(__clang__)
#define CUPYNN_FOLDS true  // g++ has __builtin_shuffle
#else
#define CUPYNN_FOLDS false
#endif

// sums[i] = the sum of strips[i]. On the CPU many strips are summed at once: halves of blocks of lanes are added, two
// strips going into one, so that 16 strips of 16 take 15 additions instead of 64.
template <int FIRST, int BLOCKS, typename T, int N, int COUNT>
__device__ __forceinline__ Strip<T, N> fold_strips(const Strip<T, N> (&strips)[COUNT]) {
    // BLOCKS strips from FIRST on, in N / BLOCKS lanes each
    if constexpr (FIRST >= COUNT) {
        return Strip<T, N>::broadcast(T(0));
    } else if constexpr (BLOCKS == 1) {
        return strips[FIRST];
    } else {
        Strip<T, N> a = fold_strips<FIRST, BLOCKS / 2>(strips), b = fold_strips<FIRST + BLOCKS / 2, BLOCKS / 2>(strips);
#if CUPYNN_FOLDS
        typedef decltype(a.part[0] < a.part[0]) Index;
        Index low;
        for (int i = 0; i < N; ++i) {
            int lane = i % (N / 2), half = N / BLOCKS;
            low[i] = i / (N / 2) * N + lane / half * 2 * half + lane % half;
        }
        a.part[0] = __builtin_shuffle(a.part[0], b.part[0], low) + __builtin_shuffle(a.part[0], b.part[0], low + N / BLOCKS);
#endif
        return a;
    }
}
template <int FIRST = 0, typename T, int N, int COUNT>
__device__ __forceinline__ void sum_each(const Strip<T, N> (&strips)[COUNT], T* sums) {
    if constexpr (CUPYNN_FOLDS && Strip<T, N>::LANES == N && N > 1) {
        T folded[N];
        fold_strips<FIRST, N>(strips).store(folded);
        for (int i = 0; i < N && FIRST + i < COUNT; ++i) sums[FIRST + i] = folded[i];
        if constexpr (FIRST + N < COUNT) sum_each<FIRST + N>(strips, sums);
    } else {
        CUPYNN_UNROLL
        for (int i = 0; i < COUNT; ++i) sums[i] = strips[i].sum();
    }
}

// A thread's number in its block, in one dimension.
__device__ __forceinline__ int block_thread() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}
__device__ __forceinline__ int block_threads() { return blockDim.x * blockDim.y * blockDim.z; }

// Combine one value per thread over the whole block, in a fixed order; every thread gets the result. Every thread of
// the block must call it. A shuffle tree within each warp, then the warps' results one after the other.
template <typename T, typename Combine> __device__ T block_reduce(T value, Combine combine) {
    if (block_threads() == 1) return value;
    __shared__ T partial[32];
    int lane = block_thread() % 32, warp = block_thread() / 32, warps = (block_threads() + 31) / 32;
    int lanes = warp == warps - 1 ? block_threads() - 32 * warp : 32;  // the last warp may be short
    unsigned mask = lanes == 32 ? 0xffffffffu : (1u << lanes) - 1;
    for (int offset = 16; offset > 0; offset /= 2) {
        bool there = lane + offset < lanes;
        T other = __shfl_sync(mask, value, there ? lane + offset : lane);
        if (there) value = combine(value, other);
    }
    if (lane == 0) partial[warp] = value;
    __syncthreads();
    value = partial[0];
    for (int i = 1; i < warps; ++i) value = combine(value, partial[i]);
    __syncthreads();  // nobody may write partial for a next call while another still reads it
    return value;
}
template <typename T> __device__ T block_reduce_sum(T value) {
    return block_reduce(value, [](T a, T b) { return a + b; });
}
template <typename T> __device__ T block_reduce_max(T value) {
    return block_reduce(value, [](T a, T b) { return a < b ? b : a; });
}
