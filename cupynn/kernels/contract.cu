// Batches of small matrix products, summed over taps: what contractions of linear layers are made of.
//
//   z[b, t, m, n] = sum over the pairs (s, r) of task t, and over k, of   x[b, s, m, k] y[b, r, k, n]
//
// b: a group, or a channel of DO-Conv; s, r, t: taps. Where two kernels are convolved, the pairs of t are those with
// s + r = t [ExpandNets, Appendix D]; for a gradient they are differences. x, y, z have any stride in every direction
// (the plan gives them in elements): weights (O, I, KH, KW) and (O, I, S) are read and written as they are.
//
// A block takes `row_span` rows m, STRIPS strips of columns n and `task_span` tasks of one b. It stages y in shared
// memory: all its taps where tasks share them and they fit (on a CPU, into the second-level cache), else some pairs or
// some k at a time; the sums then wait in z. Where neighbouring n are not neighbours in y, a CPU transposes squares of
// strips in registers. A thread keeps ROWS x STRIPS strips of sums in registers, and its loop over k costs STRIPS loads
// and ROWS broadcasts for ROWS x STRIPS multiply-adds. On a GPU x is staged, too; a CPU reads it where it is.
// Every z is summed by one thread at a time in one order: no atomics, no split sums, the same bits each time.
//
// Grid (b, columns, rows and tasks); threads: x over columns, y over rows. Floor: x, y read and z written once, two
// operations per product. Multiply-adds bound it; DO-Conv's products of 9 x 9 are bound by memory.
#include "cupynn.cuh"

// Made by `contract_plan.py`. Behind it: `tasks` of Task, then all their pairs.
struct Plan {
  int rows, depth, columns;  // of one product: m, k, n
  int row_span, row_blocks, tasks, task_span;
  int pairs, chunk;    // staged at a time: pairs, or 0 for all taps of y, which are `taps`; and k
  int taps, inner;     // b = outer index * inner + inner index
  int x_size, y_size;  // elements of the arrays
  int x_outer, x_inner, x_tap, x_row, x_depth;
  int y_outer, y_inner, y_tap, y_depth, y_column;
  int z_outer, z_inner, z_tap, z_row, z_column;
};
struct Task {
  int first, end;  // its pairs; the tap it writes is its number
};
struct Pair {
  int x, y;  // taps
};

__device__ const Task* tasks_of(const Plan& p) { return (const Task*)(&p + 1); }
__device__ const Pair* pairs_of(const Plan& p) { return (const Pair*)(tasks_of(p) + p.tasks); }
__device__ int at_most(int a, int b) { return a < b ? a : b; }

// Strip i of `strips` becomes column i, for as many strips as they have lanes: log2(LANES) perfect shuffles with g++.
template <typename T, int LANES> __device__ __forceinline__ void transpose(Strip<T, LANES> (&strips)[LANES]) {
#if CUPYNN_FOLDS
  typedef decltype(strips[0].part[0] < strips[0].part[0]) Index;
  Index low;
  for (int i = 0; i < LANES; i++) low[i] = i % 2 * LANES + i / 2;
  CUPYNN_UNROLL for (int stage = 1; stage < LANES; stage *= 2) {
    Strip<T, LANES> mixed[LANES];
    CUPYNN_UNROLL for (int i = 0; i < LANES; i++)
      mixed[i].part[0] = __builtin_shuffle(strips[i / 2].part[0], strips[(i + LANES) / 2].part[0],
                                           i % 2 ? low + LANES / 2 : low);
    CUPYNN_UNROLL for (int i = 0; i < LANES; i++) strips[i] = mixed[i];
  }
#endif
}

