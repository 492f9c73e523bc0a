// Reductions in a fixed order: the same inputs give the same bits on every launch.
#pragma once

constexpr int WARP = 32;

// The thread's number. Where a source defines THREAD_ANEW it is read each time: a long kernel has no registers for all that
// the compiler would compute of it once, in advance.
__device__ __forceinline__ int thread_index() {
#ifdef THREAD_ANEW
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  __builtin_assume(thread >= 0 && thread < 1024);
  return thread;
#else
  return threadIdx.x;
#endif
}
__device__ __forceinline__ int lane_index() { return thread_index() % WARP; }
__device__ __forceinline__ int warp_index() { return thread_index() / WARP; }

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

// Over this lane and the `count` lanes before it, which are fewer than MOST.
template <int MOST = WARP, class T, class Operation>
__device__ __forceinline__ T warp_scan(T x, Operation operation, int count) {
#pragma unroll
  for (int step = 1; step < MOST; step *= 2) {
    const T before = __shfl_up_sync(~0u, x, step);
    if (count >= step) x = operation(x, before);
  }
  return x;
}

// Waits for the first WARPS warps of the block, those that work together; others may be busy elsewhere. Each number of
// warps has a barrier of its own.
template <int WARPS>
__device__ __forceinline__ void block_sync() {
  asm volatile("bar.sync %0, %1;" ::"n"(WARPS % 16), "n"(WARPS * WARP) : "memory");
}

// Over a block of WARPS warps, or as many of one that follow each other; every thread gets the result. `scratch` holds WARPS
// values and is free again at the next barrier.
template <int WARPS, class T, class Operation>
__device__ __forceinline__ T block_reduce(T x, T* scratch, Operation operation) {
  x = warp_reduce(x, operation);
  if (lane_index() == 0) scratch[warp_index() % WARPS] = x;
  block_sync<WARPS>();
  x = scratch[0];
#pragma unroll
  for (int w = 1; w < WARPS; ++w) x = operation(x, scratch[w]);
  return x;
}
