// Attention of tokens that stand alone, as in decoding: a block takes the queries of a token that share a key/value head
// (up to 16), and some of the spans of what they see; a warp takes chunks of a span. Then the spans are merged.
//
// Shared memory of a block: 2 ROOM DIM + WARPS 256 DIM + 4 (4 min(16, group) (DIM + 10)) bytes, with ROOM 8 for groups of
// up to 8 heads, else 16. dim is a multiple of 8 of at most DIM; q and the caches, with their strides, are aligned to 16
// bytes.
#pragma once
#include "attention_mma.cuh"

constexpr int MOST_QUERIES = 16;

// What a block has to do for a token: the heads head … head + queries - 1, and of the spans that the token sees `split`,
// split + splits, ….
struct Share {
  int token, split, splits, head, kv_head, queries;

  // `block` numbers the groups of a token's heads.
  template <class T>
  __device__ __forceinline__ Share(const AttentionArgs<T>& a, int token, int block, int split, int splits)
      : token(token), split(split), splits(splits) {
    const int group = a.group(), blocks = ceil_div(group, MOST_QUERIES);
    kv_head = block / blocks;
    const int first = block % blocks * MOST_QUERIES;
    head = kv_head * group + first;
    queries = min(MOST_QUERIES, group - first);
  }
};

template <int DIM, int WARPS, class T>
struct Decode : Share {
  static constexpr int ROW = DIM + 8;  // of sums; so that writing those of several queries meets no bank twice
  const AttentionArgs<T>& a;
  const Scorer<T> scorer;
  int room;                  // of queries: 8 or 16
  int warp;                  // of WARPS
  int sequence, begin, end;  // the positions that are seen
  unsigned q, k, v;          // shared addresses
  float* sums;               // (SPAN_CHUNKS, queries, ROW)
  Softmax* softmax;          // (SPAN_CHUNKS, queries)

  __device__ __forceinline__ Decode(const AttentionArgs<T>& args, unsigned char* shared, const Share& share)
      : Share(share), a(args), scorer(args), room(args.group() > 8 ? 16 : 8), warp(warp_index() % WARPS) {
    q = shared_address(shared);
    k = q + (room + warp * 2 * CHUNK_KEYS) * DIM * sizeof(T);
    v = k + CHUNK_KEYS * DIM * sizeof(T);
    sums = reinterpret_cast<float*>(shared + (room + WARPS * 2 * CHUNK_KEYS) * DIM * sizeof(T));
    softmax = reinterpret_cast<Softmax*>(sums + SPAN_CHUNKS * queries * ROW);
  }

