// Activation functions without learned numbers: y = f(x), dx = grad f'(x), element by element.
//
// A function is a struct with `value(x)` and `gradient(grad, saved)`, where saved is y if that says enough, else x
// (activations.py says which). Comparisons are written so that a NaN in x stays one in y; the derivative at a corner
// is PyTorch's. `parameter` is leaky ReLU's slope or ELU's alpha, and of no effect on the others.
//
// Arrays are contiguous, of `size` elements of type S, and computed with in T = Compute<S>; a block takes a piece of `piece` of them.
//
// Floor, per element: forward 1 read and 1 write; backward 2 reads and 1 write. Memory bandwidth bounds both.
#include "exponential.cuh"

// min(max(x, 0), 6)
template <typename T> __device__ __forceinline__ T clipped(T x) {
    x = x < T(0) ? T(0) : x;
    return x > T(6) ? T(6) : x;
}

template <typename T> struct ReLU {
    T parameter;
    __device__ T value(T x) const { return x < T(0) ? T(0) : x; }
    __device__ T gradient(T grad, T y) const { return y > T(0) ? grad : T(0); }
};

template <typename T> struct ReLU6 {
    T parameter;
    __device__ T value(T x) const { return clipped(x); }
    __device__ T gradient(T grad, T y) const { return y > T(0) && y < T(6) ? grad : T(0); }
};

template <typename T> struct LeakyReLU {
    T parameter;
    __device__ T value(T x) const { return x > T(0) ? x : parameter * x; }
    __device__ T gradient(T grad, T x) const { return x > T(0) ? grad : parameter * grad; }
};

template <typename T> struct ELU {
    T parameter;
    __device__ T value(T x) const { return x > T(0) ? x : parameter * expm1_of_negative(x > T(0) ? T(0) : x); }
    __device__ T gradient(T grad, T x) const {
        const T slope = parameter * exp_of_negative(x > T(0) ? T(0) : x);
        return x > T(0) ? grad : slope * grad;
    }
};

template <typename T> struct Sigmoid {
    T parameter;
    __device__ T value(T x) const {
        const T small = exp_of_negative(-fabs(x));  // never above 1, so nothing overflows
        return (x < T(0) ? small : T(1)) / (T(1) + small);
    }
    __device__ T gradient(T grad, T y) const { return grad * y * (T(1) - y); }
};

template <typename T> struct Hardswish {
    T parameter;
    __device__ T value(T x) const { return x * clipped(x + T(3)) / T(6); }
    __device__ T gradient(T grad, T x) const {
        const T inside = x < T(3) ? grad * (x / T(3) + T(0.5)) : grad;
        return x <= T(-3) ? T(0) : inside;
    }
};

template <typename T> struct Hardsigmoid {
    T parameter;
    __device__ T value(T x) const { return clipped(x + T(3)) / T(6); }
    __device__ T gradient(T grad, T y) const { return y > T(0) && y < T(1) ? grad / T(6) : T(0); }
};

template <typename S, template <typename> class Activation, typename T = Compute<S>>
__global__ void forward(const S* __restrict__ x, S* __restrict__ y, long long size, int piece, T parameter) {
    const Activation<T> f{parameter};
    const long long first = (long long)blockIdx.x * piece;
    const int length = int(size - first < piece ? size - first : piece);
    STRIP_LOOP
    for (int i = threadIdx.x; i < length; i += blockDim.x) y[first + i] = f.value(x[first + i]);
}

template <typename S, template <typename> class Activation, typename T = Compute<S>>
__global__ void backward(const S* __restrict__ grad, const S* __restrict__ saved, S* __restrict__ dx, long long size,
                         int piece, T parameter) {
    const Activation<T> f{parameter};
    const long long first = (long long)blockIdx.x * piece;
    const int length = int(size - first < piece ? size - first : piece);
    STRIP_LOOP
    for (int i = threadIdx.x; i < length; i += blockDim.x) dx[first + i] = f.gradient(grad[first + i], saved[first + i]);
}