// A panel of y: to[(tap * depth + k) * pitch + n] = from[k * k_step + tap + n * n_step] for tap < taps, k < depth and
// n < columns, and anything up to n = room. `left` elements of `from` can be read. With n_step = 1 there is one tap.
// Neighbouring threads take neighbouring elements of `from`; on a CPU these are strips, transposed where they must be.
template <int LANES, typename T>
__device__ void stage(T* __restrict__ to, int pitch, int room, const T* __restrict__ from, int left, int taps,
                      int k_step, int n_step, int depth, int columns) {
  if (n_step == 1) {
    for (int k = threadIdx.y; k < depth; k += blockDim.y)
      for (int n = threadIdx.x * LANES; n < room; n += blockDim.x * LANES) {
        const int at = k * k_step + n;
        if (at + LANES <= left)
          Strip<T, LANES>::load(from + at).store(to + k * pitch + n);
        else
          for (int lane = 0; lane < LANES; lane++)
            to[k * pitch + n + lane] = at + lane < left ? from[at + lane] : T(0);
      }
    return;
  }
  if constexpr (LANES == 1) {
    for (int n = threadIdx.y; n < room; n += blockDim.y)
      for (int c = threadIdx.x; c < depth * taps; c += blockDim.x) {
        const int tap = c % taps, k = c / taps;
        to[(tap * depth + k) * pitch + n] = n < columns ? from[k * k_step + tap + n * n_step] : T(0);
      }
    return;
  }
  const int run = k_step == taps ? depth * taps : taps;  // neighbours in memory
  for (int k0 = 0; k0 < depth; k0 += run / taps, from += k_step, left -= k_step)
    for (int n = 0; n < room; n += LANES) {
      int c = 0, tap = 0, k = k0;
      if constexpr (CUPYNN_FOLDS && Strip<T, LANES>::LANES == LANES) {
        for (; c < run && (n + LANES - 1LL) * n_step + c + LANES <= left; c += LANES) {
          Strip<T, LANES> strips[LANES];
          CUPYNN_UNROLL for (int i = 0; i < LANES; i++) strips[i] = Strip<T, LANES>::load(from + (n + i) * n_step + c);
          transpose(strips);
          CUPYNN_UNROLL for (int i = 0; i < LANES; i++) {
            if (c + i >= run) break;
            strips[i].store(to + (tap * depth + k) * pitch + n);
            if (++tap == taps) tap = 0, k++;
          }
        }
      }
      for (; c < run; c++) {
        tap = c % taps, k = k0 + c / taps;
        for (int i = n; i < n + LANES; i++)
          to[(tap * depth + k) * pitch + i] = i < columns ? from[i * n_step + c] : T(0);
      }
    }
}

// from[n] for n < count, zeros behind.
template <int N, typename T> __device__ __forceinline__ void copy_some(T* to, const T* from, int count) {
  if (count & N) {
    Strip<T, N>::load(from).store(to);
    to += N, from += N;
  }
  if constexpr (N > 1) copy_some<N / 2>(to, from, count);
}

// What a thread multiplies at a time: a column of strips of z, over the pairs [first, end) and `depth` k.
template <typename T> struct Work {
  const Pair* pairs;
  int first, end, depth;
  const T* x;  // for pair i at + tap * x_tap + (i - first) * x_slot; so for y
  int x_tap, x_slot, x_row, x_depth;
  const T* y;
  int y_tap, y_slot, y_depth;
  T* z;
  int z_row, z_column, columns;
  bool add;  // to z
};

// ROWS x STRIPS strips of z, from row `row` on.
template <int ROWS, int STRIPS, int LANES, typename T>
__device__ __forceinline__ void tile(const Work<T>& w, int row) {
  using S = Strip<T, LANES>;
  const int across = blockDim.x * LANES;  // from one strip to the next
  S sum[ROWS][STRIPS];
  CUPYNN_UNROLL for (int r = 0; r < ROWS; r++)
    CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) sum[r][s] = S::broadcast(T(0));
  for (int i = w.first; i < w.end; i++) {
    const Pair pair = w.pairs[i];
    const int x_depth = w.x_depth, y_depth = w.y_depth;
    const T *x[ROWS], *y = w.y + pair.y * w.y_tap + (i - w.first) * w.y_slot;
    CUPYNN_UNROLL for (int r = 0; r < ROWS; r++)
      x[r] = w.x + pair.x * w.x_tap + (i - w.first) * w.x_slot + (row + r) * w.x_row;
    for (int k = w.depth; k > 0; k--, y += y_depth) {
      S strip[STRIPS];
      CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) {
        strip[s] = S::load(y + s * across);
        if constexpr (LANES > 1) strip[s] = in_register(strip[s]);
      }
      CUPYNN_UNROLL for (int r = 0; r < ROWS; r++) {
        x[r] = register_pointer(x[r]);  // one address for each row: else g++ runs out of registers
        const T factor = *x[r];
        x[r] += x_depth;
        CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) sum[r][s] = fma(strip[s], factor, sum[r][s]);
      }
    }
  }
  CUPYNN_UNROLL for (int r = 0; r < ROWS; r++)
    CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) {
      T* to = w.z + (row + r) * w.z_row + s * across * w.z_column;
      const int here = at_most(w.columns - s * across, LANES);
      if (here == LANES && w.z_column == 1) {
        (w.add ? sum[r][s] + S::load(to) : sum[r][s]).store(to);
      } else if (here > 0) {
        T lanes[LANES];
        sum[r][s].store(lanes);
        if (w.add)
          for (int lane = 0; lane < here; lane++) lanes[lane] += to[lane * w.z_column];
        if (w.z_column != 1)
          for (int lane = 0; lane < here; lane++) to[lane * w.z_column] = lanes[lane];
        else if constexpr (LANES > 1)
          copy_some<LANES / 2>(to, lanes, here);
      }
    }
}

