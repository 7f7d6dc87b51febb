// im2col: every window of an image as a column of a matrix; col2im: its transpose, columns added back to the image.
//
//   columns[n, (c, i, j), (p, q)] = image[n, c, (row0 + p)*s + i*d - pad, q*s + j*d - pad]      p < rows, q < OW
//   image[n, c, y, x]            += the columns' entries that were taken from there
//
// image (N, C, H, W), which im2col may convert from another type; columns (N, C KH KW, rows OW), for images N0 to N0 + N - 1 and window rows row0 to row0 + rows - 1.
//
// One block: one channel of one image, so grid (N C). Threads work in teams of up to 32 on lines of windows (im2col), or
// share the pixels that one tap reaches (col2im): within a tap no two windows meet the same pixel, so a barrier between taps
// is enough and the order of additions is fixed.
//
// Floor: write (read) the KH KW times larger columns once.

#include "lines.cuh"

struct Window {
  int h, w, kh, kw, step_y, step_x, pad_y, pad_x, dilation_y, dilation_x, out_w;
};

// Windows [low, high) of a row have 0 <= q * step + shift < size.
struct Inside {
  int low, high;
};
__device__ Inside inside(int shift, int step, int size, int count) {
  const int low = at_most(divide_up(-shift, step), count);
  return {low, at_least(low, at_most(divide_up(size - shift, step), count))};
}

template <typename S, int LANES, typename T = Compute<S>>
__global__ void im2col(const S* __restrict__ image, T* __restrict__ columns, const int* __restrict__ window, int row0,
                       int rows) {
  const Window& f = *(const Window*)window;
  const S* plane = image + (long long)blockIdx.x * f.h * f.w;
  T* to = columns + ((long long)blockIdx.x * f.kh * f.kw * rows + threadIdx.x / 32) * f.out_w;
  const int team = at_most(blockDim.x, 32), member = threadIdx.x % team, teams = blockDim.x / team;
  int p = threadIdx.x / team;
  for (int tap = 0; tap < f.kh * f.kw; tap++, p -= rows) {
    const int shift = tap % f.kw * f.dilation_x - f.pad_x;
    const Inside q = inside(shift, f.step_x, f.w, f.out_w);
    for (; p < rows; p += teams, to += (long long)teams * f.out_w) {
      const int y = (row0 + p) * f.step_y + tap / f.kw * f.dilation_y - f.pad_y;
      const bool some = y >= 0 && y < f.h;
      copy_line<T, LANES>(to, plane + (long long)y * f.w + shift, f.step_x, some ? q.low : 0, some ? q.high : 0, f.out_w,
                          member, team);
    }
  }
}

// Adds to the image, which the caller has set to zero before the first rows.
template <typename T>
__global__ void col2im(const T* __restrict__ columns, T* __restrict__ image, const int* __restrict__ window, int row0,
                       int rows) {
  const Window& f = *(const Window*)window;
  T* plane = image + (long long)blockIdx.x * f.h * f.w;
  const T* in = columns + (long long)blockIdx.x * f.kh * f.kw * rows * f.out_w;
  const int team = blockDim.x < 32 ? blockDim.x : 32, member = threadIdx.x % team, teams = blockDim.x / team;
  for (int tap = 0; tap < f.kh * f.kw; tap++) {
    const int i = tap / f.kw, shift = tap % f.kw * f.dilation_x - f.pad_x;
    const Inside inner = inside(shift, f.step_x, f.w, f.out_w);
    for (int p = threadIdx.x / team; p < rows; p += teams) {
      const int y = (row0 + p) * f.step_y + i * f.dilation_y - f.pad_y;
      if (y < 0 || y >= f.h) continue;
      const T* from = in + ((long long)tap * rows + p) * f.out_w;
      T* to = plane + (long long)y * f.w + shift;
      if (f.step_x == 1)
        for (int q = inner.low + member; q < inner.high; q += team) to[q] += from[q];
      else
        for (int q = inner.low + member; q < inner.high; q += team) to[q * f.step_x] += from[q];
    }
    __syncthreads();
  }
}
