// 3x3 convolution at stride 1 by Winograd's method F(4x4, 3x3): forward, gradient to the input, gradient to the weight.
//
// A tile of 4x4 outputs reads 6x6 inputs. Both transformed, their 36 elements (here: frequencies) multiply one by one:
//
//   forward             Y  = A^T [sum_c (G w G^T) * (B^T X B)] A     36 products per tile and pair of channels, not 144
//   gradient to weight  dw = G^T [sum_tiles (A dY A^T) * (B^T X B)] G
//
// The gradient to the input is a forward pass of the gradient, by the turned kernel. The matrices evaluate polynomials
// at 0, +-5/8, +-3/2 and infinity: float32 results are about one bit worse than the direct method's, two at the usual
// 0, +-1, +-2. Every constant but G's fractions is exact.
//
// Arrays are contiguous but for images, which lie `x_pitch`, `y_pitch` or `grad_pitch` elements apart. A block takes
// `band` rows of `across` tiles in `side` images. It stages the part of some channels' images that these read, padded,
// as stage[channels / LANES][image][row][column][LANES], transforms it within shared memory, and multiplies there: for
// every frequency a matrix product, of which a thread keeps TILES x STRIPS strips of LANES output channels in
// registers. `weight_gradient` multiplies transformed tiles of x by those of the gradient instead, and sums over them.
//
// SCALED: every weight has a factor of its own for each image, w[o][c] * scale[n][o / run][c]. It multiplies transformed
// weights, and a thread's tiles are then all of one image; `weight_gradient` multiplies an image's sums by it.
//
// Lavin and Gray, Fast algorithms for convolutional neural networks, CVPR 2016; for the points: Barabasz, Anderson,
// Soodhalter and Gregg, Error analysis and improving the accuracy of Winograd convolution, ACM TOMS 2020.
// Floor: read x and w once, write y once; a quarter of a direct convolution's multiply-adds.

#include "winograd.cuh"

// How an array's images are staged in shared memory.
struct Window {
  int channels, height, width;  // of the array
  int pad_y, pad_x;             // zeros before the image
  int rows, pitch;              // staged per image: rows and columns
};

// What `winograd.py` worked out for one shape.
struct Plan {
  Window input, gradient;                   // `gradient` is used by weight_gradient only
  int images, out_height, out_width;
  int tiles_y, tiles_x;                     // rows of tiles in an image, tiles in a row
  int side, band, bands;                    // images of a block, its rows of tiles, bands in an image
  int across, spans;                        // a block's tiles in a row, blocks beside each other
  int in_chunk, out_chunk;                  // channels held at once
  int staged;                               // strips of channels staged at once
  // scale[image * scale_image + in / in_run * in_pitch + out / out_run * out_pitch], where there are such factors
  int scale_image, in_run, in_pitch, out_run, out_pitch;
};

// The tiles of one block.
struct Tiles {
  int image0, row0, column0;          // the first
  int images, rows, columns, count;   // how many
};

constexpr int FREQUENCIES = 36;

// On a GPU, whose strips are single channels, neighbouring threads take neighbouring frequencies, then tiles: packed
// weights have frequencies last, each a pitch from the next channel's, and finished tiles begin in different banks.
template <int LANES> constexpr int CHANNEL_PITCH = LANES == 1 ? FREQUENCIES : 1;
template <int LANES> constexpr int TILE_PITCH = LANES == 1 ? 17 : 16;

__device__ Tiles tiles_of(const Plan& p, int unit) {
  Tiles t;
  t.column0 = unit % p.spans * p.across;
  t.row0 = unit / p.spans % p.bands * p.band, t.image0 = unit / p.spans / p.bands * p.side;
  t.images = at_most(p.side, p.images - t.image0), t.rows = at_most(p.band, p.tiles_y - t.row0);
  t.columns = at_most(p.across, p.tiles_x - t.column0), t.count = t.images * t.rows * t.columns;
  return t;
}