// The rows [row, end), fewer than 2 ROWS: by tiles of ROWS, ROWS / 2, ..., 1.
template <int ROWS, int STRIPS, int LANES, typename T>
__device__ __forceinline__ void some_rows(const Work<T>& w, int row, int end) {
  if (row + ROWS <= end) {
    tile<ROWS, STRIPS, LANES>(w, row);
    row += ROWS;
  }
  if constexpr (ROWS > 1)
    if (row < end) some_rows<ROWS / 2, STRIPS, LANES>(w, row, end);
}

// All rows of the block. On the CPU a function of its own: inlined, g++ now and then has too few registers and keeps a
// sum in memory, which halves the speed.
#ifdef CUPYNN_CPU
#define CUPYNN_APART __noinline__
#else
#define CUPYNN_APART __forceinline__
#endif
template <int ROWS, int STRIPS, int LANES, typename T>
__device__ CUPYNN_APART void all_rows(const Work<T>& w, int rows) {
  for (int row = threadIdx.y * ROWS; row < rows; row += blockDim.y * ROWS)
    some_rows<ROWS, STRIPS, LANES>(w, row, at_most(row + ROWS, rows));
}

template <typename T, int LANES, int ROWS, int STRIPS, bool STAGED>
__global__ void multiply(const T* __restrict__ x, const T* __restrict__ y, T* __restrict__ z,
                         const int* __restrict__ plan) {
  extern __shared__ unsigned char shared_memory[];
  const Plan& p = *(const Plan*)plan;
  const int strip = LANES * blockDim.x, column0 = blockIdx.y * STRIPS * strip;
  const int columns = at_most(STRIPS * strip, p.columns - column0);
  const bool narrow = STRIPS > 1 && columns <= strip;  // one strip is enough
  // On a GPU a warp that stages 16 k of two n writes to 32 banks.
  const int room = narrow ? strip : STRIPS * strip, pitch = room + (LANES == 1 ? 2 : 0);
  const int row0 = blockIdx.z % p.row_blocks * p.row_span, rows = at_most(p.row_span, p.rows - row0);
  const int task0 = blockIdx.z / p.row_blocks * p.task_span, task1 = at_most(task0 + p.task_span, p.tasks);
  const int outer = blockIdx.x / p.inner, inner = blockIdx.x % p.inner;
  const int x0 = outer * p.x_outer + inner * p.x_inner + row0 * p.x_row;
  x += x0;
  const int y0 = outer * p.y_outer + inner * p.y_inner + column0 * p.y_column, left = p.y_size - y0;
  y += y0;
  z += outer * p.z_outer + inner * p.z_inner + row0 * p.z_row + column0 * p.z_column;

  const int x_pitch = p.row_span + 2, x_size = STAGED ? p.pairs * p.chunk * x_pitch : 0;
  T *x_panel = register_pointer((T*)shared_memory), *y_panel = x_panel + x_size;
  const bool whole = p.pairs == 0;
  if (whole) {
    const bool together = p.y_tap == 1 && p.y_column != 1;  // taps are neighbours in memory
    for (int tap = 0; tap < p.taps; tap += together ? p.taps : 1)
      stage<LANES>(y_panel + tap * p.depth * pitch, pitch, room, y + tap * p.y_tap, left - tap * p.y_tap,
                   together ? p.taps : 1, p.y_depth, p.y_column, p.depth, columns);
    __syncthreads();
  }
  for (int t = task0; t < task1; t++) {
    const Task task = tasks_of(p)[t];
    const int at_once = whole ? task.end - task.first : p.pairs;
    for (int first = task.first; first < task.end; first += at_once)
      for (int k0 = 0; k0 < p.depth; k0 += p.chunk) {
        const int end = at_most(first + at_once, task.end), depth = at_most(p.chunk, p.depth - k0);
        if (!whole) {
          __syncthreads();  // the panels that were there have been read
          for (int i = first; i < end; i++) {
            const Pair pair = pairs_of(p)[i];
            const int x_at = pair.x * p.x_tap + k0 * p.x_depth, y_at = pair.y * p.y_tap + k0 * p.y_depth;
            stage<LANES>(y_panel + (i - first) * p.chunk * pitch, pitch, room, y + y_at, left - y_at, 1,
                         p.y_depth, p.y_column, depth, columns);
            if constexpr (STAGED)
              stage<1>(x_panel + (i - first) * p.chunk * x_pitch, x_pitch, rows, x + x_at, p.x_size - x0 - x_at,
                       1, p.x_depth, p.x_row, depth, rows);
          }
          __syncthreads();
        }
        Work<T> w = {pairs_of(p), first, end, depth};
        w.x = STAGED ? x_panel : x + k0 * p.x_depth;
        w.x_tap = STAGED ? 0 : p.x_tap, w.x_slot = STAGED ? p.chunk * x_pitch : 0;
        w.x_row = STAGED ? 1 : p.x_row, w.x_depth = STAGED ? x_pitch : p.x_depth;
        w.y = y_panel + threadIdx.x * LANES;
        w.y_tap = whole ? p.depth * pitch : 0, w.y_slot = whole ? 0 : p.chunk * pitch, w.y_depth = pitch;
        w.z = z + t * p.z_tap + threadIdx.x * LANES * p.z_column;
        w.z_row = p.z_row, w.z_column = p.z_column, w.columns = columns - threadIdx.x * LANES;
        w.add = first > task.first || k0 > 0;
        if (narrow)
          all_rows<ROWS, 1, LANES>(w, rows);
        else
          all_rows<ROWS, STRIPS, LANES>(w, rows);
      }
  }
}

