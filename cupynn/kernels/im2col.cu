// im2col: every window of an image as a column of a matrix; col2im: its transpose, columns added back to the image.
//
//   columns[n, (c, i, j), (p, q)] = image[n, c, (row0 + p)*s + i*d - pad, q*s + j*d - pad]      p < rows, q < OW
//   image[n, c, y, x]            += the columns' entries that were taken from there
//
// image (N, C, H, W), columns (N, C KH KW, rows OW), for images N0 to N0 + N - 1 and window rows row0 to row0 + rows - 1.
//
// One block: one channel of one image, so grid (N C). Threads work in teams of up to 32 on lines of windows (im2col), or
// share the pixels that one tap reaches (col2im): within a tap no two windows meet the same pixel, so a barrier between taps
// is enough and the order of additions is fixed.
//
// Floor: write (read) the KH KW times larger columns once.

#include "cupynn.cuh"

struct Window {
  int h, w, kh, kw, step_y, step_x, pad_y, pad_x, dilation_y, dilation_x, out_w;
};

// First and one-past-last output q with 0 <= q * step + shift < size, clipped to [0, count).
__device__ int first_inside(int shift, int step, int count) {
  const int first = shift < 0 ? (step - 1 - shift) / step : 0;
  return first < count ? first : count;
}
__device__ int end_inside(int shift, int step, int size, int count) {
  const int end = size > shift ? (size - shift + step - 1) / step : 0;
  return end < count ? end : count;
}

template <typename T>
__global__ void im2col(const T* __restrict__ image, T* __restrict__ columns, const int* __restrict__ window, int row0,
                       int rows) {
  const Window& f = *(const Window*)window;
  const T* plane = image + (long long)blockIdx.x * f.h * f.w;
  T* out = columns + (long long)blockIdx.x * f.kh * f.kw * rows * f.out_w;
  const int team = blockDim.x < 32 ? blockDim.x : 32, member = threadIdx.x % team, teams = blockDim.x / team;
  for (int line = threadIdx.x / team; line < f.kh * f.kw * rows; line += teams) {
    const int tap = line / rows, i = tap / f.kw, j = tap % f.kw;
    const int y = (row0 + line % rows) * f.step_y + i * f.dilation_y - f.pad_y, shift = j * f.dilation_x - f.pad_x;
    const bool inside = y >= 0 && y < f.h;
    const int low = inside ? first_inside(shift, f.step_x, f.out_w) : f.out_w;
    const int high = inside ? end_inside(shift, f.step_x, f.w, f.out_w) : f.out_w;
    const T* from = plane + (long long)y * f.w + shift;
    T* to = out + (long long)line * f.out_w;
    for (int q = member; q < low; q += team) to[q] = T(0);
    if (f.step_x == 1)
      for (int q = low + member; q < high; q += team) to[q] = from[q];
    else
      for (int q = low + member; q < high; q += team) to[q] = from[q * f.step_x];
    for (int q = (high > low ? high : low) + member; q < f.out_w; q += team) to[q] = T(0);
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
    const int low = first_inside(shift, f.step_x, f.out_w), high = end_inside(shift, f.step_x, f.w, f.out_w);
    for (int p = threadIdx.x / team; p < rows; p += teams) {
      const int y = (row0 + p) * f.step_y + i * f.dilation_y - f.pad_y;
      if (y < 0 || y >= f.h) continue;
      const T* from = in + ((long long)tap * rows + p) * f.out_w;
      T* to = plane + (long long)y * f.w + shift;
      if (f.step_x == 1)
        for (int q = low + member; q < high; q += team) to[q] += from[q];
      else
        for (int q = low + member; q < high; q += team) to[q * f.step_x] += from[q];
    }
    __syncthreads();
  }
}
