// Depthwise two-dimensional convolution: every channel has kernels of its own. Nothing is unfolded.
//
//   forward             y[n,cM+m,p,q] = bias[cM+m] + sum_{i,j} x[n, c, p*s+i*d-pad, q*s+j*d-pad] w[c,m,i,j]
//   gradient to input   dx[n,c,y,x]   = sum_{m,i,j} g[n, cM+m, (y+pad-i*d)/s, (x+pad-j*d)/s] w[c,m,i,j]  if s divides
//   gradient to weight  dw[c,m,i,j]   = sum_{n,p,q} g[n,cM+m,p,q] x[n, c, p*s+i*d-pad, q*s+j*d-pad]
//
// x, dx (N, C, H, W); y, g (N, C M, OH, OW); w (C, M, KH, KW): contiguous. M is the multiplier.
//
// The first two are one kernel, `convolve`: dx is g, spread out by the stride with zeros in between, convolved with the
// turned kernel. A team of threads stages a plane, or a band of its rows, in shared memory, padding included, with
// columns split by their remainder modulo the stride, so that neighbouring outputs read neighbouring elements:
//
//   tile[row][column modulo s][column / s][image]
//
// On a CPU the same plane of several images is staged side by side where a row is shorter than a vector.
// A thread keeps ROWS strips of LANES outputs, one below the other: an element loaded serves all of them, so that each
// strip costs (ROWS + KH - 1) KW / ROWS loads, not KH KW. `weight_gradient` keeps the sums of TAP_ROWS KW taps instead.
// KH, KW, STRIDE are constants; KH = 0 stands for any size, stride and dilation.
//
// S is the type of x, y, g and dx; tiles, w and sums have type T = Compute<S>.
//
// Threads: x along a row, y over rows, z over planes. Floor: read and write every array once, two operations per tap
// and output. Memory bandwidth bounds it.
#include "lines.cuh"

constexpr int ROWS = 4;

// What `conv_depthwise.py` worked out for one shape: this struct, a struct Part for each phase, and the offset of each
// kernel column into the tile.
struct Plan {
  int filters;                                   // C M
  int images, planes;                            // images; planes of one image to write
  int inputs, readers;                           // input planes that one output plane sums; the other way round
  int in_rows, in_columns, out_rows, out_columns;
  int kernel_rows, kernel_columns, row_step, column_step, row_dilation;
  int pad_rows, pad_columns, spread_rows, spread_columns;
  int turned;                                    // whether the kernel is read backwards
  int band, bands;                               // output rows of a tile, tiles of a plane
  int phases, phase_pitch, tile;                 // elements of a tile row's part, and of the tile
  int share, group;                              // planes or images of one team, filters of one block
};

// The columns of a plane that lie in one part of a tile row.
struct Part {
  int to, from, count;  // the first of them in the part and in the plane; how many
};

__device__ const Part* parts_of(const Plan& p) { return (const Part*)(&p + 1); }
__device__ const int* shifts_of(const Plan& p) { return (const int*)(parts_of(p) + p.phases); }

// All zeros: what stays so is the padding.
template <typename T> __device__ void clear(T* __restrict__ tile, const Plan& p) {
  STRIP_LOOP
  for (int k = threadIdx.y * blockDim.x + threadIdx.x; k < p.tile; k += blockDim.x * blockDim.y) tile[k] = T(0);
}

// The elements of a, b that `pick` numbers (those of b behind those of a): one or two vector instructions with g++.
template <typename T, int LANES, typename Pick>
__device__ __forceinline__ Strip<T, LANES> shuffle(Strip<T, LANES> a, Strip<T, LANES> b, Pick pick) {
#if CUPYNN_FOLDS
  if constexpr (Strip<T, LANES>::PARTS == 1 && LANES > 1) {
    decltype(a.part[0] < a.part[0]) index;
    for (int i = 0; i < LANES; i++) index[i] = pick(i);
    a.part[0] = __builtin_shuffle(a.part[0], b.part[0], index);
    return a;
  }
#endif
  T lanes[LANES];
  CUPYNN_UNROLL for (int i = 0; i < LANES; i++) lanes[i] = pick(i) < LANES ? a[pick(i) % LANES] : b[pick(i) % LANES];
  return Strip<T, LANES>::load(lanes);
}

