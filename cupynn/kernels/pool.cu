// Pooling of planes: maximum and average, backward without atomics. x, dx (planes, height, width); y, grad, indices
// (planes, out_height, out_width); planes = N * C.
//
//   max_forward:       y = max of the window, indices = where it lies, row * width + column. Of equals the first
//                      counts; a NaN is greater than all else. A window with no pixel: -inf and -1.
//   average_forward:   y = sum of the window / (its row count * its column count)
//   backward:          a pixel gathers from the windows that cover it
//
// S is the type of x, y, dx and grad; sums are of type T = Compute<S>.
//
// Windows come as tables, one for rows and one for columns, made in pool.py. So fixed, padded, dilated and adaptive
// windows are one kernel:
//   windows (out, 3): a window's first pixel, one past its last, and its count, by which an average is divided
//   covers (size, 2): the first window that covers a pixel, and one past the last
//
// Threads: x walks along a row of the array that is written, y over rows; a block takes `rows_per_block` rows.
// Where a thread runs alone on a core, the backward passes are quicker the other way round, window by window into a
// plane that stays in the cache: `..._by_plane`, a thread per plane. They add up in dx itself, so not in 16 bits.
// `max_forward_2x2` is for windows of 2 x 2 that tile the plane; a thread takes strips of LANES windows, a constant, so
// that the CPU's vectors fill.
//
// Floor: each pixel is read or written once, each output (and index) once; one operation per tap. Bandwidth bounds it.
#include "cupynn.cuh"

// A thread's way through the rows of all planes that belong to its block.
struct Rows {
    long long row, last, plane;  // which row of all, and of which plane
    int line, lines;             // which row of its plane

    __device__ Rows(long long rows, int rows_per_block, int lines)
        : row((long long)blockIdx.x * rows_per_block), last(row + rows_per_block), lines(lines) {
        if (last > rows) last = rows;
        row += threadIdx.y;
        plane = row / lines;
        line = int(row - plane * lines);
    }

    __device__ bool valid() const { return row < last; }

    __device__ void next() {
        row += blockDim.y;
        line += blockDim.y;
        if (line >= lines) {
            plane += line / lines;
            line %= lines;
        }
    }
};

// Take `value` for `best` if it is greater, or the first NaN. Two plain selections: g++ 12 turns these into vector
// code, but not one selection on the compound condition, which is 20 times slower.
template <typename T> __device__ __forceinline__ void take_greater(T value, int at, T& best, int& best_at) {
    const bool not_less = !(value <= best), settled = best != best;
    const T next = not_less ? value : best;
    const int next_at = not_less ? at : best_at;
    best = settled ? best : next;
    best_at = settled ? best_at : next_at;
}

template <typename S, typename T = Compute<S>>
__global__ void max_forward(const S* __restrict__ x, const int* __restrict__ row_windows,
                            const int* __restrict__ column_windows, S* __restrict__ y, int* __restrict__ indices,
                            int height, int width, int row_dilation, int column_dilation, int out_height,
                            int out_width, long long rows, int rows_per_block) {
    for (Rows at(rows, rows_per_block, out_height); at.valid(); at.next()) {
        const S* plane = x + at.plane * height * width;
        const int* window = row_windows + 3 * at.line;
        for (int j = threadIdx.x; j < out_width; j += blockDim.x) {
            const int left = column_windows[3 * j], right = column_windows[3 * j + 1];
            const bool empty = window[0] >= window[1] || left >= right;
            int best_at = empty ? -1 : window[0] * width + left;
            T best = empty ? -1 / T(0) : T(plane[best_at]);
            for (int h = window[0]; h < window[1]; h += row_dilation)
                for (int w = left; w < right; w += column_dilation)
                    take_greater(T(plane[h * width + w]), h * width + w, best, best_at);
            y[at.row * out_width + j] = best;
            indices[at.row * out_width + j] = best_at;
        }
    }
}

template <typename S, typename T = Compute<S>>
__global__ void max_backward(const S* __restrict__ grad, const int* __restrict__ indices,
                             const int* __restrict__ row_covers, const int* __restrict__ column_covers,
                             S* __restrict__ dx, int height, int width, int out_height, int out_width,
                             long long rows, int rows_per_block) {
    for (Rows at(rows, rows_per_block, height); at.valid(); at.next()) {
        const int h = at.line;
        const long long plane = at.plane * out_height * out_width;
        const int top = row_covers[2 * h], bottom = row_covers[2 * h + 1];
        for (int w = threadIdx.x; w < width; w += blockDim.x) {
            T sum = 0;
            for (int i = top; i < bottom; i++)
                for (int j = column_covers[2 * w]; j < column_covers[2 * w + 1]; j++) {
                    const long long from = plane + (long long)i * out_width + j;
                    if (indices[from] == h * width + w) sum += grad[from];
                }
            dx[at.row * width + w] = sum;
        }
    }
}

