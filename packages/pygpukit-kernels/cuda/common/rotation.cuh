// Rotary position embedding (Su et al. 2021, arXiv:2104.09864) of the heads of a token, each by one warp.
#pragma once
#include "memory.cuh"
#include "normalize.cuh"
#include "pages.cuh"

template <class T>
struct AppendArgs {
  T* out;               // (tokens, heads, dim): the queries
  const T* qkv;         // (tokens, (heads + 2 kv_heads) dim)
  const float* angles;  // (tokens, 2, rotated / 2), or null
  const int* positions;  // (tokens)
  const int* sequences;  // (tokens)
  T* k_cache;
  T* v_cache;
  Pages pages;
  CacheStrides k_strides, v_strides;
  NormArgs q_norm, k_norm;  // over a head
  long long qkv_stride, out_stride, out_head_stride, angles_stride;
  int heads, kv_heads, dim;
  int rotated;      // leading elements of a head that are rotated
  int interleaved;  // 1: elements 2i and 2i+1 are a pair; 0: i and i + rotated / 2
};

// Normalises a head of `dim` elements; element(j) is the element 32 j + i of lane i of a warp. MOST is how many a lane can
// have, or 0 where that isn't known.
template <int MOST = 0, class Element>
__device__ __forceinline__ void normalize_head(int dim, const NormArgs& norm, const Element& element) {
  constexpr int UNROLL = MOST ? MOST : 1;
  const int lane = lane_index();
  const auto is_there = [&](int j) { return j * WARP + lane < dim; };
  if (norm.kind == NORM_NONE) return;
  float mean = 0.f;
  if (norm.kind == NORM_LAYER) {
    float sum = 0.f;
#pragma unroll UNROLL
    for (int j = 0; MOST ? j < MOST : is_there(j); ++j)
      if (is_there(j)) sum += element(j);
    mean = warp_reduce(sum, Sum()) / dim;
  }
  float squares = 0.f;
#pragma unroll UNROLL
  for (int j = 0; MOST ? j < MOST : is_there(j); ++j)
    if (is_there(j)) squares = fmaf(element(j) - mean, element(j) - mean, squares);
  const float deviation = reciprocal_root(warp_reduce(squares, Sum()) * reciprocal(dim) + norm.eps);
#pragma unroll UNROLL
  for (int j = 0; MOST ? j < MOST : is_there(j); ++j) {
    const int i = j * WARP + lane;
    if (i >= dim) continue;
    float y = (element(j) - mean) * deviation;
    if (norm.weight) y *= norm.weight[i] + norm.offset;
    if (norm.bias) y += norm.bias[i];
    element(j) = y;
  }
}

// How element i of a token's heads is rotated.
struct Turn {
  int i, other;  // the same where it isn't
  bool second;   // of its pair
  float cosine, sine;

  __device__ __forceinline__ Turn() {}
  __device__ __forceinline__ Turn(int i, const float* angles, int rotated, bool interleaved) : i(i), other(i) {
    if (i >= rotated) return;
    const int half = rotated / 2;
    second = interleaved ? i % 2 : i >= half;
    const int pair = interleaved ? i / 2 : (second ? i - half : i);
    other = interleaved ? i ^ 1 : (second ? i - half : i + half);
    cosine = angles[pair];
    sine = angles[half + pair];
  }

  // The element of a head after rotation.
  __device__ __forceinline__ float operator()(const float* head) const {
    if (other == i) return head[i];
    const float turned = head[other] * sine;
    return second ? head[i] * cosine + turned : head[i] * cosine - turned;
  }
};

// What the elements i, i + 32, … of a head that lane i has are normalised and rotated with: it can be in registers before
// the head is there. The two of a pair are of one lane where all of a head is rotated, and not interleaved.
template <int DIM>
struct LaneTurn {
  static constexpr int COUNT = DIM / WARP;
  static_assert((DIM & (DIM - 1)) == 0, "1 / DIM is exact, as reciprocal() is");

  bool normalizes;
  float eps, weights[COUNT], cosines[COUNT / 2], sines[COUNT / 2];

  // Whether this is all that a head takes.
  template <class T>
  static __device__ __forceinline__ bool suits(const AppendArgs<T>& a, const NormArgs& norm) {
    const bool simple_norm = norm.kind == NORM_NONE || (norm.kind == NORM_RMS && norm.weight && !norm.bias);
    return a.rotated == DIM && !a.interleaved && simple_norm;
  }

  __device__ __forceinline__ void load(const NormArgs& norm, const float* angles) {
    normalizes = norm.kind == NORM_RMS;
    eps = norm.eps;
    const int lane = lane_index();
#pragma unroll
    for (int j = 0; j < COUNT / 2; ++j) {
      cosines[j] = angles[j * WARP + lane];
      sines[j] = angles[DIM / 2 + j * WARP + lane];
    }
    if (!normalizes) return;
#pragma unroll
    for (int j = 0; j < COUNT; ++j) weights[j] = norm.weight[j * WARP + lane] + norm.offset;
  }

  // With the same bits as normalize_head and Turn.
  template <class T>
  __device__ __forceinline__ void operator()(T (&values)[COUNT]) const {
    float x[COUNT];
#pragma unroll
    for (int j = 0; j < COUNT; ++j) x[j] = to_float(values[j]);
    if (normalizes) {
      float squares = 0.f;
#pragma unroll
      for (int j = 0; j < COUNT; ++j) squares = fmaf(x[j], x[j], squares);
      const float deviation = reciprocal_root(warp_reduce(squares, Sum()) * (1.f / DIM) + eps);
#pragma unroll
      for (int j = 0; j < COUNT; ++j) x[j] = x[j] * deviation * weights[j];
    }
#pragma unroll
    for (int j = 0; j < COUNT / 2; ++j) {
      const float first = x[j], second = x[j + COUNT / 2];
      values[j] = from_float<T>(first * cosines[j] - second * sines[j]);
      values[j + COUNT / 2] = from_float<T>(second * cosines[j] + first * sines[j]);
    }
  }
};
