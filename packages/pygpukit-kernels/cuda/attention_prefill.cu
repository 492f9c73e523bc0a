// Attention of many tokens, as for prompts: a block takes 64 queries that share a key/value head (of a token after the
// other, and of a token the heads of the group), 16 for each of its four warps, and passes over what any of them sees.
// Where the queries belong to several sequences it passes over each sequence in turn.
//
// Launch: 128 threads, blocks (⌈tokens group / 64⌉, kv_heads), dynamic shared memory 640 DIM bytes. dim is a multiple
// of 8 of at most DIM; q and the caches, with their strides, are aligned to 16 bytes.
#include "common/attention_mma.cuh"
#include "common/launch.cuh"
#include "common/segment.cuh"

constexpr int WARPS = 4;
constexpr int WARP_QUERIES = 16;
constexpr int QUERIES = WARPS * WARP_QUERIES;

template <int DIM, class T>
struct Prefill {
  const SinkArgs<T>& a;
  const Scorer<T> scorer;
  unsigned q, k, v;  // shared addresses
  float* totals;     // sums over the spans so far: element i of this thread's at totals[i * 128]
  int first_query;   // of the block, counted over tokens and the heads of the group
  float sums[DIM / 8][4] = {};  // over the chunks of a span, as mma leaves them
  Softmax span[2], total[2];    // of this lane's queries: rows lane / 4 and lane / 4 + 8 of the warp's

  __device__ __forceinline__ Prefill(const SinkArgs<T>& args, unsigned char* shared) : a(args), scorer(args) {
    // The last tokens of a prompt see the most, so their blocks come first.
    first_query = (gridDim.x - 1 - blockIdx.x) * QUERIES;
    q = shared_address(shared);
    k = q + QUERIES * DIM * sizeof(T);
    v = k + CHUNK_KEYS * DIM * sizeof(T);
    totals = reinterpret_cast<float*>(shared + (QUERIES + 2 * CHUNK_KEYS) * DIM * sizeof(T)) + threadIdx.x;
#pragma unroll
    for (int i = 0; i < DIM / 2; ++i) totals[i * WARPS * WARP] = 0.f;
  }

  // The token of a query of the block, and its head.
  __device__ __forceinline__ int token(int row) const { return (first_query + row) / a.group(); }
  __device__ __forceinline__ int head(int row) const {
    return blockIdx.y * a.group() + (first_query + row) % a.group();
  }
  // The block's row of this lane's query `h`.
  __device__ __forceinline__ int own_row(int h) const { return warp_index() * WARP_QUERIES + lane_index() / 4 + 8 * h; }

  __device__ __forceinline__ void copy_queries() const {
    for (int piece = threadIdx.x; piece < QUERIES * DIM / 8; piece += WARPS * WARP) {
      const int row = piece / (DIM / 8), column = piece % (DIM / 8) * 8;
      const bool valid = token(row) < a.tokens && column < a.dim;
      const T* source = a.q + token(row) * a.q_stride + head(row) * a.q_head_stride + column;
      copy16_async(q + head_offset<DIM>(row, column), source, valid);
    }
  }

  // Each warp begins to copy a quarter of a chunk.
  __device__ __forceinline__ void copy_part(unsigned to, const T* cache, const CacheStrides& strides,
                                            const KeyPlaces& places) const {
    constexpr int ROWS = CHUNK_KEYS / WARPS;
    copy_chunk<DIM, ROWS>(to, cache + blockIdx.y * strides.head, strides, places, warp_index() * ROWS, a.dim);
    copy_async_commit();
  }

