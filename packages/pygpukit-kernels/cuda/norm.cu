// rms_norm and layer_norm of rows, with an optional residual:
//
//   h = x + residual;  sum = h;  out = norm(h)          x, residual, sum, out (rows, length)
//
// h is rounded to the type of x before it is normalised, as if the addition were a kernel of its own; out may be of
// another type.
//
// Launch: 128 threads, a block for each row, dynamic shared memory for a row of x where `resident` (then x is read
// once), and `room` bytes for the norm's weight and bias.
#include "common/launch.cuh"
#include "common/normalize.cuh"

template <class T>
struct NormRowsArgs {
  void* out;          // of out_dtype
  T* sum;             // or null
  const T* x;
  const T* residual;  // or null
  NormArgs norm;
  long long x_stride, residual_stride, sum_stride, out_stride;  // elements from row to row
  int length, resident, out_dtype, room;
};

template <class T>
struct NormRow {
  const NormRowsArgs<T>& a;
  T* kept;  // room for the row, where `resident`
  const T* x;
  const T* residual;
  bool vectorizable;
  bool copied;  // whether x is in `kept`, once it has come

  __device__ __forceinline__ NormRow(const NormRowsArgs<T>& args, T* room) : a(args), kept(room) {
    const long long row = blockIdx.x;
    x = a.x + row * a.x_stride;
    residual = a.residual ? a.residual + row * a.residual_stride : nullptr;
    vectorizable = is_vectorizable(a.x, a.length, a.x_stride) && is_vectorizable(a.residual, a.length, a.residual_stride);
    copied = a.resident && vectorizable;
  }

  // Has x copied, so that each thread waits once and not for each group.
  __device__ __forceinline__ void copy() const {
    constexpr int PIECE = 16 / sizeof(T);
    if (!copied) return;
#pragma unroll 1
    for (int i = 8 * threadIdx.x; i < a.length; i += 8 * NORM_THREADS)
#pragma unroll
      for (int piece = i; piece < i + 8; piece += PIECE) copy16_async(shared_address(kept + piece), x + piece, true);
  }

  // Elements 8g … 8g+7 of h.
  __device__ __forceinline__ Eight operator()(int g) const {
    Eight e = copied ? load8(kept + 8 * g) : load8(x, 8 * g, a.length, vectorizable);
    if (!residual) return e;
    const Eight r = load8(residual, 8 * g, a.length, vectorizable);
#pragma unroll
    for (int i = 0; i < 8; ++i) e.value[i] = to_float(from_float<T>(e.value[i] + r.value[i]));
    return e;
  }
};

template <class T>
__device__ __forceinline__ void norm(const NormRowsArgs<T>& a) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float scratch[NORM_SCRATCH];
  T* kept = reinterpret_cast<T*>(shared);
  const int groups = ceil_div(a.length, 8);
  unsigned char* vectors = shared + (a.resident ? groups * 8 * sizeof(T) : 0);
  start_dependents();
  const NormArgs staged = stage_norm(a.norm, a.length, vectors, a.room, true);
  const NormRow<T> row(a, kept);
  wait_for_inputs();
  row.copy();
  copy_async_commit();
  copy_async_wait<0>();  // of what other threads have copied, all are sure after the barrier for the moments
  const long long index = blockIdx.x;
  const bool sum_vectorizable = is_vectorizable(a.sum, a.length, a.sum_stride);
#pragma unroll 1
  for (int g = threadIdx.x; g < groups; g += NORM_THREADS) {
    if (!a.sum && (!a.resident || (row.copied && !a.residual))) break;
    const Eight h = row(g);
    if (a.resident) store8(kept + 8 * g, h);
    if (a.sum) store8(a.sum + index * a.sum_stride, 8 * g, a.length, sum_vectorizable, h);
  }
  // Each thread reads back only what it has kept itself, so that no barrier is needed. What isn't kept is read again,
  // from `sum` where there is one, because that may be the same tensor as x or the residual.
  const auto group = [&](int g) {
    if (a.resident) return load8(kept + 8 * g);
    return a.sum ? load8(a.sum + index * a.sum_stride, 8 * g, a.length, sum_vectorizable) : row(g);
  };
  const Moments moments = block_moments(a.norm, a.length, group, scratch);
  void* out = element(a.out, a.out_dtype, index * a.out_stride);
#pragma unroll 1
  for (int g = threadIdx.x; g < groups; g += NORM_THREADS)
    store8(out, a.out_dtype, 8 * g, a.length, moments(staged, 8 * g, a.length, group(g)));
}

#define ENTRY(T)                                                                                  \
  extern "C" __global__ void __launch_bounds__(NORM_THREADS)                                      \
      norm_##T(const __grid_constant__ NormRowsArgs<T> a) {                                       \
    norm(a);                                                                                      \
  }
FOR_EACH_DTYPE(ENTRY)
