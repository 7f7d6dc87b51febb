// 1x1 convolution at any stride: forward, gradient to the input, gradient to the weight, as matrix products.
//
//   forward             y[o,j]  = bias[o] + sum_c w[o,c] x[c,j]
//   gradient to input   dx[c,j] = sum_o w[o,c] g[o,j]
//   gradient to weight  dw[o,c] = sum_j g[o,j] x[c,j]
//
// Column j is a pixel of the output of one image. Columns are numbered through all images, so small images fill strips
// together; where a strip of LANES columns lies is worked out once per block. Arrays are (N, C, H, W), weights
// (O, C/groups, 1, 1), contiguous but for images, which lie a pitch apart: an array may be some channels of a wider one.
//
// All three multiply a panel of STRIPS strips of one operand, staged in shared memory, by CHANNELS scalars of the
// other, and keep CHANNELS x STRIPS strips of sums in registers: per term STRIPS loads and CHANNELS broadcasts serve
// CHANNELS * STRIPS products; `Panels` says how they lie. Strips are columns in `convolve` and, by transposing as they
// are staged, channels in `weight_gradient`, whose sums over columns then need no sum over lanes.
//
// S is the type of x, y and grad; tiles, weights, bias, sums and dw have type T = Compute<S>.
//
// Floor: read x and w once, write y once; N O OH OW C/groups multiply-adds.

#include "lines.cuh"

// Strips are staged this long after they were asked for: channels are too far apart for a CPU to guess the next.
constexpr int AHEAD = 128;

// Where the pixels of an array are that meet the output's.
struct Pixels {
  int plane;                  // elements of a channel
  int row_step, column_step;  // between neighbouring outputs' pixels
};

// What `pointwise.py` worked out for one pass of one shape.
struct Plan {
  Pixels read, other;             // the array that is staged as strips; the one that is written, or gives the scalars
  int columns, plane, width;      // of the whole batch, of an image, of a row of it
  int in_channels, out_channels;  // of these two arrays, in one group
  int span;                       // columns of a block at once
  int in_chunk, out_chunk;        // channels staged at once
};

// Where one strip of columns lies, from `address` on: one element if it is a run of neighbours, else one per column.
struct Place {
  const long long* address;
  int count;      // columns that exist
  bool together;  // all LANES of them, side by side
};

// Find the strips of columns [column0, column0 + columns) in an array. `together` has one entry for each.
template <int LANES>
__device__ void locate(const Plan& p, const Pixels& pixels, long long pitch, int column0, int columns,
                       long long* address, bool* together) {
  for (int strip = threadIdx.x; strip < divide_up(columns, LANES); strip += blockDim.x) {
    const int first = column0 + strip * LANES, count = at_most(LANES, columns - strip * LANES);
    long long image = first / p.plane;
    int pixel = first % p.plane, row = pixel / p.width, column = pixel % p.width;
    const bool one_run = pixels.row_step == p.width && pixels.column_step == 1 && p.plane - pixel >= LANES;
    together[strip] = one_run && count == LANES;
    for (int lane = 0; lane < (together[strip] ? 1 : count); lane++) {
      address[strip * LANES + lane] = image * pitch + (long long)row * pixels.row_step + column * pixels.column_step;
      if (++column == p.width) column = 0, row++;
      if (row * p.width == p.plane) row = 0, image++;
    }
  }
}

template <int LANES>
__device__ Place place_of(const long long* address, const bool* together, int strip, int columns) {
  return {address + strip * LANES, at_most(LANES, columns - strip * LANES), LANES == 1 || together[strip]};
}

// The elements of one channel at a strip's columns, zeros where there are none.
template <typename T, int LANES, typename S>
__device__ __forceinline__ Strip<T, LANES> take(const S* __restrict__ channel, const Place& place) {
  if (place.together) return Strip<T, LANES>::load(channel + place.address[0]);
  T lanes[LANES];
  if (place.count == LANES) {
    CUPYNN_UNROLL for (int lane = 0; lane < LANES; lane++) lanes[lane] = channel[place.address[lane]];
  } else {
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = lane < place.count ? T(channel[place.address[lane]]) : T(0);
  }
  return Strip<T, LANES>::load(lanes);
}

