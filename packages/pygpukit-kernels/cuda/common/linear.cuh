// What the linear kernels share: arguments, the order of summation, the epilogue.
//
//   y = W norm(x) + b;  y = gated ? act(y[:n]) * y[n:] : act(y);  out = residual + scale * y
//
// x (rows, k), W (n, k) or (2n, k) when gated, b (n) or (2n), residual and out (rows, n). Products are of type T, or
// `dtype` where a kernel has T = bits16; norm(x) is rounded to it.
//
// The sum over k is made of chunks: a chunk is one chain of products with k ascending (for 16-bit types of tensor-core
// products over 16 values of k), and the chunks are added in order. Every kernel keeps to it, and so a row's result is
// the same whichever kernel computes it, with however many rows beside it.
#pragma once
#include "activation.cuh"
#include "logits.cuh"
#include "normalize.cuh"

template <class T>
constexpr int CHUNK = same_type<T, float> ? 64 : 256;

template <class T, class W = T>
struct LinearArgs {
  void* out;          // (rows, n) of out_dtype
  const T* x;         // (rows, k); where there is a norm, of x_dtype
  const W* weight;    // (n, k), or (2n, k) when gated
  Floats residual;    // (rows, n), or absent
  Floats bias;        // (n) or (2n), or absent
  NormArgs norm;      // of x; only the matrix-vector kernels read it
  long long x_stride, weight_stride, residual_stride, out_stride;  // elements from row to row
  Ranked* maxima;     // (rows, MAXIMA), or null: out are logits whose first ones are wanted, see logits.cuh. Not all kernels
                      // find them, and they count neither a gate nor a residual; `scale` is positive then
  int rows, n, k;
  int activation, gated, dtype, x_dtype, out_dtype;
  float scale;
};

// What is added to the residual, given the sums of a weight row with its bias and, when gated, of the one n further on.
template <class T, class W>
__device__ __forceinline__ float finish_biased(const LinearArgs<T, W>& a, float y, float up) {
  if (a.activation == ACTIVATION_SILU)
    y = silu(y);  // without the way through a table of the rest
  else if (a.activation != ACTIVATION_IDENTITY)
    y = activate(a.activation, y);
  if (a.gated) y *= up;
  return y * a.scale;
}

// The same without the bias, of weight row `column`.
template <class T, class W>
__device__ __forceinline__ float finish_sums(const LinearArgs<T, W>& a, int column, float y, float up) {
  if (a.bias) {
    y += a.bias[column];
    if (a.gated) up += a.bias[a.n + column];
  }
  return finish_biased(a, y, up);
}

// The result in (row, column).
template <class T, class W>
__device__ __forceinline__ float epilogue(const LinearArgs<T, W>& a, int row, int column, float y, float up) {
  y = finish_sums(a, column, y, up);
  return a.residual ? a.residual[row * a.residual_stride + column] + y : y;
}

template <class T, class W>
__device__ __forceinline__ void store(const LinearArgs<T, W>& a, int row, int column, float y) {
  store(a.out, a.out_dtype, row * a.out_stride + column, y);
}
