// What the threads of one block do, step by step: the checker (checker.cpp) sees every access, this keeps them.
#pragma once

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "checker.h"

struct Recorder {
    int64_t block;                      // number in the grid
    int most;                           // events that are kept of each thread
    int left_out = 0;                   // threads that had more
    std::vector<CupynnEvent> events;    // each thread's in its order; threads take turns at waits
    std::vector<CupynnCall> calls{{0, -1}};

    Recorder(int64_t block, int most) : block(block), most(most) {}

    void access(int thread, int kind, int region, int64_t offset, uintptr_t address, int size, uintptr_t where) {
        settle();
        CupynnEvent event{where, offset, in[thread], size, int16_t(region), int16_t(thread), kind, {}};
        if (!keep(event)) return;
        if (kind == TRACED_READ) memcpy(events.back().value, reinterpret_cast<void*>(address), std::min(size, 16));
        else written = address;
    }

    void wait(int thread, int kind, uintptr_t where, int source = 0) {
        settle();
        keep({where, source, in[thread], 0, -1, int16_t(thread), kind, {}});
    }

    // The compiler announces a write before it happens: its value is there when the next event comes.
    void settle() {
        if (!written) return;
        CupynnEvent& event = events.back();
        memcpy(event.value, reinterpret_cast<void*>(written), std::min(event.size, 16));
        written = 0;
    }

    void enter(int thread, uintptr_t where) {
        auto [found, fresh] = numbers.try_emplace({in[thread], where}, int(calls.size()));
        if (fresh) calls.push_back({where, in[thread]});
        in[thread] = found->second;
    }
    void leave(int thread) {
        if (in[thread] > 0) in[thread] = int(calls[in[thread]].caller);
    }

    // The block begins: the calls so far were the launcher's.
    void begin() { std::fill(std::begin(in), std::end(in), 0); }

  private:
    int in[1024] = {};                  // the call that each thread is in
    int kept[1024] = {};
    uintptr_t written = 0;              // address of the last event, where that is a write
    std::map<std::pair<int, uintptr_t>, int> numbers;

    bool keep(const CupynnEvent& event) {
        int& count = kept[event.thread];
        if (count == most) left_out++;
        if (count++ >= most) return false;
        events.push_back(event);
        return true;
    }
};
