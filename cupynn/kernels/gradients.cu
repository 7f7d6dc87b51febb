// All gradients of a model at once: the sum of their squares, and a common factor for them, in place.
//
//   partial[b] = sum of g^2 over piece b, in float64         g *= factor
//
// table (blocks, 2) has a row per block: where its piece of a gradient begins, and how many elements it has. It begins at
// an address; or where `array` is not null, at an element of that array. factor () lies in device memory, so that the
// host need not know it.
//
// A block takes a piece. Floor, per element: 1 read, 2 operations; to multiply 1 read, 1 write, 1 operation.
#include "cupynn.cuh"

template <typename T>
__device__ __forceinline__ T* piece_of(const long long* __restrict__ row, T* array) {
    return array ? array + row[0] : reinterpret_cast<T*>(row[0]);
}

template <typename T>
__global__ void square_sums(const long long* __restrict__ table, const T* __restrict__ array,
                            double* __restrict__ partial) {
    const long long* row = table + 2 * (long long)blockIdx.x;
    const T* grad = piece_of(row, array);
    const long long length = row[1];
    double sum = 0;
    STRIP_SUM(sum)
    for (long long i = threadIdx.x; i < length; i += blockDim.x) sum += double(grad[i]) * double(grad[i]);
    sum = block_reduce_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <typename T>
__global__ void multiply(const long long* __restrict__ table, T* __restrict__ array,
                         const double* __restrict__ factor) {
    const long long* row = table + 2 * (long long)blockIdx.x;
    T* grad = piece_of(row, array);
    const long long length = row[1];
    const T by = T(factor[0]);
    STRIP_LOOP
    for (long long i = threadIdx.x; i < length; i += blockDim.x) grad[i] *= by;
}
