// Direct two-dimensional convolution: forward, gradient to the input, gradient to the weight. Nothing is unfolded.
//
//   forward             y[n,o,p,q]  = bias[o] + sum_{c,i,j} x[n,c,p*s+i*d-pad,q*s+j*d-pad] w[o,c,i,j]
//   gradient to input   dx[n,c,y,x] = sum_{o,i,j} g[n,o,(y+pad-i*d)/s,(x+pad-j*d)/s] w[o,c,i,j]   where s divides
//   gradient to weight  dw[o,c,i,j] = sum_{n,p,q} g[n,o,p,q] x[n,c,p*s+i*d-pad,q*s+j*d-pad]
//
// Arrays are (N, C, H, W), weights (O, C/groups, KH, KW), contiguous but for images: these lie `x_pitch`, `y_pitch` or
// `grad_pitch` elements apart, so that an array may be some channels of a wider one.
//
// The first two are one kernel, `convolve`. Pixels of dx whose coordinates have the same remainder modulo s form a
// *phase*; within a phase dx is an ordinary convolution of g at stride 1, by those taps (i, j) that s divides. A forward
// pass is the case of one phase.
//
// A block stages the part of x that its outputs read, padding included, in shared memory, laid out so that neighbouring
// outputs read neighbouring elements for every tap, whatever the stride:
//
//   tile[channel][row][column modulo s][column / s][image]
//
// Several images are interleaved, so that a strip of LANES outputs is full also where an image row is shorter. A tap is
// then one offset into the tile, from a table, and one inner loop serves every kernel size, stride and dilation.
// A thread keeps CHANNELS x STRIPS strips of outputs in registers: per tap it loads STRIPS strips and CHANNELS weights
// for CHANNELS * STRIPS products. Weights are packed as [phase][group][channel tile][input channel][tap][CHANNELS].
// Where a row has fewer strips than a thread takes, several groups of images are staged side by side (`stack`), and a
// thread takes the same row of each: taps that fall outside the image for that row are then skipped.
//
// `weight_gradient` stages x and g alike. A thread keeps the strips of CHANNELS x TAPS sums in registers over all staged
// images, and adds up their lanes once, at the end.
//
// S is the type of x, y and grad; tiles, weights, bias, sums and dw have type T = Compute<S>.
//
// Floor: read x and w once, write y once; N O OH OW C/groups KH KW multiply-adds.

#include "lines.cuh"

// Part of an array (images, channels, height, width) as it is staged in shared memory.
struct Tile {
  int images, channels, height, width;       // the whole array
  int step_x;                                // columns are split by their remainder modulo this
  int pad_y, pad_x;                          // the tile begins this far before the image
  int interleave;                            // images side by side
  int rows, row_pitch, column_pitch;         // rows staged; elements per row, and per remainder: a row may be longer
};

// What `conv.py` worked out for one shape: this struct, `phases` structs Phase, then a struct Tap for
// every tap of every phase.
struct Plan {
  Tile input, gradient;                  // `gradient` is used by weight_gradient only
  int groups, in_channels, out_channels; // channels of one group
  int out_height, out_width;             // of the array that `convolve` writes
  int step_y;                            // rows between neighbouring outputs' windows
  int write_step_y, write_step_x;        // between neighbouring outputs of a phase
  int band, bands;                       // rows of a phase per block, blocks per image
  int in_chunk, out_chunk;               // channels staged at once
  int stack;                             // image groups staged at once
  int channels_inside;                   // convolve: whether a run of strips meets all channel tiles in turn
  int elements;                          // of a kernel
  int phases;
};

struct Phase {
  int rows, columns;     // how many outputs
  int first_y, first_x;  // where the first of them lies
  int first_tap, taps;   // its entries of the tap table
  int first_weight;      // its first packed weight
};

struct Tap {
  int offset, row;  // into the tile; the row alone
  int element;      // of the kernel
};

