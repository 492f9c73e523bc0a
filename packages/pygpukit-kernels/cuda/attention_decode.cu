// Attention of tokens that stand alone, as in decoding, by blocks for each key/value head and share of the spans. Where
// blocks share the spans of a head, attention_decode_merge then merges them; a block that has all of them does it itself.
// How long the contexts are is read on the device.
//
// Launch of attention_decode: 32 WARPS threads; blocks (tokens, kv_heads ⌈group / 16⌉, splits), splits as many as fill
// the GPU; dynamic shared memory as in common/attention_decode.cuh.
// Launch of attention_decode_merge: 128 threads, blocks (tokens, heads).
#include "common/attention_decode.cuh"
#include "common/launch.cuh"

// Merges the spans first … end - 1 of `heads` heads from `first_head` on, by all threads of the block.
template <class T>
__device__ __forceinline__ void merge_heads(const SinkArgs<T>& a, int token, int first_head, int heads, int first,
                                            int end) {
  const int pairs = a.dim / 2;
  for (int pair = threadIdx.x; pair < heads * pairs; pair += blockDim.x) {
    const int head = first_head + pair / pairs, i = pair % pairs * 2;
    const SpanResults<T> results(a, token, head);
    constexpr int AHEAD = 4;
    const float2 out = merge_spans<AHEAD>(first, end, [&](int span, int count, float2* sums, Softmax* softmax) {
#pragma unroll
      for (int j = 0; j < AHEAD; ++j)
        if (j < count) {
          sums[j] = *reinterpret_cast<const float2*>(results.sums + static_cast<long long>(span + j) * a.dim + i);
          softmax[j].largest = results.softmax[2 * (span + j)];
          softmax[j].weight = results.softmax[2 * (span + j) + 1];
        }
    }, a.sink(head));
    T* to = a.out + token * a.out_stride + head * a.dim + i;
    to[0] = from_float<T>(out.x);
    to[1] = from_float<T>(out.y);
  }
}

// Of all registers, so that there is room beside the blocks of the kernel before.
constexpr int MOST_WARPS_PER_SM = 16;

// Whether this may be one of the blocks that run first, which wait for the kernel before.
template <int WARPS>
__device__ __forceinline__ bool is_early() {
  unsigned multiprocessors;
  asm("mov.u32 %0, %%nsmid;" : "=r"(multiprocessors));
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  return block < MOST_WARPS_PER_SM / WARPS * multiprocessors;
}

template <int DIM, int WARPS, class T>
__device__ __forceinline__ void attention_decode(const SinkArgs<T>& a) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int token = blockIdx.x;
  Decode<DIM, WARPS, T> decode(a, shared, Share(a, token, blockIdx.y, blockIdx.z, gridDim.z));
  start_dependents();
  if (is_early<WARPS>()) decode.prefetch();
  wait_for_inputs();
  const bool any = decode.locate();
  if (any) {
    decode.run([&](int head, int span, int column, float2 sum, const Softmax& softmax) {
      const SpanResults<T> results(a, token, head);
      *reinterpret_cast<float2*>(results.sums + static_cast<long long>(span) * a.dim + column) = sum;
      if (column == 0) {
        results.softmax[2 * span] = softmax.largest;
        results.softmax[2 * span + 1] = softmax.weight;
      }
    });
  }
  if (decode.splits > 1) return;
  const int first = any ? decode.first_span() : 0, end = any ? decode.end_span() : 0;
  merge_heads(a, token, decode.head, decode.queries, first, end);
}

template <class T>
__device__ __forceinline__ void attention_merge(const SinkArgs<T>& a) {
  start_dependents();
  wait_for_inputs();
  const int token = blockIdx.x, sequence = a.sequences[token], position = a.positions[token];
  const int first = a.first_visible(position) / SPAN_KEYS;
  merge_heads(a, token, blockIdx.y, 1, first, a.pages.holds(sequence, position) ? position / SPAN_KEYS + 1 : first);
}

#define ENTRY(DIM, WARPS, T)                                                                                  \
  extern "C" __global__ void __launch_bounds__(WARPS* WARP, MOST_WARPS_PER_SM / WARPS)                      \
      attention_decode_##DIM##_##WARPS##_##T(const __grid_constant__ SinkArgs<T> a) {                    \
    attention_decode<DIM, WARPS>(a);                                                                          \
  }
#define ENTRIES(T)                                                                                            \
  ENTRY(64, 4, T) ENTRY(128, 4, T) ENTRY(128, 2, T) ENTRY(256, 2, T) ENTRY(256, 1, T)                           \
  extern "C" __global__ void __launch_bounds__(128) attention_decode_merge_##T(const __grid_constant__ SinkArgs<T> a) { \
    attention_merge(a);                                                                                       \
  }
FOR_EACH_16BIT(ENTRIES)