// to = a[0], b[0], a[1], b[1], ...
template <typename T, int LANES>
__device__ __forceinline__ void zip(T* to, Strip<T, LANES> a, Strip<T, LANES> b) {
  shuffle(a, b, [](int i) { return i % 2 * LANES + i / 2; }).store(to);
  shuffle(a, b, [](int i) { return i % 2 * LANES + (i + LANES) / 2; }).store(to + LANES);
}

// a[k * 2 + image] = from[image * image_pitch + 2 k + odd] for two images, or a[k] = from[2 k + odd] for one.
template <typename T, int IMAGES, int LANES, typename S>
__device__ __forceinline__ Strip<T, LANES> thinned(const S* from, long long image_pitch, bool odd) {
  using Lanes = Strip<T, LANES>;
  const Lanes a = Lanes::load(from), b = Lanes::load(IMAGES == 2 ? from + image_pitch : from + LANES);
  auto even = [](int i) { return IMAGES == 2 ? i % 2 * LANES + i / 2 * 2 : 2 * i; };
  return odd ? shuffle(a, b, [even](int i) { return even(i) + 1; }) : shuffle(a, b, even);
}

// to[k * IMAGES + image] = from[image * image_pitch + 2 k + odd] for k < LANES / IMAGES.
template <int IMAGES, int LANES, typename T, typename S>
__device__ __forceinline__ void thin_strip(T* to, const S* from, long long image_pitch, bool odd) {
  if constexpr (IMAGES == 4) {
    constexpr int HALF = LANES / 2;
    const Strip<T, HALF> a = thinned<T, 2, HALF>(from, image_pitch, odd);
    const Strip<T, HALF> b = thinned<T, 2, HALF>(from + 2 * image_pitch, image_pitch, odd);
    auto pairs = [](int i) { return i / 2 % 2 * HALF + i / 4 * 2 + i % 2; };  // a0 a1 b0 b1 a2 a3 b2 b3 ...
    shuffle(a, b, pairs).store(to);
    shuffle(a, b, [pairs](int i) { return pairs(i) + HALF / 2; }).store(to + HALF);
  } else {
    thinned<T, IMAGES, LANES>(from, image_pitch, odd).store(to);
  }
}

// to[k * step] = from[k] for k < count; of the `room` elements, what lies between stays as it is or becomes 0.
template <typename T, int LANES, typename S>
__device__ __forceinline__ void spread_line(T* __restrict__ to, const S* __restrict__ from, int step, int count,
                                            int room) {
  int k = threadIdx.x;
  if constexpr (LANES > 1) {
    if (step == 2 && blockDim.x == 1)
      for (; k + LANES <= count && 2 * (k + LANES) <= room; k += LANES)
        zip(to + 2 * k, Strip<T, LANES>::load(from + k), Strip<T, LANES>::broadcast(T(0)));
  }
  for (; k < count; k += blockDim.x) to[k * step] = from[k];
}

// to[k] = from[k * step] for k < count.
template <typename T, int LANES, typename S>
__device__ __forceinline__ void thin_line(T* __restrict__ to, const S* __restrict__ from, int step, int count) {
  int k = threadIdx.x * LANES, whole = step <= 2 ? count / LANES * LANES : 0;
  if (step == 1) {
    for (; k < whole; k += blockDim.x * LANES) Strip<T, LANES>::load(from + k).store(to + k);
    if constexpr (LANES > 1)
      if (threadIdx.x == 0) copy_part<T, LANES / 2>(to + whole, from + whole, count - whole);
  } else {
    for (; k < whole; k += blockDim.x * LANES) interleave_exactly<T, 1, LANES, 2>(to + k, from + 2 * k, 0);
    for (k = whole + threadIdx.x; k < count; k += blockDim.x) to[k] = from[k * step];
  }
}

