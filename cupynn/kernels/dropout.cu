// Dropout: y = x * factor where an element is kept, else 0; the gradient is the same function of the output's gradient.
//
// Whether an element is kept is computed, not stored: elements come in tiles of 4 QUARTER, and number q + word * QUARTER
// of a tile gets word `word` of Philox4x32-10 of the counter (q, tile, 0, 0) and the key. It is kept if that word is at
// least `threshold`, p 2^32. Backward computes the same words again. The key is (key0, key1), or what lies in `key` where
// that is not null: a launch that is repeated as it was recorded finds a new one there. [Salmon et al. 2011]
//
// A block takes one tile; a thread the elements of some q. Floor, per element: 1 read, 1 write; a fourth of a Philox
// block, 10 rounds of 2 wide products, shifts and 4 bitwise operations: about 25 operations.
#include "cupynn.cuh"

constexpr int QUARTER = 1024, TILE = 4 * QUARTER;

// The high and the low half of a * b.
__device__ __forceinline__ void multiply(unsigned a, unsigned b, unsigned& high, unsigned& low) {
    const unsigned long long product = (unsigned long long)a * b;
    high = unsigned(product >> 32), low = unsigned(product);
}

// The counter (a, b, c, d) becomes four random words.
__device__ __forceinline__ void philox(unsigned& a, unsigned& b, unsigned& c, unsigned& d, unsigned key0, unsigned key1) {
    CUPYNN_UNROLL
    for (int round = 0; round < 10; round++) {
        unsigned high_a, low_a, high_c, low_c;
        multiply(a, 0xD2511F53u, high_a, low_a);
        multiply(c, 0xCD9E8D57u, high_c, low_c);
        a = high_c ^ b ^ key0, b = low_c, c = high_a ^ d ^ key1, d = low_a;
        key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
}

template <typename S, typename T, bool WHOLE>
__device__ __forceinline__ void drop_in_tile(const S* __restrict__ x, S* __restrict__ y, int length, unsigned threshold,
                                             unsigned key0, unsigned key1, T factor) {
    const unsigned tile = blockIdx.x;
    auto put = [&](int i, unsigned word) {
        if (WHOLE || i < length) y[i] = T(x[i]) * (word >= threshold ? factor : T(0));
    };
    STRIP_LOOP
    for (int q = threadIdx.x; q < QUARTER; q += blockDim.x) {
        unsigned a = q, b = tile, c = 0, d = 0;
        philox(a, b, c, d, key0, key1);
        put(q, a);
        put(q + QUARTER, b);
        put(q + 2 * QUARTER, c);
        put(q + 3 * QUARTER, d);
    }
}

template <typename S, typename T = Compute<S>>
__global__ void dropout(const S* __restrict__ x, S* __restrict__ y, long long size, unsigned threshold, unsigned key0,
                        unsigned key1, const unsigned* __restrict__ key, T factor) {
    if (key) key0 = key[0], key1 = key[1];
    const long long first = (long long)blockIdx.x * TILE;
    if (size - first >= TILE)
        drop_in_tile<S, T, true>(x + first, y + first, TILE, threshold, key0, key1, factor);
    else
        drop_in_tile<S, T, false>(x + first, y + first, int(size - first), threshold, key0, key1, factor);
}