// Stage `strips` strips of channels from channel0 on; what lies outside the image is zero already.
template <typename T, int LANES>
__device__ void stage_channels(const T* __restrict__ x, long long image_pitch, T* __restrict__ stage, const Window& w,
                               const Plan& p, const Tiles& t, int channel0, int strips) {
  using S = Strip<T, LANES>;
  const long long plane = (long long)w.height * w.width;
  const int top = t.row0 * 4 - w.pad_y, left = t.column0 * 4 - w.pad_x;
  const int first_row = at_least(0, top), end_row = at_most(w.height, top + w.rows - (p.band - t.rows) * 4);
  const int first_column = at_least(0, left);
  const int end_column = at_most(w.width, left + w.pitch - (p.across - t.columns) * 4);
  const int rows = end_row - first_row, columns = end_column - first_column;
  // Whole rows lie behind one another, as one line.
  const int lines = columns == w.width ? 1 : rows, pixels = rows * columns / lines;
  const int runs = divide_up(pixels, LANES), count = at_most(LANES, pixels);
  for (int task = threadIdx.x; task < strips * t.images * lines * runs; task += blockDim.x) {
    const int line = task / runs % lines, image = task / runs / lines % t.images;
    const int strip = task / runs / lines / t.images;
    // The last run reads whole strips, too: it begins earlier, where the run before it has staged `done` pixels.
    const int run = task % runs * LANES, pixel = at_least(0, at_most(run, pixels - LANES)), done = run - pixel;
    const int channel = channel0 + strip * LANES;
    const T* from = x + (t.image0 + image) * image_pitch + channel * plane;
    from += (long long)(first_row + line) * w.width + first_column + pixel;
    S values[LANES];
    CUPYNN_UNROLL for (int l = 0; l < LANES; l++)
      values[l] = load_part<T, LANES>(from + l * plane, channel + l < w.channels ? count : 0);
    transpose(values);
    const int row = (strip * p.side + image) * w.rows + first_row - top + line + pixel / columns;
    int column = pixel % columns;
    T* to = stage + (row * w.pitch + first_column - left + column) * LANES;
    CUPYNN_UNROLL for (int i = 0; i < LANES; i++) {
      if (i >= done && i < count) values[i].store(to);
      to += LANES;
      if (++column == columns) column = 0, to += (w.pitch - columns) * LANES;
    }
  }
}

// Transform the tiles, of SIZE x SIZE, of `channels` channels from channel0 on:
// v[frequency][channel / LANES][tile][LANES], of which frequencies lie `v_pitch`, strips `strip_pitch` elements apart.
template <typename T, int LANES, int SIZE>
__device__ void load_tiles(const T* __restrict__ x, long long image_pitch, T* __restrict__ stage, T* __restrict__ v,
                           const Window& w, const Plan& p, const Tiles& t, int channel0, int channels, int v_pitch,
                           int strip_pitch) {
  using S = Strip<T, LANES>;
  const int strips = divide_up(channels, LANES), plane = t.rows * t.columns;
  __syncthreads();
  for (int k = threadIdx.x; k < p.staged * p.side * w.rows * w.pitch; k += blockDim.x)
    S::broadcast(T(0)).store(stage + k * LANES);
  for (int strip0 = 0; strip0 < strips; strip0 += p.staged) {
    const int staged = at_most(p.staged, strips - strip0);
    __syncthreads();
    stage_channels<T, LANES>(x, image_pitch, stage, w, p, t, channel0 + strip0 * LANES, staged);
    __syncthreads();
    for (int task = threadIdx.x; task < staged * t.count; task += blockDim.x) {
      const int strip = task / t.count, tile = task % t.count;
      const int image = tile / plane, row = tile % plane / t.columns * 4, column = tile % t.columns * 4;
      const T* from = stage + (((strip * p.side + image) * w.rows + row) * w.pitch + column) * LANES;
      T* to = v + (strip0 + strip) * strip_pitch + tile * LANES;
      S half[6][SIZE];
      CUPYNN_UNROLL for (int j = 0; j < SIZE; j++) {
        S pixels[SIZE], u[6];
        CUPYNN_UNROLL for (int i = 0; i < SIZE; i++) pixels[i] = S::load(from + (i * w.pitch + j) * LANES);
        transform_tile<T>(pixels, u);
        CUPYNN_UNROLL for (int i = 0; i < 6; i++) half[i][j] = u[i];
      }
      CUPYNN_UNROLL for (int i = 0; i < 6; i++) {
        S u[6];
        transform_tile<T>(half[i], u);
        CUPYNN_UNROLL for (int j = 0; j < 6; j++) u[j].store(to + (i * 6 + j) * v_pitch);
      }
    }
  }
}

