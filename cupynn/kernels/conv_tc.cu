// Dense convolution on tensor cores, as products of matrices that are gathered while they are multiplied (implicit GEMM):
// forward, gradient to the input, gradient to the weight. `conv.cu` has the equations; groups = 1.
//
//   convolve          out (pixels, channels) = read (pixels, taps x channels) w (taps x channels, channels)
//   weight_gradient   dw (out channels, taps x channels) = grad (pixels, out channels)^T read (pixels, taps x channels)
//
// where row (n, p, q) and tap (i, j) of `read` are all channels of one pixel, or zeros outside the image. `convolve` is
// the forward pass, and with y's gradient and transposed weights the gradient to the input: pixels of dx whose
// coordinates have the same remainder modulo the stride form a *phase* with taps of its own (`conv_plan.py`).
//
// `lay_out` writes images (N, C, H, W) as (N, H, W, channels), and `pack` weights (O, C, KH, KW) as (out, taps, channels),
// rounded to what tensor cores multiply (E: float as TF32, Half, BFloat16), with channels padded by zeros to a multiple
// of 16 bytes, a *chunk*. So every copy moves one chunk of one pixel, and is aligned.
//
// A block computes a tile of 128 pixels x 32 WARPS_N channels, a warp one of 16 ROWS x 32, in registers. It goes through
// taps and channels 64 bytes at a time (4 chunks, which may be of several taps): of STAGES stages in shared memory one
// is multiplied while copies into the others are under way. Within a stage chunks are exchanged (`swizzled`), so
// that the eight rows of a matrix that a warp loads lie in different banks.
//
// `weight_gradient` sums over pixels: its stages hold 64 / sizeof(E) pixels. Blocks share the pixels out in `parts`, whose
// sums `reduce` adds in fixed order: the same bits every time.
//
// Products are exact in float32 and summed there. Floor: read x and w once, write y once; N OH OW O C KH KW multiply-adds.
// Measured on no GPU yet.

#include "tensor_core.cuh"

constexpr int STAGES = 4, CHUNK = 16, STAGE_BYTES = 64;

// What `conv_tc.py` worked out for one shape: this struct, then of `convolve` `phases` structs Phase, then a Tap for every
// tap of every phase; of `weight_gradient` the taps.
struct Plan {
  int read_height, read_width, read_chunks;  // of the array that is gathered from
  int read_step_y, read_step_x;              // between neighbouring outputs' windows
  int outs;                                  // channels that are written; of weight_gradient those of grad
  int elements;                              // of the kernel
  int phases;
  // convolve
  int channel_tiles;
  int plane, write_width;                    // of the array that is written: height x width, and width
  int write_step_y, write_step_x;            // between neighbouring outputs of a phase
  // weight_gradient
  int pixels, height, width;                 // of grad: N OH OW, OH, OW
  int out_tiles, column_tiles;
  int part;                                  // pixels of a part
};
struct Phase {
  int first_block, pixels, height, width;    // blocks before this phase's; images x height x width outputs
  int first_y, first_x;                      // the first output
  int first_tap, taps;
};
struct Tap { int y, x, element; };           // offset from an output's window, number of the kernel's element

// Where chunk `chunk` of row `row` lies, for rows of CHUNKS chunks: the eight rows of a matrix lie in different banks.
// FLOATS: rows are read a word at a time, eight neighbours from each of four rows.
template <int CHUNKS, bool FLOATS = false> __device__ __forceinline__ int swizzled(int row, int chunk) {
  const int exchange = FLOATS ? (row & 3) * 2 : CHUNKS == 4 ? row >> 1 & 3 : row & 7;
  return (row * CHUNKS + (chunk ^ exchange)) * CHUNK;
}

