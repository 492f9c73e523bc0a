// Root-mean-square and layer normalisation of a row by a block of 128 threads.
//
//   rms:    y = x / √(mean(x²) + eps) * (weight + offset) + bias             Zhang & Sennrich 2019, arXiv:1910.07467
//   layer:  y = (x - mean(x)) / √(var(x) + eps) * (weight + offset) + bias   Ba, Kiros & Hinton 2016, arXiv:1607.06450
//
// Thread i owns the groups of eight elements i, i + 128, …. Whoever normalises a row does it here, so that a norm
// fused into a product rounds as the norm alone.
#pragma once
#include "memory.cuh"
#include "reduce.cuh"

constexpr int NORM_THREADS = 128;
// A thread's number among those that normalise: a block, or four warps of one that follow each other.
__device__ __forceinline__ int norm_thread() { return thread_index() % NORM_THREADS; }
// Floats of scratch that block_moments takes.
constexpr int NORM_SCRATCH = 2 * NORM_THREADS / WARP;

enum NormKind : int { NORM_NONE = 0, NORM_RMS = 1, NORM_LAYER = 2 };

struct NormArgs {
  Floats weight;  // (k), or absent for ones
  Floats bias;    // (k), or absent for zeros
  int kind;       // NormKind
  float eps, offset;

  // Whether it is what models have mostly: each element is weighted with a float32, and nothing is added.
  __device__ __forceinline__ bool is_plain() const {
    return kind == NORM_RMS && weight && is_aligned16(weight.data) && weight.dtype == DTYPE_F32 && !bias;
  }
};

// A vector that is wanted in shared memory, where it is if it can't be there. `copies`: begins to copy it.
__device__ __forceinline__ Floats stage_vector(const Floats& floats, int length, unsigned char* to, int room, bool copies) {
  const int bytes = length * floats.element_bytes();
  const char* source = static_cast<const char*>(floats.data);
  if (!source || bytes % 16 || bytes > room || !is_aligned16(source)) return floats;
  if (copies)
#pragma unroll 1
    for (int i = norm_thread() * 16; i < bytes; i += NORM_THREADS * 16)
      copy16_async(shared_address(to + i), source + i, true);
  return {to, floats.dtype};
}
// The same of a norm's weight and bias.
__device__ __forceinline__ NormArgs stage_norm(const NormArgs& norm, int length, unsigned char* to, int room, bool copies) {
  const int taken = norm.weight ? ceil_div(length * norm.weight.element_bytes(), 16) * 16 : 0;
  return {stage_vector(norm.weight, length, to, room, copies),
          stage_vector(norm.bias, length, to + taken, room - taken, copies), norm.kind, norm.eps, norm.offset};
}

// 1 / √x, x > 0, to within two units in the last place: whoever normalises waits for it.
__device__ __forceinline__ float reciprocal_root(float x) {
  float y;
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / length, to within one unit in the last place. Volatile: it is made where it is asked for, early.
__device__ __forceinline__ float reciprocal(int length) {
  float y;
  asm volatile("rcp.approx.f32 %0, %1;" : "=f"(y) : "f"(static_cast<float>(length)));
  return y;
}

struct Moments {
  float mean, reciprocal_deviation;

  // Normalises a group of eight elements of a row whose mean is taken for 0.
  __device__ __forceinline__ Eight weighted(Eight x, const Eight& weight, float offset) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) x.value[i] = x.value[i] * reciprocal_deviation * (weight.value[i] + offset);
    return x;
  }

  // Normalises a group of eight elements, the first of which is number k of a row of `length`.
  __device__ __forceinline__ Eight operator()(const NormArgs& norm, int k, int length, Eight x) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) x.value[i] = (x.value[i] - mean) * reciprocal_deviation;
    if (norm.weight) {
      const Eight weight = norm.weight.eight(k, length);
#pragma unroll
      for (int i = 0; i < 8; ++i) x.value[i] *= weight.value[i] + norm.offset;
    }
    if (norm.bias) {
      const Eight bias = norm.bias.eight(k, length);
#pragma unroll
      for (int i = 0; i < 8; ++i) x.value[i] += bias.value[i];
    }
    return x;
  }
};