enum { SPREAD, STRIP, THIN_STRIP, THIN };

// The lines of one part of the tile, HOW one line goes.
template <int HOW, int IMAGES, typename T, int LANES, typename S>
__device__ __forceinline__ void copy_lines(T* __restrict__ to, const S* __restrict__ from, long long to_pitch,
                                           long long from_pitch, int lines, const Part& part, const Plan& p,
                                           long long image_pitch, int present) {
  constexpr int COLUMNS = LANES / IMAGES;
  for (int line = threadIdx.y; line < lines; line += blockDim.y, from += from_pitch, to += to_pitch) {
    if constexpr (HOW == STRIP && IMAGES == 1)
      Strip<T, LANES>::load(from).store(to);
    else if constexpr (HOW == STRIP && IMAGES == 2)
      zip(to, Strip<T, COLUMNS>::load(from), Strip<T, COLUMNS>::load(from + image_pitch));
    else if constexpr (HOW == STRIP)
      interleave_exactly<T, IMAGES, COLUMNS, 1>(to, from, image_pitch);
    else if constexpr (HOW == THIN_STRIP)
      thin_strip<IMAGES, LANES>(to, from - part.from % 2, image_pitch, part.from % 2);
    else if constexpr (IMAGES > 1)
      for (int k = threadIdx.x; k < part.count; k += blockDim.x)
        for (int image = 0; image < IMAGES; image++)
          to[k * p.spread_columns * IMAGES + image] =
              image < present ? T(from[image * image_pitch + k * p.column_step]) : T(0);
    else if constexpr (HOW == SPREAD)
      spread_line<T, (LANES > 1 ? LANES / 2 : 1)>(to, from, p.spread_columns, part.count, p.phase_pitch - part.to);
    else
      thin_line<T, LANES>(to, from, p.column_step, part.count);
  }
}

// Stage tile rows [0, rows) of a plane, or of the same plane of IMAGES images, `present` of which exist, side by side.
// The first row is row `row0` of the padded plane. Where there is no pixel the tile is zero before, and stays so.
template <int IMAGES, typename T, int LANES, typename S>
__device__ __forceinline__ void stage(const S* __restrict__ plane, T* __restrict__ tile, const Plan& p, int row0,
                                      int rows, long long image_pitch, int present) {
  const int above = p.pad_rows - row0;  // tile row r shows row (r - above) / spread_rows of the plane
  const int skipped = above < 0 ? divide_up(-above, p.spread_rows) : 0;
  const int first = above + skipped * p.spread_rows, pitch = p.phases * p.phase_pitch;
  const int lines = at_most(p.in_rows - skipped, divide_up(rows - first, p.spread_rows));
  const long long to_pitch = (long long)blockDim.y * p.spread_rows * pitch;
  const long long from_pitch = (long long)blockDim.y * p.in_columns;
  for (int phase = 0; phase < p.phases; phase++) {
    const Part part = parts_of(p)[phase];
    const S* from = plane + (long long)(skipped + int(threadIdx.y)) * p.in_columns + part.from;
    T* to = tile + (first + int(threadIdx.y) * p.spread_rows) * pitch + part.to;
    const bool strip = blockDim.x == 1 && part.count == LANES / IMAGES && present == IMAGES && p.spread_columns == 1;
#define CUPYNN_COPY(HOW) \
  copy_lines<HOW, IMAGES, T, LANES>(to, from, to_pitch, from_pitch, lines, part, p, image_pitch, present)
    if (strip && p.column_step == 1)
      CUPYNN_COPY(STRIP);
    else if (strip && p.column_step == 2 && part.from / 2 * 2 + 2 * LANES / IMAGES <= p.in_columns)
      CUPYNN_COPY(THIN_STRIP);
    else if (p.spread_columns > 1)
      CUPYNN_COPY(SPREAD);
    else
      CUPYNN_COPY(THIN);
#undef CUPYNN_COPY
  }
}