  __device__ __forceinline__ void add_chunk(float (&s)[8][4], const Visible& visible, int chunk,
                                            unsigned long long missing) {
    unsigned p[4][4];
    Softmax rows[2];
    score_keys(s, scorer, visible, chunk, missing);
    weigh<T>(s, p, rows);
    const Scales scales[2] = {span[0].merge(rows[0]), span[1].merge(rows[1])};
    multiply_values<DIM, DIM / 16, T>(p, v, [&](int i, const float(&sum)[4]) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[i / 8][j] = scales[j / 2](sums[i / 8][j], sum[j]);
    });
  }

  // Merges a span into the total and starts another.
  __device__ __forceinline__ void end_span() {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const Scales scales = total[h].merge(span[h]);
      span[h] = Softmax();
#pragma unroll
      for (int i = 0; i < DIM / 8; ++i)
#pragma unroll
        for (int j = 2 * h; j < 2 * h + 2; ++j) {
          float& sum = totals[(4 * i + j) * WARPS * WARP];
          sum = scales(sum, sums[i][j]);
          sums[i][j] = 0.f;
        }
    }
  }

  // Passes over the chunks that a segment, which starts at `first_token`, sees.
  __device__ __forceinline__ void run_segment(const Segment<QUERIES>& segment, int first_token) {
    Visible visible;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int t = token(own_row(h));
      if (t < first_token || t >= first_token + segment.tokens) continue;
      visible.last[h] = a.positions[t];
      visible.first[h] = a.first_visible(visible.last[h]);
    }
    const int end = ceil_div(segment.end, CHUNK_KEYS);
    KeyPlaces places;
    places.absent = 0;
    // The first round only begins the copies of the first chunk.
    for (int chunk = segment.begin / CHUNK_KEYS - 1; chunk < end; ++chunk) {
      const bool there = chunk >= segment.begin / CHUNK_KEYS;
      const bool seen = there && __any_sync(~0u, visible.any(chunk));
      const unsigned long long missing = places.missing();
      float s[8][4];
      copy_async_wait<1>();
      __syncthreads();
      if (seen) multiply_keys<DIM, 4, T>(s, q + warp_index() * WARP_QUERIES * DIM * sizeof(T), k);
      __syncthreads();
      places.locate(a.pages, segment.sequence, chunk + 1, segment.begin, segment.end - 1);
      copy_part(k, a.k_cache, a.k_strides, places);
      copy_async_wait<1>();
      __syncthreads();
      if (seen) add_chunk(s, visible, chunk, missing);
      __syncthreads();
      copy_part(v, a.v_cache, a.v_strides, places);
      if (there && ((chunk + 1) % SPAN_CHUNKS == 0 || chunk + 1 == end)) end_span();
    }
  }

  __device__ __forceinline__ void store() const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = own_row(h), t = token(row);
      if (t >= a.tokens) continue;
      // Where there is nothing to see, 0 / 0 gives NaN.
      const float scale = 1.f / total[h].with_sink(a.sink(head(row)));
      T* out = a.out + t * a.out_stride + head(row) * a.dim;
#pragma unroll
      for (int i = 0; i < DIM / 8; ++i)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int column = i * 8 + lane_index() % 4 * 2 + j;
          if (column < a.dim) out[column] = from_float<T>(totals[(4 * i + 2 * h + j) * WARPS * WARP] * scale);
        }
    }
  }

  __device__ __forceinline__ void run() {
    copy_queries();
    copy_async_commit();
    const int end_token = min(token(QUERIES - 1) + 1, a.tokens);
    for (int t = token(0); t < end_token;) {
      const Segment<QUERIES> segment(a, t, end_token);
      if (segment.end > 0) run_segment(segment, t);
      t += segment.tokens;
    }
    store();
  }
};

template <int DIM, class T>
__device__ __forceinline__ void attention_prefill(const SinkArgs<T>& a) {
  extern __shared__ __align__(128) unsigned char shared[];
  start_dependents();
  wait_for_inputs();
  Prefill<DIM, T>(a, shared).run();
}

#define ENTRY(DIM, T)                                                                                         \
  extern "C" __global__ void __launch_bounds__(WARPS* WARP)                                                   \
      attention_prefill_##DIM##_##T(const __grid_constant__ SinkArgs<T> a) {                             \
    attention_prefill<DIM>(a);                                                                                \
  }
#define ENTRIES(T) ENTRY(64, T) ENTRY(128, T) ENTRY(256, T)
FOR_EACH_16BIT(ENTRIES)