// x (N, channels, plane) -> laid (N, plane, padded): a block moves 32 channels of 64 pixels, and a thread writes a chunk of
// one pixel at a time. Images of x lie `pitch` elements apart.
template <typename E>
__global__ void __launch_bounds__(256) lay_out(
    const E* __restrict__ x, E* __restrict__ laid, int channels, int padded, int plane, long long pitch) {
  constexpr int IN_CHUNK = CHUNK / sizeof(E), CHUNKS = 32 / IN_CHUNK, TEAMS = 256 / CHUNKS;
  __shared__ float tile[32][65];  // threads that read it below read different banks
  const int first_channel = blockIdx.y * 32, pixel_tiles = (plane - 1) / 64 + 1;
  const int first_pixel = blockIdx.x % pixel_tiles * 64;
  const long long image = blockIdx.x / pixel_tiles;
  const int row = threadIdx.x / 64, column = threadIdx.x % 64;
  const E* from = x + image * pitch + (long long)(first_channel + row) * plane + first_pixel + column;
  const int present = first_pixel + column < plane ? channels - first_channel : 0;
  REGISTER_LOOP for (int i = 0; i < 32; i += 4)
    tile[i + row][column] = i + row < present ? float(from[(long long)i * plane]) : 0.0f;
  __syncthreads();
  const int chunk = threadIdx.x % CHUNKS, team = threadIdx.x / CHUNKS;
  if (first_channel + chunk * IN_CHUNK >= padded) return;
  REGISTER_LOOP for (int i = 0; i < 64; i += TEAMS) {
    const int pixel = i + team;
    if (first_pixel + pixel >= plane) return;
    alignas(CHUNK) E numbers[IN_CHUNK];
    REGISTER_LOOP for (int k = 0; k < IN_CHUNK; k++)
      numbers[k] = tensor_core_number<E>(tile[chunk * IN_CHUNK + k][pixel]);
    const long long at = image * plane + first_pixel + pixel;
    store_16_bytes(laid + at * padded + first_channel + chunk * IN_CHUNK, numbers);
  }
}

// packed[out][element][channel] = w[o][c][element] of (out, channel) = (o, c), or (c, o) where TRANSPOSED. A block has one
// out.
template <typename E>
__global__ void __launch_bounds__(256) pack(
    const float* __restrict__ w, E* __restrict__ packed, int channels, int padded, int elements, bool transposed) {
  const int count = elements * padded;
  const long long out = blockIdx.x;
  for (int i = threadIdx.x; i < count; i += 256) {
    const int channel = i % padded, element = i / padded;
    const long long row = transposed ? (long long)channel * gridDim.x + out : out * channels + channel;
    packed[out * count + i] = tensor_core_number<E>(channel < channels ? w[row * elements + element] : 0.0f);
  }
}

