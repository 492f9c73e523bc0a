// What the kernels that multiply few rows share: tiles of weight rows, stages of weights, products and sums.
//
// A tile is eight weight rows, and a stage the part of it that lies in one chunk of k: as much as one chain of products
// takes. Rows of a stage are PITCH elements apart, so that they start in different banks.
#pragma once
#include "linear.cuh"
#include "mma.cuh"

constexpr int TILE = 8;          // weight rows
constexpr int SPAN = 256;        // values of k in a stage
constexpr int PITCH = SPAN + 8;  // elements from row to row in a stage

template <class T>
constexpr int STAGE_BYTES = TILE * PITCH * sizeof(T);

// A warp begins the copy of one stage, that of weight rows tile * TILE … from k on, of the first part of the weights or,
// when gated, of the second. What lies outside the matrix becomes zeros.
template <class T>
__device__ __forceinline__ void copy_stage(const T* weight, long long stride, int n, int length, int tile, int part,
                                           int k, unsigned stage, unsigned long long policy) {
#pragma unroll
  for (int i = 0; i < TILE * SPAN / 8 / WARP; ++i) {
    const int piece = lane_index() + i * WARP, row = piece / (SPAN / 8), column = piece % (SPAN / 8) * 8;
    const int weight_row = tile * TILE + row;
    const bool valid = weight_row < n && k + column < length;
    const T* source = weight + (part * n + weight_row) * stride + k + column;
    copy16_async(stage + (row * PITCH + column) * sizeof(T), source, valid, policy);
  }
}

// d += the products of one stage. `x` is the shared address that this lane gives for loading matrices of x.
template <class T>
__device__ __forceinline__ void multiply_stage(float (&d)[4], unsigned stage, unsigned x, unsigned x_step) {
  const unsigned w = stage + ((lane_index() % 8) * PITCH + lane_index() / 8 * 8) * sizeof(T);
#pragma unroll
  for (int k = 0; k < SPAN; k += 32) {
    unsigned b[4], c[4];
    load_matrix_x4(b, w + k * sizeof(T));
    load_matrix_x4(c, x + k * x_step);
    mma<T>(d, c[0], 0, c[1], 0, b[0], b[1]);
    mma<T>(d, c[2], 0, c[3], 0, b[2], b[3]);
  }
}

// The same of a type that is known at run time only.
__device__ __forceinline__ void multiply_stage(int dtype, float (&d)[4], unsigned stage, unsigned x, unsigned x_step) {
  if (dtype == DTYPE_F16)
    multiply_stage<f16>(d, stage, x, x_step);
  else
    multiply_stage<bf16>(d, stage, x, x_step);
}

// The sum over k of element i of a tile (row, weight row): its chunks, in order. `sums` is (part, chunk, row, TILE).
__device__ __forceinline__ float add_chunks(const float* sums, int chunks, int elements, int part, int i) {
  float y = 0.f;
#pragma unroll 4
  for (int chunk = 0; chunk < chunks; ++chunk) y += sums[(part * chunks + chunk) * elements + i];
  return y;
}