// The inverse: write them, or add them to what is there.
template <typename T, int LANES, typename S>
__device__ __forceinline__ void put(const T* __restrict__ lanes, S* __restrict__ channel, const Place& place,
                                    bool add) {
  if (place.together) {
    S* to = channel + place.address[0];
    const Strip<T, LANES> strip = Strip<T, LANES>::load(lanes);
    (add ? strip + Strip<T, LANES>::load(to) : strip).store(to);
  } else if (place.count == LANES && !add) {
    CUPYNN_UNROLL for (int lane = 0; lane < LANES; lane++) channel[place.address[lane]] = lanes[lane];
  } else {
    for (int lane = 0; lane < place.count; lane++) {
      S& out = channel[place.address[lane]];
      out = lanes[lane] + (add ? T(out) : T(0));
    }
  }
}

// sum[o][s] += sum_k a[o * ROW + k * STEP] (strip s of term k of a panel, which begins at b) over `count` terms.
template <typename T, int LANES, int STRIPS, int CHANNELS, int ROW, int STEP, typename P>
__device__ __forceinline__ void multiply(const T* __restrict__ a, const T* __restrict__ b, const P& panels, int count,
                                         Strip<T, LANES> (&sum)[CHANNELS][STRIPS]) {
  for (int k = 0; k < count; k++, a += STEP, b += panels.row()) {
    Strip<T, LANES> v[STRIPS];
    CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++)
      v[s] = in_register(Strip<T, LANES>::load(b + s * panels.step() * LANES));
    CUPYNN_UNROLL for (int o = 0; o < CHANNELS; o++) {
      const Strip<T, LANES> factor = in_register(Strip<T, LANES>::broadcast(a[o * ROW]));
      CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) sum[o][s] = fma(factor, v[s], sum[o][s]);
    }
  }
}

// The weights as `convolve` reads them, packed[group][channel tile][read channel][CHANNELS], zeros for channels that
// fill up the last tile. w is (groups out_channels, in_channels), or transposed (groups in_channels, out_channels).
// One block: one channel tile of one group. Grid (channel tiles, groups).
template <typename T, int CHANNELS>
__global__ void pack(const T* __restrict__ w, T* __restrict__ packed, int in_channels, int out_channels,
                     int transposed) {
  const int out0 = blockIdx.x * CHANNELS, channels = at_most(CHANNELS, out_channels - out0);
  const long long out_pitch = transposed ? 1 : in_channels, in_pitch = transposed ? out_channels : 1;
  const T* from = w + (long long)blockIdx.y * out_channels * in_channels + out0 * out_pitch;
  T* to = packed + ((long long)blockIdx.y * gridDim.x + blockIdx.x) * in_channels * CHANNELS;
  for (int c = threadIdx.x; c < in_channels; c += blockDim.x)
    CUPYNN_UNROLL for (int o = 0; o < CHANNELS; o++)
      to[(long long)c * CHANNELS + o] = o < channels ? from[c * in_pitch + o * out_pitch] : T(0);
}

// CHANNELS channels of y, or of those `channels`, at STRIPS strips of columns.
template <typename T, int LANES, int STRIPS, int CHANNELS, typename S, typename P>
__device__ void convolve_strips(const T* __restrict__ weights, const T* __restrict__ panel, P panels, int terms,
                                const T* __restrict__ bias, S* __restrict__ y, long long plane, int channels,
                                const long long* address, const bool* together, int columns, bool add) {
  const int step = panels.step();
  Strip<T, LANES> sum[CHANNELS][STRIPS];
  CUPYNN_UNROLL for (int o = 0; o < CHANNELS; o++) {
    const T start = bias != nullptr && o < channels ? bias[o] : T(0);
    CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) sum[o][s] = Strip<T, LANES>::broadcast(start);
  }
  CUPYNN_UNROLL for (int o = 0; o < CHANNELS; o++)
    if (o < channels)
      CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) prefetch(y + o * plane + address[s * step * LANES]);
  multiply<T, LANES, STRIPS, CHANNELS, 1, CHANNELS>(weights, panel, panels, terms, sum);
  bool all_together = true;
  CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++)
    all_together = all_together && place_of<LANES>(address, together, s * step, columns).together;
  if (all_together) {
    CUPYNN_UNROLL for (int o = 0; o < CHANNELS; o++)
      if (o < channels)
        CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) {
          S* to = y + o * plane + address[s * step * LANES];
          (add ? sum[o][s] + Strip<T, LANES>::load(to) : sum[o][s]).store(to);
        }
    return;
  }
  T lanes[CHANNELS][STRIPS][LANES];  // out of the registers: what follows is written once, not for each of them
  CUPYNN_UNROLL for (int o = 0; o < CHANNELS; o++)
    CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) sum[o][s].store(lanes[o][s]);
  for (int o = 0; o < at_most(CHANNELS, channels); o++)
    for (int s = 0; s < STRIPS; s++)
      put<T, LANES>(lanes[o][s], y + o * plane, place_of<LANES>(address, together, s * step, columns), add);
}

