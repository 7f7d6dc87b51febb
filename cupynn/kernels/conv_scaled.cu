// 1x1 convolution whose weight has factors of its own for every image: forward, gradient to the input, to the weight.
//
//   forward             y[n,o,j]  = sum_c w[o,c] scale[n,o/run,c] x[n,c,j]
//   gradient to input   dx[n,c,j] = sum_o w[o,c] scale[n,o/run,c] g[n,o,j]
//   gradient to weight  dw[o,c]   = sum_n scale[n,o/run,c] sum_j g[n,o,j] x[n,c,j]
//
// j is a pixel of `plane`. Images are contiguous and lie `x_pitch`, `y_pitch` or `grad_pitch` elements apart; weights and
// scales (which may be null: all 1) are contiguous.
//
// `multiply` does the first two. A block takes some pixels of one image, `span` at once: it stages the image's own weights
// for `in_chunk` x `out_chunk` channels, then the pixels. A thread keeps CHANNELS x STRIPS strips of pixels in registers.
// `weight_gradient` stages the pixels of x transposed, so that a strip holds input channels: what a thread keeps in
// registers, for `span` pixels of one image, is then multiplied by strips of scales and added to the block's dw.
//
// Floor: read x and w once, write y once; N O C H W multiply-adds.

#include "winograd.cuh"

// Where the factor of channels in and out is: scale[image * image_pitch + in / in_run * in_pitch + out / out_run * out_pitch]
struct Scales {
  int image_pitch, in_run, in_pitch, out_run, out_pitch;
};

// What `conv_scaled.py` worked out for one shape.
struct Plan {
  int images, plane, ins, outs;    // channels that are read, and that are written or meet them in the gradient
  int part, span;                  // pixels of a block of `multiply`, and at once
  int in_chunk, out_chunk;         // channels at once
  Scales scales;
};

// sum[o][s] over `count` terms of a[k * step + o * row] * (strip s of term k of a panel, which begins at b).
template <typename T, int LANES, int STRIPS, int CHANNELS>
__device__ __forceinline__ void accumulate(const T* __restrict__ a, int row, int step, const T* __restrict__ b,
                                           const Panels<LANES, STRIPS>& panels, int count,
                                           Strip<T, LANES> (&sum)[CHANNELS][STRIPS]) {
  using S = Strip<T, LANES>;
  CUPYNN_UNROLL for (int o = 0; o < CHANNELS; o++)
    CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) sum[o][s] = S::broadcast(T(0));
  for (int k = 0; k < count; k++, a += step, b += panels.row()) {
    S v[STRIPS];
    CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) v[s] = in_register(S::load(b + s * panels.step() * LANES));
    CUPYNN_UNROLL for (int o = 0; o < CHANNELS; o++) {
      const S factor = in_register(S::broadcast(a[o * row]));
      CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) sum[o][s] = fma(factor, v[s], sum[o][s]);
    }
  }
}

// Write `count` elements of a strip, or add them to what is there.
template <typename T, int LANES>
__device__ __forceinline__ void put(const Strip<T, LANES> strip, T* __restrict__ to, int count, bool add) {
  if (count >= LANES) return (add ? strip + Strip<T, LANES>::load(to) : strip).store(to);
  T lanes[LANES];
  strip.store(lanes);
  for (int l = 0; l < count; l++) to[l] = lanes[l] + (add ? to[l] : T(0));
}

// The weights w (ins, outs) of input channels from in0 on and output channels from out0 on, times the image's scales, as
// tiles of STRIPS strips of CHANNELS; zeros for channels that fill up the last tile.
template <typename T, int CHANNELS, int STRIPS>
__device__ void stage_weights(const T* __restrict__ w, const T* __restrict__ scale, T* __restrict__ weights,
                              const Panels<CHANNELS, STRIPS>& tiles, const Plan& p, int in0, int ins, int out0, int outs) {
  using S = Strip<T, CHANNELS>;
  const Scales& r = p.scales;
  const int team = at_most(blockDim.x, 32), member = threadIdx.x % team, teams = blockDim.x / team;
  const int all = divide_up(outs, CHANNELS * STRIPS) * CHANNELS * STRIPS;
  for (int o = member * CHANNELS; o < all; o += team * CHANNELS)
    for (int c = threadIdx.x / team; c < ins; c += teams) {
      const int in = in0 + c, out = out0 + o;
      S row = load_part<T, CHANNELS>(w + (long long)in * p.outs + out, outs - o);
      if (scale != nullptr && o < outs) {
        const T* factors = scale + (r.in_run == 1 ? in : in / r.in_run) * r.in_pitch;
        if (r.out_run == 1 && r.out_pitch == 1) {
          row = row * load_part<T, CHANNELS>(factors + out, outs - o);
        } else if (r.out_run % CHANNELS == 0) {
          row = row * factors[out / r.out_run * r.out_pitch];
        } else {
          T lanes[CHANNELS];
          for (int k = 0; k < CHANNELS; k++) lanes[k] = k < outs - o ? factors[(out + k) / r.out_run * r.out_pitch] : T(0);
          row = row * S::load(lanes);
        }
      }
      row.store(weights + tiles.at(o / CHANNELS, c));
    }
}

