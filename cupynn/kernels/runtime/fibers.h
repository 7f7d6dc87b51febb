// The threads of one block on one core: each has its own stack and gives way only at barriers and warp functions.
//
// A fiber is a stack. It runs a thread of the block to its end, then takes the next thread that has not begun; so a
// kernel that never waits needs one fiber and no switches at all. A thread that must wait leaves its fiber as it
// stands, and another fiber goes on: six registers pushed, the stack pointer exchanged, six popped.
//
// `Watcher` decides who goes on and hears what happens; the checker has its own (checker.cpp).
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

// Store the stack pointer at *from after pushing the registers that a called function must preserve, then go on at
// the stack `to`. The floating-point control registers are the same for all threads and stay as they are.
extern "C" void cupynn_switch(void** from, void* to) __asm__("cupynn_switch");
#if defined(__x86_64__)
__asm__(R"(
.text
.p2align 4
cupynn_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    retq
)");
#elif defined(__aarch64__)
__asm__(R"(
.text
.p2align 4
cupynn_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");
#else
#error "fibers.h knows x86-64 and arm64; add the context switch of this processor"
#endif

// What a launch can answer besides 0; cpu.py has the words.
enum CupynnStatus { CUPYNN_BLOCK_SIZE = 1, CUPYNN_SHARED_SIZE = 2, CUPYNN_NO_STACKS = 3, CUPYNN_STUCK = 4 };

struct QuietWatcher {
    int choose(int) { return 0; }       // which of so many threads that may run goes next; 0 is the first that waited
    void running(int) {}                // this thread goes on
    void reached(int, int) {}           // this thread has reached the barrier in this line of the kernel
    void barrier_passed(int) {}         // so many threads have met at a barrier and go on
    void warp_passed(int, unsigned) {}  // these lanes of this warp have met and go on
    void wrong_lane(int, int, int) {}   // in this line a thread's warp shuffle reads a lane that does not take part
};

template <typename Watcher> class Fibers {
  public:
    static constexpr int MOST = 1024;  // threads in a block, as in CUDA
    Watcher watcher;

    // Run body(argument) once for each of `count` threads. Returns 0 or a CupynnStatus.
    int run(int count, void (*body)(const void*), const void* argument) {
        if (count < 1 || count > MOST) return CUPYNN_BLOCK_SIZE;
        this->count = alive = count;
        this->body = body;
        this->argument = argument;
        started = fibers = arrived = yes = ready_count = status = 0;
        for (int i = 0; i < count; ++i) {
            order[i] = i;
            threads[i].state = WAITING_TO_START;
        }
        for (int warp = 0; warp * 32 < count; ++warp) {
            int lanes = count - warp * 32;
            warps[warp].alive = lanes >= 32 ? ~0u : (1u << lanes) - 1;
            warps[warp].arrived = 0;
        }
        active = this;
        begin_fiber(&host);
        return status;
    }

    struct Votes { int yes, all; };

    // Wait for every living thread of the block; how many there were, and how many brought a true predicate.
    Votes barrier(bool predicate, int line = 0) {
        watcher.reached(current, line);
        yes += predicate;
        ++arrived;
        if (arrived == alive) release_barrier();
        else wait(AT_BARRIER);
        return votes;
    }

    // Wait for the living threads of this warp named in `mask`. Each brings 64 bits and takes those of lane `source`;
    // `ballot` gets one bit per lane: the lowest of what it brought.
    uint64_t exchange(unsigned mask, uint64_t bits, int source, unsigned* ballot, int line = 0) {
        Thread& self = threads[current];
        Warp& warp = warps[current / 32];
        self.mask = mask;
        self.brought = bits;
        self.source = source;
        self.line = line;
        warp.arrived |= 1u << current % 32;
        if (!release_warp(current / 32, mask)) wait(AT_WARP);
        *ballot = self.ballot;
        return self.taken;
    }

    // Stop here and now: run() returns `status`, and what the block's threads were doing is lost.
    void give_up(int status) {
        void* forgotten;
        this->status = status;
        cupynn_switch(&forgotten, host);
    }

    int lane() const { return current % 32; }
    char* stack_top() const { return threads[current].stack_top; }
    int current = 0;  // the running thread's number in its block

    static thread_local Fibers* active;

  private:
    enum State : char { WAITING_TO_START, READY, AT_BARRIER, AT_WARP, ENDED };
    struct Thread {
        void* stack_pointer;
        char* stack_top;
        State state;
        int source, line;
        unsigned mask, ballot;
        uint64_t brought, taken;
    };
    struct Warp { unsigned alive, arrived; };

    int count, alive, started, fibers, arrived, yes, status;
    int ready_first = 0, ready_count;
    Votes votes;
    Thread threads[MOST];
    Warp warps[MOST / 32];
    int order[MOST];  // in which threads begin
    int ready[MOST];  // a ring of threads that may go on
    void* host;       // the stack of whoever called run()
    void (*body)(const void*);
    const void* argument;

    // Stacks: 256 KiB each, of which only touched pages take memory, and a guard page below: a thread that uses more
    // faults at once instead of writing into its neighbour.
    static constexpr size_t STACK = 256 << 10;
    char* stacks[MOST] = {};

    char* stack(int number) {
        if (!stacks[number]) {
            size_t page = size_t(sysconf(_SC_PAGESIZE));
            void* memory = mmap(nullptr, STACK + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
            if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) return nullptr;
            stacks[number] = static_cast<char*>(memory) + page;
        }
        return stacks[number];
    }

  public:
    ~Fibers() {
        size_t page = size_t(sysconf(_SC_PAGESIZE));
        for (char* memory : stacks)
            if (memory) munmap(memory - page, STACK + page);
    }

  private:
    static void fiber_main() {
        Fibers* self = active;
        char* top = self->stacks[self->fibers - 1] + STACK;
        while (self->started < self->count) self->run_thread(top);
        self->next(nullptr);  // never comes back: this fiber's last thread has ended
    }

    void run_thread(char* top) {
        // The watcher may begin the threads in any order.
        int i = started + watcher.choose(count - started);
        int thread = order[i];
        order[i] = order[started];
        ++started;
        threads[thread].stack_top = top;
        go_on(thread);
        body(argument);
        thread = current;
        threads[thread].state = ENDED;
        // Threads that wait for this one need not any more.
        --alive;
        warps[thread / 32].alive &= ~(1u << thread % 32);
        if (alive > 0 && arrived == alive) release_barrier();
        for (int lane = 0; lane < 32 && thread / 32 * 32 + lane < count; ++lane) {
            Thread& other = threads[thread / 32 * 32 + lane];
            if (other.state == AT_WARP) release_warp(thread / 32, other.mask);
        }
    }

    void go_on(int thread) {
        current = thread;
        threads[thread].state = READY;
        watcher.running(thread);
    }

    void wait(State state) {
        int self = current;
        threads[self].state = state;
        next(&threads[self].stack_pointer);
    }

    // Leave this stack (its pointer goes to *from) for a thread that may go on, or one that has not begun.
    void next(void** from) {
        void* forgotten;
        if (!from) from = &forgotten;
        int fresh = started < count;
        if (ready_count + fresh == 0) {
            if (alive > 0) status = CUPYNN_STUCK;
            return cupynn_switch(from, host);
        }
        int chosen = watcher.choose(ready_count + fresh);
        if (chosen == ready_count) return begin_fiber(from);
        int first = ready[ready_first], place = (ready_first + chosen) % MOST;
        int thread = ready[place];
        ready[place] = first;
        ready_first = (ready_first + 1) % MOST;
        --ready_count;
        go_on(thread);
        cupynn_switch(from, threads[thread].stack_pointer);
    }

    void begin_fiber(void** from) {
        char* memory = stack(fibers++);
        if (!memory) {
            status = CUPYNN_NO_STACKS;
            if (from == &host) return;
            return cupynn_switch(from, host);
        }
        // A stack that looks as if fiber_main had just called cupynn_switch.
#if defined(__x86_64__)
        void** top = reinterpret_cast<void**>(memory + STACK) - 8;  // six registers, the return address, one to align
        top[6] = reinterpret_cast<void*>(fiber_main);
#else
        void** top = reinterpret_cast<void**>(memory + STACK) - 20;
        top[11] = reinterpret_cast<void*>(fiber_main);  // x30, the link register
#endif
        cupynn_switch(from, top);
    }

    void make_ready(int thread) {
        threads[thread].state = READY;
        ready[(ready_first + ready_count++) % MOST] = thread;
    }

    void release_barrier() {
        votes = {yes, arrived};
        yes = arrived = 0;
        watcher.barrier_passed(votes.all);
        for (int i = 0; i < count; ++i)
            if (threads[i].state == AT_BARRIER) make_ready(i);
    }

    // If all living lanes of the mask have come: hand over what they brought and let them go on.
    bool release_warp(int number, unsigned mask) {
        Warp& warp = warps[number];
        Thread* lanes = threads + number * 32;
        mask &= warp.alive;
        if ((warp.arrived & mask) != mask) return false;
        watcher.warp_passed(number, mask);
        unsigned ballot = 0;
        for (int lane = 0; lane < 32; ++lane)
            if (mask >> lane & 1) ballot |= unsigned(lanes[lane].brought & 1) << lane;
        for (int lane = 0; lane < 32; ++lane) {
            if (!(mask >> lane & 1)) continue;
            Thread& thread = lanes[lane];
            bool there = mask >> thread.source & 1;
            if (!there) watcher.wrong_lane(number * 32 + lane, thread.source, thread.line);
            thread.taken = there ? lanes[thread.source].brought : thread.brought;
            thread.ballot = ballot;
            if (thread.state == AT_WARP) make_ready(number * 32 + lane);
        }
        warp.arrived &= ~mask;
        return true;
    }
};

template <typename Watcher> thread_local Fibers<Watcher>* Fibers<Watcher>::active = nullptr;
