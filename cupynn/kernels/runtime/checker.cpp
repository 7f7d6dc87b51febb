// The kernels' checker: it watches every memory access of a kernel that runs on the CPU.
//
// A kernel is compiled with -fsanitize=thread, so that it calls __tsan_read4(address) and its kin at each access. This
// library defines these functions itself (the compiler's own race detector knows nothing of blocks and barriers).
// For each element of every array, and every 4 bytes of shared memory, it remembers the last write and the last two
// readers: block, thread, and time. Time is the number of barriers and warp functions passed so far in the launch.
// Two accesses of one element, one of them a write, race
//   - between two threads of a block, unless both have met at a barrier or warp function in between;
//   - between two blocks, always: nothing orders blocks within a launch. (Atomics do not race with atomics.)
#include "checker.h"

#include <link.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "fibers.h"
#include "recorder.h"

#define EXPORT extern "C" __attribute__((visibility("default")))
#define HERE reinterpret_cast<uintptr_t>(__builtin_return_address(0))
#define AT(address) reinterpret_cast<uintptr_t>(address)

struct Triple { unsigned x, y, z; };
extern "C" {
__attribute__((visibility("default"))) Triple threadIdx, blockIdx, blockDim, gridDim;
}

namespace {

struct Access {
    uint32_t block, time;  // block 0: never; block number + 1 otherwise
    uint32_t where;        // offset of the instruction in the kernel's library
    uint16_t thread;
    uint8_t bytes;         // which bytes of the element: one bit each, for shared memory, whose types are not known
    bool atomic;
};
struct Cell {
    Access write, reads[2];  // reads: by two different threads, the later one first
    uint8_t written = 0;     // bytes of the element that hold a value
};

// Pages that read as zeros until they are touched: a cell is all zeros before its first access.
struct Cells {
    Cell* cells = nullptr;
    size_t bytes = 0;
    explicit Cells(size_t count) : bytes(count * sizeof(Cell) + 1) {
        cells = static_cast<Cell*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0));
    }
    Cells(Cells&& other) noexcept : cells(other.cells), bytes(other.bytes) { other.cells = nullptr; }
    ~Cells() { if (cells) munmap(cells, bytes); }
};

struct Image { uintptr_t begin = 0, end = 0, tls = 0, tls_end = 0; };  // where a loaded library lies
bool holds(uintptr_t begin, uintptr_t end, uintptr_t address) { return begin <= address && address < end; }

Image image_of(const void* inside) {
    Image image;
    image.begin = reinterpret_cast<uintptr_t>(inside);
    dl_iterate_phdr([](dl_phdr_info* info, size_t, void* data) {
        Image found{~uintptr_t(0)}, *wanted = static_cast<Image*>(data);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& header = info->dlpi_phdr[i];
            if (header.p_type == PT_LOAD) {
                found.begin = std::min<uintptr_t>(found.begin, info->dlpi_addr + header.p_vaddr);
                found.end = std::max<uintptr_t>(found.end, info->dlpi_addr + header.p_vaddr + header.p_memsz);
            } else if (header.p_type == PT_TLS) {
                found.tls = reinterpret_cast<uintptr_t>(info->dlpi_tls_data);
                found.tls_end = found.tls + header.p_memsz;
            }
        }
        if (!holds(found.begin, found.end, wanted->begin)) return 0;
        *wanted = found;
        return 1;
    }, &image);
    return image;
}

struct Watcher : QuietWatcher {
    int choose(int candidates);
    void running(int thread);
    void reached(int thread, int line);
    void barrier_passed(int threads);
    void warp_passed(int warp, unsigned mask);
    void wrong_lane(int thread, int lane, int line);
};

// All that one launch needs. There is one at a time: Python holds a lock.
struct Checker {
    Fibers<Watcher> fibers;
    std::mt19937_64 random;
    std::vector<CupynnRegion> regions;  // arrays, then dynamic shared memory, then static
    std::vector<Cells> cells;
    int arrays = 0, last = 0;           // last: the region that was touched last, looked at first
    std::vector<CupynnFault> faults;
    std::unique_ptr<Recorder> recorder; // where one block is traced
    Image own, kernel;
    uint32_t block = 0, time = 0, barrier_time = 0;
    uint32_t met[32][32][32] = {};  // time at which two lanes of a warp last met
    int lines[1024] = {};           // where each thread last reached a barrier
    bool ended[1024] = {};
    static constexpr int SHARED_ITEM = 4;
    static constexpr size_t MOST_FAULTS = 8;
    static constexpr int STOPPED = 100;