// The moments of a row, given its mean, the sum of the squares of what each thread's elements differ from it by, and 1 over
// how many they are.
__device__ __forceinline__ Moments block_moments(float eps, float reciprocal_length, float mean, float squares,
                                                 float* scratch) {
  constexpr int WARPS = NORM_THREADS / WARP;
  squares = block_reduce<WARPS>(squares, scratch + WARPS, Sum());
  return {mean, reciprocal_root(squares * reciprocal_length + eps)};
}

__device__ __forceinline__ float add_squares(float sum, const Eight& e) {
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fmaf(e.value[i], e.value[i], sum);
  return sum;
}

// A row in the registers of a block, whose norm is_plain: `values` are this thread's GROUPS, the last of which may not exist,
// `weights` what they are weighted with, which is there before them.
template <class T, int GROUPS>
struct ShortRow {
  const float eps, offset;
  const int length;
  const float reciprocal_length;
  uint4 values[GROUPS];
  Eight weights[GROUPS];

  __device__ __forceinline__ ShortRow(const NormArgs& norm, int length)
      : eps(norm.eps), offset(norm.offset), length(length), reciprocal_length(reciprocal(length)) {
    for_each([&](int j, int g) { weights[j] = load8(static_cast<const float*>(norm.weight.data) + 8 * g); });
  }

  // Calls visit(j, g): the thread's j-th group is number g of the row.
  template <class Visit>
  __device__ __forceinline__ void for_each(const Visit& visit) const {
#pragma unroll
    for (int j = 0; j < GROUPS; ++j) {
      const int g = norm_thread() + j * NORM_THREADS;
      if (j + 1 < GROUPS || g < length / 8) visit(j, g);
    }
  }
  // `source` is the row.
  __device__ __forceinline__ void load(const T* source) {
    for_each([&](int j, int g) { values[j] = load16(source + 8 * g); });
  }
  // put(g, y) has the groups, normalised. `scratch` as for block_moments.
  template <class Put>
  __device__ __forceinline__ void normalize(float* scratch, const Put& put) const {
    float squares = 0.f;
    for_each([&](int j, int) { squares = add_squares(squares, unpack8<T>(values[j])); });
    const Moments moments = block_moments(eps, reciprocal_length, 0.f, squares, scratch);
    for_each([&](int j, int g) { put(g, moments.weighted(unpack8<T>(values[j]), weights[j], offset)); });
  }
};

// The moments of a row; `group(g)` gives its elements 8g … 8g+7, zeros past `length`, and is called only by the thread
// that owns g. `scratch` holds NORM_SCRATCH floats, which are free again two barriers later.
template <class Group>
__device__ __forceinline__ Moments block_moments(const NormArgs& norm, int length, Group group, float* scratch) {
  constexpr int WARPS = NORM_THREADS / WARP;
  const int groups = ceil_div(length, 8);
  float mean = 0.f;
  if (norm.kind == NORM_LAYER) {
    float sum = 0.f;
#pragma unroll 1
    for (int g = norm_thread(); g < groups; g += NORM_THREADS) {
      const Eight e = group(g);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += e.value[i];
    }
    mean = block_reduce<WARPS>(sum, scratch, Sum()) / length;
  }
  // In two passes the variance can't cancel.
  float squares = 0.f;
#pragma unroll 1
  for (int g = norm_thread(); g < groups; g += NORM_THREADS) {
    const Eight e = group(g);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float d = e.value[i] - mean;
      squares = 8 * g + i < length ? fmaf(d, d, squares) : squares;
    }
  }
  return block_moments(norm.eps, reciprocal(length), mean, squares, scratch);
}