// The transformed weights of output channels [first, first + gridDim.x * STRIPS * LANES), as
// packed[channels / STRIPS / LANES][frequency][input channel][STRIPS * LANES], on a GPU with frequencies last. w is
// (out_channels, in_channels, 3, 3), or with `turned` (in_channels, out_channels, 3, 3) and turned by half a turn.
// Grid (output channels, input channels).
template <typename T, int LANES, int STRIPS>
__global__ void pack(const T* __restrict__ w, T* __restrict__ packed, int in_channels, int out_channels, int first,
                     int turned) {
  using S = Strip<T, LANES>;
  const long long out_pitch = turned ? 9 : in_channels * 9, in_pitch = turned ? out_channels * 9 : 9;
  const long long size = 9LL * in_channels * out_channels, pitch = (long long)in_channels * STRIPS * LANES;
  T* to = packed + blockIdx.x * FREQUENCIES * pitch;
  const int share = divide_up(in_channels, gridDim.y), end = at_most(in_channels, (blockIdx.y + 1) * share);
  for (int task = blockIdx.y * share * STRIPS + threadIdx.x; task < end * STRIPS; task += blockDim.x) {
    const int o = first + (blockIdx.x * STRIPS + task % STRIPS) * LANES;
    S taps[9];
    CUPYNN_UNROLL for (int k = 0; k < 9; k += LANES) {
      S lines[LANES];
      CUPYNN_UNROLL for (int l = 0; l < LANES; l++) {
        const long long at = (o + l) * out_pitch + task / STRIPS * in_pitch + k;
        lines[l] = load_part<T, LANES>(w + at, o + l < out_channels ? size - at : 0);
      }
      transpose(lines);
      CUPYNN_UNROLL for (int l = 0; l < LANES && k + l < 9; l++) taps[k + l] = lines[l];
    }
    S half[6][3];
    CUPYNN_UNROLL for (int j = 0; j < 3; j++) {
      S column[3], u[6];
      CUPYNN_UNROLL for (int i = 0; i < 3; i++) column[i] = turned ? taps[8 - i * 3 - j] : taps[i * 3 + j];
      transform_weights<T>(column, u);
      CUPYNN_UNROLL for (int i = 0; i < 6; i++) half[i][j] = u[i];
    }
    CUPYNN_UNROLL for (int i = 0; i < 6; i++) {
      S u[6];
      transform_weights<T>(half[i], u);
      CUPYNN_UNROLL for (int j = 0; j < 6; j++)
        u[j].store(to + (i * 6 + j) * (LANES == 1 ? 1 : pitch) + task * LANES * CHANNEL_PITCH<LANES>);
    }
  }
}

// The factors of input channels from in0 on and of output channels from out0 on, for the block's images, as
// to[image][rows][columns]. Zeros for channels from in_end and out_end on.
template <typename T>
__device__ void load_scale(const T* __restrict__ scale, T* __restrict__ to, const Plan& p, const Tiles& t, int in0, int in_end,
                           int rows, int out0, int out_end, int columns) {
  for (int task = threadIdx.x; task < t.images * rows; task += blockDim.x) {
    const int in = in0 + task % rows, end = in < in_end ? at_most(columns, out_end - out0) : 0;
    const T* from = scale + (long long)(t.image0 + task / rows) * p.scale_image + in / p.in_run * p.in_pitch;
    T* row = to + task * columns;
    int o = 0;
    for (int group = out0 / p.out_run; o < end; group++) {  // one factor for every out_run channels
      const T factor = from[group * p.out_pitch];
      for (const int run_end = at_most(end, (group + 1) * p.out_run - out0); o < run_end; o++) row[o] = factor;
    }
    for (; o < columns; o++) row[o] = T(0);
  }
}