// Batch norm with fixed statistics, in the convolution before it: with scale = gamma / sqrt(variance + eps),
//
//   folded[o, k] = scale w[o, k]      folded_bias[o] = beta + scale (bias - mean)
//
// w, folded (O, size); all else (O); bias 0, gamma 1 and beta 0 where they are null. One block: one output. Floor: read
// and write a weight once, one product each; memory bounds it.
template <typename T>
__global__ void fold(const T* __restrict__ w, const T* __restrict__ bias, const T* __restrict__ gamma,
                     const T* __restrict__ beta, const T* __restrict__ mean, const T* __restrict__ variance, T eps,
                     T* __restrict__ folded, T* __restrict__ folded_bias, int size) {
  const int o = blockIdx.x;
  const T scale = (gamma ? gamma[o] : T(1)) / sqrt(variance[o] + eps);
  const long long first = (long long)o * size;
  STRIP_LOOP
  for (int k = threadIdx.x; k < size; k += blockDim.x) folded[first + k] = scale * w[first + k];
  if (threadIdx.x == 0) folded_bias[o] = (beta ? beta[o] : T(0)) + scale * ((bias ? bias[o] : T(0)) - mean[o]);
}

// Its gradients; dbeta is that of folded_bias:
//
//   dw = scale dfolded      dbias = scale dfolded_bias
//   dgamma = (sum_k w dfolded + (bias - mean) dfolded_bias) / sqrt(variance + eps)
template <typename T>
__global__ void fold_backward(const T* __restrict__ grad, const T* __restrict__ grad_bias, const T* __restrict__ w,
                              const T* __restrict__ bias, const T* __restrict__ gamma, const T* __restrict__ mean,
                              const T* __restrict__ variance, T eps, T* __restrict__ dw, T* __restrict__ dbias,
                              T* __restrict__ dgamma, int size) {
  const int o = blockIdx.x;
  const T inverse = T(1) / sqrt(variance[o] + eps), scale = (gamma ? gamma[o] : T(1)) * inverse;
  const long long first = (long long)o * size;
  T sum = 0;
  STRIP_SUM(sum)
  for (int k = threadIdx.x; k < size; k += blockDim.x) {
    dw[first + k] = scale * grad[first + k];
    sum += w[first + k] * grad[first + k];
  }
  sum = block_reduce_sum(sum);
  if (threadIdx.x == 0) {
    dbias[o] = scale * grad_bias[o];
    dgamma[o] = (sum + ((bias ? bias[o] : T(0)) - mean[o]) * grad_bias[o]) * inverse;
  }
}