// The same for 1 to MOST strips: the number becomes a template constant.
template <typename T, int LANES, int MOST, int CHANNELS, typename... Rest>
__device__ __forceinline__ void convolve_some(int strips, Rest... rest) {
  if constexpr (MOST > 1)
    if (strips < MOST) return convolve_some<T, LANES, MOST - 1, CHANNELS>(strips, rest...);
  convolve_strips<T, LANES, MOST, CHANNELS>(rest...);
}

// y, or added to it. One block: `span` columns, all channels of one group. Grid (spans, groups).
template <typename S, int LANES, int STRIPS, int CHANNELS, typename T = Compute<S>>
__global__ void convolve(const S* __restrict__ x, const T* __restrict__ weights,
                         const T* __restrict__ bias, S* __restrict__ y, const int* __restrict__ plan,
                         long long x_pitch, long long y_pitch, bool accumulate) {
  extern __shared__ unsigned char shared_memory[];
  const Plan& p = *(const Plan*)plan;
  T* tile = register_pointer((T*)shared_memory);
  long long* from = (long long*)(tile + p.in_chunk * p.span);
  long long* to = from + p.span;
  bool* read_together = (bool*)(to + p.span);
  bool* write_together = read_together + p.span / LANES;

  const int column0 = blockIdx.x * p.span, columns = at_most(p.span, p.columns - column0), group = blockIdx.y;
  const int strips = divide_up(columns, LANES), panels = divide_up(strips, STRIPS), ahead = divide_up(AHEAD, strips);
  const int channel_tiles = divide_up(p.out_channels, CHANNELS);
  locate<LANES>(p, p.read, x_pitch, column0, columns, from, read_together);
  locate<LANES>(p, p.other, y_pitch, column0, columns, to, write_together);
  for (int chunk0 = 0; chunk0 < p.in_channels; chunk0 += p.in_chunk) {
    const int channels = at_most(p.in_chunk, p.in_channels - chunk0);
    const Panels<LANES, STRIPS> in_tile = {panels, channels, strips};
    __syncthreads();
    const S* channel = x + ((long long)group * p.in_channels + chunk0) * p.read.plane;
    for (int c = 0, strip = threadIdx.x;; strip += blockDim.x) {
      for (; strip >= strips; strip -= strips) c++;
      if (c >= channels) break;
      if (c + ahead < channels) prefetch(channel + (long long)(c + ahead) * p.read.plane + from[strip * LANES]);
      take<T, LANES>(channel + (long long)c * p.read.plane, place_of<LANES>(from, read_together, strip, columns))
          .store(tile + in_tile.at(strip, c));
    }
    __syncthreads();
    for (int task = threadIdx.x; task < channel_tiles * panels; task += blockDim.x) {
      const int channel_tile = task / panels, channel0 = channel_tile * CHANNELS;
      const int strip0 = in_tile.first(task % panels);
      const T* w = weights + (((long long)group * channel_tiles + channel_tile) * p.in_channels + chunk0) * CHANNELS;
      const int first = group * p.out_channels + channel0;
      convolve_some<T, LANES, STRIPS, CHANNELS>(
          in_tile.strips(strip0, strips), w, tile + in_tile.at(strip0, 0), in_tile, channels,
          bias != nullptr && chunk0 == 0 ? bias + first : (const T*)nullptr, y + (long long)first * p.other.plane, p.other.plane,
          p.out_channels - channel0, to + strip0 * LANES, write_together + strip0, columns - strip0 * LANES,
          accumulate || chunk0 > 0);
    }
  }
}

// Write the first `count` elements of a strip, or add them to what is there.
template <typename T, int LANES>
__device__ __forceinline__ void store_part(Strip<T, LANES> strip, T* __restrict__ to, int count, bool add) {
  if (count >= LANES) return (add ? strip + Strip<T, LANES>::load(to) : strip).store(to);
  T lanes[LANES];
  strip.store(lanes);
  for (int lane = 0; lane < count; lane++) to[lane] = lanes[lane] + (add ? to[lane] : T(0));
}

