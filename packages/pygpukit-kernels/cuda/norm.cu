// rms_norm and layer_norm of rows, with an optional residual:
//
//   h = x + residual;  sum = h;  out = norm(h)          x, residual, sum, out (rows, length)
//
// h is rounded to the type of x before it is normalised, as if the addition were a kernel of its own; out may be of
// another type.
//
// Launch: 128 threads, a block for each row, dynamic shared memory for a row of x where `resident` (then x is read
// once), and `room` bytes for the norm's weight and bias. Of norm_many fewer blocks, and shared memory for two rows: they
// take several, the next one on its way while they normalise one. norm_1024 to norm_4096 take no shared memory: each
// has the rows of up to so many elements that are too long for the one before. They are of 16 bits, without residual, their
// norm is_plain, and all lies in groups of eight aligned to 16 bytes.
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
  int rows, length, resident, out_dtype, room;
};

template <class T>
struct NormRow {
  const NormRowsArgs<T>& a;
  T* kept;  // room for the row, where `resident`
  long long index;
  const T* x;
  const T* residual;
  bool vectorizable;
  bool copied;  // whether x is in `kept`, once it has come

  __device__ __forceinline__ NormRow(const NormRowsArgs<T>& args, T* room, int row) : a(args), kept(room), index(row) {
    x = a.x + index * a.x_stride;
    residual = a.residual ? a.residual + index * a.residual_stride : nullptr;
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

// Normalises a row whose copy is there, as far as this thread has made it.
template <class T>
__device__ __forceinline__ void normalize(const NormRow<T>& row, const NormArgs& norm, float* scratch) {
  const NormRowsArgs<T>& a = row.a;
  T* const kept = row.kept;
  const int groups = ceil_div(a.length, 8);
  const bool sum_vectorizable = is_vectorizable(a.sum, a.length, a.sum_stride);
  T* const sum = a.sum ? a.sum + row.index * a.sum_stride : nullptr;
#pragma unroll 1
  for (int g = threadIdx.x; g < groups; g += NORM_THREADS) {
    if (!sum && (!a.resident || (row.copied && !row.residual))) break;
    const Eight h = row(g);
    if (a.resident) store8(kept + 8 * g, h);
    if (sum) store8(sum, 8 * g, a.length, sum_vectorizable, h);
  }
  // Each thread reads back only what it has kept itself, so that no barrier is needed. What isn't kept is read again,
  // from `sum` where there is one, because that may be the same tensor as x or the residual.
  const auto group = [&](int g) {
    if (a.resident) return load8(kept + 8 * g);
    return sum ? load8(sum, 8 * g, a.length, sum_vectorizable) : row(g);
  };
  const Moments moments = block_moments(a.norm, a.length, group, scratch);
  void* out = element(a.out, a.out_dtype, row.index * a.out_stride);
#pragma unroll 1
  for (int g = threadIdx.x; g < groups; g += NORM_THREADS)
    store8(out, a.out_dtype, 8 * g, a.length, moments(norm, 8 * g, a.length, group(g)));
}

template <bool MANY, class T>
__device__ __forceinline__ void norm(const NormRowsArgs<T>& a) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float scratch[NORM_SCRATCH];
  T* kept = reinterpret_cast<T*>(shared);
  const int row_elements = a.resident ? ceil_div(a.length, 8) * 8 : 0;
  start_dependents();
  // What other threads have copied of the weight is there for all after the barrier for the moments.
  unsigned char* vectors = shared + (MANY ? 2 : 1) * row_elements * sizeof(T);
  const NormArgs staged = stage_norm(a.norm, a.length, vectors, a.room, true);
  const auto row = [&](int index, int place) { return NormRow<T>(a, kept + place * row_elements, index); };
  wait_for_inputs();
  row(blockIdx.x, 0).copy();
  copy_async_commit();
  if constexpr (MANY) {
#pragma unroll 1
    for (int index = blockIdx.x, place = 0;; index += gridDim.x, place ^= 1) {
      const bool more = index + gridDim.x < a.rows;
      if (more) row(index + gridDim.x, place ^ 1).copy();
      copy_async_commit();
      copy_async_wait<1>();
      normalize(row(index, place), staged, scratch);
      if (!more) return;
      __syncthreads();
    }
  } else {
    copy_async_wait<0>();
    normalize(row(blockIdx.x, 0), staged, scratch);
  }
}

// A row in registers.
template <int GROUPS, class T>
__device__ __forceinline__ void norm_short(const NormRowsArgs<T>& a) {
  __shared__ float scratch[NORM_SCRATCH];
  start_dependents();
  const T* x = a.x + blockIdx.x * a.x_stride;
  unsigned short* out = static_cast<unsigned short*>(a.out) + blockIdx.x * a.out_stride;
  ShortRow<T, GROUPS> row(a.norm, a.length);
  wait_for_inputs();
  row.load(x);
  row.normalize(scratch, [&](int g, const Eight& y) { store16(out + 8 * g, pack8(a.out_dtype, y)); });
}

#define ENTRY_SHORT(LENGTH, T)                                              \
  extern "C" __global__ void __launch_bounds__(NORM_THREADS)                \
      norm_##LENGTH##_##T(const __grid_constant__ NormRowsArgs<T> a) {      \
    norm_short<LENGTH / (8 * NORM_THREADS)>(a);                             \
  }
#define ENTRIES_SHORT(T) ENTRY_SHORT(1024, T) ENTRY_SHORT(2048, T) ENTRY_SHORT(3072, T) ENTRY_SHORT(4096, T)
FOR_EACH_16BIT(ENTRIES_SHORT)

#define ENTRY(T)                                                                                                        \
  extern "C" __global__ void __launch_bounds__(NORM_THREADS) norm_##T(const __grid_constant__ NormRowsArgs<T> a) {      \
    norm<false>(a);                                                                                                     \
  }                                                                                                                     \
  extern "C" __global__ void __launch_bounds__(NORM_THREADS) norm_many_##T(const __grid_constant__ NormRowsArgs<T> a) { \
    norm<true>(a);                                                                                                      \
  }
FOR_EACH_DTYPE(ENTRY)