    void fault(int kind, int region, int64_t offset, int size, uintptr_t where, const Access* other = nullptr) {
        for (const CupynnFault& known : faults)
            if (known.kind == kind && known.region == region) return;  // one of each is enough to mend it
        faults.push_back({kind, region, offset, size, fibers.current, other ? other->thread : -1, int64_t(block) - 1,
                          other ? int64_t(other->block) - 1 : -1, where, other ? other->where : 0});
    }

    // Did the thread that made this access meet the running one since?
    bool ordered(const Access& access) const {
        int thread = fibers.current;
        if (access.block != block) return false;
        if (access.thread == thread || barrier_time > access.time) return true;
        return access.thread / 32 == thread / 32 && met[thread / 32][access.thread % 32][thread % 32] > access.time;
    }

    void access(uintptr_t address, int size, bool writes, bool atomic, uintptr_t where);
    bool in_region(int number, uintptr_t address) const {
        const CupynnRegion& region = regions[number];
        return holds(region.begin - region.before, region.end + region.behind, address);
    }
    void access_region(int number, uintptr_t address, int size, bool writes, bool atomic, uintptr_t where);
    void look_for_unwritten();
};

Checker* checker;

int Watcher::choose(int candidates) { return candidates > 1 ? int(checker->random() % candidates) : 0; }

void Watcher::running(int thread) {
    threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y};
}

void Watcher::reached(int thread, int line) { checker->lines[thread] = line; }

void Watcher::barrier_passed(int threads) {
    int all = blockDim.x * blockDim.y * blockDim.z, here = checker->fibers.current;
    if (threads < all) checker->fault(ENDED_EARLY, -1, checker->lines[here], all - threads, 0);
    for (int i = 0; i < all; ++i) {
        // A thread that has ended keeps line 0 or an older one, and is reported above.
        if (threads == all && checker->lines[i] != checker->lines[here]) {
            Access other{checker->block, 0, 0, uint16_t(i), 0xff, false};
            checker->fault(DIVERGED, -1, checker->lines[here], checker->lines[i], 0, &other);
        }
    }
    checker->barrier_time = ++checker->time;
}

void Watcher::warp_passed(int warp, unsigned mask) {
    ++checker->time;
    for (int a = 0; a < 32; ++a)
        for (int b = 0; b < 32; ++b)
            if (mask >> a & mask >> b & 1) checker->met[warp][a][b] = checker->time;
}

void Watcher::wrong_lane(int thread, int lane, int line) {
    std::swap(checker->fibers.current, thread);  // the last of the lanes to come finds out for all of them
    checker->fault(WRONG_LANE, -1, line, lane, 0);
    std::swap(checker->fibers.current, thread);
}

void Checker::access_region(int number, uintptr_t address, int size, bool writes, bool atomic, uintptr_t where) {
    const CupynnRegion& region = regions[number];
    int64_t offset = int64_t(address - region.begin);
    if (address < region.begin || address + size > region.end)
        return fault(writes ? OVERRUN_WRITE : OVERRUN_READ, number, offset, size, where);
    if (writes && !region.writeable) return fault(WRITE_TO_CONST, number, offset, size, where);
    if (!region.writeable) return;  // what nobody writes cannot race
    bool shared = number >= arrays;
    for (int64_t i = offset / region.item; i <= (offset + size - 1) / region.item; ++i) {
        Cell& cell = cells[number].cells[i];
        Access now{block, time, uint32_t(where), uint16_t(fibers.current), 0xff, atomic};
        if (shared) {
            if (cell.write.block != block) cell.write.block = cell.written = 0;  // each block begins with fresh memory
            int first = std::max<int64_t>(offset - i * SHARED_ITEM, 0);
            int end = std::min<int64_t>(offset + size - i * SHARED_ITEM, SHARED_ITEM);
            now.bytes = uint8_t((1 << end) - (1 << first));
        }
        auto races = [&](const Access& other) {
            return other.block && other.bytes & now.bytes && !(atomic && other.atomic) && !ordered(other);
        };
        if ((!writes || atomic) && region.unwritten && now.bytes & ~cell.written)
            fault(UNWRITTEN_READ, number, offset, size, where);
        if (races(cell.write)) fault(writes ? RACE_WRITE_WRITE : RACE_READ_WRITE, number, offset, size, where, &cell.write);
        if (!writes) {
            if (cell.reads[0].block != block || cell.reads[0].thread != now.thread) cell.reads[1] = cell.reads[0];
            cell.reads[0] = now;
            continue;
        }
        for (const Access& read : cell.reads)
            if (races(read) && !(shared && read.block != block)) fault(RACE_READ_WRITE, number, offset, size, where, &read);
        cell.write = now;
        cell.written |= now.bytes;
    }
}