// m[tile][output channel] = sum_c v[c / LANES][tile][c % LANES] u[c][output channel] of one frequency, or added to it.
// SCALED: u times `scale`, which has the same layout.
template <typename T, int LANES, int STRIPS, bool SCALED, int TILES>
__device__ __forceinline__ void multiply(const T* __restrict__ v, const T* __restrict__ u, const T* __restrict__ scale,
                                         T* __restrict__ m, int channels, int strip_pitch, bool add) {
  using S = Strip<T, LANES>;
  S sum[TILES][STRIPS];
  CUPYNN_UNROLL for (int t = 0; t < TILES; t++)
    CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++)
      sum[t][s] = add ? S::load(m + (t * STRIPS + s) * LANES) : S::broadcast(T(0));
  for (int c = 0; c < channels; c += LANES, v += strip_pitch) {
    const int count = at_most(LANES, channels - c);
    for (int k = 0; k < count; k++, u += STRIPS * LANES * CHANNEL_PITCH<LANES>) {
      S weight[STRIPS];
      CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) {
        const S factor = SCALED ? S::load(scale + (c + k) * STRIPS * LANES + s * LANES) : S();
        const T* from = u + s * LANES * CHANNEL_PITCH<LANES>;
        weight[s] = in_register(SCALED ? S::load(from) * factor : S::load(from));
      }
      CUPYNN_UNROLL for (int t = 0; t < TILES; t++) {
        const S value = S::broadcast(v[t * LANES + k]);
        CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) sum[t][s] = fma(value, weight[s], sum[t][s]);
      }
    }
  }
  CUPYNN_UNROLL for (int t = 0; t < TILES; t++)
    CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) sum[t][s].store(m + (t * STRIPS + s) * LANES);
}

// The same for 1 to MOST tiles: the number becomes a template constant.
template <typename T, int LANES, int STRIPS, bool SCALED, int MOST, typename... Rest>
__device__ __forceinline__ void multiply_tiles(int number, Rest... rest) {
  if constexpr (MOST > 1)
    if (number < MOST) return multiply_tiles<T, LANES, STRIPS, SCALED, MOST - 1>(number, rest...);
  multiply<T, LANES, STRIPS, SCALED, MOST>(rest...);
}

// One tile of LANES output channels back from its frequencies, as out[channel][tile][4 * 4 pixels].
template <typename T, int LANES>
__device__ __forceinline__ void finish_tile(const T* __restrict__ m, int m_pitch, T* __restrict__ out, int out_pitch) {
  using S = Strip<T, LANES>;
  S half[4][6], pixels[16];
  CUPYNN_UNROLL for (int j = 0; j < 6; j++) {
    S column[6], y[4];
    CUPYNN_UNROLL for (int i = 0; i < 6; i++) column[i] = S::load(m + (i * 6 + j) * m_pitch);
    transform_output<T>(column, y);
    CUPYNN_UNROLL for (int i = 0; i < 4; i++) half[i][j] = y[i];
  }
  CUPYNN_UNROLL for (int i = 0; i < 4; i++) {
    S y[4];
    transform_output<T>(half[i], y);
    CUPYNN_UNROLL for (int j = 0; j < 4; j++) pixels[i * 4 + j] = y[j];
  }
  CUPYNN_UNROLL for (int k = 0; k < 16; k += LANES) {
    S lines[LANES];
    CUPYNN_UNROLL for (int l = 0; l < LANES; l++) lines[l] = pixels[k + l];
    transpose(lines);
    CUPYNN_UNROLL for (int l = 0; l < LANES; l++) lines[l].store(out + l * out_pitch + k);
  }
}