// sums[r] += the taps' products at strip `at` of the tile, r rows further down.
template <int KH, int KW, int STRIDE, int IMAGES, typename T, int LANES, int COUNT>
__device__ __forceinline__ void correlate(const T* at, const Plan& p, const T* weight, const T* w,
                                          Strip<T, LANES> (&sums)[COUNT]) {
  using S = Strip<T, LANES>;
  if constexpr (KH > 0) {
    const T* odd = at + p.phase_pitch;  // the second part of a line at stride 2
    CUPYNN_UNROLL for (int t = 0; t < (COUNT - 1) * STRIDE + KH; t++) {
      at = register_pointer(at), odd = register_pointer(odd);  // two addresses that move on, not one for every load
      CUPYNN_UNROLL for (int j = 0; j < KW; j++) {
        const S value = in_register(S::load((j % STRIDE ? odd : at) + j / STRIDE * IMAGES));
        CUPYNN_UNROLL for (int r = 0; r < COUNT; r++) {
          const int i = t - r * STRIDE;
          if (i >= 0 && i < KH) sums[r] = fma(value, weight[i * KW + j], sums[r]);
        }
      }
      at += STRIDE * p.phase_pitch, odd += STRIDE * p.phase_pitch;
    }
  } else {
    const int pitch = p.phases * p.phase_pitch, *shifts = shifts_of(p);
    for (int i = 0; i < p.kernel_rows; i++)
      for (int j = 0; j < p.kernel_columns; j++) {
        const int tap = i * p.kernel_columns + j;
        const T product = w[p.turned ? p.kernel_rows * p.kernel_columns - 1 - tap : tap];
        CUPYNN_UNROLL for (int r = 0; r < COUNT; r++)
          sums[r] = fma(S::load(at + (r * p.row_step + i * p.row_dilation) * pitch + shifts[j]), product, sums[r]);
      }
  }
}

// COUNT rows of the output from row `row` of the band on; `out` is the band's first element.
template <int KH, int KW, int STRIDE, int LANES, int IMAGES, int COUNT, typename T, typename S>
__device__ __forceinline__ void write_rows(const T* tile, const Plan& p, const T* weight, const T* w, T start, bool add,
                                           S* __restrict__ out, int row, long long image_pitch, int present) {
  using Lanes = Strip<T, LANES>;
  const T* at = tile + row * p.row_step * p.phases * p.phase_pitch;
  for (int q = threadIdx.x * LANES; q < p.out_columns * IMAGES; q += blockDim.x * LANES) {
    Lanes sums[COUNT];
    CUPYNN_UNROLL for (int r = 0; r < COUNT; r++) sums[r] = Lanes::broadcast(start);
    correlate<KH, KW, STRIDE, IMAGES>(at + q, p, weight, w, sums);
    const int count = p.out_columns - q;
    CUPYNN_UNROLL for (int r = 0; r < COUNT; r++) {
      S* to = out + (row + r) * p.out_columns + q;
      if constexpr (IMAGES > 1) {
        T lanes[LANES];
        sums[r].store(lanes);
        separate_lines<T, LANES, IMAGES>(lanes, to, image_pitch, present, 1, LANES / IMAGES, add);
      } else if (count >= LANES) {
        (add ? sums[r] + Lanes::load(to) : sums[r]).store(to);
      } else {
        T lanes[LANES];
        sums[r].store(lanes);
        if (add)
          for (int k = 0; k < count; k++) lanes[k] += to[k];
        if constexpr (LANES > 1) copy_part<T, LANES / 2>(to, lanes, count);
      }
    }
  }
}