void Checker::access(uintptr_t address, int size, bool writes, bool atomic, uintptr_t where) {
    where -= kernel.begin;
    if (!in_region(last, address)) {
        // Local variables lie above this frame, on the running fiber's stack.
        uintptr_t frame = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
        if (holds(frame, reinterpret_cast<uintptr_t>(fibers.stack_top()), address)) return;
        if (holds(own.begin, own.end, address) || holds(kernel.begin, kernel.end, address)) return;  // threadIdx, tables
        int count = int(regions.size());
        for (last = 0; last < count && !in_region(last, address);) ++last;
        if (last == count) {
            last = 0;
            fault(WILD, writes, int64_t(address), size, where);
            fibers.give_up(STOPPED);  // the access itself would end the process, or spoil it
        }
    }
    if (recorder) {
        int kind = atomic ? TRACED_ATOMIC : writes ? TRACED_WRITE : TRACED_READ;
        recorder->access(fibers.current, kind, last, int64_t(address - regions[last].begin), address, size, where);
    }
    access_region(last, address, size, writes, atomic, where);
    if (faults.size() >= MOST_FAULTS) fibers.give_up(STOPPED);
}

void Checker::look_for_unwritten() {
    for (int number = 0; number < arrays; ++number) {
        const CupynnRegion& region = regions[number];
        int64_t missing = 0, first = 0;
        for (int64_t i = (region.end - region.begin) / region.item - 1; region.unwritten && i >= 0; --i)
            if (cells[number].cells[i].write.block == 0) {
                ++missing;
                first = i;
            }
        fibers.current = -1;
        if (missing) fault(UNWRITTEN_OUTPUT, number, first * region.item, int(std::min<int64_t>(missing, INT32_MAX)), 0);
    }
}

}  // namespace

// Begin a launch: the arrays, and the seed of the order in which blocks and threads run.
EXPORT void cupynn_check_begin(const CupynnRegion* arrays, int count, uint64_t seed) {
    delete checker;
    checker = new Checker;
    checker->random.seed(seed);
    checker->arrays = count;
    checker->regions.assign(arrays, arrays + count);
    checker->own = image_of(&threadIdx);
}

// Run all blocks, one after the other. Called by a kernel's library (launcher.h).
EXPORT int cupynn_check_run(const unsigned* grid, const unsigned* block, void (*body)(const void*), const void* launch,
                            uintptr_t dynamic, uint64_t dynamic_bytes, uint64_t dynamic_capacity) {
    Checker& c = *checker;
    c.kernel = image_of(reinterpret_cast<const void*>(body));
    // Shared memory: all thread_local variables of the kernel's library. Dynamic shared memory is one of them.
    auto add_shared = [&c](uint64_t begin, uint64_t end, uint64_t behind) {
        c.regions.push_back({begin, end, 0, behind, Checker::SHARED_ITEM, true, true});
    };
    uint64_t dynamic_end = dynamic + dynamic_capacity;
    add_shared(dynamic, dynamic + dynamic_bytes, dynamic_capacity - dynamic_bytes);
    add_shared(c.kernel.tls, dynamic ? dynamic : c.kernel.tls_end, 0);
    if (dynamic) add_shared(dynamic_end, c.kernel.tls_end, 0);
    for (const CupynnRegion& region : c.regions) c.cells.emplace_back((region.end - region.begin) / region.item + 1);
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    std::vector<int64_t> order(int64_t(grid[0]) * grid[1] * grid[2]);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), c.random);
    for (int64_t number : order) {
        if (c.recorder) {
            if (c.recorder->block != number) continue;
            c.recorder->begin();
        }
        c.block = uint32_t(number + 1);
        c.barrier_time = ++c.time;
        blockIdx = {unsigned(number % grid[0]), unsigned(number / grid[0] % grid[1]), unsigned(number / grid[0] / grid[1])};
        memset(c.lines, 0, sizeof c.lines);
        int status = c.fibers.run(block[0] * block[1] * block[2], body, launch);
        if (status == CUPYNN_STUCK) {
            c.fault(STUCK, -1, c.lines[c.fibers.current], 0, 0);
            return 0;
        }
        if (status == Checker::STOPPED) return 0;
        if (status) return status;
    }
    if (c.faults.empty() && !c.recorder) c.look_for_unwritten();
    return 0;
}

