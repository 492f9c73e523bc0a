// Attention of tokens that stand alone, as in decoding: a block takes the queries of a token that share a key/value
// head (up to 16), and spans blockIdx.z, blockIdx.z + gridDim.z, … of what they see; a warp takes chunks of the span.
// attention_merge then merges the spans. How long the contexts are is read on the device.
//
// Launch of attention_decode: 32 WARPS threads; blocks (tokens, kv_heads ⌈group / 16⌉, splits), splits as many as fill
// the GPU; dynamic shared memory 32 DIM + WARPS 256 DIM + 4 (4 min(16, group) (DIM + 2)) bytes. dim is a multiple of 8
// of at most DIM; q and the caches, with their strides, are aligned to 16 bytes.
// Launch of attention_decode_merge: 128 threads, blocks (tokens, heads).
#include "common/attention_mma.cuh"
#include "common/launch.cuh"

constexpr int MOST_QUERIES = 16;

template <int DIM, int WARPS, class T>
struct Decode {
  const AttentionArgs<T>& a;
  const Scorer<T> scorer;
  int token, head, kv_head, queries;  // heads head … head + queries - 1
  int sequence, begin, end;           // the positions that are seen
  unsigned q, k, v;                   // shared addresses
  float* sums;                        // (SPAN_CHUNKS, queries, DIM)
  Softmax* softmax;                   // (SPAN_CHUNKS, queries)

  __device__ __forceinline__ Decode(const AttentionArgs<T>& args, unsigned char* shared) : a(args), scorer(args) {
    const int group = a.group(), blocks = ceil_div(group, MOST_QUERIES);
    token = blockIdx.x;
    kv_head = blockIdx.y / blocks;
    const int first = blockIdx.y % blocks * MOST_QUERIES;
    head = kv_head * group + first;
    queries = min(MOST_QUERIES, group - first);
    q = shared_address(shared);
    k = q + (MOST_QUERIES + warp_index() * 2 * CHUNK_KEYS) * DIM * sizeof(T);
    v = k + CHUNK_KEYS * DIM * sizeof(T);
    sums = reinterpret_cast<float*>(shared + (MOST_QUERIES + WARPS * 2 * CHUNK_KEYS) * DIM * sizeof(T));
    softmax = reinterpret_cast<Softmax*>(sums + SPAN_CHUNKS * queries * DIM);
  }

  __device__ __forceinline__ void copy_queries() const {
    for (int piece = threadIdx.x; piece < MOST_QUERIES * DIM / 8; piece += WARPS * WARP) {
      const int row = piece / (DIM / 8), column = piece % (DIM / 8) * 8;
      const bool valid = row < queries && column < a.dim;
      const T* source = a.q + token * a.q_stride + (head + row) * a.q_head_stride + column;
      copy16_async(q + head_offset<DIM>(row, column), source, valid);
    }
  }

  // Begins to copy the keys or the values of a chunk, those of it that are seen.
  __device__ __forceinline__ void copy(unsigned to, const T* cache, const CacheStrides& strides,
                                       const KeyPlaces& places) const {
    copy_chunk<DIM, CHUNK_KEYS>(to, cache + kv_head * strides.head, strides, places, 0, a.dim);
    copy_async_commit();
  }

  // This warp's next chunk after `chunk`.
  __device__ __forceinline__ int next(int chunk) const {
    const int within = chunk % SPAN_CHUNKS + WARPS;
    if (within < SPAN_CHUNKS) return chunk + WARPS;
    return (chunk / SPAN_CHUNKS + gridDim.z) * SPAN_CHUNKS + warp_index();
  }
  __device__ __forceinline__ bool sees(int chunk) const {
    return (chunk + 1) * CHUNK_KEYS > begin && chunk * CHUNK_KEYS < end;
  }

  // Leaves the results of a chunk for merge_span.
  __device__ __forceinline__ void keep(int chunk, const Softmax (&rows)[2], const unsigned (&p)[4][4]) const {
    const int row = lane_index() / 4, within = chunk % SPAN_CHUNKS;
    if (lane_index() % 4 == 0)
      for (int h = 0; h < 2; ++h)
        if (row + 8 * h < queries) softmax[within * queries + row + 8 * h] = rows[h];
    float* kept = sums + (within * queries + row) * DIM + lane_index() % 4 * 2;
    multiply_values<DIM, 2, T>(p, v, [&](int i, const float(&sum)[4]) {
      if (row < queries) *reinterpret_cast<float2*>(kept + i) = make_float2(sum[0], sum[1]);
      if (row + 8 < queries) *reinterpret_cast<float2*>(kept + 8 * DIM + i) = make_float2(sum[2], sum[3]);
    });
  }

