// Attention of one warp for 16 queries and a chunk of 64 positions, on tensor cores.
//
// Queries (16, DIM), keys and values (64, DIM) lie in shared memory with the pieces of 16 bytes of each row permuted,
// so that loading matrices meets no bank twice. DIM is the head's size rounded up, with zeros behind its end.
#pragma once
#include "attention.cuh"
#include "memory.cuh"
#include "mma.cuh"

// The byte offset of elements i … i+7 of a row.
template <int DIM>
__device__ __forceinline__ int head_offset(int row, int i) {
  return row * DIM * 2 + ((i / 8) ^ (row % 8)) * 16;
}
// That of the elements `count` further on in the row, where the sum has no carry.
__device__ __forceinline__ int further(int offset, int count) { return offset ^ count * 2; }

// Where the positions of a chunk lie in the cache. Where pages hold whole chunks, all lie in one page, one after the
// other; else lane i knows positions i and i + 32.
struct KeyPlaces {
  bool together;
  int page[2], row[2];         // page -1: not there
  int begin, end;              // the positions that are wanted, counted within the chunk
  unsigned long long absent;  // see missing()

  // Of the chunk's positions those from `first` to `last` are wanted.
  __device__ __forceinline__ void locate(const Pages& pages, int sequence, int chunk, int first, int last) {
    const int start = chunk * CHUNK_KEYS;
    begin = max(first - start, 0);
    end = min(last + 1 - start, CHUNK_KEYS);
    absent = 0;
    if (begin >= end) return;
    together = pages.page_size % CHUNK_KEYS == 0;
    if (together) {
      if (!pages.find(sequence, start, page[0], row[0])) page[0] = -1, absent = ~0ull;
      return;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int key = i * WARP + lane_index();
      const bool wanted = key >= begin && key < end;
      const bool found = wanted && pages.find(sequence, start + key, page[i], row[i]);
      if (!found) page[i] = -1;
      absent |= static_cast<unsigned long long>(__ballot_sync(~0u, wanted && !found)) << (i * WARP);
    }
  }
  // Bit i: position i is wanted and not there.
  __device__ __forceinline__ unsigned long long missing() const { return absent; }

  static __device__ __forceinline__ bool hold(const Pages& pages, int sequence, int position) {
    return pages.holds(sequence, position);
  }
};

// The same for pages of whole chunks alone.
struct WholePlaces {
  int page, row;   // page -1: not there
  int begin, end;

  // Which of its sequence's pages a chunk is in. Exact for less than two million chunks, and shorter than a division.
  static __device__ __forceinline__ int index(const Pages& pages, int chunk) {
    return __fdividef(chunk + 0.5f, pages.page_size / CHUNK_KEYS);
  }

  // As Pages::holds.
  static __device__ __forceinline__ bool hold(const Pages& pages, int sequence, int position) {
    return sequence >= 0 && sequence < pages.sequences && position >= 0 &&
           index(pages, position / CHUNK_KEYS) < pages.columns;
  }

  __device__ __forceinline__ void locate(const Pages& pages, int sequence, int chunk, int first, int last) {
    const int start = chunk * CHUNK_KEYS, column = index(pages, chunk);
    begin = max(first - start, 0);
    end = min(last + 1 - start, CHUNK_KEYS);
    page = -1;
    if (begin >= end) return;
    row = start - column * pages.page_size;
    if (column < pages.columns) page = pages.tables[sequence * pages.table_stride + column];
    if (page >= pages.pages) page = -1;
  }
  // Bit i: position i is wanted and not there.
  __device__ __forceinline__ unsigned long long missing() const { return begin < end && page < 0 ? ~0ull : 0; }
};

// A warp begins to copy ROWS rows that lie one after the other, `stride` elements apart: this lane has a piece, from
// `column` on, of row `own`, at `source`, and of each row a whole number of times WARP / (DIM / 8) further on.
template <int DIM, int ROWS, class T>
__device__ __forceinline__ void copy_rows(unsigned shared, const T* source, long long stride, int own, int column,
                                          bool there) {
  constexpr int STEP = WARP / (DIM / 8);
#pragma unroll
  for (int i = 0; i < ROWS; i += STEP) {
    // Eight rows further on the pieces are permuted alike.
    copy16_async(shared + head_offset<DIM>(own + i % 8, column) + i / 8 * head_offset<DIM>(8, 0), source, there);
    source += STEP * stride;
  }
}