__device__ const Phase* phases_of(const Plan& plan) { return (const Phase*)(&plan + 1); }
__device__ const Tap* taps_of(const Plan& plan) { return (const Tap*)(phases_of(plan) + plan.phases); }

__device__ bool outside(int a, int low, int end) { return a < low || a >= end; }

// The weights as `convolve` reads them, zeros for channels that fill up the last tile. w is (groups out_channels,
// in_channels, elements), or for the gradient to the input (groups in_channels, out_channels, elements).
// One block: one channel tile of one group. Grid (channel tiles, groups).
template <typename T, int CHANNELS>
__global__ void pack(const T* __restrict__ w, T* __restrict__ packed, const int* __restrict__ plan, int transposed) {
  const Plan& p = *(const Plan*)plan;
  const int out0 = blockIdx.x * CHANNELS, group = blockIdx.y;
  const int channels = at_most(CHANNELS, p.out_channels - out0);
  const long long out_pitch = transposed ? 1 : p.in_channels, in_pitch = transposed ? p.out_channels : 1;
  const T* from = w + (long long)group * p.out_channels * p.in_channels * p.elements + out0 * out_pitch * p.elements;
  for (int f = 0; f < p.phases; f++) {
    const Phase& phase = phases_of(p)[f];
    T* to = packed + phase.first_weight + (long long)(group * gridDim.x + blockIdx.x) * p.in_channels * phase.taps * CHANNELS;
    for (int k = threadIdx.x; k < p.in_channels * phase.taps; k += blockDim.x) {
      const T* element = from + k / phase.taps * in_pitch * p.elements + taps_of(p)[phase.first_tap + k % phase.taps].element;
      CUPYNN_UNROLL for (int o = 0; o < CHANNELS; o++)
        to[k * CHANNELS + o] = o < channels ? element[o * out_pitch * p.elements] : T(0);
    }
  }
}

// Stage channels [channel0, channel0 + channels) of `interleave` images, from row `row0` of the padded image on; zeros
// where the image ends, and from channel `channel_end` on. Threads share the rows in teams of up to 32 neighbours.
template <typename T, int LANES, typename S>
__device__ void stage(const S* __restrict__ x, long long image_pitch, T* __restrict__ tile, const Tile& t, int image0,
                      int channel0, int channels, int channel_end, int row0) {
  const int team = at_most(blockDim.x, 32), member = threadIdx.x % team, teams = blockDim.x / team;
  const int remainders = t.row_pitch / t.column_pitch, columns = t.column_pitch / t.interleave;
  for (int remainder = 0; remainder < remainders; remainder++) {
    const int first = remainder - t.pad_x;
    // columns [low, high) lie inside the image
    const int low = first < 0 ? at_most(divide_up(-first, t.step_x), columns) : 0;
    const int high = at_least(low, first < t.width ? at_most(divide_up(t.width - first, t.step_x), columns) : 0);
    int c = 0, row = threadIdx.x / team;
    while (true) {
      for (; row >= t.rows; row -= t.rows) c++;
      if (c >= channels) break;
      const int y = row0 + row - t.pad_y;
      const bool inside = y >= 0 && y < t.height && channel0 + c < channel_end;
      const S* from = x + image0 * image_pitch + ((long long)(channel0 + c) * t.height + y) * t.width + first;
      T* to = tile + (c * t.rows + row) * t.row_pitch + remainder * t.column_pitch;
      const int present = t.images - image0, begin = inside && present > 0 ? low : 0, end = inside && present > 0 ? high : 0;
      switch (t.interleave) {
        case 1: copy_line<T, LANES>(to, from, t.step_x, begin, end, columns, member, team); break;
#define CASE(IMAGES)                                                                                                  \
  case IMAGES:                                                                                                        \
    interleave_lines<T, LANES, IMAGES>(to, from, image_pitch, present, t.step_x, begin, end, columns, member,  \
                                       team);                                                                                \
    break;
        CASE(2) CASE(4) CASE(8) CASE(16)
#undef CASE
      }
      row += teams;
    }
  }
}

