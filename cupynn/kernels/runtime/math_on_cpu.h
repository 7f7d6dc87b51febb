// CUDA's mathematical functions, bit functions, cached loads and atomics, in standard C++.
#pragma once

template <typename T> __forceinline__ T __ldg(const T* address) { return *address; }

template <typename T> constexpr __forceinline__ T min(T a, T b) { return b < a ? b : a; }
template <typename T> constexpr __forceinline__ T max(T a, T b) { return a < b ? b : a; }
// As in CUDA, fmin and fmax of floating-point numbers drop a NaN; so do min and max.
__forceinline__ float min(float a, float b) { return fminf(a, b); }
__forceinline__ float max(float a, float b) { return fmaxf(a, b); }
__forceinline__ double min(double a, double b) { return fmin(a, b); }
__forceinline__ double max(double a, double b) { return fmax(a, b); }
__forceinline__ long long min(long long a, int b) { return b < a ? b : a; }
__forceinline__ long long min(int a, long long b) { return b < a ? b : a; }
__forceinline__ long long max(long long a, int b) { return a < b ? b : a; }
__forceinline__ long long max(int a, long long b) { return a < b ? b : a; }

// Unqualified isnan, exp and their kin take float and double, as in CUDA.
using std::abs;
using std::ceil;
using std::exp;
using std::fabs;
using std::floor;
using std::fma;
using std::isfinite;
using std::isinf;
using std::isnan;
using std::log;
using std::log1p;
using std::pow;
using std::sqrt;
using std::tanh;

__forceinline__ float rsqrtf(float x) { return 1.0f / sqrtf(x); }
__forceinline__ double rsqrt(double x) { return 1.0 / sqrt(x); }
__forceinline__ float __expf(float x) { return expf(x); }
__forceinline__ float __logf(float x) { return logf(x); }
__forceinline__ float __powf(float x, float y) { return powf(x, y); }
__forceinline__ float __fdividef(float x, float y) { return x / y; }
__forceinline__ float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
__forceinline__ float __frcp_rn(float x) { return 1.0f / x; }
__forceinline__ float __fsqrt_rn(float x) { return sqrtf(x); }
__forceinline__ float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

__forceinline__ int __popc(unsigned x) { return __builtin_popcount(x); }
__forceinline__ int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
__forceinline__ int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
__forceinline__ int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
__forceinline__ int __ffs(int x) { return __builtin_ffs(x); }
__forceinline__ int __ffsll(long long x) { return __builtin_ffsll(x); }

template <typename To, typename From> __forceinline__ To cupynn_bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    __builtin_memcpy(&y, &x, sizeof y);
    return y;
}
__forceinline__ int __float_as_int(float x) { return cupynn_bits<int>(x); }
__forceinline__ unsigned __float_as_uint(float x) { return cupynn_bits<unsigned>(x); }
__forceinline__ float __int_as_float(int x) { return cupynn_bits<float>(x); }
__forceinline__ float __uint_as_float(unsigned x) { return cupynn_bits<float>(x); }
__forceinline__ long long __double_as_longlong(double x) { return cupynn_bits<long long>(x); }
__forceinline__ double __longlong_as_double(long long x) { return cupynn_bits<double>(x); }

// Atomics. Blocks run on several cores, so these are real atomics; relaxed order, as on the GPU.
// One compare-and-swap loop serves every type and operation. Each returns the old value.
template <typename T, typename Operation> __forceinline__ T cupynn_atomic(T* address, Operation operation) {
    T old, next;
#ifdef CUPYNN_CHECKED
    cupynn_atomic_load(&old, address, sizeof old);
    next = operation(old);
    cupynn_atomic_store(address, &next, sizeof next);
#else
    __atomic_load(address, &old, __ATOMIC_RELAXED);
    do {
        next = operation(old);
    } while (!__atomic_compare_exchange(address, &old, &next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
#endif
    return old;
}
#define CUPYNN_ATOMICS(T) \
    __forceinline__ T atomicAdd(T* p, T v) { return cupynn_atomic(p, [v](T old) { return old + v; }); } \
    __forceinline__ T atomicMax(T* p, T v) { return cupynn_atomic(p, [v](T old) { return old < v ? v : old; }); } \
    __forceinline__ T atomicMin(T* p, T v) { return cupynn_atomic(p, [v](T old) { return v < old ? v : old; }); } \
    __forceinline__ T atomicExch(T* p, T v) { return cupynn_atomic(p, [v](T) { return v; }); }
#define CUPYNN_INTEGER_ATOMICS(T) \
    CUPYNN_ATOMICS(T) \
    __forceinline__ T atomicSub(T* p, T v) { return cupynn_atomic(p, [v](T old) { return old - v; }); } \
    __forceinline__ T atomicAnd(T* p, T v) { return cupynn_atomic(p, [v](T old) { return old & v; }); } \
    __forceinline__ T atomicOr(T* p, T v) { return cupynn_atomic(p, [v](T old) { return old | v; }); } \
    __forceinline__ T atomicXor(T* p, T v) { return cupynn_atomic(p, [v](T old) { return old ^ v; }); } \
    __forceinline__ T atomicCAS(T* p, T compare, T v) { \
        return cupynn_atomic(p, [compare, v](T old) { return old == compare ? v : old; }); \
    }
CUPYNN_INTEGER_ATOMICS(int)
CUPYNN_INTEGER_ATOMICS(unsigned)
CUPYNN_INTEGER_ATOMICS(unsigned long long)
CUPYNN_ATOMICS(float)
CUPYNN_ATOMICS(double)
#undef CUPYNN_ATOMICS
#undef CUPYNN_INTEGER_ATOMICS