// Run this block only, and keep what its threads do: of each thread at most so many events.
EXPORT void cupynn_check_record(int64_t block, int most) { checker->recorder = std::make_unique<Recorder>(block, most); }

// What was kept, until the faults are asked for.
EXPORT int64_t cupynn_check_recorded(const CupynnEvent** events, const CupynnCall** calls, int* call_count, int* left_out) {
    Recorder& recorder = *checker->recorder;
    recorder.settle();
    *events = recorder.events.data();
    *calls = recorder.calls.data();
    *call_count = int(recorder.calls.size());
    *left_out = recorder.left_out;
    return int64_t(recorder.events.size());
}

// The faults found, first found first. Returns how many.
EXPORT int cupynn_check_faults(CupynnFault* faults, int room) {
    int count = std::min<int>(room, checker->faults.size());
    std::copy_n(checker->faults.begin(), count, faults);
    delete checker;
    checker = nullptr;
    return count;
}

// The running thread's barriers and warp functions (block_on_cpu.h).
EXPORT Fibers<Watcher>::Votes cupynn_barrier(bool predicate, int line) {
    if (checker->recorder) checker->recorder->wait(checker->fibers.current, TRACED_BARRIER, HERE - checker->kernel.begin);
    return checker->fibers.barrier(predicate, line);
}
EXPORT uint64_t cupynn_exchange(unsigned mask, uint64_t bits, int source, unsigned* ballot, int line) {
    if (checker->recorder) checker->recorder->wait(checker->fibers.current, TRACED_WARP, HERE - checker->kernel.begin, source);
    return checker->fibers.exchange(mask, bits, source, ballot, line);
}
EXPORT int cupynn_lane() { return checker->fibers.lane(); }

static void watch(uintptr_t address, int size, bool writes, bool atomic, uintptr_t where) {
    if (checker) checker->access(address, size, writes, atomic, where);  // none: the launcher's own code at loading
}

// Blocks run one after the other and threads give way only where they wait, so a plain copy is atomic.
EXPORT void cupynn_atomic_load(void* to, void* from, int size) {
    watch(AT(from), size, true, true, HERE);
    memcpy(to, from, size);
}
EXPORT void cupynn_atomic_store(void* to, const void* from, int size) { memcpy(to, from, size); }

// What the compiler calls at each access.
#define ACCESS(name, size) \
    EXPORT void __tsan_read##name(void* p) { watch(AT(p), size, false, false, HERE); } \
    EXPORT void __tsan_write##name(void* p) { watch(AT(p), size, true, false, HERE); } \
    EXPORT void __tsan_unaligned_read##name(void* p) { watch(AT(p), size, false, false, HERE); } \
    EXPORT void __tsan_unaligned_write##name(void* p) { watch(AT(p), size, true, false, HERE); } \
    EXPORT void __tsan_read_write##name(void* p) { \
        watch(AT(p), size, false, false, HERE); \
        watch(AT(p), size, true, false, HERE); \
    } \
    EXPORT void __tsan_unaligned_read_write##name(void* p) { \
        watch(AT(p), size, false, false, HERE); \
        watch(AT(p), size, true, false, HERE); \
    }
ACCESS(1, 1)
ACCESS(2, 2)
ACCESS(4, 4)
ACCESS(8, 8)
ACCESS(16, 16)
EXPORT void __tsan_read_range(void* p, size_t size) { watch(AT(p), int(size), false, false, HERE); }
EXPORT void __tsan_write_range(void* p, size_t size) { watch(AT(p), int(size), true, false, HERE); }
EXPORT void* __tsan_memcpy(void* to, const void* from, size_t size) {
    watch(AT(from), int(size), false, false, HERE);
    watch(AT(to), int(size), true, false, HERE);
    return memcpy(to, from, size);
}
EXPORT void* __tsan_memset(void* to, int value, size_t size) {
    watch(AT(to), int(size), true, false, HERE);
    return memset(to, value, size);
}
EXPORT void __tsan_atomic_thread_fence(int) {}
EXPORT void __tsan_init() {}
EXPORT void __tsan_func_entry(void* caller) {
    if (checker && checker->recorder) checker->recorder->enter(checker->fibers.current, AT(caller) - checker->kernel.begin);
}
EXPORT void __tsan_func_exit() {
    if (checker && checker->recorder) checker->recorder->leave(checker->fibers.current);
}