// What `put` does where a strip's lanes do not go to neighbouring elements. Not inlined: it is called for every strip of a
// thread, and the compiler would take a quarter of a minute.
template <typename T, int LANES, typename S>
__noinline__ __device__ void put_lanes(const T* __restrict__ lanes, S* __restrict__ to, int interleave, int step, int images,
                                       int columns, long long image_pitch, bool add) {
  switch (interleave) {
#define CASE(IMAGES) \
  case IMAGES: separate_lines<T, LANES, IMAGES>(lanes, to, image_pitch, images, step, columns, add); break;
    CASE(1) CASE(2) CASE(4) CASE(8) CASE(16)
#undef CASE
  }
}

// Write one strip of outputs, or add it to what is there. `to` is where its first column of its first image lies; lane l
// is column l / interleave of image l % interleave.
template <typename T, int LANES, typename S>
__device__ void put(const Strip<T, LANES> strip, S* __restrict__ to, int interleave, int step, int images, int columns,
                    long long image_pitch, bool add) {
  if (LANES == 1 || (columns == LANES && step == 1)) return (add ? strip + Strip<T, LANES>::load(to) : strip).store(to);
  T lanes[LANES];
  strip.store(lanes);
  if (interleave == 1 && step == 1 && !add) return copy_part<T, LANES / 2>(to, lanes, columns);
  put_lanes<T, LANES>(lanes, to, interleave, step, images, columns, image_pitch, add);
}