// dw of CHANNELS channels of the scalars and STRIPS strips of the vectors', or of those outs x ins that exist.
template <typename T, int LANES, int STRIPS, int CHANNELS, int PITCH, typename P>
__device__ void correlate_strips(const T* __restrict__ gradient, const T* __restrict__ panel, P panels, int columns,
                                 T* __restrict__ dw, int dw_pitch, int outs, int ins, bool add) {
  Strip<T, LANES> sum[CHANNELS][STRIPS];
  CUPYNN_UNROLL for (int o = 0; o < CHANNELS; o++)
    CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) sum[o][s] = Strip<T, LANES>::broadcast(T(0));
  multiply<T, LANES, STRIPS, CHANNELS, PITCH, 1>(gradient, panel, panels, columns, sum);
  const int step = panels.step() * LANES;
  CUPYNN_UNROLL for (int o = 0; o < CHANNELS; o++)
    if (o < outs)
      CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++)
        store_part(sum[o][s], dw + (long long)o * dw_pitch + s * step, ins - s * step, add);
}

template <typename T, int LANES, int MOST, int CHANNELS, int PITCH, typename... Rest>
__device__ __forceinline__ void correlate_some(int strips, Rest... rest) {
  if constexpr (MOST > 1)
    if (strips < MOST) return correlate_some<T, LANES, MOST - 1, CHANNELS, PITCH>(strips, rest...);
  correlate_strips<T, LANES, MOST, CHANNELS, PITCH>(rest...);
}