// w is (ins, outs). Grid: images x parts of an image.
template <typename T, int LANES, int STRIPS, int CHANNELS>
__global__ void multiply(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ scale, T* __restrict__ y,
                         const int* __restrict__ plan, long long x_pitch, long long y_pitch, bool add) {
  using S = Strip<T, LANES>;
  constexpr int WIDE = STRIPS * LANES, TOGETHER = LANES == 1 ? 1 : CHANNELS;  // weights that a thread stages at once
  extern __shared__ unsigned char shared_memory[];
  const Plan& p = *(const Plan*)plan;
  T* tile = register_pointer((T*)shared_memory);
  T* weights = tile + p.in_chunk * p.span;
  const int parts = divide_up(p.plane, p.part), image = blockIdx.x / parts;
  const int begin = blockIdx.x % parts * p.part, end = at_most(p.plane, begin + p.part);
  const T* image_scale = scale == nullptr ? nullptr : scale + (long long)image * p.scales.image_pitch;
  for (int out0 = 0; out0 < p.outs; out0 += p.out_chunk)
    for (int in0 = 0; in0 < p.ins; in0 += p.in_chunk) {
      const int outs = at_most(p.out_chunk, p.outs - out0), channel_tiles = divide_up(outs, CHANNELS);
      const int ins = at_most(p.in_chunk, p.ins - in0);
      const Panels<TOGETHER, CHANNELS / TOGETHER> out_tile = {1, ins, p.out_chunk};
      __syncthreads();
      stage_weights(w, image_scale, weights, out_tile, p, in0, ins, out0, outs);
      for (int column0 = begin; column0 < end; column0 += p.span) {
        const int columns = at_most(p.span, end - column0), panels = divide_up(columns, WIDE), strips = panels * STRIPS;
        const Panels<LANES, STRIPS> in_tile = {panels, ins, strips};
        const T* from = x + image * x_pitch + (long long)in0 * p.plane + column0;
        if (column0 > begin) __syncthreads();
        for (int c = 0, strip = threadIdx.x;; strip += blockDim.x) {
          for (; strip >= strips; strip -= strips) c++;
          if (c >= ins) break;
          load_part<T, LANES>(from + (long long)c * p.plane + strip * LANES, columns - strip * LANES)
              .store(tile + in_tile.at(strip, c));
        }
        __syncthreads();
        for (int task = threadIdx.x; task < channel_tiles * panels; task += blockDim.x) {
          const int strip0 = in_tile.first(LANES == 1 ? task % panels : task / channel_tiles);
          const int o = (LANES == 1 ? task / panels : task % channel_tiles) * CHANNELS;
          S sum[CHANNELS][STRIPS];
          accumulate(weights + out_tile.at(o / TOGETHER, 0), 1, out_tile.row(), tile + in_tile.at(strip0, 0), in_tile, ins,
                     sum);
          T* to = y + image * y_pitch + (long long)(out0 + o) * p.plane + column0 + strip0 * LANES;
          const int left = columns - strip0 * LANES, step = in_tile.step() * LANES;
          CUPYNN_UNROLL for (int k = 0; k < CHANNELS; k++)
            if (o + k < outs)
              CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++)
                put(sum[k][s], to + (long long)k * p.plane + s * step, left - s * step, add || in0 > 0);
        }
      }
    }
}

