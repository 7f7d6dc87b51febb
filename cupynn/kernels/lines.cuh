// Lines of an image moved between global memory and a tile: padded, thinned out by a stride, several side by side.
// A team of neighbouring threads (`member` of `team`) moves one line; a team of one moves a vector register at a time.
// Where the arrays' type S is not the tile's type T, elements are converted on the way.
#pragma once
#include "cupynn.cuh"

__device__ int at_least(int a, int b) { return a > b ? a : b; }
__device__ int at_most(int a, int b) { return a < b ? a : b; }
__device__ int divide_up(int a, int b) { return a > 0 ? (a + b - 1) / b : 0; }

// A tile of `terms` rows of strips, which `count` threads multiply, each STRIPS of them: its panel. On a CPU a panel's
// strips are neighbours, and panels lie one after the other. On a GPU a strip is one element, rows lie one after the
// other, `pitch` apart, and so do a panel's strips, `count` apart: neighbouring threads read neighbours.
template <int LANES, int STRIPS> struct Panels {
  static constexpr bool APART = LANES == 1;
  int count, terms, pitch;

  __device__ int row() const { return APART ? pitch : STRIPS * LANES; }  // elements from one term to the next
  __device__ int step() const { return APART ? count : 1; }              // strips from one to the next of a panel
  __device__ int first(int panel) const { return APART ? panel : panel * STRIPS; }  // its first strip
  // Of `all` strips, those of the panel that begins with strip `first`.
  __device__ int strips(int first, int all) const {
    return APART ? divide_up(all - first, count) : at_most(STRIPS, all - first);
  }
  __device__ int at(int strip, int term) const {
    return APART ? term * pitch + strip : (strip / STRIPS * terms + term) * row() + strip % STRIPS * LANES;
  }
  // Elements of the tile, where its strips take `elements` a row.
  __device__ int room(int elements) const { return terms * (APART ? pitch : elements); }
};

// to[k * IMAGES + image] = from[image * image_pitch + k * STEP] for k < COUNT: constants throughout, so that it becomes a
// few vector shuffles.
template <typename T, int IMAGES, int COUNT, int STEP, typename S>
__device__ void interleave_exactly(T* __restrict__ to, const S* __restrict__ from, long long image_pitch) {
  T lanes[IMAGES * COUNT];
  CUPYNN_UNROLL for (int image = 0; image < IMAGES; image++)
    CUPYNN_UNROLL for (int k = 0; k < COUNT; k++) lanes[k * IMAGES + image] = from[image * image_pitch + k * STEP];
  CUPYNN_UNROLL for (int k = 0; k < IMAGES * COUNT; k++) to[k] = lanes[k];
}

// to[k] = from[k] for k < count < 2 N, in at most log2(N) + 1 moves.
template <typename T, int N, typename To, typename From>
__device__ void copy_part(To* to, const From* from, int count) {
  if constexpr (N > 0) {
    if (count & N) {
      Strip<T, N>::load(from).store(to);
      to += N, from += N;
    }
    copy_part<T, N / 2>(to, from, count);
  }
}

// to[k] = from[k * step] for low <= k < high, and 0 for other k of [0, count). A team of threads shares the work; at steps
// 1 and 2 each moves LANES neighbours at a time.
template <typename T, int LANES, typename S>
__device__ void copy_line(T* __restrict__ to, const S* __restrict__ from, int step, int low, int high, int count, int member,
                          int team) {
  const int whole = low + (high - low) / LANES * LANES, stride = team * LANES;
  if (step == 1) {
    for (int k = low + member * LANES; k < whole; k += stride) Strip<T, LANES>::load(from + k).store(to + k);
    if (member == 0) copy_part<T, LANES / 2>(to + whole, from + whole, high - whole);
  } else if (step == 2) {
    for (int k = low + member * LANES; k < whole; k += stride)
      interleave_exactly<T, 1, LANES, 2>(to + k, from + k * 2, 0);
    for (int k = whole + member; k < high; k += team) to[k] = from[k * 2];
  } else {
    for (int k = low + member; k < high; k += team) to[k] = from[k * step];
  }
  for (int k = member; k < low; k += team) to[k] = T(0);
  for (int k = high + member; k < count; k += team) to[k] = T(0);
}

