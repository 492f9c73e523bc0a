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

// The normalised element i of a head lies at head[i] once this returns.
template <class T>
__device__ __forceinline__ void load_head(float* head, const T* source, int dim, const NormArgs& norm) {
  float sum = 0.f;
  for (int i = lane_index(); i < dim; i += WARP) {
    head[i] = to_float(source[i]);
    sum += head[i];
  }
  if (norm.kind == NORM_NONE) return;
  const float mean = norm.kind == NORM_LAYER ? warp_reduce(sum, Sum()) / dim : 0.f;
  float squares = 0.f;
  for (int i = lane_index(); i < dim; i += WARP) squares = fmaf(head[i] - mean, head[i] - mean, squares);
  const float deviation = 1.f / sqrtf(warp_reduce(squares, Sum()) / dim + norm.eps);
  for (int i = lane_index(); i < dim; i += WARP) {
    float y = (head[i] - mean) * deviation;
    if (norm.weight) y *= norm.weight[i] + norm.offset;
    if (norm.bias) y += norm.bias[i];
    head[i] = y;
  }
}

// Element i of a head after rotation.
__device__ __forceinline__ float rotate(const float* head, int i, const float* angles, int rotated, bool interleaved) {
  if (i >= rotated) return head[i];
  const int half = rotated / 2;
  const bool second = interleaved ? i % 2 : i >= half;
  const int pair = interleaved ? i / 2 : (second ? i - half : i);
  const int other = interleaved ? i ^ 1 : (second ? i - half : i + half);
  const float cosine = angles[pair], sine = angles[half + pair];
  const float turned = head[other] * sine;
  return second ? head[i] * cosine + turned : head[i] * cosine - turned;
}