template <typename S, int LANES, int KH, int KW, int STRIDE, int IMAGES, typename T = Compute<S>>
__global__ void convolve(const S* __restrict__ x, const T* __restrict__ w, const T* __restrict__ bias,
                         S* __restrict__ y, const int* __restrict__ plan) {
  extern __shared__ unsigned char shared_memory[];
  const Plan& p = *(const Plan*)plan;
  T* tile = register_pointer((T*)shared_memory) + threadIdx.z * p.tile;
  const int taps = p.kernel_rows * p.kernel_columns, in_planes = p.planes * p.inputs / p.readers;
  const long long in_size = (long long)p.in_rows * p.in_columns, out_size = (long long)p.out_rows * p.out_columns;
  const long long out_pitch = p.planes * out_size, per_image = (long long)p.planes * p.bands;
  const long long first = ((long long)blockIdx.x * blockDim.z + threadIdx.z) * p.share;
  // One division for all tasks: the next one's numbers follow from this one's.
  int image = int(first / per_image) * IMAGES, plane = int(first % per_image) / p.bands, band = int(first % p.bands);
  int reader = plane % p.readers, input = p.inputs > 1 ? plane * p.inputs : plane / p.readers;
  long long staged = -1;
  clear(tile, p);
  for (int k = 0; k < p.share; k++) {
    const bool active = image < p.images;  // the others only wait
    const int row0 = band * p.band, rows = active ? at_most(p.band, p.out_rows - row0) : 0;
    const int present = at_most(IMAGES, p.images - image);
    S* out = y + ((long long)image * p.planes + plane) * out_size + row0 * p.out_columns;
    for (int m = 0; m < p.inputs; m++) {
      const long long wanted = (long long)image * in_planes + input + m;
      __syncthreads();  // the tile that was there has been read
      if (p.bands > 1) {  // another band had pixels elsewhere
        clear(tile, p);
        __syncthreads();
      }
      if (active && (wanted != staged || p.bands > 1))
        stage<IMAGES, T, LANES>(x + wanted * in_size, tile, p, row0 * p.row_step,
                                (rows - 1) * p.row_step + (p.kernel_rows - 1) * p.row_dilation + 1, in_planes * in_size,
                                present);
      staged = wanted;
      __syncthreads();
      if (!active) continue;
      const int filter = plane * p.inputs + m;
      const T* kernel = w + (long long)filter * taps;
      T weight[KH > 0 ? KH * KW : 1];
      if (p.turned) {
        CUPYNN_UNROLL for (int tap = 0; tap < KH * KW; tap++) weight[tap] = kernel[KH * KW - 1 - tap];
      } else {
        CUPYNN_UNROLL for (int tap = 0; tap < KH * KW; tap++) weight[tap] = kernel[tap];
      }
      const T start = bias && m == 0 ? bias[filter] : T(0);
      for (int row = threadIdx.y * ROWS; row + ROWS <= rows; row += blockDim.y * ROWS)
        write_rows<KH, KW, STRIDE, LANES, IMAGES, ROWS>(tile, p, weight, kernel, start, m > 0, out, row, out_pitch,
                                                        present);
      for (int row = rows / ROWS * ROWS + threadIdx.y; row < rows; row += blockDim.y)
        write_rows<KH, KW, STRIDE, LANES, IMAGES, 1>(tile, p, weight, kernel, start, m > 0, out, row, out_pitch,
                                                     present);
    }
    if (++band < p.bands) continue;
    band = 0;
    if (++reader == p.readers) reader = 0, input += p.inputs;
    if (++plane == p.planes) plane = reader = input = 0, image += IMAGES;
  }
}

// from[k] for k < count, zeros behind.
template <typename T, int LANES, typename S>
__device__ __forceinline__ Strip<T, LANES> load_some(const S* from, int count) {
  if (count >= LANES) return Strip<T, LANES>::load(from);
  T lanes[LANES] = {};
  if constexpr (LANES > 1) copy_part<T, LANES / 2>(lanes, from, count);
  return Strip<T, LANES>::load(lanes);
}