// y = convolution of x, laid out, with packed weights: a tile of 128 pixels of a phase and 32 WARPS_N channels. Images of y
// lie `y_pitch` elements apart.
template <typename E, int ROWS, int WARPS_M, int WARPS_N>
__global__ void __launch_bounds__(WARPS_M * WARPS_N * 32, WARPS_M * WARPS_N > 4 ? 2 : 3) convolve(
    const E* __restrict__ x, const E* __restrict__ packed, const float* __restrict__ bias, E* __restrict__ y,
    const int* __restrict__ plan_data, long long y_pitch, bool accumulate) {
  constexpr int THREADS = WARPS_M * WARPS_N * 32, M = WARPS_M * ROWS * 16, N = WARPS_N * 32;
  constexpr int CHUNKS = STAGE_BYTES / CHUNK, TEAMS = THREADS / CHUNKS;  // a team copies a row
  constexpr int M_COPIES = M / TEAMS, N_COPIES = N / TEAMS;
  extern __shared__ __align__(128) unsigned char shared_memory[];
  const Plan plan = *(const Plan*)plan_data;  // in registers: copies may change any memory, for all the compiler knows
  const Phase* phases = (const Phase*)((const Plan*)plan_data + 1);
  int number = plan.phases - 1;
  const int block = blockIdx.x / plan.channel_tiles, first_out = blockIdx.x % plan.channel_tiles * N;
  while (phases[number].first_block > block) --number;
  const Phase phase = phases[number];
  const Tap* taps = (const Tap*)(phases + plan.phases) + phase.first_tap;
  const int first_pixel = (block - phase.first_block) * M;
  const int lane = threadIdx.x % 32, warp_m = threadIdx.x / 32 % WARPS_M, warp_n = threadIdx.x / 32 / WARPS_M;

  // What this thread copies: one chunk of every stage, of some pixels and some output channels.
  const int team = threadIdx.x / CHUNKS, member = threadIdx.x % CHUNKS;
  int top[M_COPIES], left[M_COPIES];      // a pixel's window
  const unsigned char* pixels[M_COPIES];  // its first pixel, which may lie outside the image
  REGISTER_LOOP for (int i = 0; i < M_COPIES; i++) {
    const int m = first_pixel + team + i * TEAMS, row = m / phase.width;
    const long long image = row / phase.height;
    top[i] = m < phase.pixels ? row % phase.height * plan.read_step_y : -(1 << 30);  // outside, whatever the tap
    left[i] = m % phase.width * plan.read_step_x;
    const long long pixel = (image * plan.read_height + row % phase.height * plan.read_step_y) * plan.read_width + left[i];
    pixels[i] = (const unsigned char*)x + pixel * plan.read_chunks * CHUNK;
  }
  const int out_chunks = plan.elements * plan.read_chunks;
  const unsigned char* outs = (const unsigned char*)packed + (long long)(first_out + team) * out_chunks * CHUNK;
  int tap = member / plan.read_chunks, chunk = member % plan.read_chunks;
  const int place = swizzled<CHUNKS>(team, member);  // of the first; the others lie TEAMS rows on
  static_assert(TEAMS % 8 == 0, "chunks are exchanged in the same way every 8 rows");

  AsyncCopies copies;
  auto start_copies = [&](int stage) {
    unsigned char *to_m = shared_memory + stage * (M + N) * STAGE_BYTES + place, *to_n = to_m + M * STAGE_BYTES;
    const bool any = tap < phase.taps;
    const Tap at = any ? taps[tap] : Tap{0, 0, 0};
    const long long shift = (at.y * plan.read_width + at.x) * plan.read_chunks + chunk;
    const int element = at.element * plan.read_chunks + chunk;
    REGISTER_LOOP for (int i = 0; i < M_COPIES; i++) {
      const bool there = any && (unsigned)(top[i] + at.y) < (unsigned)plan.read_height &&
                         (unsigned)(left[i] + at.x) < (unsigned)plan.read_width;
      copies.copy(to_m + i * TEAMS * STAGE_BYTES, pixels[i] + shift * CHUNK, there);
    }
    REGISTER_LOOP for (int i = 0; i < N_COPIES; i++) {
      const bool there = any && first_out + team + i * TEAMS < plan.outs;
      copies.copy(to_n + i * TEAMS * STAGE_BYTES, outs + (i * TEAMS * (long long)out_chunks + element) * CHUNK, there);
    }
    for (chunk += CHUNKS; chunk >= plan.read_chunks; chunk -= plan.read_chunks) ++tap;
  };

  // The row of a matrix whose address this lane gives. Exchanging chunks is an exclusive or, so that another one of the
  // chunks, which are 4 aligned ones, is, too.
  const int m_place = warp_m * ROWS * 16 * STAGE_BYTES + swizzled<CHUNKS>(lane % 16, lane / 16);
  const int n_place = warp_n * 32 * STAGE_BYTES + swizzled<CHUNKS>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
  float sums[ROWS][4][4] = {};
  const int stages = (phase.taps * plan.read_chunks + CHUNKS - 1) / CHUNKS;
  REGISTER_LOOP for (int i = 0; i < STAGES - 1; i++) {
    if (i < stages) start_copies(i);
    copies.commit();
  }
  for (int i = 0; i < stages; i++) {
    copies.wait<STAGES - 2>();
    __syncthreads();  // stage i has arrived for all, and all are done with stage i - 1, which is filled next
    const unsigned char *m = shared_memory + i % STAGES * (M + N) * STAGE_BYTES, *n = m + M * STAGE_BYTES;
    REGISTER_LOOP for (int half = 0; half < 2; half++) {  // 32 bytes of each row: what one product takes
      unsigned b[2][4];
      REGISTER_LOOP for (int j = 0; j < 2; j++)
        load_matrices<false>(b[j], n + (n_place ^ half * 2 * CHUNK) + j * 16 * STAGE_BYTES);
      REGISTER_LOOP for (int r = 0; r < ROWS; r++) {
        unsigned a[4];
        load_matrices<false>(a, m + (m_place ^ half * 2 * CHUNK) + r * 16 * STAGE_BYTES);
        REGISTER_LOOP for (int j = 0; j < 4; j++)
          multiply_add<E>(sums[r][j], a, {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]});
      }
      if (half == 0) {  // addresses are reckoned while the tensor cores work
        if (i + STAGES - 1 < stages) start_copies((i + STAGES - 1) % STAGES);
        copies.commit();
      }
    }
  }
  copies.wait<0>();
  __syncthreads();

  // Through shared memory to strips of neighbouring pixels of one channel: 16 channels at a time, each warp for itself.
  constexpr int PIXELS = ROWS * 16, PITCH = PIXELS + 4, STRIPS = PIXELS / 32;
  float* strips = (float*)shared_memory + threadIdx.x / 32 * 16 * PITCH;
  long long to[STRIPS];
  bool there[STRIPS];
  REGISTER_LOOP for (int i = 0; i < STRIPS; i++) {
    const int m = first_pixel + warp_m * PIXELS + i * 32 + lane, row = m / phase.width;
    const long long line = phase.first_y + (long long)(row % phase.height) * plan.write_step_y;
    there[i] = m < phase.pixels;
    to[i] = row / phase.height * y_pitch + line * plan.write_width + phase.first_x + m % phase.width * plan.write_step_x;
  }
  REGISTER_LOOP for (int half = 0; half < 2; half++) {
    REGISTER_LOOP for (int r = 0; r < ROWS; r++)
      REGISTER_LOOP for (int j = 0; j < 2; j++)
        REGISTER_LOOP for (int k = 0; k < 4; k++)
          strips[(j * 8 + lane % 4 * 2 + k % 2) * PITCH + r * 16 + k / 2 * 8 + lane / 4] = sums[r][half * 2 + j][k];
    __syncwarp();
    for (int k = 0; k < 16; k++) {
      const int out = first_out + warp_n * 32 + half * 16 + k;
      if (out >= plan.outs) break;
      const float start = bias ? bias[out] : 0.0f;
      REGISTER_LOOP for (int i = 0; i < STRIPS; i++)
        if (there[i]) {
          E& element = y[to[i] + (long long)out * plan.plane];
          element = strips[k * PITCH + i * 32 + lane] + start + (accumulate ? float(element) : 0.0f);
        }
    }
    __syncwarp();
  }
}

