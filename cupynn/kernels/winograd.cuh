// The transforms of Winograd's F(4x4, 3x3), one dimension of each.
#pragma once
#include "lines.cuh"

// The points 0, +-A, +-B and infinity. All but G's fractions are exact in float.
template <typename T> struct Points {
  static constexpr T A = T(0.625), B = T(1.5), A2 = A * A, B2 = B * B, A3 = A2 * A, B3 = B2 * B;
  static constexpr T G0 = T(1) / (A2 * B2), GA = T(1) / (2 * A2 * (A2 - B2)), GB = T(1) / (2 * B2 * (B2 - A2));
};

// v = B^T x
template <typename T, typename S> __device__ __forceinline__ void transform_tile(const S (&x)[6], S (&v)[6]) {
  using P = Points<T>;
  const S even_a = x[4] - P::B2 * x[2], odd_a = x[3] - P::B2 * x[1];
  const S even_b = x[4] - P::A2 * x[2], odd_b = x[3] - P::A2 * x[1];
  v[0] = (P::A2 * P::B2) * x[0] + (x[4] - (P::A2 + P::B2) * x[2]);
  v[1] = even_a + P::A * odd_a;
  v[2] = even_a - P::A * odd_a;
  v[3] = even_b + P::B * odd_b;
  v[4] = even_b - P::B * odd_b;
  v[5] = (P::A2 * P::B2) * x[1] + (x[5] - (P::A2 + P::B2) * x[3]);
}

// y = A^T m, and its transpose m = A y
template <typename T, typename S> __device__ __forceinline__ void transform_output(const S (&m)[6], S (&y)[4]) {
  using P = Points<T>;
  const S even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
  y[0] = m[0] + even_a + even_b;
  y[1] = P::A * odd_a + P::B * odd_b;
  y[2] = P::A2 * even_a + P::B2 * even_b;
  y[3] = P::A3 * odd_a + (P::B3 * odd_b + m[5]);
}
template <typename T, typename S> __device__ __forceinline__ void transform_tile(const S (&y)[4], S (&m)[6]) {
  using P = Points<T>;
  const S even_a = P::A2 * y[2] + y[0], odd_a = P::A3 * y[3] + P::A * y[1];
  const S even_b = P::B2 * y[2] + y[0], odd_b = P::B3 * y[3] + P::B * y[1];
  m[0] = y[0];
  m[1] = even_a + odd_a;
  m[2] = even_a - odd_a;
  m[3] = even_b + odd_b;
  m[4] = even_b - odd_b;
  m[5] = y[3];
}

// u = G g, and its transpose g = G^T u
template <typename T, typename S> __device__ __forceinline__ void transform_weights(const S (&g)[3], S (&u)[6]) {
  using P = Points<T>;
  const S even_a = P::GA * (P::A2 * g[2] + g[0]), odd_a = (P::GA * P::A) * g[1];
  const S even_b = P::GB * (P::B2 * g[2] + g[0]), odd_b = (P::GB * P::B) * g[1];
  u[0] = P::G0 * g[0];
  u[1] = even_a + odd_a;
  u[2] = even_a - odd_a;
  u[3] = even_b + odd_b;
  u[4] = even_b - odd_b;
  u[5] = g[2];
}
template <typename T, typename S> __device__ __forceinline__ void transform_sums(const S (&u)[6], S (&g)[3]) {
  using P = Points<T>;
  const S even_a = P::GA * (u[1] + u[2]), even_b = P::GB * (u[3] + u[4]);
  g[0] = P::G0 * u[0] + (even_a + even_b);
  g[1] = (P::GA * P::A) * (u[1] - u[2]) + (P::GB * P::B) * (u[3] - u[4]);
  g[2] = P::A2 * even_a + (P::B2 * even_b + u[5]);
}

// from[0], from[1], ..., of which `count` exist; zeros for the others.
template <typename T, int LANES> __device__ __forceinline__ Strip<T, LANES> load_part(const T* from, long long count) {
  if (count >= LANES) return Strip<T, LANES>::load(from);
  T lanes[LANES] = {};
  for (int i = 0; i < count; i++) lanes[i] = from[i];
  return Strip<T, LANES>::load(lanes);
}