// partial[block][o][c]: dw summed over the images of one block. Grid (blocks, input chunks x output chunks).
template <typename T, int LANES, int STRIPS, int CHANNELS>
__global__ void weight_gradient(const T* __restrict__ x, const T* __restrict__ grad, const T* __restrict__ scale,
                                T* __restrict__ partial, const int* __restrict__ plan, long long x_pitch,
                                long long grad_pitch) {
  using S = Strip<T, LANES>;
  constexpr int WIDE = STRIPS * LANES;
  extern __shared__ unsigned char shared_memory[];
  const Plan& p = *(const Plan*)plan;
  // Not a power of two; on a GPU odd, so that neighbouring rows begin in other banks.
  const int in_chunks = divide_up(p.ins, p.in_chunk), pitch = LANES == 1 ? p.span | 1 : p.span + LANES;
  const int in0 = blockIdx.y % in_chunks * p.in_chunk, out0 = blockIdx.y / in_chunks * p.out_chunk;
  const int ins = at_most(p.in_chunk, p.ins - in0), outs = at_most(p.out_chunk, p.outs - out0);
  const int in_strips = divide_up(ins, WIDE) * STRIPS, panels = in_strips / STRIPS, channel_tiles = divide_up(outs, CHANNELS);
  const Panels<LANES, STRIPS> in_tile = {panels, p.span, p.in_chunk + 1};
  T* tile = register_pointer((T*)shared_memory);
  T* gradient = tile + in_tile.room(p.in_chunk);  // [output channel][pixel]
  T* dw = partial + ((long long)blockIdx.x * p.outs + out0) * p.ins + in0;

  const int share = divide_up(p.images, gridDim.x), begin = blockIdx.x * share, end = at_most(p.images, begin + share);
  for (int image = begin; image < end; image++)
    for (int column0 = 0; column0 < p.plane; column0 += p.span) {
      const int columns = at_most(p.span, p.plane - column0), strips = divide_up(columns, LANES);
      const T* from_x = x + image * x_pitch + (long long)in0 * p.plane + column0;
      const T* from_grad = grad + image * grad_pitch + (long long)out0 * p.plane + column0;
      __syncthreads();
      for (int o = 0, strip = threadIdx.x;; strip += blockDim.x) {
        for (; strip >= strips; strip -= strips) o++;
        if (o >= channel_tiles * CHANNELS) break;
        const int column = strip * LANES;
        load_part<T, LANES>(from_grad + (long long)o * p.plane + column, o < outs ? columns - column : 0)
            .store(gradient + o * pitch + column);
      }
      for (int in_strip = 0, strip = threadIdx.x;; strip += blockDim.x) {
        for (; strip >= strips; strip -= strips) in_strip++;
        if (in_strip >= in_strips) break;
        const int column = strip * LANES;
        S lines[LANES];
        CUPYNN_UNROLL for (int l = 0; l < LANES; l++) {
          const int c = in_strip * LANES + l;
          lines[l] = load_part<T, LANES>(from_x + (long long)c * p.plane + column, c < ins ? columns - column : 0);
        }
        transpose(lines);
        T* to = tile + in_tile.at(in_strip, column);
        CUPYNN_UNROLL for (int l = 0; l < LANES; l++) lines[l].store(to + l * in_tile.row());
      }
      __syncthreads();
      for (int task = threadIdx.x; task < channel_tiles * panels; task += blockDim.x) {
        const int strip0 = in_tile.first(LANES == 1 ? task % panels : task / channel_tiles);
        const int o = (LANES == 1 ? task / panels : task % channel_tiles) * CHANNELS;
        S sum[CHANNELS][STRIPS];
        accumulate(gradient + o * pitch, pitch, 1, tile + in_tile.at(strip0, 0), in_tile, columns, sum);
        CUPYNN_UNROLL for (int k = 0; k < CHANNELS; k++)
          if (o + k < outs)
            CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) {
              const int c = (strip0 + s * in_tile.step()) * LANES, count = ins - c, out = out0 + o + k;
              if (count <= 0) break;
              if (scale != nullptr) {
                const T* factors = scale + (long long)image * p.scales.image_pitch + out / p.scales.out_run * p.scales.out_pitch;
                sum[k][s] = sum[k][s] * load_part<T, LANES>(factors + in0 + c, count);
              }
              put(sum[k][s], dw + (long long)(o + k) * p.ins + c, count, image > begin || column0 > 0);
            }
      }
    }
}
