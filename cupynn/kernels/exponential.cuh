// e^x and e^x - 1 without branches, so that a loop over a strip of them becomes vector code.
#pragma once
#include "cupynn.cuh"

// x = n ln 2 + r with |r| < 0.35: 2^n, and e^r - 1 by a Taylor polynomial, whose rest is below the rounding.
// x is above the logarithm of the smallest normal number. A NaN makes `rest` one.
template <typename T> struct Exponential {
    T power, rest;

    explicit __device__ __forceinline__ Exponential(T x) {
        constexpr bool SINGLE = sizeof(T) == 4;
        constexpr T LN2 = SINGLE ? 0.693359375 : 6.93147180369123816490e-1;  // its first digits: n * LN2 is exact
        constexpr T LN2_REST = SINGLE ? -2.12194440e-4 : 1.90821492927058770002e-10;
        const T n = floor(x * T(1.4426950408889634) + T(0.5));
        const T r = (x - n * LN2) - n * LN2_REST;
        constexpr T FACTORS[] = {1, 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040, 1. / 40320, 1. / 362880,
                                 1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800};
        T sum = 0;
        CUPYNN_UNROLL
        for (int k = SINGLE ? 7 : 12; k >= 0; k--) sum = sum * r + FACTORS[k];
        if constexpr (SINGLE)
            power = __int_as_float((int(n) + 127) * (1 << 23));
        else
            power = __longlong_as_double((long long)(int(n) + 1023) * (1LL << 52));
        rest = sum * r;
    }
};

// e^x - 1 for x <= 0, to a few units in the last place.
template <typename T> __device__ __forceinline__ T expm1_of_negative(T x) {
    const Exponential<T> e(x < T(-64) ? T(-64) : x);  // there it is -1 to the last digit
    return e.power * e.rest + (e.power - T(1));
}

// e^x for x <= 0, to a few units in the last place; 0 where it would be below the smallest normal number.
template <typename T> __device__ __forceinline__ T exp_of_negative(T x) {
    constexpr T LEAST = sizeof(T) == 4 ? -87 : -708;
    const Exponential<T> e(x < LEAST ? LEAST : x);
    return x < LEAST ? T(0) : e.power * e.rest + e.power;
}