// y[n, o], or added to it, for output channels [out_begin, out_end), whose weights are packed. One block: its tiles.
template <typename T, int LANES, int STRIPS, int TILES, bool SCALED>
__global__ void convolve(const T* __restrict__ x, const T* __restrict__ weights, const T* __restrict__ bias,
                         const T* __restrict__ scale, T* __restrict__ y, const int* __restrict__ plan, long long x_pitch, long long y_pitch,
                         int out_begin, int out_end, bool accumulate) {
  extern __shared__ unsigned char shared_memory[];
  const Plan& p = *(const Plan*)plan;
  constexpr int WIDE = STRIPS * LANES;
  const Tiles t = tiles_of(p, blockIdx.x);
  const int most = p.side * p.band * p.across;
  // One strip more between frequencies: powers of two would lie in the same few lines of a cache.
  const int strip_pitch = most * LANES, v_pitch = p.in_chunk / LANES * strip_pitch + LANES;
  const int m_pitch = most * WIDE + LANES;
  T* v = register_pointer((T*)shared_memory);
  T* m = v + FREQUENCIES * v_pitch;
  T* out = m + p.out_chunk / WIDE * FREQUENCIES * m_pitch;
  T* stage = out + p.staged * most * TILE_PITCH<LANES> * LANES;
  T* factors = stage + p.staged * p.side * p.input.rows * p.input.pitch * LANES;
  const long long plane = (long long)p.out_height * p.out_width;

  for (int out0 = out_begin; out0 < out_end; out0 += p.out_chunk) {
    const int outs = at_most(p.out_chunk, out_end - out0), strips = divide_up(outs, LANES);
    for (int in0 = 0; in0 < p.input.channels; in0 += p.in_chunk) {
      const int channels = at_most(p.in_chunk, p.input.channels - in0);
      if (out0 == out_begin || p.in_chunk < p.input.channels)
        load_tiles<T, LANES, 6>(x, x_pitch, stage, v, p.input, p, t, in0, channels, v_pitch, strip_pitch);
      __syncthreads();
      const int images = SCALED ? t.images : 1, tiles = t.count / images;
      const int parts = divide_up(tiles, TILES), groups = images * parts;  // of nearly equal size
      const int blocks = divide_up(outs, WIDE), blocks_at_once = SCALED ? 1 : blocks;
      for (int block0 = 0; block0 < blocks; block0 += blocks_at_once) {
        if constexpr (SCALED) {
          load_scale<T>(scale, factors, p, t, in0, in0 + channels, channels, out0 + block0 * WIDE, out0 + outs, WIDE);
          __syncthreads();
        }
        for (int task = threadIdx.x; task < blocks_at_once * FREQUENCIES * groups; task += blockDim.x) {
          const int block = block0 + task / groups / FREQUENCIES, f = task / groups % FREQUENCIES;
          const int image = task % groups / parts, part = task % parts;
          const int first = image * tiles + part * tiles / parts, last = image * tiles + (part + 1) * tiles / parts;
          const T* values = v + f * v_pitch + first * LANES;
          const int row = (((out0 - out_begin) / WIDE + block) * FREQUENCIES + (LANES == 1 ? 0 : f)) * p.input.channels;
          const T* u = weights + (row + in0 * CHANNEL_PITCH<LANES>) * (long long)WIDE + (LANES == 1 ? f : 0);
          const T* factor = factors + image * channels * WIDE;
          T* to = m + (block * FREQUENCIES + f) * m_pitch + first * WIDE;
          multiply_tiles<T, LANES, STRIPS, SCALED, TILES>(last - first, values, u, factor, to, channels, strip_pitch,
                                                          in0 > 0);
        }
        __syncthreads();
      }
    }
    for (int strip0 = 0; strip0 < strips; strip0 += p.staged) {
      const int staged = at_most(p.staged, strips - strip0), channel0 = out0 + strip0 * LANES;
      for (int task = threadIdx.x; task < staged * t.count; task += blockDim.x) {
        const int strip = strip0 + task / t.count, tile = task % t.count;
        const T* from = m + strip / STRIPS * FREQUENCIES * m_pitch + tile * WIDE + strip % STRIPS * LANES;
        finish_tile<T, LANES>(from, m_pitch, out + ((strip - strip0) * LANES * most + tile) * TILE_PITCH<LANES>,
                              most * TILE_PITCH<LANES>);
      }
      __syncthreads();
      const int written = at_most(staged * LANES, out_end - channel0);
      const int columns = at_most(t.columns * 4, p.out_width - t.column0 * 4);
      for (int task = threadIdx.x; task < written * t.images * t.rows; task += blockDim.x) {
        const int row = task % t.rows, image = task / t.rows % t.images, channel = task / t.rows / t.images;
        const T start = bias != nullptr ? bias[channel0 + channel] : T(0);
        const T* line = out + (channel * most + (image * t.rows + row) * t.columns) * TILE_PITCH<LANES>;
        T* to = y + (t.image0 + image) * y_pitch + (channel0 + channel) * plane;
        to += (long long)(t.row0 + row) * 4 * p.out_width + t.column0 * 4;
        const int lines = at_most(4, p.out_height - (t.row0 + row) * 4);
        for (int i = 0; i < lines; i++, line += 4, to += p.out_width) {
          const T* from = line;
          int column = 0;
          for (; column + 4 <= columns; column += 4, from += TILE_PITCH<LANES>) {
            const Strip<T, 4> four = Strip<T, 4>::load(from) + start;
            (accumulate ? four + Strip<T, 4>::load(to + column) : four).store(to + column);
          }
          for (int k = 0; column < columns; k++, column++)
            to[column] = from[k] + start + (accumulate ? to[column] : T(0));
        }
      }
      __syncthreads();
    }
  }
}

