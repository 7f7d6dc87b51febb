// CUDA's vocabulary for a C++ compiler: with this header a plain .cu file compiles for the CPU.
//
// A grid becomes a loop over blocks, spread over the cores (launcher.h). A block's threads become
//   - one plain call where a block has one thread (CUPYNN_ONE_THREAD): threadIdx and blockDim are then compile-time
//     constants, barriers vanish, and loops that stride by blockDim.x become contiguous and vectorise;
//   - otherwise light fibers that switch at barriers and warp functions (fibers.h).
// __shared__ is thread_local: all threads of a block run on the same core, and each core has its own copy.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#ifdef CUPYNN_CHECKED
#define __global__ __attribute__((noinline))  // inlined into the launcher, it would not be watched
#else
#define __global__
#endif
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __constant__ static
#define __shared__ thread_local
#define __grid_constant__
#define __align__(bytes)  // of dynamic shared memory, which is aligned to more below

// Dynamic shared memory: a kernel writes `extern __shared__ unsigned char shared_memory[];`. Only kernels that do
// so get the buffer (the runtime sets its size); a CPU tile lives in the L2 cache, so it is larger than a GPU's.
#ifdef CUPYNN_SHARED_BYTES
alignas(64) thread_local unsigned char shared_memory[CUPYNN_SHARED_BYTES];
#endif

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define CUPYNN_VECTOR2(T, name) \
    struct alignas(2 * sizeof(T)) name { T x, y; }; \
    __forceinline__ name make_##name(T x, T y) { return {x, y}; }
#define CUPYNN_VECTOR3(T, name) \
    struct name { T x, y, z; }; \
    __forceinline__ name make_##name(T x, T y, T z) { return {x, y, z}; }
#define CUPYNN_VECTOR4(T, name) \
    struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name { T x, y, z, w; }; \
    __forceinline__ name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }
CUPYNN_VECTOR2(float, float2)
CUPYNN_VECTOR2(double, double2)
CUPYNN_VECTOR2(int, int2)
CUPYNN_VECTOR2(unsigned, uint2)
CUPYNN_VECTOR3(float, float3)
CUPYNN_VECTOR3(int, int3)
CUPYNN_VECTOR4(float, float4)
CUPYNN_VECTOR4(double, double4)
CUPYNN_VECTOR4(int, int4)
CUPYNN_VECTOR4(unsigned, uint4)
CUPYNN_VECTOR4(unsigned char, uchar4)
#undef CUPYNN_VECTOR2
#undef CUPYNN_VECTOR3
#undef CUPYNN_VECTOR4

constexpr int warpSize = 32;


#include "block_on_cpu.h"  // threadIdx, blockIdx, barriers, warp functions
#include "math_on_cpu.h"   // rsqrtf, __expf, __popc, atomics, ...
