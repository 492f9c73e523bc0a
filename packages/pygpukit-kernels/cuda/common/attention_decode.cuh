// Attention of tokens that stand alone, as in decoding: a block takes the queries of a token that share a key/value head
// (up to 16), and some of the spans of what they see; a warp takes chunks of a span. Then the spans are merged.
//
// Shared memory of a block: 2 ROOM DIM + WARPS 256 DIM + 4 (4 min(16, group) (DIM + 10)) bytes, with ROOM 8 for groups of
// up to 8 heads, else 16. dim is a multiple of 8 of at most DIM; q and the caches, with their strides, are aligned to 16
// bytes.
#pragma once
#include "attention_mma.cuh"
#include "launch.cuh"
#include "rotation.cuh"

constexpr int MOST_QUERIES = 16;

__device__ __forceinline__ void load_four(float* to, const float* from) {
  const float4 four = *reinterpret_cast<const float4*>(from);
  to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}
__device__ __forceinline__ void store_four(float* to, const float* from) {
  *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
}

// What a block has to do for a token: the heads head … head + queries - 1, and of the spans that the token sees `split`,
// split + splits, ….
struct Share {
  int token, split, splits, head, kv_head, queries;

  // `block` numbers the groups of a token's heads.
  template <class T>
  __device__ __forceinline__ Share(const AttentionArgs<T>& a, int token, int block, int split, int splits)
      : token(token), split(split), splits(splits) {
    const int group = a.group(), blocks = ceil_div(group, MOST_QUERIES);
    // Dividing takes long, and is seldom needed.
    kv_head = blocks == 1 ? block : block / blocks;
    const int first = (block - kv_head * blocks) * MOST_QUERIES;
    head = kv_head * group + first;
    queries = min(MOST_QUERIES, group - first);
  }
};

// PLACES is how a chunk's keys and values are found: WholePlaces where pages hold whole chunks.
template <int DIM, int WARPS, class PLACES, class T>
struct Decode : Share {
  static constexpr bool WHOLE = same_type<PLACES, WholePlaces>;
  static constexpr int ROW = DIM + 8;  // of sums; so that writing those of several queries meets no bank twice
  const AttentionArgs<T>& a;
  const Scorer<T> scorer;
  int room;                  // of queries: 8 or 16
  int warp;                  // of WARPS
  int sequence, begin, end;  // the positions that are seen
  unsigned q, k, v;          // shared addresses
  float* sums;               // (SPAN_CHUNKS, queries, ROW)
  Softmax* softmax;          // (SPAN_CHUNKS, queries)
  PLACES places;             // of the chunk that is copied next

  __device__ __forceinline__ Decode(const AttentionArgs<T>& args, unsigned char* shared, const Share& share)
      : Share(share), a(args), scorer(args), room(args.group() > 8 ? 16 : 8), warp(warp_index() % WARPS) {
    q = shared_address(shared);
    k = q + (room + warp * 2 * CHUNK_KEYS) * DIM * sizeof(T);
    v = k + CHUNK_KEYS * DIM * sizeof(T);
    sums = reinterpret_cast<float*>(shared + (room + WARPS * 2 * CHUNK_KEYS) * DIM * sizeof(T));
    softmax = reinterpret_cast<Softmax*>(sums + SPAN_CHUNKS * queries * ROW);
  }

  __device__ __forceinline__ void copy_queries() const {
#pragma unroll 1
    for (int piece = thread_index(); piece < room * DIM / 8; piece += WARPS * WARP) {
      const int row = piece / (DIM / 8), column = piece % (DIM / 8) * 8;
      const bool valid = row < queries && column < a.dim;
      const T* source = a.q + token * a.q_stride + (head + row) * a.q_head_stride + column;
      copy16_async(q + head_offset<DIM>(row, column), source, valid);
    }
  }

