// Attention of tokens that stand alone, as in decoding, by blocks for each key/value head and share of the spans. A block
// that has all spans of a head merges them itself; where blocks share them, they do it together if they are a cluster, else
// attention_decode_merge does it. How long the contexts are is read on the device.
//
// Launch of attention_decode: 32 WARPS threads; blocks (tokens, kv_heads ⌈group / 16⌉, splits), splits as many as fill
// the GPU; on Hopper clusters (1, 1, splits) or none; dynamic shared memory as in common/attention_decode.cuh.
// Launch of attention_decode_merge: 128 threads, blocks (tokens, heads).
#include "common/attention_decode.cuh"
#include "common/hopper.cuh"

// Merges the spans first … end - 1 of `heads` heads from `first_head` on, by all threads of block `rank` of `blocks`.
template <class T>
__device__ __forceinline__ void merge_heads(const SinkArgs<T>& a, int token, int first_head, int heads, int first, int end,
                                            int rank = 0, int blocks = 1) {
  constexpr int AHEAD = 4;
  const int fours = a.dim / 4;
#pragma unroll 1
  for (int four = rank * blockDim.x + threadIdx.x; four < heads * fours; four += blocks * blockDim.x) {
    const int head = first_head + four / fours, column = four % fours * 4;
    const SpanResults<T> results(a, token, head);
    float out[4];
    merge_spans<AHEAD>(out, first, end, [&](int span, int count, float (*sums)[4], Softmax* softmax) {
#pragma unroll
      for (int j = 0; j < AHEAD; ++j)
        if (j < count) {
          load_four(sums[j], results.sums + static_cast<long long>(span + j) * a.dim + column);
          softmax[j].largest = results.softmax[2 * (span + j)];
          softmax[j].weight = results.softmax[2 * (span + j) + 1];
        }
    }, a.sink(head));
    T* to = a.out + token * a.out_stride + head * a.dim + column;
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = from_float<T>(out[i]);
  }
}

// Of all registers, so that there is room beside the blocks of the kernel before.
constexpr int MOST_WARPS_PER_SM = 16;

// If this block is one of a cluster: waits for the others, whose writes are visible then.
__device__ __forceinline__ bool meet_cluster() {
#if __CUDA_ARCH__ >= 900
  unsigned blocks;
  asm("mov.u32 %0, %%cluster_nctaid.z;" : "=r"(blocks));
  if (blocks == 1) return false;
  __syncwarp();
  cluster_sync();
  return true;
#else
  return false;
#endif
}

template <int DIM, int WARPS, class PLACES, class T>
__device__ __forceinline__ void attention_decode(const SinkArgs<T>& a, const AppendArgs<T>& append) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int token = blockIdx.x;
  Decode<DIM, WARPS, PLACES, T> decode(a, shared, Share(a, token, blockIdx.y, blockIdx.z, gridDim.z));
  start_dependents();
  const bool any = decode.locate();
  if (any) {
    decode.run(append, [&](int head, int span, int column, const float (&sum)[8], const Softmax& softmax) {
      const SpanResults<T> results(a, token, head);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int own = column + half * DIM / 2;
        if (own < a.dim) store_four(results.sums + static_cast<long long>(span) * a.dim + own, sum + 4 * half);
      }
      if (column == 0) {
        results.softmax[2 * span] = softmax.largest;
        results.softmax[2 * span + 1] = softmax.weight;
      }
    });
  }
  wait_for_inputs();  // also where there is nothing to see
  if (decode.splits > 1 && !meet_cluster()) return;
  merge_heads(a, token, decode.head, decode.queries, decode.first_span(), decode.end_span(), decode.split, decode.splits);
}

template <class T>
__device__ __forceinline__ void attention_merge(const SinkArgs<T>& a) {
  start_dependents();
  wait_for_inputs();
  const int token = blockIdx.x, sequence = a.sequences[token], position = a.positions[token];
  const int first = a.first_visible(position) / SPAN_KEYS;
  merge_heads(a, token, blockIdx.y, 1, first, a.pages.holds(sequence, position) ? position / SPAN_KEYS + 1 : first);
}

#define ENTRY(NAME, PLACES, DIM, WARPS, T)                                                                    \
  extern "C" __global__ void __launch_bounds__(WARPS* WARP, MOST_WARPS_PER_SM / WARPS)                      \
      NAME##_##DIM##_##WARPS##_##T(const __grid_constant__ SinkArgs<T> a,                                     \
                                   const __grid_constant__ AppendArgs<T> append) {                            \
    attention_decode<DIM, WARPS, PLACES>(a, append);                                                          \
  }
#define WHOLE(DIM, WARPS, T) ENTRY(attention_decode, WholePlaces, DIM, WARPS, T)
#define PIECES(DIM, WARPS, T) ENTRY(attention_decode_pieces, KeyPlaces, DIM, WARPS, T)
#define ENTRIES(T)                                                                                            \
  WHOLE(64, 4, T) WHOLE(64, 2, T) WHOLE(128, 4, T) WHOLE(128, 2, T) WHOLE(256, 2, T) WHOLE(256, 1, T)                           \
  PIECES(64, 4, T) PIECES(128, 2, T) PIECES(256, 1, T)                                                        \
  extern "C" __global__ void __launch_bounds__(128) attention_decode_merge_##T(const __grid_constant__ SinkArgs<T> a) { \
    attention_merge(a);                                                                                       \
  }
FOR_EACH_16BIT(ENTRIES)
