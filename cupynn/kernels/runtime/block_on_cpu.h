// A block on the CPU: where a thread stands, barriers, and the functions of a warp (32 neighbouring threads).
#pragma once

#ifdef CUPYNN_ONE_THREAD
// One thread per block: constants, so that the compiler sees plain contiguous loops, and nothing to wait for.

inline thread_local uint3 blockIdx;
inline thread_local dim3 gridDim;
constexpr uint3 threadIdx = {0, 0, 0};
constexpr dim3 blockDim = {1, 1, 1};

struct CupynnVotes { int yes, all; };
__forceinline__ CupynnVotes cupynn_barrier(bool predicate, int) { return {predicate, 1}; }
__forceinline__ uint64_t cupynn_exchange(unsigned, uint64_t bits, int, unsigned* ballot, int) {
    *ballot = bits & 1;
    return bits;
}
__forceinline__ int cupynn_lane() { return 0; }

#elif defined(CUPYNN_CHECKED)
// Many threads under the checker, which is a library of its own (checker.cpp).

#pragma GCC visibility push(default)
extern "C" {
extern uint3 blockIdx, threadIdx;
extern dim3 gridDim, blockDim;
struct CupynnVotes { int yes, all; };
CupynnVotes cupynn_barrier(bool predicate, int line);
uint64_t cupynn_exchange(unsigned mask, uint64_t bits, int source, unsigned* ballot, int line);
int cupynn_lane();
void cupynn_atomic_load(void* to, void* from, int size);
void cupynn_atomic_store(void* to, const void* from, int size);
void* __tsan_memcpy(void* to, const void* from, size_t size);
void* __tsan_memset(void* to, int value, size_t size);
}
#pragma GCC visibility pop
// Calls that the compiler does not watch.
#define memcpy __tsan_memcpy
#define memset __tsan_memset

#else
// Many threads, as fibers of one core.

#include "fibers.h"

inline thread_local uint3 blockIdx, threadIdx;
inline thread_local dim3 gridDim, blockDim;

struct CupynnWatcher : QuietWatcher {
    void running(int thread) {
        threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y};
    }
};
inline thread_local Fibers<CupynnWatcher> cupynn_fibers;

using CupynnVotes = Fibers<CupynnWatcher>::Votes;
inline CupynnVotes cupynn_barrier(bool predicate, int line) { return cupynn_fibers.barrier(predicate, line); }
inline uint64_t cupynn_exchange(unsigned mask, uint64_t bits, int source, unsigned* ballot, int line) {
    return cupynn_fibers.exchange(mask, bits, source, ballot, line);
}
inline int cupynn_lane() { return cupynn_fibers.lane(); }

#endif

// `line` is where the kernel calls: threads that wait at different barriers are a fault the checker reports.
#define CUPYNN_LINE int line = __builtin_LINE()

__forceinline__ void __syncthreads(CUPYNN_LINE) { cupynn_barrier(false, line); }
__forceinline__ int __syncthreads_count(int predicate, CUPYNN_LINE) { return cupynn_barrier(predicate, line).yes; }
__forceinline__ int __syncthreads_or(int predicate, CUPYNN_LINE) { return cupynn_barrier(predicate, line).yes > 0; }
__forceinline__ int __syncthreads_and(int predicate, CUPYNN_LINE) {
    CupynnVotes votes = cupynn_barrier(predicate, line);
    return votes.yes == votes.all;
}

__forceinline__ unsigned __ballot_sync(unsigned mask, int predicate, CUPYNN_LINE) {
    unsigned ballot;
    cupynn_exchange(mask, predicate != 0, cupynn_lane(), &ballot, line);
    return ballot;
}
__forceinline__ int __any_sync(unsigned mask, int predicate, CUPYNN_LINE) {
    return __ballot_sync(mask, predicate, line) != 0;
}
__forceinline__ int __all_sync(unsigned mask, int predicate, CUPYNN_LINE) {
    return __ballot_sync(mask, !predicate, line) == 0;
}
__forceinline__ void __syncwarp(unsigned mask = ~0u, CUPYNN_LINE) { __ballot_sync(mask, 0, line); }
__forceinline__ unsigned __activemask() { return 1u << cupynn_lane(); }  // each thread runs on its own

template <typename T> __forceinline__ T cupynn_shuffle(unsigned mask, T value, int source, int line) {
    static_assert(sizeof(T) <= 8, "a warp shuffle moves 4 or 8 bytes");
    uint64_t bits = 0;
    unsigned ballot;
    __builtin_memcpy(&bits, &value, sizeof value);
    bits = cupynn_exchange(mask, bits, source, &ballot, line);
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}
// `width` splits the warp into groups; a thread whose source lies outside its group keeps its own value.
template <typename T>
__forceinline__ T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUPYNN_LINE) {
    int group = cupynn_lane() & -width;
    return cupynn_shuffle(mask, value, group + (source & (width - 1)), line);
}
template <typename T>
__forceinline__ T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUPYNN_LINE) {
    int lane = cupynn_lane(), source = lane - int(delta);
    return cupynn_shuffle(mask, value, source < (lane & -width) ? lane : source, line);
}
template <typename T>
__forceinline__ T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUPYNN_LINE) {
    int lane = cupynn_lane(), source = lane + int(delta);
    return cupynn_shuffle(mask, value, source >= (lane & -width) + width ? lane : source, line);
}
template <typename T>
__forceinline__ T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, CUPYNN_LINE) {
    int lane = cupynn_lane(), source = lane ^ bits;
    return cupynn_shuffle(mask, value, source >= (lane & -width) + width ? lane : source, line);
}

// What was written before a fence is seen by other blocks that read after theirs.
__forceinline__ void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
__forceinline__ void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