// One block: the rows of one band of `stack` image groups, all channels of one group, all phases.
// Grid (stacks of image groups x bands, groups). `accumulate`: y is added to.
template <typename S, int LANES, int STRIPS, int CHANNELS, typename T = Compute<S>>
__global__ void convolve(const S* __restrict__ x, const T* __restrict__ weights, const T* __restrict__ bias,
                         S* __restrict__ y, const int* __restrict__ plan, long long x_pitch, long long y_pitch,
                         bool accumulate) {
  extern __shared__ unsigned char shared_memory[];
  T* tile = register_pointer((T*)shared_memory);
  const Plan& p = *(const Plan*)plan;
  const int image0 = blockIdx.x / p.bands * p.stack * p.input.interleave, row0 = blockIdx.x % p.bands * p.band;
  const int group = blockIdx.y, plane = p.input.rows * p.input.row_pitch;
  const int channel_tiles = divide_up(p.out_channels, CHANNELS);
  const long long plane_out = (long long)p.out_height * p.out_width;
  int interleave_bits = 0;  // interleave is a power of two
  while (1 << interleave_bits < p.input.interleave) interleave_bits++;

  for (int chunk0 = 0; chunk0 < p.in_channels; chunk0 += p.in_chunk) {
    const int channels = at_most(p.in_chunk, p.in_channels - chunk0), first = group * p.in_channels;
    if (chunk0 > 0) __syncthreads();
    for (int m = 0; m < p.stack; m++)
      stage<T, LANES>(x, x_pitch, tile + m * channels * plane, p.input, image0 + m * p.input.interleave, first + chunk0,
                      channels, first + p.in_channels, row0 * p.step_y);
    __syncthreads();
    for (int f = 0; f < p.phases; f++) {
      const Phase& phase = phases_of(p)[f];
      const int strips_per_line = divide_up(phase.columns * p.input.interleave, LANES);
      const int strips_per_row = strips_per_line * p.stack;
      const int strips = at_least(0, at_most(p.band, phase.rows - row0)) * strips_per_row;
      // A GPU's strips are single outputs: those of a thread lie apart, so that neighbouring threads take neighbours.
      const int runs = divide_up(strips, STRIPS), apart = LANES == 1 ? runs : 1;
      for (int task = threadIdx.x; task < runs * channel_tiles; task += blockDim.x) {
        const int channel_tile = p.channels_inside ? task % channel_tiles : task / runs;
        const int strip0 = (p.channels_inside ? task / channel_tiles : task % runs) * (LANES == 1 ? 1 : STRIPS);
        const int channel0 = channel_tile * CHANNELS;
        const T* source[STRIPS];
        int row[STRIPS], stacked[STRIPS], column[STRIPS];
        CUPYNN_UNROLL for (int k = 0; k < STRIPS; k++) {
          const int strip = at_most(strip0 + k * apart, strips - 1);
          row[k] = strip / strips_per_row;
          stacked[k] = strip % strips_per_row / strips_per_line;
          column[k] = strip % strips_per_line * LANES;
          source[k] = tile + stacked[k] * channels * plane + row[k] * p.step_y * p.input.row_pitch + column[k];
        }
        Strip<T, LANES> sum[CHANNELS][STRIPS];
        CUPYNN_UNROLL for (int o = 0; o < CHANNELS; o++) {
          const bool biased = bias != nullptr && chunk0 == 0 && channel0 + o < p.out_channels;
          const T start = biased ? bias[group * p.out_channels + channel0 + o] : T(0);
          CUPYNN_UNROLL for (int k = 0; k < STRIPS; k++) sum[o][k] = Strip<T, LANES>::broadcast(start);
        }
        // Taps [low, high) read inside the image for some strip: the others would add zeros.
        const Tap* taps = taps_of(p) + phase.first_tap;
        int low = 0, high = phase.taps;
        const int above = p.input.pad_y - (row0 + row[STRIPS - 1]) * p.step_y;
        const int below = p.input.pad_y + p.input.height - (row0 + row[0]) * p.step_y;
        while (low < high && outside(taps[low].row, above, below)) low++;
        while (low < high && outside(taps[high - 1].row, above, below)) high--;

        const T* w = weights + phase.first_weight +
                     ((long long)(group * channel_tiles + channel_tile) * p.in_channels + chunk0) * phase.taps * CHANNELS;
        for (int c = 0; c < channels; c++, w += phase.taps * CHANNELS)
          for (int t = low; t < high; t++) {
            const int offset = c * plane + taps[t].offset;
            Strip<T, LANES> v[STRIPS];
            CUPYNN_UNROLL for (int k = 0; k < STRIPS; k++) v[k] = Strip<T, LANES>::load(source[k] + offset);
            CUPYNN_UNROLL for (int o = 0; o < CHANNELS; o++) {
              const Strip<T, LANES> weight = in_register(Strip<T, LANES>::broadcast(w[t * CHANNELS + o]));
              CUPYNN_UNROLL for (int k = 0; k < STRIPS; k++) sum[o][k] = fma(weight, v[k], sum[o][k]);
            }
          }
        const int first_channel = group * p.out_channels + channel0;
        CUPYNN_UNROLL for (int k = 0; k < STRIPS; k++) {
          if (strip0 + k * apart >= strips) break;
          const int image = image0 + stacked[k] * p.input.interleave, line = (row0 + row[k]) * p.write_step_y;
          const int images = at_most(p.input.interleave, p.input.images - image);
          if (images <= 0) continue;  // the last stack may be short
          const int first_column = column[k] >> interleave_bits;
          S* to = y + image * y_pitch + first_channel * plane_out + (phase.first_y + line) * p.out_width + phase.first_x +
                  first_column * p.write_step_x;
          const int columns = at_most(LANES >> interleave_bits, phase.columns - first_column);
          CUPYNN_UNROLL for (int o = 0; o < CHANNELS; o++)
            if (channel0 + o < p.out_channels)
              put(sum[o][k], to + o * plane_out, p.input.interleave, p.write_step_x, images, columns,
                  y_pitch, accumulate || chunk0 > 0);
        }
      }
    }
  }
}

