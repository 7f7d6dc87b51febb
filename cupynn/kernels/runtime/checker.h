// What the checker (checker.cpp) and a kernel compiled for it (launcher.h) and Python (checked.py) tell each other.
#pragma once

#include <cstdint>

// One array, copied into a buffer of its own between two guards. Also static and dynamic shared memory.
struct CupynnRegion {
    uint64_t begin, end;              // addresses
    uint64_t before, behind;          // bytes on either side that belong to nobody
    int32_t item;                     // bytes of an element
    int32_t writeable, unwritten;     // may the kernel write to it; must it write before it reads
};

struct CupynnFault {
    int32_t kind, region;
    int64_t offset;                   // bytes from the region's begin; for LANE and barriers: a lane, or a line
    int32_t size;                     // bytes touched; for unwritten outputs: how many elements
    int32_t thread, other_thread;     // linear numbers in the block; -1: none
    int64_t block, other_block;       // linear numbers in the grid
    uint64_t where, other_where;      // offsets in the kernel's library: addr2line knows the source line
};

enum CupynnFaultKind {
    OVERRUN_READ, OVERRUN_WRITE, WRITE_TO_CONST, WILD, UNWRITTEN_READ, RACE_WRITE_WRITE, RACE_READ_WRITE,
    UNWRITTEN_OUTPUT, DIVERGED, ENDED_EARLY, STUCK, WRONG_LANE,
};

// One step of one thread of a traced block (recorder.h).
struct CupynnEvent {
    uint64_t where;                   // offset of the instruction in the kernel's library
    int64_t offset;                   // bytes from the region's begin; for a warp function, the lane that is read
    int32_t call;                     // number of the call (CupynnCall) that the function was entered by
    int32_t size;                     // bytes
    int16_t region, thread;           // region: -1 for waits
    int32_t kind;
    unsigned char value[16];          // the first bytes read or written
};

enum CupynnEventKind { TRACED_READ, TRACED_WRITE, TRACED_ATOMIC, TRACED_BARRIER, TRACED_WARP };

// A function was called from `where`, inside a function that had been entered by the call number `caller`.
struct CupynnCall {
    uint64_t where;
    int64_t caller;
};
