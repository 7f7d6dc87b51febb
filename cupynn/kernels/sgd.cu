// One step of stochastic gradient descent, in place.
//
//   g = grad + weight_decay * parameter
//   velocity = momentum * velocity + g
//   parameter -= lr * (NESTEROV ? g + momentum * velocity : velocity)        without MOMENTUM: parameter -= lr * g
//
// `step` moves one parameter of `size` elements; a block takes a piece of `piece` of them. `step_many` moves all
// parameters of all groups: table (blocks, 5) has a row per block, the addresses of its piece of parameter, gradient and
// velocity, the piece's length, and the group, of whose (lr, momentum, weight_decay) numbers (groups, 3) has a row.
//
// In `step` numbers (3) stand for the arguments of these names, where a launch is repeated with the arguments it was
// recorded with; else numbers is null. Where `where` points to false nothing moves.
//
// Floor, per element: 3 reads, 2 writes, 8 operations. Memory bandwidth bounds it.
#include "cupynn.cuh"

template <typename T, bool MOMENTUM, bool NESTEROV>
__device__ __forceinline__ void step_piece(T* __restrict__ parameter, const T* __restrict__ grad,
                                           T* __restrict__ velocity, long long length, T lr, T momentum,
                                           T weight_decay) {
    STRIP_LOOP
    for (long long i = threadIdx.x; i < length; i += blockDim.x) {
        T g = grad[i] + weight_decay * parameter[i];
        if (MOMENTUM) {
            const T v = momentum * velocity[i] + g;
            velocity[i] = v;
            g = NESTEROV ? g + momentum * v : v;
        }
        parameter[i] -= lr * g;
    }
}

template <typename T, bool MOMENTUM, bool NESTEROV>
__global__ void step(T* __restrict__ parameter, const T* __restrict__ grad, T* __restrict__ velocity, long long size,
                     int piece, const double* __restrict__ numbers, T lr, T momentum, T weight_decay,
                     const bool* __restrict__ where) {
    if (where && !*where) return;
    if (numbers) lr = T(numbers[0]), momentum = T(numbers[1]), weight_decay = T(numbers[2]);
    const long long first = (long long)blockIdx.x * piece;
    const long long length = size - first < piece ? size - first : piece;
    step_piece<T, MOMENTUM, NESTEROV>(parameter + first, grad + first, velocity + first, length, lr, momentum,
                                      weight_decay);
}

template <typename T, bool MOMENTUM, bool NESTEROV>
__global__ void step_many(const long long* __restrict__ table, const double* __restrict__ numbers,
                          const bool* __restrict__ where) {
    if (where && !*where) return;
    const long long* row = table + 5 * (long long)blockIdx.x;
    numbers += 3 * row[4];
    step_piece<T, MOMENTUM, NESTEROV>(reinterpret_cast<T*>(row[0]), reinterpret_cast<const T*>(row[1]),
                                      reinterpret_cast<T*>(row[2]), row[3], T(numbers[0]), T(numbers[1]),
                                      T(numbers[2]));
}