  __device__ __forceinline__ void copy_queries() const {
    for (int piece = thread_index(); piece < room * DIM / 8; piece += WARPS * WARP) {
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
    return (chunk / SPAN_CHUNKS + splits) * SPAN_CHUNKS + warp;
  }
  __device__ __forceinline__ bool sees(int chunk) const {
    return (chunk + 1) * CHUNK_KEYS > begin && chunk * CHUNK_KEYS < end;
  }

  // Leaves the results of a chunk, of HALVES of 16 queries, for merge_span.
  template <int HALVES>
  __device__ __forceinline__ void keep(int chunk, const float (&s)[8][4]) const {
    const int row = lane_index() / 4, within = chunk % SPAN_CHUNKS;
    unsigned p[4][4];
    Softmax rows[2];
    weigh<T, HALVES>(s, p, rows);
    if (lane_index() % 4 == 0)
      for (int h = 0; h < HALVES; ++h)
        if (row + 8 * h < queries) softmax[within * queries + row + 8 * h] = rows[h];
    float* kept = sums + (within * queries + row) * ROW + lane_index() % 4 * 2;
    multiply_values<DIM, 2, T>(p, v, [&](int i, const float(&sum)[4]) {
#pragma unroll
      for (int h = 0; h < HALVES; ++h)
        if (row + 8 * h < queries)
          *reinterpret_cast<float2*>(kept + 8 * h * ROW + i) = make_float2(sum[2 * h], sum[2 * h + 1]);
    });
  }

  // Merges the chunks of a span that are seen; keep_span(head, span, column, sums, softmax) has the results, two columns
  // at a time.
  template <class KeepSpan>
  __device__ __forceinline__ void merge_span(int span, const KeepSpan& keep_span) const {
    const int first = max(span * SPAN_CHUNKS, begin / CHUNK_KEYS) % SPAN_CHUNKS;
    const int count = min(ceil_div(end, CHUNK_KEYS) - span * SPAN_CHUNKS, SPAN_CHUNKS);
    for (int i = thread_index(); i < queries * DIM / 2; i += WARPS * WARP) {
      const int row = i / (DIM / 2), column = i % (DIM / 2) * 2;
      if (column >= a.dim) continue;
      Softmax total;
      float2 sum = make_float2(0.f, 0.f);
#pragma unroll
      for (int chunk = 0; chunk < SPAN_CHUNKS; ++chunk) {
        if (chunk < first || chunk >= count) continue;
        const float2 next = *reinterpret_cast<const float2*>(sums + (chunk * queries + row) * ROW + column);
        sum = total.merge(softmax[chunk * queries + row])(sum, next);
      }
      keep_span(head + row, span, column, sum, total);
    }
  }

  // Finds the positions that are seen; false where there are none for this block.
  __device__ __forceinline__ bool locate() {
    const int position = a.positions[token];
    sequence = a.sequences[token];
    if (!a.pages.holds(sequence, position)) return false;
    begin = a.first_visible(position);
    end = position + 1;
    return begin / SPAN_KEYS + split <= position / SPAN_KEYS;
  }

  // Has this warp's first keys and values fetched into the L2 cache. Where positions and tables aren't those of this
  // step yet, others are fetched.
  __device__ __forceinline__ void prefetch() {
    if (!locate()) return;
    KeyPlaces places;
    places.locate(a.pages, sequence, first_chunk(), begin, end - 1);
    const bool there = places.begin < places.end && places.together && places.page[0] >= 0;
    if (!there || lane_index() != 0) return;
    const auto fetch = [&](const T* cache, const CacheStrides& strides) {
      const long long row = places.row[0] + places.begin;
      prefetch_bulk(cache + kv_head * strides.head + places.page[0] * strides.page + row * strides.row,
                    (places.end - places.begin) * strides.row * sizeof(T));
    };
    fetch(a.k_cache, a.k_strides);
    fetch(a.v_cache, a.v_strides);
  }

  // The spans of what is seen: the first one, and the end.
  __device__ __forceinline__ int first_span() const { return begin / SPAN_KEYS; }
  __device__ __forceinline__ int end_span() const { return ceil_div(end, SPAN_KEYS); }

  // This warp's first chunk.
  __device__ __forceinline__ int first_chunk() const {
    return (begin / SPAN_KEYS + split) * SPAN_CHUNKS + warp;
  }

  __device__ __forceinline__ int end_chunk() const { return ceil_div(end, SPAN_KEYS) * SPAN_CHUNKS; }

  // Attends; keep_span(head, span, column, sum, softmax) has the results. Keys and values are copied by the warps that
  // multiply them.
  template <class KeepSpan>
  __device__ __forceinline__ void run(const KeepSpan& keep_span) {
    Visible visible;
    visible.first[0] = visible.first[1] = begin;
    visible.last[0] = visible.last[1] = end - 1;
    KeyPlaces places;
    copy_queries();
    copy_async_commit();
    places.locate(a.pages, sequence, first_chunk(), begin, end - 1);
    copy(k, a.k_cache, a.k_strides, places);
    copy(v, a.v_cache, a.v_strides, places);
    copy_async_wait<2>();
    block_sync<WARPS>();
    for (int chunk = first_chunk(), ahead; chunk < end_chunk(); chunk = ahead) {
      const bool seen = sees(chunk);
      float s[8][4];
      ahead = next(chunk);
      const unsigned long long missing = places.missing;
      places.locate(a.pages, sequence, ahead, begin, end - 1);
      copy_async_wait<1>();
      __syncwarp();
      if (seen) multiply_keys<DIM, T>(s, q, k, room);
      // The keys that come next are under way while the values that are here are multiplied.
      __syncwarp();
      copy(k, a.k_cache, a.k_strides, places);
      copy_async_wait<1>();
      __syncwarp();
      if (seen) {
        score_keys(s, scorer, visible, chunk, missing);
        if (room == 8) {
          keep<1>(chunk, s);
        } else {
          keep<2>(chunk, s);
        }
      }
      __syncwarp();
      copy(v, a.v_cache, a.v_strides, places);
      if (chunk % SPAN_CHUNKS + WARPS < SPAN_CHUNKS) continue;
      block_sync<WARPS>();
      merge_span(chunk / SPAN_CHUNKS, keep_span);
      block_sync<WARPS>();
    }
  }
};

// Two elements of a head: its spans first … end - 1, merged, and its sink if it has one. load(span, count, sums, softmax)
// gives the results of as many spans, AHEAD at most.
template <int AHEAD, class Load>
__device__ __forceinline__ float2 merge_spans(int first, int end, const Load& load, const float* sink) {
  Softmax total;
  float2 sum = make_float2(0.f, 0.f);
  for (int span = first; span < end; span += AHEAD) {
    Softmax softmax[AHEAD];
    float2 sums[AHEAD] = {};
    load(span, min(AHEAD, end - span), sums, softmax);
#pragma unroll
    for (int j = 0; j < AHEAD; ++j)
      if (span + j < end) sum = total.merge(softmax[j])(sum, sums[j]);
  }
  // Where there is nothing to see, 0 / 0 gives NaN.
  const float scale = 1.f / total.with_sink(sink);
  return make_float2(sum.x * scale, sum.y * scale);
}
