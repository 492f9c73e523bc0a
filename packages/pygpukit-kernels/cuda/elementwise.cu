// A function of each element of a matrix: activation and soft_cap (cap * tanh(x / cap)).
//
// Launch: 128 threads, a block for each row.
#include "common/activation.cuh"
#include "common/launch.cuh"
#include "common/memory.cuh"

constexpr int THREADS = 128;

template <class T>
struct ElementwiseArgs {
  T* out;  // (rows, length)
  const T* x;
  long long x_stride, out_stride;  // elements from row to row
  int length;
  int activation;  // Activation, of the kernel of that name
  float cap;       // of soft_cap
};

template <class T, class Function>
__device__ __forceinline__ void map_row(const ElementwiseArgs<T>& a, Function function) {
  start_dependents();
  wait_for_inputs();
  const T* x = a.x + blockIdx.x * a.x_stride;
  T* out = a.out + blockIdx.x * a.out_stride;
  const bool vectorizable = is_vectorizable(a.x, a.length, a.x_stride) && is_vectorizable(a.out, a.length, a.out_stride);
  for (int start = threadIdx.x * 8; start < a.length; start += THREADS * 8) {
    Eight e = load8(x, start, a.length, vectorizable);
    for (int i = 0; i < 8; ++i) e.value[i] = function(e.value[i]);
    store8(out, start, a.length, vectorizable, e);
  }
}

#define ENTRIES(T)                                                                                                \
  extern "C" __global__ void __launch_bounds__(THREADS) elementwise_activation_##T(const __grid_constant__ ElementwiseArgs<T> a) { \
    map_row(a, [&](float x) { return activate(a.activation, x); });                                               \
  }                                                                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS) elementwise_soft_cap_##T(const __grid_constant__ ElementwiseArgs<T> a) { \
    map_row(a, [&](float x) { return a.cap * tanhf(x / a.cap); });                                                \
  }
FOR_EACH_DTYPE(ENTRIES)