// partial[block]: dw (scalars' channel, vectors' channel), then dbias (o), summed over the spans of COLUMNS columns of
// one block; `reduce` of conv.cu adds the blocks up, in their order. Either x or the gradient is the vectors, whose
// channels become lanes: the gradient with `bias_of_vectors`. Grid (blocks, groups x chunks of in_ x of out_channels).
template <typename S, int LANES, int STRIPS, int CHANNELS, int COLUMNS, typename T = Compute<S>>
__global__ void weight_gradient(const S* __restrict__ vectors, const S* __restrict__ scalars,
                                T* __restrict__ partial, const int* __restrict__ plan,
                                long long vectors_pitch, long long scalars_pitch, bool bias_of_vectors) {
  extern __shared__ unsigned char shared_memory[];
  const Plan& p = *(const Plan*)plan;
  constexpr int PITCH = COLUMNS + LANES;  // no power of two, whose rows would share cache lines
  const int in_chunks = divide_up(p.in_channels, p.in_chunk), out_chunks = divide_up(p.out_channels, p.out_chunk);
  const int in0 = blockIdx.y % in_chunks * p.in_chunk, out0 = blockIdx.y / in_chunks % out_chunks * p.out_chunk;
  const int group = blockIdx.y / in_chunks / out_chunks, groups = gridDim.y / in_chunks / out_chunks;
  const int ins = at_most(p.in_chunk, p.in_channels - in0), outs = at_most(p.out_chunk, p.out_channels - out0);
  const int in_strips = divide_up(ins, LANES), panels = divide_up(in_strips, STRIPS);
  const int channel_tiles = divide_up(outs, CHANNELS);
  T* rows = register_pointer((T*)shared_memory);
  T* tile = rows + p.out_chunk * PITCH;
  const Panels<LANES, STRIPS> in_tile = {panels, COLUMNS, p.in_chunk + 1};
  long long* vectors_address = (long long*)(tile + in_tile.room(p.in_chunk));
  long long* scalars_address = vectors_address + COLUMNS;
  bool* vectors_together = (bool*)(scalars_address + COLUMNS);
  bool* scalars_together = vectors_together + COLUMNS / LANES;

  const int spans = divide_up(p.columns, COLUMNS), share = divide_up(spans, gridDim.x);
  const int begin = blockIdx.x * share, end = at_most(spans, begin + share);
  const long long weights = (long long)groups * p.out_channels * p.in_channels;
  const int in_first = group * p.in_channels + in0, out_first = group * p.out_channels + out0;
  T* block_partial = partial + blockIdx.x * (weights + groups * (bias_of_vectors ? p.in_channels : p.out_channels));
  T* dw = block_partial + (long long)out_first * p.in_channels + in0;
  T* dbias = block_partial + weights + (bias_of_vectors ? in_first : out_first);
  vectors += (long long)in_first * p.read.plane;
  scalars += (long long)out_first * p.other.plane;

  for (int span = begin; span < end; span++) {
    const int column0 = span * COLUMNS, columns = at_most(COLUMNS, p.columns - column0);
    const int strips = divide_up(columns, LANES), ahead = divide_up(AHEAD, strips);
    const bool add = span > begin;
    __syncthreads();
    locate<LANES>(p, p.read, vectors_pitch, column0, columns, vectors_address, vectors_together);
    locate<LANES>(p, p.other, scalars_pitch, column0, columns, scalars_address, scalars_together);
    __syncthreads();
    for (int task = threadIdx.x; task < channel_tiles * CHANNELS * strips; task += blockDim.x) {
      const int o = task / strips, strip = task % strips;
      const S* from = scalars + (long long)o * p.other.plane;
      Place place = place_of<LANES>(scalars_address, scalars_together, strip, columns);
      if (o + ahead < outs) prefetch(from + (long long)ahead * p.other.plane + place.address[0]);
      if (o >= outs) place = {place.address, 0, false};
      take<T, LANES>(from, place).store(rows + o * PITCH + strip * LANES);
    }
    for (int task = threadIdx.x; task < in_strips * strips; task += blockDim.x) {
      const int in_strip = task / strips, strip = task % strips;
      const S* from = vectors + (long long)in_strip * LANES * p.read.plane;
      const Place place = place_of<LANES>(vectors_address, vectors_together, strip, columns);
      const int left = ins - in_strip * LANES, next = divide_up(ahead, LANES) * LANES;
      for (int l = 0; l < at_most(LANES, left - next); l++)
        prefetch(from + (long long)(l + next) * p.read.plane + place.address[0]);
      Strip<T, LANES> lines[LANES];
      if (place.together) {
        CUPYNN_UNROLL for (int l = 0; l < LANES; l++)
          lines[l] = l < left ? Strip<T, LANES>::load(from + (long long)l * p.read.plane + place.address[0])
                              : Strip<T, LANES>::broadcast(T(0));
      } else {
        T lanes[LANES][LANES];
        for (int l = 0; l < LANES; l++)
          take<T, LANES>(from + (long long)l * p.read.plane, l < left ? place : Place{place.address, 0, false})
              .store(lanes[l]);
        CUPYNN_UNROLL for (int l = 0; l < LANES; l++) lines[l] = Strip<T, LANES>::load(lanes[l]);
      }
      transpose(lines);
      T* to = tile + in_tile.at(in_strip, strip * LANES);
      CUPYNN_UNROLL for (int l = 0; l < LANES; l++) lines[l].store(to + l * in_tile.row());
    }
    __syncthreads();
    for (int task = threadIdx.x; task < channel_tiles * panels; task += blockDim.x) {
      const int strip0 = in_tile.first(task % panels), o = task / panels * CHANNELS;
      correlate_some<T, LANES, STRIPS, CHANNELS, PITCH>(
          in_tile.strips(strip0, in_strips), rows + o * PITCH, tile + in_tile.at(strip0, 0), in_tile, columns,
          dw + (long long)o * p.in_channels + strip0 * LANES, p.in_channels, outs - o, ins - strip0 * LANES, add);
    }
    if (bias_of_vectors && out0 == 0)
      for (int in_strip = threadIdx.x; in_strip < in_strips; in_strip += blockDim.x) {
        const T* from = tile + in_tile.at(in_strip, 0);
        Strip<T, LANES> even = Strip<T, LANES>::broadcast(T(0)), odd = even;  // two sums: each waits for itself
        for (int k = 0; k < strips * LANES; k += 2) {
          even = even + Strip<T, LANES>::load(from + k * in_tile.row());
          if (LANES > 1 || k + 1 < strips) odd = odd + Strip<T, LANES>::load(from + (k + 1) * in_tile.row());
        }
        store_part(even + odd, dbias + in_strip * LANES, ins - in_strip * LANES, add);
      }
    if (!bias_of_vectors && in0 == 0)
      for (int o = threadIdx.x; o < outs; o += blockDim.x) {
        Strip<T, LANES> sum = Strip<T, LANES>::load(rows + o * PITCH);
        for (int k = 1; k < strips; k++) sum = sum + Strip<T, LANES>::load(rows + o * PITCH + k * LANES);
        dbias[o] = sum.sum() + (add ? dbias[o] : T(0));
      }
  }
}
