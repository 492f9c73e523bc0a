// Reductions in a fixed order: the same inputs give the same bits on every launch.
#pragma once

constexpr int WARP = 32;

__device__ __forceinline__ int lane_index() { return threadIdx.x % WARP; }
__device__ __forceinline__ int warp_index() { return threadIdx.x / WARP; }

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Over WIDTH neighbouring lanes; every one of them gets the result.
template <int WIDTH = WARP, class T, class Operation>
__device__ __forceinline__ T warp_reduce(T x, Operation operation) {
#pragma unroll
  for (int offset = WIDTH / 2; offset; offset /= 2) x = operation(x, __shfl_xor_sync(~0u, x, offset));
  return x;
}

// Over a block of WARPS warps; every thread gets the result. `scratch` holds WARPS values and is free again at the
// next barrier.
template <int WARPS, class T, class Operation>
__device__ __forceinline__ T block_reduce(T x, T* scratch, Operation operation) {
  x = warp_reduce(x, operation);
  if (lane_index() == 0) scratch[warp_index()] = x;
  __syncthreads();
  x = scratch[0];
#pragma unroll
  for (int w = 1; w < WARPS; ++w) x = operation(x, scratch[w]);
  return x;
}