// A warp begins to copy a chunk out of one of the caches (already at its head). What isn't wanted or there becomes zeros: it
// must not be NaN, because it is multiplied with a weight of zero.
template <int DIM, class T>
__device__ __forceinline__ void copy_whole_chunk(unsigned shared, const T* cache, const CacheStrides& strides,
                                                 const WholePlaces& places, int dim) {
  constexpr int PIECES = DIM / 8, STEP = WARP / PIECES;
  if (places.begin >= places.end) return;
  const int own = lane_index() / PIECES, column = lane_index() % PIECES * 8;
  const T* source = cache + places.page * strides.page + (places.row + own) * strides.row + column;
  const bool there = column < dim && places.page >= 0;
  if (places.begin == 0 && places.end == CHUNK_KEYS)
    return copy_rows<DIM, CHUNK_KEYS>(shared, source, strides.row, own, column, there);
#pragma unroll 1
  for (int key = own; key < CHUNK_KEYS; key += STEP, source += STEP * strides.row)
    copy16_async(shared + head_offset<DIM>(key, column), source, there && key >= places.begin && key < places.end);
}

// A warp begins to copy ROWS rows of a chunk, from `first` on, out of one of the caches (already at its head).
// What isn't wanted or there becomes zeros: it must not be NaN, because it is multiplied with a weight of zero.
template <int DIM, int ROWS, class T>
__device__ __forceinline__ void copy_chunk(unsigned shared, const T* cache, const CacheStrides& strides,
                                           const KeyPlaces& places, int first, int dim) {
  constexpr int PIECES = DIM / 8, STEP = WARP / PIECES;
  static_assert(STEP >= 1, "a row is at most as wide as a warp");
  if (places.begin >= places.end) return;
  const int own = first + lane_index() / PIECES, column = lane_index() % PIECES * 8;
  const bool inside = column < dim;
  if (places.together) {
    const T* source = cache + places.page[0] * strides.page + (places.row[0] + own) * strides.row + column;
    const bool there = inside && places.page[0] >= 0;
    if (places.begin == 0 && places.end == CHUNK_KEYS)
      return copy_rows<DIM, ROWS>(shared, source, strides.row, own, column, there);
#pragma unroll 1
    for (int i = 0; i < ROWS; i += STEP) {
      const int key = own + i;
      copy16_async(shared + head_offset<DIM>(key, column), source + i * strides.row,
                   there && key >= places.begin && key < places.end);
    }
    return;
  }
#pragma unroll 1
  for (int i = 0; i < ROWS; i += STEP) {
    const int key = own + i;
    const int page[2] = {__shfl_sync(~0u, places.page[0], key % WARP), __shfl_sync(~0u, places.page[1], key % WARP)};
    const int row[2] = {__shfl_sync(~0u, places.row[0], key % WARP), __shfl_sync(~0u, places.row[1], key % WARP)};
    const int half = key / WARP;
    const T* source = cache + (half ? page[1] : page[0]) * strides.page + (half ? row[1] : row[0]) * strides.row;
    copy16_async(shared + head_offset<DIM>(key, column), source + column, inside && (half ? page[1] : page[0]) >= 0);
  }
}

// s[t] = the products of the queries with positions 8t … 8t+7 from the one on that `keys` is the address of. query(i, q)
// gives elements i … i+15 of the queries, as mma takes them. UNROLL of the steps over the elements are laid out one after
// the other.
template <int DIM, int UNROLL, class T, int TILES, class Query>
__device__ __forceinline__ void multiply_keys(float (&s)[TILES][4], unsigned keys, const Query& query) {
  const int lane = lane_index(), own = head_offset<DIM>(lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8);
#pragma unroll
  for (int t = 0; t < TILES; ++t) s[t][0] = s[t][1] = s[t][2] = s[t][3] = 0.f;
#pragma unroll UNROLL
  for (int i = 0; i < DIM; i += 16) {
    unsigned q[4];
    query(i, q);
#pragma unroll
    for (int t = 0; t < TILES; t += 2) {
      unsigned k[4];
      load_matrix_x4(k, keys + further(own, i) + head_offset<DIM>(t * 8, 0));
      mma<T>(s[t], q[0], q[1], q[2], q[3], k[0], k[1]);
      mma<T>(s[t + 1], q[0], q[1], q[2], q[3], k[2], k[3]);
    }
  }
}
// The same with queries in shared memory. Where there are but 8 rows, those after them are the same again.
template <int DIM, int UNROLL, class T, int TILES>
__device__ __forceinline__ void multiply_keys(float (&s)[TILES][4], unsigned queries, unsigned keys, int rows = 16) {
  const int own = head_offset<DIM>(lane_index() & (rows - 1), lane_index() / 16 * 8);
  multiply_keys<DIM, UNROLL, T>(s, keys, [&](int i, unsigned(&q)[4]) { load_matrix_x4(q, queries + further(own, i)); });
}

// The positions that this lane's two queries (rows lane / 4 and lane / 4 + 8) see: first … last.
struct Visible {
  int first[2] = {0, 0}, last[2] = {-1, -1};