// to[k * IMAGES + image] = from[image * image_pitch + k * step] for low <= k < high, else 0: IMAGES lines side by side, of
// which the first `present` exist.
template <typename T, int LANES, int IMAGES, typename S>
__device__ void interleave_lines(T* __restrict__ to, const S* __restrict__ from, long long image_pitch, int present,
                                 int step, int low, int high, int count, int member, int team) {
  constexpr int COUNT = LANES / IMAGES;  // what a line has where the images fill the lanes
  for (int k = member; k < low * IMAGES; k += team) to[k] = T(0);
  bool done = false;
  if constexpr (COUNT > 1) {
    done = high - low == COUNT && present >= IMAGES && step <= 2 && team == 1;
    if (done && step == 1) interleave_exactly<T, IMAGES, COUNT, 1>(to + low * IMAGES, from + low, image_pitch);
    if (done && step == 2) interleave_exactly<T, IMAGES, COUNT, 2>(to + low * IMAGES, from + low * 2, image_pitch);
  }
  if (!done)
    for (int k = low + member; k < high; k += team)
      for (int image = 0; image < IMAGES; image++)
        to[k * IMAGES + image] = image < present ? T(from[image * image_pitch + k * step]) : T(0);
  for (int k = high * IMAGES + member; k < count * IMAGES; k += team) to[k] = T(0);
}

// The inverse: to[image * image_pitch + k * step] = lanes[k * IMAGES + image], or added to what is there.
template <typename T, int LANES, int IMAGES, typename S>
__device__ void separate_lines(const T* __restrict__ lanes, S* __restrict__ to, long long image_pitch, int present, int step,
                               int count, bool add) {
  constexpr int COUNT = LANES / IMAGES;
  if (step == 1 && !add && present == IMAGES && count == COUNT) {
    CUPYNN_UNROLL for (int image = 0; image < IMAGES; image++)
      CUPYNN_UNROLL for (int k = 0; k < COUNT; k++) to[image * image_pitch + k] = lanes[k * IMAGES + image];
  } else {
    for (int image = 0; image < present; image++)
      for (int k = 0; k < count; k++) {
        S& out = to[image * image_pitch + k * step];
        out = lanes[k * IMAGES + image] + (add ? T(out) : T(0));
      }
  }
}

// N strips of N elements, rows for columns: exchange blocks of DISTANCE, of DISTANCE / 2, ...
template <int DISTANCE, typename T, int N> __device__ __forceinline__ void exchange(Strip<T, N> (&lines)[N]) {
#if CUPYNN_FOLDS
  typedef decltype(lines[0].part[0] < lines[0].part[0]) Index;
  Index low, high;
  for (int i = 0; i < N; i++) {
    low[i] = i & DISTANCE ? N + i - DISTANCE : i;
    high[i] = i & DISTANCE ? N + i : i + DISTANCE;
  }
  CUPYNN_UNROLL for (int i = 0; i < N; i++)
    if (!(i & DISTANCE)) {
      const auto a = lines[i].part[0], b = lines[i + DISTANCE].part[0];
      lines[i].part[0] = __builtin_shuffle(a, b, low);
      lines[i + DISTANCE].part[0] = __builtin_shuffle(a, b, high);
    }
#endif
  if constexpr (DISTANCE > 1) exchange<DISTANCE / 2>(lines);
}
template <typename T, int N> __device__ __forceinline__ void transpose(Strip<T, N> (&lines)[N]) {
  if constexpr (N == 1) return;
  if constexpr (CUPYNN_FOLDS && Strip<T, N>::LANES == N) {
    exchange<N / 2>(lines);
  } else {
    T lanes[N][N];
    CUPYNN_UNROLL for (int i = 0; i < N; i++)
      CUPYNN_UNROLL for (int k = 0; k < N; k++) lanes[k][i] = lines[i][k];
    CUPYNN_UNROLL for (int i = 0; i < N; i++) lines[i] = Strip<T, N>::load(lanes[i]);
  }
}