// dw of CHANNELS output channels, one input channel and TAPS taps, summed over the image groups and bands
// [unit, unit + count), which are staged.
template <typename T, int LANES, int CHANNELS, int TAPS>
__device__ void correlate(const T* __restrict__ input, const T* __restrict__ gradient, const Plan* plan, const Tap* taps,
                          int unit, int count, int input_pitch, int gradient_pitch, T* __restrict__ dw, int dw_pitch,
                          int channels, bool add) {
  const Plan& p = *plan;
  Strip<T, LANES> sum[CHANNELS * TAPS];
  CUPYNN_UNROLL for (int k = 0; k < CHANNELS * TAPS; k++) sum[k] = Strip<T, LANES>::broadcast(T(0));
  int offset[TAPS];
  CUPYNN_UNROLL for (int t = 0; t < TAPS; t++) offset[t] = taps[t].offset;
  const int plane = p.gradient.rows * p.gradient.row_pitch;
  for (int m = 0; m < count; m++) {
    // Rows [low, high) of the gradient meet the image through some of the taps: the others would add zeros.
    const int shift = (unit + m) % p.bands * p.band * p.step_y - p.input.pad_y;
    const int low = at_least(0, divide_up(-shift - taps[TAPS - 1].row, p.step_y));
    const int high = at_most(p.gradient.rows, divide_up(p.input.height - shift - taps[0].row, p.step_y));
    for (int column = 0; column < p.gradient.column_pitch; column += LANES) {
      const T* in = input + m * input_pitch + low * p.step_y * p.input.row_pitch + column;
      const T* g = gradient + m * gradient_pitch + low * p.gradient.row_pitch + column;
      for (int row = low; row < high; row++, in += p.step_y * p.input.row_pitch, g += p.gradient.row_pitch) {
        Strip<T, LANES> factor[CHANNELS];
        CUPYNN_UNROLL for (int o = 0; o < CHANNELS; o++) factor[o] = in_register(Strip<T, LANES>::load(g + o * plane));
        CUPYNN_UNROLL for (int t = 0; t < TAPS; t++) {
          const Strip<T, LANES> v = in_register(Strip<T, LANES>::load(in + offset[t]));
          CUPYNN_UNROLL for (int o = 0; o < CHANNELS; o++) sum[o * TAPS + t] = fma(factor[o], v, sum[o * TAPS + t]);
        }
      }
    }
  }
  T sums[CHANNELS * TAPS];
  sum_each(sum, sums);
  for (int o = 0; o < at_most(CHANNELS, channels); o++)
    for (int t = 0; t < TAPS; t++) dw[o * dw_pitch + t] = sums[o * TAPS + t] + (add ? dw[o * dw_pitch + t] : T(0));
}

// The same for 1 to MOST taps: the number becomes a template constant.
template <typename T, int LANES, int CHANNELS, int MOST, typename... Rest>
__device__ void correlate_taps(int number, Rest... rest) {
  if constexpr (MOST > 1)
    if (number < MOST) return correlate_taps<T, LANES, CHANNELS, MOST - 1>(number, rest...);
  correlate<T, LANES, CHANNELS, MOST>(rest...);
}