  __device__ __forceinline__ bool any(int chunk) const {
    const int start = chunk * CHUNK_KEYS, end = start + CHUNK_KEYS;
    return (first[0] < end && last[0] >= start) || (first[1] < end && last[1] >= start);
  }
  __device__ __forceinline__ bool all(int chunk) const {
    const int start = chunk * CHUNK_KEYS, end = start + CHUNK_KEYS;
    return first[0] <= start && last[0] >= end - 1 && first[1] <= start && last[1] >= end - 1;
  }
};

// Makes scores of a chunk's positions that aren't visible -∞, those of missing ones NaN.
__device__ __forceinline__ void hide_keys(float (&s)[8][4], const Visible& visible, int chunk, unsigned long long missing) {
  const int own = lane_index() % 4 * 2;  // this lane has keys own, own + 1, own + 8, …
  if (missing) {
    missing >>= own;
#pragma unroll
    for (int i = 0; i < 32; ++i)
      if (missing >> (i / 4 * 8 + i % 2) & 1) s[i / 4][i % 4] = NAN_F32;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int start = chunk * CHUNK_KEYS + own + i % 2;
    const int first = visible.first[i / 2] - start, last = visible.last[i / 2] - start;
#pragma unroll
    for (int t = 0; t < 8; ++t)
      if (t * 8 < first || t * 8 > last) s[t][i] = -INFINITY_F32;
  }
}

// Turns products into scores, those that aren't visible into -∞, those of missing positions into NaN.
template <class T>
__device__ __forceinline__ void score_keys(float (&s)[8][4], const Scorer<T>& scorer, const Visible& visible,
                                           int chunk, unsigned long long missing) {
  scorer.score(s);
  if (__all_sync(~0u, visible.all(chunk)) && !missing) return;
  hide_keys(s, visible, chunk, missing);
}

// Turns scores into weights (p, rounded to T as the second product takes them) and the softmax of the chunk, of whose weight
// each of the lanes that share a query has a part; of HALVES of the 16 queries, for the rest the weights are 0.
template <class T, int HALVES>
__device__ __forceinline__ void weigh_parts(const float (&s)[8][4], unsigned (&p)[4][4], Softmax (&softmax)[2]) {
  if constexpr (HALVES == 1) {
#pragma unroll
    for (int t = 0; t < 8; ++t) p[t / 2][t % 2 * 2 + 1] = 0;
  }
#pragma unroll
  for (int h = 0; h < HALVES; ++h) {
    float largest = -INFINITY_F32;
#pragma unroll
    for (int t = 0; t < 8; ++t) largest = fmaxf(largest, fmaxf(s[t][2 * h], s[t][2 * h + 1]));
    softmax[h].largest = warp_reduce<4>(largest, Max());
    const float reference = softmax[h].reference();
    softmax[h].weight = 0.f;
#pragma unroll
    for (int t = 0; t < 8; ++t) {
      const float low = exp2_fast(s[t][2 * h] - reference), high = exp2_fast(s[t][2 * h + 1] - reference);
      softmax[h].weight += low + high;
      p[t / 2][t % 2 * 2 + h] = pack2<T>(low, high);
    }
  }
}
// The softmax itself.
template <int HALVES>
__device__ __forceinline__ void add_parts(Softmax (&softmax)[2]) {
#pragma unroll
  for (int h = 0; h < HALVES; ++h) softmax[h].weight = warp_reduce<4>(softmax[h].weight, Sum());
}
template <class T, int HALVES = 2>
__device__ __forceinline__ void weigh(const float (&s)[8][4], unsigned (&p)[4][4], Softmax (&softmax)[2]) {
  weigh_parts<T, HALVES>(s, p, softmax);
  add_parts<HALVES>(softmax);
}

// Calls add(i, sum) with the weighted sums of elements i … i+7 of the values, as mma leaves them, counted from `first` on; of
// `count` elements, a power of two of at least 16 of which `first` is a multiple. UNROLL of the steps over the elements are
// laid out one after the other.
template <int DIM, int UNROLL, class T, class Add>
__device__ __forceinline__ void multiply_values(const unsigned (&p)[4][4], unsigned values, Add add, int first = 0,
                                                int count = DIM) {
  const int lane = lane_index(), own = head_offset<DIM>(lane / 8 % 2 * 8 + lane % 8, first + lane / 16 * 8);
#pragma unroll UNROLL
  for (int i = 0; i < count; i += 16) {
    float sum[2][4] = {};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      unsigned v[4];
      load_matrix_x4_transposed(v, values + further(own, i) + head_offset<DIM>(k * 16, 0));
      mma<T>(sum[0], p[k][0], p[k][1], p[k][2], p[k][3], v[0], v[1]);
      mma<T>(sum[1], p[k][0], p[k][1], p[k][2], p[k][3], v[2], v[3]);
    }
    add(i, sum[0]);
    add(i + 8, sum[1]);
  }
}
