// Kernels that move or add whole rows, of any types: embedding, gather_rows, add.
//
//   embedding:    out[t] = scale * weight[ids[t]] + position_weight[positions[t]]
//   gather_rows:  out[s] = x[ids[s]]
//   add:          out = x + scale * y
//
// Rows whose index is outside its table become NaN.
//
// Launch: 128 threads, a block for each row of the result.
#include "common/launch.cuh"
#include "common/memory.cuh"

constexpr int THREADS = 128;

// Rows to read.
struct Table {
  Floats first;
  long long stride;  // elements from row to row
  int count;

  // Row `index`, absent where there is none.
  __device__ __forceinline__ Floats find(int index) const {
    return index >= 0 && index < count ? first.from(index * stride) : Floats{nullptr, first.dtype};
  }
};

// Rows to write, of `length` elements.
struct Output {
  void* data;
  long long stride;  // elements from row to row
  int dtype, length;

  __device__ __forceinline__ void* row(long long index) const {
    return element(data, dtype, index * stride);
  }
};

struct EmbeddingArgs {
  Output out;  // (tokens, length)
  Table weight;
  Table position_weight;  // or absent
  const int* ids;         // (tokens)
  const int* positions;   // (tokens), or null
  float scale;
};

struct GatherArgs {
  Output out;  // (rows, length)
  Table x;
  const int* ids;  // (rows)
};

struct AddArgs {
  Output out;  // (rows, length)
  Table x, y;
  float scale;
};

// This block's row of `out` = scale * x + y, or the product without y; NaN where x is absent.
__device__ __forceinline__ void scaled_sum(const Output& out, const Floats& x, float scale, const Floats& y) {
  void* row = out.row(blockIdx.x);
  for (int start = threadIdx.x * 8; start < out.length; start += THREADS * 8) {
    Eight e;
#pragma unroll
    for (int i = 0; i < 8; ++i) e.value[i] = NAN_F32;
    if (x) {
      e = x.eight(start, out.length);
#pragma unroll
      for (int i = 0; i < 8; ++i) e.value[i] *= scale;
      if (y) {
        const Eight z = y.eight(start, out.length);
#pragma unroll
        for (int i = 0; i < 8; ++i) e.value[i] += z.value[i];
      }
    }
    store8(row, out.dtype, start, out.length, e);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) rows_embedding(const __grid_constant__ EmbeddingArgs a) {
  start_dependents();
  wait_for_inputs();
  Floats x = a.weight.find(a.ids[blockIdx.x]), y = {};
  if (a.positions) {
    y = a.position_weight.find(a.positions[blockIdx.x]);
    if (!y) x = y;
  }
  scaled_sum(a.out, x, a.scale, y);
}

extern "C" __global__ void __launch_bounds__(THREADS) rows_gather(const __grid_constant__ GatherArgs a) {
  start_dependents();
  wait_for_inputs();
  scaled_sum(a.out, a.x.find(a.ids[blockIdx.x]), 1.f, Floats{});
}

extern "C" __global__ void __launch_bounds__(THREADS) rows_add(const __grid_constant__ AddArgs a) {
  start_dependents();
  wait_for_inputs();
  scaled_sum(a.out, a.y.find(blockIdx.x), a.scale, a.x.find(blockIdx.x));
}