// partial[block]: dw (o, c, tap), then dbias (o), summed over the image groups and bands of one block; `reduce` adds the
// blocks up, in their order. Grid (blocks, groups x input chunks x output chunks).
template <typename S, int LANES, int CHANNELS, int TAPS, typename T = Compute<S>>
__global__ void weight_gradient(const S* __restrict__ x, const S* __restrict__ grad, T* __restrict__ partial,
                                const int* __restrict__ plan, long long x_pitch, long long grad_pitch) {
  extern __shared__ unsigned char shared_memory[];
  const Plan& p = *(const Plan*)plan;
  const Tap* taps = taps_of(p);
  const int in_chunks = divide_up(p.in_channels, p.in_chunk), out_chunks = divide_up(p.out_channels, p.out_chunk);
  const int in0 = blockIdx.y % in_chunks * p.in_chunk, out0 = blockIdx.y / in_chunks % out_chunks * p.out_chunk;
  const int group = blockIdx.y / in_chunks / out_chunks;
  const int ins = at_most(p.in_chunk, p.in_channels - in0), outs = at_most(p.out_chunk, p.out_channels - out0);
  const int channel_tiles = divide_up(outs, CHANNELS), taps_all = phases_of(p)->taps;
  const int tap_tiles = divide_up(taps_all, TAPS);
  const int input_plane = p.input.rows * p.input.row_pitch, gradient_plane = p.gradient.rows * p.gradient.row_pitch;
  const int input_pitch = ins * input_plane, gradient_pitch = channel_tiles * CHANNELS * gradient_plane;
  T* gradient = register_pointer((T*)shared_memory);
  T* input = gradient + p.stack * gradient_pitch;

  const int units = divide_up(p.input.images, p.input.interleave) * p.bands, share = divide_up(units, gridDim.x);
  const int unit_end = at_most(units, (blockIdx.x + 1) * share), unit_begin = blockIdx.x * share;
  const int channels = p.groups * p.out_channels, dw_pitch = p.in_channels * taps_all;
  T* block_partial = partial + (long long)blockIdx.x * channels * (dw_pitch + 1);
  T* dw = block_partial + (long long)(group * p.out_channels + out0) * dw_pitch + in0 * taps_all;
  T* dbias = block_partial + (long long)channels * dw_pitch + group * p.out_channels + out0;

  for (int unit = unit_begin; unit < unit_end; unit += p.stack) {
    const int count = at_most(p.stack, unit_end - unit);
    const bool add = unit > unit_begin;
    if (add) __syncthreads();
    for (int m = 0; m < count; m++) {
      const int image0 = (unit + m) / p.bands * p.input.interleave, row0 = (unit + m) % p.bands * p.band;
      stage<T, LANES>(x, x_pitch, input + m * input_pitch, p.input, image0, group * p.in_channels + in0, ins,
                      (group + 1) * p.in_channels, row0 * p.step_y);
      stage<T, LANES>(grad, grad_pitch, gradient + m * gradient_pitch, p.gradient, image0, group * p.out_channels + out0,
                      channel_tiles * CHANNELS, (group + 1) * p.out_channels, row0);
    }
    __syncthreads();
    for (int task = threadIdx.x; task < channel_tiles * ins * tap_tiles; task += blockDim.x) {
      const int o = task / tap_tiles / ins * CHANNELS, c = task / tap_tiles % ins;
      // tap tiles of nearly equal size
      const int first = task % tap_tiles * taps_all / tap_tiles, last = (task % tap_tiles + 1) * taps_all / tap_tiles;
      const T* in = input + c * input_plane;
      const T* g = gradient + o * gradient_plane;
      T* out = dw + o * dw_pitch + c * taps_all + first;
      correlate_taps<T, LANES, CHANNELS, TAPS>(last - first, in, g, &p, taps + first, unit, count, input_pitch,
                                               gradient_pitch, out, dw_pitch, outs - o, add);
    }
    if (in0 == 0)
      for (int o = threadIdx.x; o < outs; o += blockDim.x) {
        Strip<T, LANES> sum = Strip<T, LANES>::broadcast(T(0));
        for (int m = 0; m < count; m++)
          for (int row = 0; row < p.gradient.rows; row++)
            for (int k = row * p.gradient.row_pitch; k < row * p.gradient.row_pitch + p.gradient.column_pitch; k += LANES)
              sum = sum + Strip<T, LANES>::load(gradient + m * gradient_pitch + o * gradient_plane + k);
        dbias[o] = sum.sum() + (add ? dbias[o] : T(0));
      }
  }
}

// total[k] = sum of partial[b][k] over the blocks b, in order. Each block adds up `span` neighbouring k.
template <typename T>
__global__ void reduce(const T* __restrict__ partial, T* __restrict__ total, int count, int blocks, int span) {
  const int end = at_most(count, (blockIdx.x + 1) * span);
  for (int b = 0; b < blocks; b++)
    for (int k = blockIdx.x * span + threadIdx.x; k < end; k += blockDim.x)
      total[k] = partial[(long long)b * count + k] + (b > 0 ? total[k] : T(0));
}
