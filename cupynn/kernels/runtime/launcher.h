// Launch a kernel on the CPU: unpack what Python packed, then run the grid's blocks over the cores.
#pragma once

#include <utility>

#ifdef _OPENMP
#include <omp.h>
#endif

// What Python's `struct` module packs for one launch (cpu.py): this header, then one 8-byte slot per argument.
struct CupynnLaunch {
    unsigned grid[3], block[3];
    unsigned shared_bytes;
    int one_core;  // run in the calling thread only
    unsigned char arguments[];
};

// The C++ name of a parameter's type, for the checks on the Python side.
template <typename T> constexpr const char* cupynn_name = "?";
#define CUPYNN_NAME(T) template <> constexpr const char* cupynn_name<T> = #T;
CUPYNN_NAME(bool)
CUPYNN_NAME(char)
CUPYNN_NAME(signed char)
CUPYNN_NAME(unsigned char)
CUPYNN_NAME(short)
CUPYNN_NAME(unsigned short)
CUPYNN_NAME(int)
CUPYNN_NAME(unsigned int)
CUPYNN_NAME(long)
CUPYNN_NAME(unsigned long)
CUPYNN_NAME(long long)
CUPYNN_NAME(unsigned long long)
CUPYNN_NAME(float)
CUPYNN_NAME(double)
CUPYNN_NAME(float2)
CUPYNN_NAME(float4)
CUPYNN_NAME(double2)
CUPYNN_NAME(int2)
CUPYNN_NAME(int4)
#ifdef CUPYNN_STORAGE_TYPES
CUPYNN_NAME(Half)
CUPYNN_NAME(BFloat16)
#endif
#undef CUPYNN_NAME

template <typename T> struct CupynnParameter {
    static_assert(sizeof(T) <= 8, "a kernel's parameters are pointers and numbers");
    static constexpr const char *constness = "", *name = cupynn_name<T>, *star = ",";
};
template <typename T> struct CupynnParameter<T*> {
    static constexpr const char *constness = "", *name = cupynn_name<T>, *star = "*,";
};
template <typename T> struct CupynnParameter<const T*> {
    static constexpr const char *constness = "const ", *name = cupynn_name<T>, *star = "*,";
};

#ifdef CUPYNN_CHECKED
#define CUPYNN_UNWATCHED __attribute__((no_sanitize("thread")))
thread_local char cupynn_shared_begins;
extern "C" int cupynn_check_run(const unsigned* grid, const unsigned* block, void (*body)(const void*), const void* launch,
                                uintptr_t dynamic, uint64_t dynamic_bytes, uint64_t dynamic_capacity);
#else
#define CUPYNN_UNWATCHED
#endif

template <auto kernel> struct CupynnLauncher;
template <typename... Parameters, void (*kernel)(Parameters...)> struct CupynnLauncher<kernel> {
    static const char* signature() {  // "const float*,float*,int,"
        static char text[32 * (sizeof...(Parameters) + 1)];
        text[0] = 0;
        ((strcat(text, CupynnParameter<Parameters>::constness), strcat(text, CupynnParameter<Parameters>::name),
          strcat(text, CupynnParameter<Parameters>::star)), ...);
        return text;
    }

    template <typename T> static CUPYNN_UNWATCHED T slot(const CupynnLaunch* launch, size_t position) {
        T value;
        __builtin_memcpy(&value, launch->arguments + 8 * position, sizeof value);
        return value;
    }

    template <size_t... position>
    static CUPYNN_UNWATCHED void call(const CupynnLaunch* launch, std::index_sequence<position...>) {
        kernel(slot<Parameters>(launch, position)...);
    }

    static CUPYNN_UNWATCHED void run_thread(const void* launch) {
        call(static_cast<const CupynnLaunch*>(launch), std::index_sequence_for<Parameters...>{});
    }

#ifdef CUPYNN_CHECKED
    static CUPYNN_UNWATCHED int run(const CupynnLaunch* launch) {
        __asm__ volatile("" : : "r"(&cupynn_shared_begins));  // shared memory exists from here on
#ifdef CUPYNN_SHARED_BYTES
        if (launch->shared_bytes > CUPYNN_SHARED_BYTES) return 2;
        uintptr_t dynamic = reinterpret_cast<uintptr_t>(shared_memory);
        return cupynn_check_run(launch->grid, launch->block, run_thread, launch, dynamic, launch->shared_bytes,
                                CUPYNN_SHARED_BYTES);
#else
        return cupynn_check_run(launch->grid, launch->block, run_thread, launch, 0, 0, 0);
#endif
    }
#else
    static int run_block(const CupynnLaunch* launch, long long block) {
        const unsigned* grid = launch->grid;
        gridDim = dim3(grid[0], grid[1], grid[2]);
        blockIdx = {unsigned(block % grid[0]), unsigned(block / grid[0] % grid[1]), unsigned(block / grid[0] / grid[1])};
#ifdef CUPYNN_ONE_THREAD
        run_thread(launch);
        return 0;
#else
        const unsigned* size = launch->block;
        blockDim = dim3(size[0], size[1], size[2]);
        return cupynn_fibers.run(size[0] * size[1] * size[2], run_thread, launch);
#endif
    }

    // Run every block of the grid. Returns 0, or what cpu.py calls a failure.
    static int run(const CupynnLaunch* launch) {
#ifdef CUPYNN_SHARED_BYTES
        if (launch->shared_bytes > CUPYNN_SHARED_BYTES) return 2;
#endif
        long long blocks = 1LL * launch->grid[0] * launch->grid[1] * launch->grid[2];
        int failure = 0;
#ifdef _OPENMP
        // A launch of one block stays in the calling thread and wakes nobody.
        if (blocks > 1 && !launch->one_core && omp_get_max_threads() > 1) {
            // Small portions: a core that another program holds up does fewer. Results do not depend on who does what.
            long long portion = blocks / (8LL * omp_get_max_threads());
#pragma omp parallel for schedule(dynamic, portion < 1 ? 1 : portion) reduction(| : failure)
            for (long long block = 0; block < blocks; ++block)
                if (!failure) failure = run_block(launch, block);
            return failure;
        }
#endif
        for (long long block = 0; block < blocks && !failure; ++block) failure = run_block(launch, block);
        return failure;
    }
#endif
};

#define CUPYNN_EXPORT(...) \
    extern "C" __attribute__((visibility("default"))) const char* cupynn_signature() { \
        return CupynnLauncher<&__VA_ARGS__>::signature(); \
    } \
    extern "C" __attribute__((visibility("default"))) int cupynn_run(const CupynnLaunch* launch) { \
        return CupynnLauncher<&__VA_ARGS__>::run(launch); \
    }