template <typename S, typename T = Compute<S>>
__global__ void average_forward(const S* __restrict__ x, const int* __restrict__ row_windows,
                                const int* __restrict__ column_windows, S* __restrict__ y, int height, int width,
                                int out_height, int out_width, long long rows, int rows_per_block) {
    for (Rows at(rows, rows_per_block, out_height); at.valid(); at.next()) {
        const int* window = row_windows + 3 * at.line;
        const S* top = x + (at.plane * height + window[0]) * width;
        for (int j = threadIdx.x; j < out_width; j += blockDim.x) {
            const int left = column_windows[3 * j];
            int lines = window[1] - window[0], breadth = column_windows[3 * j + 1] - left;
            if (breadth == width) breadth *= lines, lines = 1;  // whole rows lie one after another
            T sum = 0;
            for (int line = 0; line < lines; line++) {
                const S* from = top + line * width + left;
                if (breadth < 16) {  // setting up vectors would cost more than it saves
                    for (int w = 0; w < breadth; w++) sum += from[w];
                } else {
                    STRIP_SUM(sum)
                    for (int w = 0; w < breadth; w++) sum += from[w];
                }
            }
            y[at.row * out_width + j] = sum / (T(window[2]) * T(column_windows[3 * j + 2]));
        }
    }
}

template <typename S, typename T = Compute<S>>
__global__ void average_backward(const S* __restrict__ grad, const int* __restrict__ row_windows,
                                 const int* __restrict__ column_windows, const int* __restrict__ row_covers,
                                 const int* __restrict__ column_covers, S* __restrict__ dx, int height, int width,
                                 int out_height, int out_width, long long rows, int rows_per_block) {
    for (Rows at(rows, rows_per_block, height); at.valid(); at.next()) {
        const int h = at.line;
        const S* plane = grad + at.plane * out_height * out_width;
        const int top = row_covers[2 * h], bottom = row_covers[2 * h + 1];
        for (int w = threadIdx.x; w < width; w += blockDim.x) {
            T sum = 0;
            for (int i = top; i < bottom; i++)
                for (int j = column_covers[2 * w]; j < column_covers[2 * w + 1]; j++)
                    sum += plane[(long long)i * out_width + j] /
                           (T(row_windows[3 * i + 2]) * T(column_windows[3 * j + 2]));
            dx[at.row * width + w] = sum;
        }
    }
}

template <typename T>
__global__ void max_backward_by_plane(const T* __restrict__ grad, const int* __restrict__ indices, T* __restrict__ dx,
                                      int pixels, int outputs, long long planes, int planes_per_block) {
    for (Rows at(planes, planes_per_block, 1); at.valid(); at.next()) {
        T* to = dx + at.plane * pixels;
        STRIP_LOOP
        for (int pixel = 0; pixel < pixels; pixel++) to[pixel] = 0;
        const long long from = at.plane * outputs;
        for (int i = 0; i < outputs; i++)
            if (indices[from + i] >= 0) to[indices[from + i]] += grad[from + i];
    }
}

template <typename T>
__global__ void average_backward_by_plane(const T* __restrict__ grad, const int* __restrict__ row_windows,
                                          const int* __restrict__ column_windows, T* __restrict__ dx, int height,
                                          int width, int out_height, int out_width, long long planes,
                                          int planes_per_block) {
    for (Rows at(planes, planes_per_block, 1); at.valid(); at.next()) {
        T* plane = dx + at.plane * height * width;
        STRIP_LOOP
        for (int pixel = 0; pixel < height * width; pixel++) plane[pixel] = 0;
        const T* from = grad + at.plane * out_height * out_width;
        for (int i = 0; i < out_height; i++) {
            const int* rows = row_windows + 3 * i;
            for (int j = 0; j < out_width; j++) {
                const int* columns = column_windows + 3 * j;
                const T share = from[i * out_width + j] / (T(rows[2]) * T(columns[2]));
                int lines = rows[1] - rows[0], breadth = columns[1] - columns[0];
                if (breadth == width) breadth *= lines, lines = 1;  // whole rows lie one after another
                for (int line = 0; line < lines; line++) {
                    T* to = plane + (rows[0] + line) * width + columns[0];
                    for (int w = 0; w < breadth; w++) to[w] += share;
                }
            }
        }
    }
}

// The window at column j of two rows, `top` and `bottom`; `corner` is the index of top[0] in its plane.
template <typename T, typename S>
__device__ __forceinline__ void window_2x2(const S* top, const S* bottom, int corner, int width, int j, S* y,
                                           int* indices) {
    const int at = corner + 2 * j;
    T best = top[2 * j];
    int best_at = at;
    take_greater(T(top[2 * j + 1]), at + 1, best, best_at);
    take_greater(T(bottom[2 * j]), at + width, best, best_at);
    take_greater(T(bottom[2 * j + 1]), at + width + 1, best, best_at);
    y[j] = best;
    indices[j] = best_at;
}

template <typename S, int LANES, typename T = Compute<S>>
__global__ void max_forward_2x2(const S* __restrict__ x, S* __restrict__ y, int* __restrict__ indices, int height,
                                int width, long long rows, int rows_per_block) {
    const int out_height = height / 2, out_width = width / 2;
    for (Rows at(rows, rows_per_block, out_height); at.valid(); at.next()) {
        const int corner = 2 * at.line * width;
        const S* __restrict__ top = x + at.plane * height * width + corner;
        const S* __restrict__ bottom = top + width;
        S* __restrict__ to = y + at.row * out_width;
        int* __restrict__ to_index = indices + at.row * out_width;
        int j = threadIdx.x * LANES;
        for (; j + LANES <= out_width; j += blockDim.x * LANES) {
            STRIP_LOOP
            for (int lane = 0; lane < LANES; lane++) window_2x2<T>(top, bottom, corner, width, j + lane, to, to_index);
        }
        for (; j < out_width; j++) window_2x2<T>(top, bottom, corner, width, j, to, to_index);
    }
}