// taps[i][j] += the products at COUNT rows of the gradient, for the kernel rows [I0, I0 + TAP_ROWS).
template <int KW, int STRIDE, int I0, int TAP_ROWS, int COUNT, typename T, int LANES, typename Storage>
__device__ __forceinline__ void gather(const T* tile, const Storage* __restrict__ grad, const Plan& p, int row,
                                       Strip<T, LANES> (&taps)[TAP_ROWS * KW], Strip<T, LANES>& total) {
  using S = Strip<T, LANES>;
  const T* band = tile + (row * STRIDE + I0) * (STRIDE * p.phase_pitch);
  for (int q = threadIdx.x * LANES; q < p.out_columns; q += blockDim.x * LANES) {
    S g[COUNT];
    CUPYNN_UNROLL for (int r = 0; r < COUNT; r++) {
      g[r] = in_register(load_some<T, LANES>(grad + (row + r) * p.out_columns + q, p.out_columns - q));
      if (I0 == 0) total = total + g[r];
    }
    const T *at = band + q, *odd = at + p.phase_pitch;
    CUPYNN_UNROLL for (int t = 0; t < (COUNT - 1) * STRIDE + TAP_ROWS; t++) {
      at = register_pointer(at), odd = register_pointer(odd);
      CUPYNN_UNROLL for (int j = 0; j < KW; j++) {
        const S value = in_register(S::load((j % STRIDE ? odd : at) + j / STRIDE));
        CUPYNN_UNROLL for (int r = 0; r < COUNT; r++) {
          const int i = t - r * STRIDE;
          if (i >= 0 && i < TAP_ROWS) taps[i * KW + j] = fma(value, g[r], taps[i * KW + j]);
        }
      }
      at += STRIDE * p.phase_pitch, odd += STRIDE * p.phase_pitch;
    }
  }
}

// Add one band's products to a thread's sums, which lie `pitch` apart: the taps', then the gradient's own.
template <int KH, int KW, int STRIDE, int TAP_ROWS, int I0, typename T, int LANES, typename Storage>
__device__ __forceinline__ void add_taps(const T* tile, const Storage* __restrict__ grad, const Plan& p, int rows, T* sums,
                                         int pitch) {
  using S = Strip<T, LANES>;
  constexpr int HERE = I0 + TAP_ROWS > KH ? KH - I0 : TAP_ROWS;
  S taps[HERE * KW], total = S::load(sums + KH * KW * pitch);
  CUPYNN_UNROLL for (int k = 0; k < HERE * KW; k++) taps[k] = S::load(sums + (I0 * KW + k) * pitch);
  for (int row = threadIdx.y * ROWS; row + ROWS <= rows; row += blockDim.y * ROWS)
    gather<KW, STRIDE, I0, HERE, ROWS>(tile, grad, p, row, taps, total);
  for (int row = rows / ROWS * ROWS + threadIdx.y; row < rows; row += blockDim.y)
    gather<KW, STRIDE, I0, HERE, 1>(tile, grad, p, row, taps, total);
  CUPYNN_UNROLL for (int k = 0; k < HERE * KW; k++) taps[k].store(sums + (I0 * KW + k) * pitch);
  total.store(sums + KH * KW * pitch);
  if constexpr (I0 + HERE < KH)
    add_taps<KH, KW, STRIDE, TAP_ROWS, I0 + HERE, T, LANES>(tile, grad, p, rows, sums, pitch);
}

// The same for any kernel: one tap after the other, the last "tap" being the gradient's own sum.
template <typename T, int LANES, typename Storage>
__device__ void add_any_taps(const T* tile, const Storage* __restrict__ grad, const Plan& p, int rows, T* sums, int pitch) {
  using S = Strip<T, LANES>;
  const int line = p.phases * p.phase_pitch, *shifts = shifts_of(p), taps = p.kernel_rows * p.kernel_columns;
  for (int tap = 0; tap <= taps; tap++) {
    const int i = tap / p.kernel_columns, j = tap % p.kernel_columns;
    const T* at = tile + i * p.row_dilation * line + shifts[j];
    S sum = S::load(sums + tap * pitch);
    for (int row = threadIdx.y; row < rows; row += blockDim.y)
      for (int q = threadIdx.x * LANES; q < p.out_columns; q += blockDim.x * LANES) {
        const S g = load_some<T, LANES>(grad + row * p.out_columns + q, p.out_columns - q);
        sum = tap < taps ? fma(g, S::load(at + row * p.row_step * line + q), sum) : sum + g;
      }
    sum.store(sums + tap * pitch);
  }
}