// sums[c][o] += sum_t v[c / LANES][t][c % LANES] g[o / LANES][t][o % LANES] of one frequency, for CHANNELS input and
// STRIPS strips of output channels. SCALED: times `scale`, which has the layout of sums.
template <typename T, int LANES, int STRIPS, int CHANNELS, bool SCALED>
__device__ __forceinline__ void correlate(const T* __restrict__ v, const T* __restrict__ g, const T* __restrict__ scale,
                                          T* __restrict__ sums, int tiles, int strip_pitch, int sums_pitch, bool add) {
  using S = Strip<T, LANES>;
  S sum[CHANNELS][STRIPS];  // from zero, not from `sums`: shorter chains of additions round less
  CUPYNN_UNROLL for (int c = 0; c < CHANNELS; c++)
    CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) sum[c][s] = S::broadcast(T(0));
  for (int t = 0; t < tiles; t++, v += LANES, g += LANES) {
    S factor[STRIPS];
    CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) factor[s] = in_register(S::load(g + s * strip_pitch));
    CUPYNN_UNROLL for (int c = 0; c < CHANNELS; c++) {
      const S value = S::broadcast(v[c / LANES * strip_pitch + c % LANES]);
      CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) sum[c][s] = fma(value, factor[s], sum[c][s]);
    }
  }
  CUPYNN_UNROLL for (int c = 0; c < CHANNELS; c++)
    CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) {
      const int at = c * sums_pitch + s * LANES;
      T* to = sums + at;
      if constexpr (SCALED) sum[c][s] = sum[c][s] * S::load(scale + at);
      (add ? sum[c][s] + S::load(to) : sum[c][s]).store(to);
    }
}