// partial[part][out][element][channel], of channels padded: the sums over one part's pixels, for a tile of 16 ROWS WARPS_M
// output channels and 32 WARPS_N columns (element, channel). grad and x are laid out.
template <typename E, int ROWS, int WARPS_M, int WARPS_N>
__global__ void __launch_bounds__(WARPS_M * WARPS_N * 32, WARPS_M * WARPS_N > 4 ? 2 : 3) weight_gradient(
    const E* __restrict__ grad, const E* __restrict__ x, float* __restrict__ partial, const int* __restrict__ plan_data) {
  constexpr int THREADS = WARPS_M * WARPS_N * 32, M = WARPS_M * ROWS * 16, N = WARPS_N * 32;
  constexpr bool FLOATS = sizeof(E) == 4;
  constexpr int PIXELS = STAGE_BYTES / sizeof(E), IN_CHUNK = CHUNK / sizeof(E);
  constexpr int M_CHUNKS = M / IN_CHUNK, N_CHUNKS = N / IN_CHUNK;            // of a pixel
  constexpr int M_ROW = M * sizeof(E), N_ROW = N * sizeof(E);                // bytes of it
  constexpr int M_TEAMS = THREADS / M_CHUNKS, N_TEAMS = THREADS / N_CHUNKS;  // a team copies a pixel
  constexpr int M_COPIES = PIXELS / M_TEAMS, N_COPIES = PIXELS / N_TEAMS;
  extern __shared__ __align__(128) unsigned char shared_memory[];
  const Plan plan = *(const Plan*)plan_data;
  const Tap* taps = (const Tap*)((const Plan*)plan_data + 1);
  const int first_out = blockIdx.x % plan.out_tiles * M, tile = blockIdx.x / plan.out_tiles;
  const int first_chunk = tile % plan.column_tiles * N_CHUNKS, part = tile / plan.column_tiles;
  const int begin = part * plan.part, end = min(plan.part, plan.pixels - begin) + begin;
  const int lane = threadIdx.x % 32, warp_m = threadIdx.x / 32 % WARPS_M, warp_n = threadIdx.x / 32 / WARPS_M;

  // What this thread copies: one chunk of grad of some pixels, one chunk of one tap of some pixels.
  const int grad_chunks = (plan.outs + IN_CHUNK - 1) / IN_CHUNK;
  const int m_team = threadIdx.x / M_CHUNKS, m_member = threadIdx.x % M_CHUNKS;
  const int n_team = threadIdx.x / N_CHUNKS, n_member = threadIdx.x % N_CHUNKS;
  const int m_chunk = first_out / IN_CHUNK + m_member;
  const int column = first_chunk + n_member, columns = plan.elements * plan.read_chunks;
  const bool any = m_chunk < grad_chunks;
  const Tap at = column < columns ? taps[column / plan.read_chunks] : Tap{-(1 << 30), 0, 0};  // outside every image
  int first = begin;  // pixel of the next stage
  const unsigned char* grads = (const unsigned char*)grad + ((long long)(begin + m_team) * grad_chunks + m_chunk) * CHUNK;
  const unsigned char* reads = (const unsigned char*)x + column % plan.read_chunks * CHUNK;
  const int m_first = swizzled<M_CHUNKS, FLOATS>(m_team, m_member), n_first = swizzled<N_CHUNKS, FLOATS>(n_team, n_member);
  static_assert(M_TEAMS % (FLOATS ? 4 : 8) == 0 && N_TEAMS % (FLOATS ? 4 : 8) == 0, "chunks are exchanged alike");
  int image[N_COPIES], line[N_COPIES], place[N_COPIES];  // where the pixels to copy lie in grad
  REGISTER_LOOP for (int i = 0; i < N_COPIES; i++) {
    const int pixel = begin + n_team + i * N_TEAMS;
    image[i] = pixel / plan.width / plan.height;
    line[i] = pixel / plan.width % plan.height;
    place[i] = pixel % plan.width;
  }
  const int images_on = PIXELS / plan.width / plan.height;  // from a stage's pixels to the next's
  const int lines_on = PIXELS / plan.width % plan.height, places_on = PIXELS % plan.width;

  AsyncCopies copies;
  auto start_copies = [&](int stage) {
    unsigned char *to_m = shared_memory + stage * (M + N) * STAGE_BYTES, *to_n = to_m + M * STAGE_BYTES;
    REGISTER_LOOP for (int i = 0; i < M_COPIES; i++) {
      const bool there = any && first + m_team + i * M_TEAMS < end;
      copies.copy(to_m + m_first + i * M_TEAMS * M_ROW, grads + (long long)i * M_TEAMS * grad_chunks * CHUNK, there);
    }
    grads += (long long)PIXELS * grad_chunks * CHUNK;
    REGISTER_LOOP for (int i = 0; i < N_COPIES; i++) {
      const int top = line[i] * plan.read_step_y + at.y, left = place[i] * plan.read_step_x + at.x;
      const bool there = first + n_team + i * N_TEAMS < end && (unsigned)top < (unsigned)plan.read_height &&
                         (unsigned)left < (unsigned)plan.read_width;
      const long long from = ((long long)image[i] * plan.read_height + top) * plan.read_width + left;
      copies.copy(to_n + n_first + i * N_TEAMS * N_ROW, reads + from * plan.read_chunks * CHUNK, there);
      place[i] += places_on;
      const int next_line = place[i] >= plan.width;
      place[i] -= next_line * plan.width;
      line[i] += lines_on + next_line;
      const int next_image = line[i] >= plan.height;
      line[i] -= next_image * plan.height;
      image[i] += images_on + next_image;
    }
    first += PIXELS;
  };

  // Where this lane's share of a product's factors lies: words of TF32 numbers, or the row of a matrix to be transposed.
  // As in convolve, the chunk `n` chunks on is an exclusive or with n.
  const int m_row = FLOATS ? lane % 4 : lane / 16 * 8 + lane % 8, n_row = FLOATS ? lane % 4 : lane % 16;
  const int m_chunks_on = warp_m * ROWS * 16 / IN_CHUNK + (FLOATS ? lane / 16 : lane / 8 % 2);
  const int n_chunks_on = warp_n * 32 / IN_CHUNK + lane / 16, in_chunk = FLOATS ? lane / 4 % 4 * 4 : 0;
  const int m_place = swizzled<M_CHUNKS, FLOATS>(m_row, m_chunks_on) + in_chunk;
  const int n_place = swizzled<N_CHUNKS, FLOATS>(n_row, n_chunks_on) + in_chunk;
  float sums[ROWS][4][4] = {};
  const int stages = (end - begin + PIXELS - 1) / PIXELS;
  REGISTER_LOOP for (int i = 0; i < STAGES - 1; i++) {
    if (i < stages) start_copies(i);
    copies.commit();
  }
  for (int i = 0; i < stages; i++) {
    copies.wait<STAGES - 2>();
    __syncthreads();  // as in convolve
    const unsigned char *m = shared_memory + i % STAGES * (M + N) * STAGE_BYTES, *n = m + M * STAGE_BYTES;
    REGISTER_LOOP for (int half = 0; half < 2; half++) {
      constexpr int WIDTH = sizeof(E) * 16;  // bytes of 16 columns
      unsigned b[2][4];
      REGISTER_LOOP for (int j = 0; j < 2; j++)
        if constexpr (FLOATS) {
          REGISTER_LOOP for (int k = 0; k < 4; k++)
            b[j][k] = *(const unsigned*)(n + (n_place ^ (j * WIDTH + k / 2 * WIDTH / 2)) + k % 2 * 4 * N_ROW);
        } else {
          load_matrices<true>(b[j], n + (n_place ^ j * WIDTH));
        }
      REGISTER_LOOP for (int r = 0; r < ROWS; r++) {
        unsigned a[4];
        if constexpr (FLOATS) {
          REGISTER_LOOP for (int k = 0; k < 4; k++)
            a[k] = *(const unsigned*)(m + (m_place ^ (r * WIDTH + k % 2 * WIDTH / 2)) + k / 2 * 4 * M_ROW);
        } else {
          load_matrices<true>(a, m + (m_place ^ r * WIDTH));
        }
        REGISTER_LOOP for (int j = 0; j < 4; j++)
          multiply_add<E>(sums[r][j], a, {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]});
      }
      m += PIXELS / 2 * M_ROW, n += PIXELS / 2 * N_ROW;
      if (half == 0) {
        if (i + STAGES - 1 < stages) start_copies((i + STAGES - 1) % STAGES);
        copies.commit();
      }
    }
  }
  copies.wait<0>();

  const long long padded = (long long)columns * IN_CHUNK;
  partial += (long long)part * plan.outs * padded;
  REGISTER_LOOP for (int r = 0; r < ROWS; r++)
    REGISTER_LOOP for (int j = 0; j < 4; j++)
      REGISTER_LOOP for (int k = 0; k < 2; k++) {
        const int out = first_out + (warp_m * ROWS + r) * 16 + k * 8 + lane / 4;
        const long long to = (long long)first_chunk * IN_CHUNK + warp_n * 32 + j * 8 + lane % 4 * 2;
        if (out < plan.outs && to < padded)
          *(float2*)(partial + out * padded + to) = make_float2(sums[r][j][k * 2], sums[r][j][k * 2 + 1]);
      }
}

// dw (O, C, elements) = the sum of `parts` of partial (parts, O, elements, padded). A block has one o.
__global__ void __launch_bounds__(256) reduce(
    const float* __restrict__ partial, float* __restrict__ dw, int channels, int padded, int elements, int parts) {
  const int count = elements * padded;
  const long long out = blockIdx.x;
  for (int i = threadIdx.x; i < count; i += 256) {
    const int channel = i % padded, element = i / padded;
    if (channel >= channels) continue;
    float sum = 0;
    for (int part = 0; part < parts; part++) sum += partial[(part * (long long)gridDim.x + out) * count + i];
    dw[(out * channels + channel) * elements + element] = sum;
  }
}