  // Merges the chunks of a span that are seen.
  __device__ __forceinline__ void merge_span(int span) const {
    const int first = max(span * SPAN_CHUNKS, begin / CHUNK_KEYS) % SPAN_CHUNKS;
    const int count = min(ceil_div(end, CHUNK_KEYS) - span * SPAN_CHUNKS, SPAN_CHUNKS);
    for (int i = threadIdx.x; i < queries * a.dim; i += WARPS * WARP) {
      const int row = i / a.dim, column = i % a.dim;
      Softmax total;
      float sum = 0.f;
      for (int chunk = first; chunk < count; ++chunk)
        sum = total.merge(softmax[chunk * queries + row])(sum, sums[(chunk * queries + row) * DIM + column]);
      const SpanResults<T> results(a, token, head + row);
      results.sums[static_cast<long long>(span) * a.dim + column] = sum;
      if (column == 0) {
        results.softmax[2 * span] = total.largest;
        results.softmax[2 * span + 1] = total.weight;
      }
    }
  }

  __device__ __forceinline__ void run() {
    sequence = a.sequences[token];
    const int position = a.positions[token];
    if (!a.pages.holds(sequence, position)) return;
    begin = a.first_visible(position);
    end = position + 1;
    const int end_span = position / SPAN_KEYS + 1;
    Visible visible;
    visible.first[0] = visible.first[1] = begin;
    visible.last[0] = visible.last[1] = position;

    copy_queries();
    copy_async_commit();
    KeyPlaces places;
    places.missing = 0;
    // The first round only begins the copies of the first chunk.
    int chunk = -1, ahead = (begin / SPAN_KEYS + blockIdx.z) * SPAN_CHUNKS + warp_index();
    for (; chunk / SPAN_CHUNKS < end_span; chunk = ahead, ahead = next(chunk)) {
      const bool seen = sees(chunk);
      const unsigned long long missing = places.missing;
      float s[8][4];
      copy_async_wait<1>();
      __syncwarp();
      if (seen) multiply_keys<DIM, T>(s, q, k);
      __syncwarp();
      // The keys that come next are under way while the values that are here are multiplied.
      places.locate(a.pages, sequence, ahead, begin, end - 1);
      copy(k, a.k_cache, a.k_strides, places);
      copy_async_wait<1>();
      __syncwarp();
      if (seen) {
        unsigned p[4][4];
        Softmax rows[2];
        score_keys(s, scorer, visible, chunk, missing);
        weigh<T>(s, p, rows);
        keep(chunk, rows, p);
      }
      __syncwarp();
      copy(v, a.v_cache, a.v_strides, places);
      if (chunk < 0) {
        copy_async_wait<2>();
        __syncthreads();
      } else if (chunk % SPAN_CHUNKS + WARPS >= SPAN_CHUNKS) {
        __syncthreads();
        merge_span(chunk / SPAN_CHUNKS);
        __syncthreads();
      }
    }
  }
};

template <int DIM, int WARPS, class T>
__device__ __forceinline__ void attention_decode(const AttentionArgs<T>& a) {
  extern __shared__ __align__(128) unsigned char shared[];
  start_dependents();
  wait_for_inputs();
  Decode<DIM, WARPS, T>(a, shared).run();
}

template <class T>
__device__ __forceinline__ void attention_merge(const AttentionArgs<T>& a) {
  start_dependents();
  wait_for_inputs();
  const int token = blockIdx.x, head = blockIdx.y;
  const int sequence = a.sequences[token], position = a.positions[token];
  const int first = a.first_visible(position) / SPAN_KEYS;
  const int end = a.pages.holds(sequence, position) ? position / SPAN_KEYS + 1 : first;
  const SpanResults<T> results(a, token, head);
  for (int i = threadIdx.x; i < a.dim; i += blockDim.x) {
    Softmax total;
    float sum = 0.f;
    constexpr int AHEAD = 8;  // spans whose results are read together
    for (int span = first; span < end; span += AHEAD) {
      Softmax softmax[AHEAD];
      float sums[AHEAD] = {};
#pragma unroll
      for (int j = 0; j < AHEAD; ++j)
        if (span + j < end) {
          sums[j] = results.sums[static_cast<long long>(span + j) * a.dim + i];
          softmax[j].largest = results.softmax[2 * (span + j)];
          softmax[j].weight = results.softmax[2 * (span + j) + 1];
        }
#pragma unroll
      for (int j = 0; j < AHEAD; ++j)
        if (span + j < end) sum = total.merge(softmax[j])(sum, sums[j]);
    }
    // Where there is nothing to see, 0 / 0 gives NaN.
    a.out[token * a.out_stride + head * a.dim + i] = from_float<T>(sum * (1.f / total.weight));
  }
}

#define ENTRY(DIM, WARPS, T)                                                                                  \
  extern "C" __global__ void __launch_bounds__(WARPS* WARP)                                                   \
      attention_decode_##DIM##_##WARPS##_##T(const __grid_constant__ AttentionArgs<T> a) {                    \
    attention_decode<DIM, WARPS>(a);                                                                          \
  }
#define ENTRIES(T)                                                                                            \
  ENTRY(64, 4, T) ENTRY(128, 4, T) ENTRY(128, 2, T) ENTRY(256, 2, T) ENTRY(256, 1, T)                         \
  extern "C" __global__ void __launch_bounds__(128) attention_decode_merge_##T(const __grid_constant__ AttentionArgs<T> a) { \
    attention_merge(a);                                                                                       \
  }
FOR_EACH_16BIT(ENTRIES)