// partial (chunks of images, filters * taps + filters): a chunk's sums for dw, then for dbias. A block takes `group`
// neighbouring filters, so that what it reads of one image lies together.
template <typename S, int LANES, int KH, int KW, int STRIDE, int TAP_ROWS, typename T = Compute<S>>
__global__ void weight_gradient(const S* __restrict__ x, const S* __restrict__ grad, T* __restrict__ partial,
                                const int* __restrict__ plan) {
  extern __shared__ unsigned char shared_memory[];
  using Lanes = Strip<T, LANES>;
  const Plan& p = *(const Plan*)plan;
  const int taps = p.kernel_rows * p.kernel_columns, team = blockDim.x * blockDim.y;
  const int member = threadIdx.y * blockDim.x + threadIdx.x, pitch = team * LANES, filter0 = blockIdx.y * p.group;
  T* all_sums = register_pointer((T*)shared_memory);
  T* tile = all_sums + p.group * (taps + 1) * pitch + threadIdx.z * p.tile;
  const int group = at_most(p.group, p.filters - filter0);
  for (int f = threadIdx.z; f < group; f += blockDim.z)
    for (int k = 0; k <= taps; k++)
      Lanes::broadcast(T(0)).store(all_sums + (f * (taps + 1) + k) * pitch + member * LANES);
  clear(tile, p);
  const int image0 = blockIdx.x * p.share;
  for (int n = image0; n < at_most(image0 + p.share, p.images); n++)
    for (int f0 = 0; f0 < group; f0 += blockDim.z)
      for (int row0 = 0; row0 < p.out_rows; row0 += p.band) {
        const int f = f0 + threadIdx.z, rows = at_most(p.band, p.out_rows - row0);
        const long long plane = (long long)n * p.filters + filter0 + f;
        __syncthreads();
        if (p.bands > 1) {
          clear(tile, p);
          __syncthreads();
        }
        if (f < group)
          stage<1, T, LANES>(x + plane / p.readers * (p.in_rows * p.in_columns), tile, p, row0 * p.row_step,
                             (rows - 1) * p.row_step + (p.kernel_rows - 1) * p.row_dilation + 1, 0, 1);
        __syncthreads();
        if (f >= group) continue;
        const S* g = grad + (plane * p.out_rows + row0) * p.out_columns;
        T* sums = all_sums + f * (taps + 1) * pitch + member * LANES;
        if constexpr (KH > 0)
          add_taps<KH, KW, STRIDE, TAP_ROWS, 0, T, LANES>(tile, g, p, rows, sums, pitch);
        else
          add_any_taps<T, LANES>(tile, g, p, rows, sums, pitch);
      }
  __syncthreads();
  T* out = partial + (long long)blockIdx.x * p.filters * (taps + 1);
  for (int k = block_thread(); k < group * (taps + 1); k += block_threads()) {
    Lanes sum = Lanes::load(all_sums + k * pitch);
    for (int other = 1; other < team; other++) sum = sum + Lanes::load(all_sums + k * pitch + other * LANES);
    const int filter = filter0 + k / (taps + 1), tap = k % (taps + 1);
    out[tap < taps ? filter * taps + tap : p.filters * taps + filter] = sum.sum();
  }
}

// total[k] = sum of partial[chunk][k] over the chunks, in order. Each block adds up `span` neighbouring k.
template <typename T>
__global__ void reduce(const T* __restrict__ partial, T* __restrict__ total, int count, int chunks, int span) {
  const int end = at_most(count, (blockIdx.x + 1) * span);
  for (int chunk = 0; chunk < chunks; chunk++)
    for (int k = blockIdx.x * span + threadIdx.x; k < end; k += blockDim.x)
      total[k] = partial[(long long)chunk * count + k] + (chunk > 0 ? total[k] : T(0));
}
