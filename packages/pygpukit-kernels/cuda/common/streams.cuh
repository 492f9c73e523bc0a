// The copies of layers_persistent.cuh: weights, keys and values, which depend on none of its steps.
#pragma once
#include "launch.cuh"
#include "step_heads.cuh"
#include "step_linear.cuh"

// Signals the barrier once what this thread has begun to copy is there.
__device__ __forceinline__ void barrier_arrive_copied(unsigned barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

// The stages of weights of all steps, one after the other.
template <class T>
struct WeightCursor {
  const PersistentArgs<T>& a;
  int step = -1, part = 0, group = 0, groups = 0, tile;
  Weights<T> w = {};

  __device__ __forceinline__ explicit WeightCursor(const PersistentArgs<T>& args) : a(args), tile(block_number(args)) {
    next_step();
  }

  __device__ __forceinline__ bool ended() const { return step >= a.weights_count; }
  __device__ __forceinline__ void advance() {
    if (++group < groups) return;
    group = 0;
    if (++part <= w.gated) return;
    part = 0;
    tile += gridDim.x;
    if (tile * TILE >= w.n) next_step();
  }
  __device__ __forceinline__ int rows() const { return min(TILE, w.n - tile * TILE); }
  __device__ __forceinline__ unsigned bytes() const { return min(GROUP * SPAN, w.k - group * GROUP * SPAN) * sizeof(T); }
  __device__ __forceinline__ const T* row(int i) const {
    return w.weight + (static_cast<long long>(part) * w.n + tile * TILE + i) * w.stride + group * GROUP * SPAN;
  }

 private:
  __device__ __forceinline__ void next_step() {
    do {
      tile -= ceil_div(w.n, TILE);
      if (++step >= a.weights_count) return;
      w = a.weights[step];
    } while (tile * TILE >= w.n);
    groups = ceil_div(ceil_div(w.k, SPAN), GROUP);
  }
};

// Two warps copy the weights of all steps, each every second stage; lane i has row i. What lies outside the matrix stays as it
// is.
//
// A barrier tells only the last of its phases from the one before, so nobody may wait for a phase before the one before it has
// ended. Both warps see every stage land, in order; as under_way is less than half of the stages, neither is so far ahead of
// the other that a stage could land twice meanwhile. A warp that multiplies last had the fourth stage before its next one,
// which was copied when all but under_way before it had landed: there are four stages more than that, at least.
template <class T>
__device__ __forceinline__ void stream_weights(const PersistentArgs<T>& a, const Places<T>& places) {
  const int warp = warp_index() % WARPS, lane = lane_index();
  const unsigned long long policy = evict_first_policy();
  Place next(a.stages), landing(a.stages);
  int number = 0;
  for (WeightCursor<T> copied(a); !copied.ended(); copied.advance(), next.advance(), ++number) {
    // What lies before the first step has few words to read, which shouldn't queue behind all of the ring.
    if (number == a.under_way) wait_for_inputs();
    if (number >= a.under_way) {
      barrier_wait(places.full(landing.index), landing.parity);
      landing.advance();
    }
    if (number % WEIGHT_STREAMS != warp) continue;
    barrier_wait(places.empty(next.index), next.parity ^ 1);
    const int rows = copied.rows();
    const unsigned full = places.full(next.index);
    if (lane == 0) barrier_arrive_expecting(full, rows * copied.bytes());
    __syncwarp();
    if (lane < rows)
      copy_bulk(places.stage(next.index) + lane * GROUP_PITCH * sizeof(T), copied.row(lane), copied.bytes(), full, policy);
  }
  // No copy may be under way when the block ends.
  for (int left = min(number, a.under_way); left > 0; --left, landing.advance())
    barrier_wait(places.full(landing.index), landing.parity);
}

// Copies the steps' descriptions: what is read from where it lies takes a trip to the L2 cache each time.
template <class T>
__device__ __forceinline__ void stream_steps(const PersistentArgs<T>& a, const Places<T>& places) {
  Slot<STEP_PLACES> next;
  for (int i = 0; i < a.step_count; ++i, next.advance()) {
    barrier_wait(places.empty_step(next.index), next.parity ^ 1);
    const unsigned full = places.full_step(next.index);
    if (lane_index() == 0) {
      barrier_arrive_expecting(full, STEP_BYTES);
      copy_bulk(shared_address(places.step(next.index)), a.steps + i, STEP_BYTES, full);
    }
    __syncwarp();
  }
}

// The chunks that a block takes, one after the other.
struct ChunkCursor {
  const Pieces& pieces;
  int piece, splits, chunk, end;

  __device__ __forceinline__ ChunkCursor(const Pieces& pieces, const Share& share)
      : pieces(pieces), piece(share.split), splits(share.splits) {
    find();
  }
  __device__ __forceinline__ bool ended() const { return piece >= pieces.count; }
  __device__ __forceinline__ void advance() {
    if (++chunk < end) return;
    piece += splits;
    find();
  }

 private:
  __device__ __forceinline__ void find() {
    chunk = pieces.first_chunk(piece);
    end = pieces.end_chunk(piece);
  }
};

// Copies the keys and values of this block's share: half of a chunk's keys or values by each of the warps that only multiply,
// which have nothing else to do while others attend. Keys and values take places by turns; a chunk's are multiplied before
// those of the next one, so no phase of a place's barriers is missed.
template <int DIM, class T>
struct HeadStream {
  static constexpr int ROWS = CHUNK_KEYS / (WARPS / 2);         // that a warp copies
  static constexpr int PIECES = DIM / 8, STEP = WARP / PIECES;  // of a row; rows at a time

  const PersistentArgs<T>& a;
  const Places<T> places;
  const HeadShare share;
  const HeadPlaces<DIM> own;
  Slot<HeadPlaces<DIM>::PLACES> next;

  __device__ __forceinline__ HeadStream(const PersistentArgs<T>& args, const Places<T>& places)
      : a(args), places(places), share(args), own(places) {
    if (is_value()) next.advance();
  }

  // Begins to copy the chunks of the number-th step of attention: all, to the place that x has left; or, ahead, all but the
  // first, and that of the step after it.
  __device__ __forceinline__ void copy_on(int number) {
#pragma unroll 1
    for (int next = 0; next <= a.ahead; ++next) copy(number + next, a.ahead && !next, next);
  }

 private:
  // Skips the first chunk, or copies it alone.
  __device__ __forceinline__ void copy(int number, bool skips, bool is_first) {
    if (share.none || number < 0 || number >= a.attention_count) return;
    const AttentionArgs<Head>& at = a.steps[a.attention[number]].heads.attention;
    const Pieces pieces(at, share);
    // Read but once: each time it would take as long as a chunk.
    const Pages pages = at.pages;
    const CacheStrides& strides = is_value() ? at.v_strides : at.k_strides;
    const Head* first = (is_value() ? at.v_cache : at.k_cache) + share.kv_head * strides.head + row() * DIM + column();
    const long long page = strides.page;
    ChunkCursor cursor(pieces, share);
    if (skips) cursor.advance();
#pragma unroll 1
    for (; !cursor.ended(); cursor.advance()) {
      WholePlaces where;
      where.locate(pages, share.sequence, cursor.chunk, pieces.begin, pieces.end - 1);
      copy_part(first + where.page * page + where.row * DIM, where);
      if (is_first) return;
    }
  }

  // What this lane copies: of keys or values, these elements of every STEP-th row from `row` on.
  static __device__ __forceinline__ bool is_value() { return warp_index() % 2; }
  static __device__ __forceinline__ int row() { return warp_index() % WARPS / 2 * ROWS + lane_index() / PIECES; }
  static __device__ __forceinline__ int column() { return lane_index() % PIECES * 8; }

  // Begins to copy this warp's part of a chunk to the place that comes next. What isn't wanted or there becomes zeros: it must
  // not be NaN, because it is multiplied with a weight of zero.
  __device__ __forceinline__ void copy_part(const Head* source, const WholePlaces& where) {
    const int row = this->row(), column = this->column();
    const unsigned full = places.full_heads(next.index), to = own.chunk(next.index);
    barrier_wait(places.empty_heads(next.index), next.parity ^ 1);
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP) {
      const bool wanted = row + i >= where.begin && row + i < where.end && where.page >= 0;
      copy16_async(to + head_offset<DIM>(row + i, column), source + i * DIM, wanted);
    }
    if (lane_index() == 0) {
      if (warp_index() % WARPS == 0) places.missing(next.index) = where.missing();
      barrier_arrive(full);
    }
    barrier_arrive_copied(full);
    next.advance();
    next.advance();
  }
};
