// Cross-layer depthwise convolution: one weight per channel and preceding layer. [DelugeNets, equation 1]
//
//   forward    y[n,c,:]     = bias[c] + sum_l weight[l,c] * (h_l[n,c,:] - mean[l,c])
//   backward   dh_l[n,c,:] (+)= weight[l,c] * g[n,c,:]
//              dweight[l,c] = sum_{n,:} g * (h_l - mean[l,c])            dbias[c] = sum_{n,:} g
//   centre     dh[n,c,:]   += shift[c] + slope[c] * (h[n,c,:] - mean[c])
//
// h_l, y, g, dh_l: (images, channels, plane), contiguous; weight, mean (layers, channels); bias, mean may be null. The
// h_l are read where they lie, through a table of their addresses: nothing is concatenated. `centre` is the part of
// batch norm's gradient that goes through the statistics, once for all readers of an output.
//
// `forward`: a block takes `planes_per_block` planes, a thread a run of STRIPS strips of LANES elements, for which it
// meets all layers. `backward`: a block takes a group of channels of a few images, a chunk; its part of the gradient
// stays in the first cache while all layers pass. A thread's sums lie in shared memory, its partial results in
// (chunks, layers + 1, channels); `combine` adds the chunks up in order, so that two runs give the same bits.
//
// S is the type of h_l, y, g and dh_l; weights, means and sums have type T = Compute<S>.
//
// Floor, per element of y: L reads and 1 write, 2 L operations; backward L + 1 reads and L writes (2 L + 1 reads where
// gradients are added), 4 L operations. Memory bandwidth bounds both.
#include "lines.cuh"

// Array number l of a table: the address base + table[l] in bytes. A null base makes the table's entries addresses; in
// checked mode all arrays lie in one, which the checker can follow.
template <typename T> __device__ __forceinline__ T* array_of(T* base, const long long* table, int l) {
  return reinterpret_cast<T*>(reinterpret_cast<long long>(base) + table[l]);
}

// y at STRIPS strips of a plane, from element `at` of the arrays on.
template <int STRIPS, int LANES, typename T, typename S>
__device__ __forceinline__ void sum_layers(const S* base, const long long* __restrict__ table,
                                           const T* __restrict__ weight, const T* __restrict__ mean, T start,
                                           S* __restrict__ y, long long at, int c, int layers, int channels) {
  using Lanes = Strip<T, LANES>;
  Lanes sums[STRIPS];
  CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) sums[s] = Lanes::broadcast(start);
  for (int l = 0; l < layers; l++) {
    const S* from = array_of(base, table, l) + at;
    const T factor = weight[l * channels + c], about = mean ? mean[l * channels + c] : T(0);
    CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++)
      sums[s] = fma(Lanes::load(from + s * LANES) - about, factor, sums[s]);
  }
  CUPYNN_UNROLL for (int s = 0; s < STRIPS; s++) sums[s].store(y + at + s * LANES);
}

template <typename S, int LANES, int STRIPS, typename T = Compute<S>>
__global__ void forward(const S* base, const long long* __restrict__ table, const T* __restrict__ weight,
                        const T* __restrict__ mean, const T* __restrict__ bias, S* __restrict__ y, int layers,
                        int channels, int plane, long long planes, int planes_per_block) {
  const long long first = (long long)blockIdx.x * planes_per_block;
  const long long last = first + planes_per_block < planes ? first + planes_per_block : planes;
  int c = int((first + threadIdx.y) % channels);
  for (long long p = first + threadIdx.y; p < last; p += blockDim.y) {
    const T start = bias ? bias[c] : T(0);
    const long long row = p * plane;
    int i = threadIdx.x * LANES * STRIPS;
    for (; i + LANES * STRIPS <= plane; i += blockDim.x * LANES * STRIPS)
      sum_layers<STRIPS, LANES>(base, table, weight, mean, start, y, row + i, c, layers, channels);
    if (i < plane) {  // this thread has the last, short run
      for (; i + LANES <= plane; i += LANES)
        sum_layers<1, LANES>(base, table, weight, mean, start, y, row + i, c, layers, channels);
      for (; i < plane; i++) sum_layers<1, 1>(base, table, weight, mean, start, y, row + i, c, layers, channels);
    }
    for (c += blockDim.y; c >= channels;) c -= channels;
  }
}

enum { NOTHING, WRITE, ADD };

// The gradient at elements i .. i + LANES - 1 of one layer, and their g * (h - mean), or g where h is null.
template <int WANTED, int LANES, typename T, typename S>
__device__ __forceinline__ Strip<T, LANES> pass_strip(const S* g, const S* h, S* dh, T factor, T mean, int i) {
  using Lanes = Strip<T, LANES>;
  const Lanes grad = Lanes::load(g + i);
  if (WANTED == WRITE) (grad * factor).store(dh + i);
  if (WANTED == ADD) fma(grad, factor, Lanes::load(dh + i)).store(dh + i);
  return h ? grad * (Lanes::load(h + i) - mean) : grad;
}