  // Begins to copy the keys or the values of a chunk, those of it that are seen.
  __device__ __forceinline__ void copy(unsigned to, const T* cache, const CacheStrides& strides) const {
    cache += kv_head * strides.head;
    if constexpr (WHOLE)
      copy_whole_chunk<DIM>(to, cache, strides, places, a.dim);
    else
      copy_chunk<DIM, CHUNK_KEYS>(to, cache, strides, places, 0, a.dim);
    copy_async_commit();
  }
  __device__ __forceinline__ void copy_keys() const { copy(k, a.k_cache, a.k_strides); }
  __device__ __forceinline__ void copy_values() const { copy(v, a.v_cache, a.v_strides); }

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
    constexpr int UNROLL = DIM == 64 ? 2 : 4;  // laid out four by four, heads of 64 would spill registers
    multiply_values<DIM, UNROLL, T>(p, v, [&](int i, const float(&sum)[4]) {
#pragma unroll
      for (int h = 0; h < HALVES; ++h)
        if (row + 8 * h < queries)
          *reinterpret_cast<float2*>(kept + 8 * h * ROW + i) = make_float2(sum[2 * h], sum[2 * h + 1]);
    });
  }

  // Merges the chunks of a span that are seen; keep_span(head, span, column, sums, softmax) has the results: four columns
  // from `column` on, and four half a head further on: so threads side by side meet no bank twice.
  template <class KeepSpan>
  __device__ __forceinline__ void merge_span(int span, const KeepSpan& keep_span) const {
    const int first = max(span * SPAN_CHUNKS, begin / CHUNK_KEYS) % SPAN_CHUNKS;
    const int count = min(ceil_div(end, CHUNK_KEYS) - span * SPAN_CHUNKS, SPAN_CHUNKS);
#pragma unroll 1
    for (int i = thread_index(); i < queries * DIM / 8; i += WARPS * WARP) {
      const int row = i / (DIM / 8), column = i % (DIM / 8) * 4;
      Softmax total;
      float sum[8] = {};
#pragma unroll
      for (int chunk = 0; chunk < SPAN_CHUNKS; ++chunk) {
        if (chunk < first || chunk >= count) continue;
        float next[8];
        const float* kept = sums + (chunk * queries + row) * ROW + column;
        load_four(next, kept);
        load_four(next + 4, kept + DIM / 2);
        total.merge(softmax[chunk * queries + row]).add(sum, next);
      }
      keep_span(head + row, span, column, sum, total);
    }
  }

  // Finds the positions that are seen; false where there are none for this block.
  __device__ __forceinline__ bool locate() {
    const int position = a.positions[token];
    sequence = a.sequences[token];
    begin = end = 0;
    if (!PLACES::hold(a.pages, sequence, position)) return false;
    begin = a.first_visible(position);
    end = position + 1;
    return begin / SPAN_KEYS + split <= position / SPAN_KEYS;
  }

  // The spans of what is seen: the first one, and the end.
  __device__ __forceinline__ int first_span() const { return begin / SPAN_KEYS; }
  __device__ __forceinline__ int end_span() const { return ceil_div(end, SPAN_KEYS); }

  // This warp's first chunk.
  __device__ __forceinline__ int first_chunk() const {
    return (begin / SPAN_KEYS + split) * SPAN_CHUNKS + warp;
  }

  __device__ __forceinline__ int end_chunk() const { return ceil_div(end, SPAN_KEYS) * SPAN_CHUNKS; }

  // --- Where the launch before, which rotates heads and appends the token to the cache, is a part of this one.

  // Whether this block sees the token itself.
  __device__ __forceinline__ bool sees_newest() const { return (end_span() - 1 - first_span()) % splits == split; }

  // A warp for each: normalises and rotates the queries and, if it is to be seen here, the key; that and the value go to
  // the cache. They are there for the whole block once it has waited for itself.
  __device__ __forceinline__ void bring_heads(const AppendArgs<T>& append) const {
    constexpr int EACH = DIM / WARP;
    const bool newest = sees_newest();
    const int count = queries + 2 * newest;
    const T* heads = append.qkv + token * append.qkv_stride;
    const auto index = [&](int row) {
      return row < queries ? head + row : a.heads + (row - queries) * a.kv_heads + kv_head;
    };
    const auto load = [&](T(&elements)[EACH], int row) {
#pragma unroll
      for (int j = 0; j < EACH; ++j) {
        const int i = j * WARP + lane_index();
        elements[j] = row < count && i < a.dim ? heads[index(row) * a.dim + i] : T();
      }
    };
    T now[EACH], next[EACH];
    load(now, warp);
    Turn turns[EACH];
#pragma unroll
    for (int j = 0; j < EACH; ++j)
      turns[j] = Turn(j * WARP + lane_index(), append.angles + token * append.angles_stride, append.rotated,
                      append.interleaved);
#pragma unroll 1
    for (int row = warp; row < count; row += WARPS) {
      load(next, row + WARPS);
      if (row <= queries) turn_head(append, row < queries ? append.q_norm : append.k_norm, turns, now);
      if (row < queries)
        keep_query(row, newest, now);
      else
        append_head(row - queries, now);
#pragma unroll
      for (int j = 0; j < EACH; ++j) now[j] = next[j];
    }
  }

  // Normalises and rotates a head of which lane i has the elements i, i + 32, ….
  __device__ __forceinline__ void turn_head(const AppendArgs<T>& append, const NormArgs& norm,
                                            const Turn (&turns)[DIM / WARP], T (&elements)[DIM / WARP]) const {
    float* turned = sums + warp * DIM;  // free until the first chunk is done
    float y[DIM / WARP];
#pragma unroll
    for (int j = 0; j < DIM / WARP; ++j) y[j] = to_float(elements[j]);
    normalize_head<DIM / WARP>(a.dim, norm, [&](int j) -> float& { return y[j]; });
#pragma unroll
    for (int j = 0; j < DIM / WARP; ++j) turned[j * WARP + lane_index()] = y[j];
    __syncwarp();
#pragma unroll
    for (int j = 0; j < DIM / WARP; ++j) elements[j] = from_float<T>(turns[j](turned));
    __syncwarp();
  }

  // Leaves a query for the products and, once, where the launch of its own would have.
  __device__ __forceinline__ void keep_query(int row, bool stores, const T (&elements)[DIM / WARP]) const {
    T* out = const_cast<T*>(a.q) + token * a.q_stride + (head + row) * a.q_head_stride;
#pragma unroll
    for (int j = 0; j < DIM / WARP; ++j) {
      const int i = j * WARP + lane_index();
      store_shared(q + head_offset<DIM>(row, i) + i % 8 * 2, elements[j]);
      if (stores && i < a.dim) out[i] = elements[j];
    }
  }

  // The place of the token's key or value in the cache, or null.
  __device__ __forceinline__ T* newest_place(int is_value) const {
    WholePlaces chunk;
    chunk.locate(a.pages, sequence, (end - 1) / CHUNK_KEYS, end - 1, end - 1);
    if (chunk.page < 0) return nullptr;
    const CacheStrides& s = is_value ? a.v_strides : a.k_strides;
    return const_cast<T*>(is_value ? a.v_cache : a.k_cache) + chunk.page * s.page + kv_head * s.head +
           (chunk.row + chunk.begin) * s.row;
  }

  __device__ __forceinline__ void append_head(int is_value, const T (&elements)[DIM / WARP]) const {
    T* out = newest_place(is_value);
#pragma unroll
    for (int j = 0; j < DIM / WARP; ++j) {
      const int i = j * WARP + lane_index();
      if (out && i < a.dim) out[i] = elements[j];
    }
  }

  // Puts the token's key and value into this warp's chunk, which was copied when the cache didn't have them yet.
  __device__ __forceinline__ void replace_newest() const {
    copy_async_wait<0>();
    __syncwarp();
#pragma unroll 1
    for (int is_value = 0; is_value < 2; ++is_value) {
      const T* source = newest_place(is_value);
      const int i = lane_index() * 8;
      if (source && i < a.dim)
        store_shared((is_value ? v : k) + head_offset<DIM>((end - 1) % CHUNK_KEYS, i), load16(source + i));
    }
    __syncwarp();
  }

  // --- In this order.

  // Begins to copy the first keys and values and waits for the launch before: before the copies, if it may write to the
  // cache; then they are only fetched into the L2 cache meanwhile.
  __device__ __forceinline__ void begin_copies(bool appends) {
    places.locate(a.pages, sequence, first_chunk(), begin, end - 1);
    if (!appends) {
      if constexpr (WHOLE) fetch_first();
      wait_for_inputs();
      copy_queries();
      copy_async_commit();
    }
    copy_keys();
    copy_values();
    if (appends) wait_for_inputs();
  }

  __device__ __forceinline__ void fetch_first() const {
    const auto fetch = [&](const T* cache, const CacheStrides& s) {
      cache += places.page * s.page + kv_head * s.head + (places.row + places.begin) * s.row;
      prefetch_bulk(cache, (places.end - places.begin) * s.row * sizeof(T));
    };
    if (places.page < 0 || lane_index() != 0) return;
    fetch(a.k_cache, a.k_strides);
    fetch(a.v_cache, a.v_strides);
  }

  // Attends; keep_span(head, span, column, sum, softmax) has the results. Keys and values are copied by the warps that
  // multiply them. Where there is something to append the queries come from there.
  template <class KeepSpan>
  __device__ __forceinline__ void run(const AppendArgs<T>& append, const KeepSpan& keep_span) {
    Visible visible;
    visible.first[0] = visible.first[1] = begin;
    visible.last[0] = visible.last[1] = end - 1;
    const bool appends = WHOLE && append.qkv;
    begin_copies(appends);
    if (appends) bring_heads(append);
    copy_async_wait<2>();  // for queries that were copied
    block_sync<WARPS>();
    if (appends && first_chunk() == (end - 1) / CHUNK_KEYS) replace_newest();
#pragma unroll 1
    for (int chunk = first_chunk(), ahead; chunk < end_chunk(); chunk = ahead) {
      const bool seen = sees(chunk);
      float s[8][4];
      ahead = next(chunk);
      const unsigned long long missing = places.missing();
      places.locate(a.pages, sequence, ahead, begin, end - 1);
      copy_async_wait<1>();
      __syncwarp();
      if (seen) multiply_keys<DIM, 4, T>(s, q, k, room);
      // The keys that come next are under way while the values that are here are multiplied.
      __syncwarp();
      copy_keys();
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
      copy_values();
      if (chunk % SPAN_CHUNKS + WARPS < SPAN_CHUNKS) continue;
      block_sync<WARPS>();
      merge_span(chunk / SPAN_CHUNKS, keep_span);
      block_sync<WARPS>();
    }
  }
};

// N elements of a head: its spans first … end - 1, merged, and its sink if it has one. load(span, count, sums, softmax)
// gives the results of as many spans, AHEAD at most.
template <int AHEAD, int N, class Load>
__device__ __forceinline__ void merge_spans(float (&sum)[N], int first, int end, const Load& load, const float* sink) {
  Softmax total;
#pragma unroll
  for (int i = 0; i < N; ++i) sum[i] = 0.f;
#pragma unroll 1
  for (int span = first; span < end; span += AHEAD) {
    Softmax softmax[AHEAD];
    float sums[AHEAD][N] = {};
    load(span, min(AHEAD, end - span), sums, softmax);
#pragma unroll
    for (int j = 0; j < AHEAD; ++j)
      if (span + j < end) total.merge(softmax[j]).add(sum, sums[j]);
  }
  // Where there is nothing to see, 0 / 0 gives NaN.
  const float scale = 1.f / total.with_sink(sink);
#pragma unroll
  for (int i = 0; i < N; ++i) sum[i] *= scale;
}
