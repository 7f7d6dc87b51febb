// Kernels of tests/kernels/test_narrow.py.
#include "cupynn.cuh"

template <typename S> __global__ void widen(const S* x, float* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = x[i];
}
template <typename S> __global__ void narrow(const float* x, S* y, int n) {
    STRIP_LOOP
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = x[i];
}
// The same by strips: y = x.
template <typename S> __global__ void copy_strips(const S* x, S* y, int n) {
    for (int i = 16 * threadIdx.x; i < n; i += 16 * blockDim.x) Strip<float, 16>::load(x + i).store(y + i);
}