// partial[block][o][c][3 * 3]: dw of in_chunk x out_chunk channels, summed over the tiles of its share of the units.
// Grid (blocks, input chunks x output chunks).
template <typename T, int LANES, int STRIPS, int CHANNELS, bool SCALED>
__global__ void weight_gradient(const T* __restrict__ x, const T* __restrict__ grad, const T* __restrict__ scale,
                                T* __restrict__ partial,
                                const int* __restrict__ plan, long long x_pitch, long long grad_pitch, int units) {
  using S = Strip<T, LANES>;
  extern __shared__ unsigned char shared_memory[];
  const Plan& p = *(const Plan*)plan;
  const int in_chunks = divide_up(p.input.channels, p.in_chunk);
  const int in0 = blockIdx.y % in_chunks * p.in_chunk, out0 = blockIdx.y / in_chunks * p.out_chunk;
  const int most = p.side * p.band * p.across, strip_pitch = most * LANES;
  const int v_pitch = p.in_chunk / LANES * strip_pitch + LANES, g_pitch = p.out_chunk / LANES * strip_pitch + LANES;
  const int scale_pitch = p.in_chunk * p.out_chunk, sums_pitch = scale_pitch + (LANES == 1);
  T* v = register_pointer((T*)shared_memory);
  T* g = v + FREQUENCIES * v_pitch;
  T* sums = g + FREQUENCIES * g_pitch;
  T* factors = sums + FREQUENCIES * sums_pitch;
  T* stage = factors + (SCALED ? p.side * scale_pitch : 0);

  const int share = divide_up(units, gridDim.x), begin = blockIdx.x * share, end = at_most(units, begin + share);
  for (int unit = begin; unit < end; unit++) {
    const Tiles t = tiles_of(p, unit);
    load_tiles<T, LANES, 6>(x, x_pitch, stage, v, p.input, p, t, in0, p.in_chunk, v_pitch, strip_pitch);
    load_tiles<T, LANES, 4>(grad, grad_pitch, stage, g, p.gradient, p, t, out0, p.out_chunk, g_pitch, strip_pitch);
    if constexpr (SCALED)
      load_scale<T>(scale, factors, p, t, in0, p.input.channels, p.in_chunk, out0, p.gradient.channels, p.out_chunk);
    __syncthreads();
    const int ins = p.in_chunk / CHANNELS, outs = p.out_chunk / (STRIPS * LANES);
    for (int task = threadIdx.x; task < FREQUENCIES * ins * outs; task += blockDim.x) {
      const int f = task / outs / ins, c = task / outs % ins * CHANNELS, o = task % outs * STRIPS * LANES;
      const T* inputs = v + f * v_pitch + c / LANES * strip_pitch + c % LANES;
      const T* gradients = g + f * g_pitch + o / LANES * strip_pitch;
      const int images = SCALED ? t.images : 1, tiles = t.count / images, at = c * p.out_chunk + o;
      for (int i = 0; i < images; i++)
        correlate<T, LANES, STRIPS, CHANNELS, SCALED>(inputs + i * tiles * LANES, gradients + i * tiles * LANES,
                                                      factors + i * scale_pitch + at, sums + f * sums_pitch + at, tiles,
                                                      strip_pitch, p.out_chunk, unit > begin || i > 0);
    }
  }
  __syncthreads();
  const int ins = at_most(p.in_chunk, p.input.channels - in0), outs = at_most(p.out_chunk, p.gradient.channels - out0);
  const int strips = divide_up(outs, LANES);
  T* dw = partial + ((long long)blockIdx.x * p.gradient.channels + out0) * p.input.channels * 9;
  for (int task = threadIdx.x; task < ins * strips; task += blockDim.x) {
    const int c = task / strips, o = task % strips * LANES;
    const T* from = sums + c * p.out_chunk + o;
    S half[3][6], taps[9];
    CUPYNN_UNROLL for (int j = 0; j < 6; j++) {
      S column[6], w[3];
      CUPYNN_UNROLL for (int i = 0; i < 6; i++) column[i] = S::load(from + (i * 6 + j) * sums_pitch);
      transform_sums<T>(column, w);
      CUPYNN_UNROLL for (int i = 0; i < 3; i++) half[i][j] = w[i];
    }
    CUPYNN_UNROLL for (int i = 0; i < 3; i++) {
      S w[3];
      transform_sums<T>(half[i], w);
      CUPYNN_UNROLL for (int j = 0; j < 3; j++) taps[i * 3 + j] = w[j];
    }
    CUPYNN_UNROLL for (int k = 0; k < 9; k += LANES) {
      S lines[LANES];
      CUPYNN_UNROLL for (int l = 0; l < LANES; l++) lines[l] = k + l < 9 ? taps[k + l] : S::broadcast(T(0));
      transpose(lines);
      CUPYNN_UNROLL for (int l = 0; l < LANES; l++)
        if (o + l < outs) {
          T lanes[LANES];
          lines[l].store(lanes);
          T* to = dw + ((o + l) * (long long)p.input.channels + in0 + c) * 9 + k;
          copy_part<T, LANES>(to, lanes, at_most(LANES, 9 - k));
        }
    }
  }
}