// One layer's part of `here` channels of an image: its gradient, and the sums of g * (h - about), or of g where h is
// null, which are added to each channel's `sums`, `pitch` strips apart. Rows of threads share the channels.
template <int WANTED, int LANES, typename T, typename S>
__device__ __forceinline__ void pass_layer(const S* g, const S* h, S* dh, const T* factors, const T* about, T* sums,
                                           int here, int plane, int pitch) {
  using Lanes = Strip<T, LANES>;
  constexpr int CHAINS = 4;
  const int step = blockDim.x * LANES;
  for (int k = threadIdx.y; k < here; k += blockDim.y) {
    const T factor = factors[k], mean = about ? about[k] : T(0);
    const int end = (k + 1) * plane;
    T* own = sums + k * pitch * LANES;
    Lanes sum[CHAINS] = {Lanes::load(own), Lanes::broadcast(T(0)), Lanes::broadcast(T(0)), Lanes::broadcast(T(0))};
    int i = k * plane + threadIdx.x * LANES;
    for (; i + (CHAINS - 1) * step + LANES <= end; i += CHAINS * step) {
      CUPYNN_UNROLL for (int s = 0; s < CHAINS; s++)
        sum[s] = sum[s] + pass_strip<WANTED, LANES>(g, h, dh, factor, mean, i + s * step);
    }
    for (; i + LANES <= end; i += step) sum[0] = sum[0] + pass_strip<WANTED, LANES>(g, h, dh, factor, mean, i);
    ((sum[0] + sum[1]) + (sum[2] + sum[3])).store(own);
    if (LANES > 1)
      for (int lane = 0; i + lane < end; lane++)
        own[lane] += pass_strip<WANTED, 1>(g, h, dh, factor, mean, i + lane)[0];
  }
}

template <typename S, int LANES, typename T = Compute<S>>
__global__ void backward(const S* __restrict__ grad, const S* base, const long long* __restrict__ table, S* dbase,
                         const long long* __restrict__ dtable, const int* __restrict__ wanted,
                         const T* __restrict__ weight, const T* __restrict__ mean, T* __restrict__ partial, int layers,
                         int images, int channels, int plane, int images_per_chunk, int group) {
  extern __shared__ unsigned char shared_memory[];
  using Lanes = Strip<T, LANES>;
  const int c0 = blockIdx.y * group, here = at_most(group, channels - c0), team = blockDim.x;
  const int pitch = (layers + 1) * team;
  T* all_sums = register_pointer((T*)shared_memory);
  for (int k = threadIdx.y; k < here * (layers + 1); k += blockDim.y)
    Lanes::broadcast(T(0)).store(all_sums + (k * team + int(threadIdx.x)) * LANES);
  __syncthreads();
  const int image0 = blockIdx.x * images_per_chunk;
  for (int n = image0; n < at_most(image0 + images_per_chunk, images); n++) {
    const long long at = ((long long)n * channels + c0) * plane;
    const S* g = grad + at;
    for (int l = 0; l < layers; l++) {
      const S* h = array_of(base, table, l) + at;
      const T *factors = weight + l * channels + c0, *about = mean ? mean + l * channels + c0 : nullptr;
      S* dh = array_of(dbase, dtable, l) + at;
      T* sums = all_sums + (l * team + int(threadIdx.x)) * LANES;
      switch (wanted[l]) {
        case NOTHING: pass_layer<NOTHING, LANES>(g, h, dh, factors, about, sums, here, plane, pitch); break;
        case WRITE: pass_layer<WRITE, LANES>(g, h, dh, factors, about, sums, here, plane, pitch); break;
        default: pass_layer<ADD, LANES>(g, h, dh, factors, about, sums, here, plane, pitch);
      }
    }
    T* totals = all_sums + (layers * team + int(threadIdx.x)) * LANES;
    pass_layer<NOTHING, LANES>(g, (const S*)nullptr, (S*)nullptr, weight, (const T*)nullptr, totals, here, plane,
                               pitch);
  }
  __syncthreads();
  for (int k = block_thread(); k < here * (layers + 1); k += block_threads()) {
    Lanes sum = Lanes::load(all_sums + k * team * LANES);
    for (int other = 1; other < team; other++) sum = sum + Lanes::load(all_sums + (k * team + other) * LANES);
    partial[((long long)blockIdx.x * (layers + 1) + k % (layers + 1)) * channels + c0 + k / (layers + 1)] = sum.sum();
  }
}

// total[k] = sum of partial[chunk][k] over the chunks, in order. Each block adds up `span` neighbouring k.
template <typename T>
__global__ void combine(const T* __restrict__ partial, T* __restrict__ total, int count, int chunks, int span) {
  const int end = at_most(count, (blockIdx.x + 1) * span);
  for (int chunk = 0; chunk < chunks; chunk++)
    for (int k = blockIdx.x * span + threadIdx.x; k < end; k += blockDim.x)
      total[k] = partial[(long long)chunk * count + k] + (chunk > 0 ? total[k] : T(0));
}

template <typename S, typename T = Compute<S>>
__global__ void centre(S* __restrict__ dh, const S* __restrict__ h, const T* __restrict__ mean,
                       const T* __restrict__ shift, const T* __restrict__ slope, int channels, int plane,
                       long long planes, int planes_per_block) {
  const long long first = (long long)blockIdx.x * planes_per_block;
  const long long last = first + planes_per_block < planes ? first + planes_per_block : planes;
  int c = int((first + threadIdx.y) % channels);
  for (long long p = first + threadIdx.y; p < last; p += blockDim.y) {
    const T about = mean[c], constant = shift[c], factor = slope[c];
    STRIP_LOOP
    for (int i = threadIdx.x; i < plane; i += blockDim.x)
      dh[p * plane + i] = dh[p * plane + i] + (constant + factor * (h[p * plane + i] - about));
    for (c += blockDim.y; c >= channels;) c -= channels;
  }
}
