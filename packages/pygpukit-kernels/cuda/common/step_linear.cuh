// The products of layers_persistent.cuh: what linear_gemv does, with the same bits.
//
// The tiles of all steps are dealt out to the blocks one after the other, so that none has more to do than others for long. A
// block takes its tiles of a step in rounds. Eight warps multiply, each every fourth stage's half; four others bring x (see
// step_input.cuh), add up the chunks and send the results (step_finish.cuh).
#pragma once
#include "steps.cuh"

// The tiles of a step that a block takes, first, first + gridDim, …, in rounds of some tiles each. The stages of a round are
// numbered (tile, part, group).
struct Rounds {
  static constexpr int MOST_TILES = WARP / TILE;  // a lane of a finisher for each result
  static constexpr int STRIDE = PRODUCT_WARPS / (GROUP / 2);
  static_assert(STRIDE == 4 && STRIDE <= MOST_TILES, "as rounds are filled");

  int chunks, groups, parts, tiles, together;
  int first;
  int own;   // tiles of this block
  int next;  // the first tile of the next step

  // As many tiles in a round as give each warp something to do.
  __device__ __forceinline__ Rounds(int n, int k, int gated, int first)
      : chunks(ceil_div(k, SPAN)), groups(ceil_div(chunks, GROUP)), parts(1 + gated), tiles(ceil_div(n, TILE)), first(first) {
    const int stages = parts * groups;
    together = stages == 1 ? STRIDE : stages == 2 ? STRIDE / 2 : 1;
    int end = first;
    for (own = 0; end < tiles; end += gridDim.x) ++own;
    next = end - tiles;
  }
  __device__ __forceinline__ int stride() const { return together * gridDim.x; }
  __device__ __forceinline__ int count() const { return (own + together - 1) >> together / 2; }  // together is 1, 2 or 4
  // Stages of the round that begins when `left` tiles are left.
  __device__ __forceinline__ int stages(int left) const { return min(together, left) * parts * groups; }
};

// Where a part of x begins, 32 values of a chunk, in shared memory from `input` on. A warp reads the same part of two chunks
// that follow each other at a time: they are in different banks.
constexpr int PART_BYTES = 64;
template <class Address>
__device__ __forceinline__ Address input_part(Address input, int chunk, int part) {
  return input + (chunk * (SPAN / 32) + (part ^ chunk % 2)) * PART_BYTES;
}

// Of the warps that multiply.
template <class T>
struct Products {
  static constexpr int STEPS = SPAN / 32;  // of a chain: two products each

  // Half of the weights of a pair of chunks, as products take them.
  using Half = unsigned[STEPS][4];

  // What a warp multiplies of a round: every STRIDE-th stage's half, a pair of chunks. Of the next one:
  struct Share {
    int stage, stages;  // its number, and how many the round has
    int group;          // which of a tile's
    Place place;        // in the ring
    unsigned sums;      // where those of the first chunk of the tile's go
    unsigned x;         // what this lane loads of x for the first stage of a tile
    bool is_begun;      // whether half of the weights is here:
    Half first;

    __device__ __forceinline__ explicit Share(const Place& place) : place(place) {}
  };

  const Places<T> places;
  Place round;       // of the first stage of the next round
  unsigned number = 0;  // of that stage
  unsigned parity = 0;  // of the barriers of x
  Slot<WARPS> sums;

  __device__ __forceinline__ explicit Products(const Places<T>& places) : places(places), round(places.a.stages) {}

  // This warp's share of the next round, of `stages` stages, once there is room for its sums. If weights have come half of
  // them are loaded before x is there: eight warps that load all of theirs are in each other's way.
  __device__ __forceinline__ void share_out(Share& share, const Rounds& rounds, int stages) const {
    const int first = (warp_index() / (GROUP / 2) - number) % Rounds::STRIDE, column = lane_index() / 4 % 2;
    share.place = round;
    share.stage = share.group = first;
    share.stages = stages;
    share.place.advance_within(first);
    share.sums = shared_address(places.sums(sums.index) + pair() * TILE + lane_index() / 4);
    share.x = input_part(shared_address(places.input()) + lane_index() % 4 * 16, pair() + column, 0);
    find_tile(share, rounds);
    barrier_wait(places.empty_sums(sums.index), sums.parity ^ 1);
    share.is_begun = first < stages && barrier_test(places.full(share.place.index), share.place.parity);
    if (share.is_begun) load_half(share.first, weights(share.place), 0);
  }

  // Multiplies all rounds, the first of which is shared out, once x is there.
  __device__ __forceinline__ void run(const Rounds& rounds, Share& first, int dtype) {
    for (int left = rounds.own;;) {
      if (dtype == DTYPE_F16)
        multiply_share<f16>(first, rounds);
      else
        multiply_share<T>(first, rounds);
      if (has_sums()) barrier_arrive(places.full_sums(sums.index));
      round.advance(first.stages);
      number += first.stages;
      sums.advance();
      left -= rounds.together;
      if (left <= 0) break;
      share_out(first, rounds, rounds.stages(left));
    }
    // Who has nothing to multiply waits for x like the others: barriers' phases mustn't run ahead of who waits for them.
    barrier_wait(places.full_input(), parity);
    parity ^= 1;
    barrier_arrive(places.empty_input());
  }

 private:
  // Of the lanes of a warp there are TILE.
  static __device__ __forceinline__ bool has_sums() { return lane_index() % 4 == 0; }

  // The first chunk that a warp multiplies, of a stage's.
  static __device__ __forceinline__ int pair() { return warp_index() % (GROUP / 2) * 2; }

  // A tile's rows in both chunks of a pair are the halves of one matrix, and the chunks of x columns of the other. The other
  // half of the results is for nothing.
  __device__ __forceinline__ unsigned weights(const Place& place) const {
    const int lane = lane_index(), half = lane / 8 % 2;
    return places.stage(place.index) + (lane % 8 * GROUP_PITCH + (pair() + half) * SPAN + lane / 16 * 8) * sizeof(T);
  }
  static __device__ __forceinline__ void load_half(Half& to, unsigned weights, int number) {
#pragma unroll
    for (int i = 0; i < STEPS; ++i) load_matrix_x4(to[i], weights + (number * STEPS + i) * 16 * sizeof(T));
  }

  // A share's group is counted on from a tile to the next.
  static __device__ __forceinline__ void find_tile(Share& share, const Rounds& rounds) {
    for (; share.group >= rounds.groups; share.group -= rounds.groups) share.sums += tile_sums(rounds);
  }
  static __device__ __forceinline__ unsigned tile_sums(const Rounds& rounds) { return rounds.chunks * TILE * sizeof(float); }

  // All that a chain of products takes is loaded before it: it waits for nothing but itself.
  template <class Product>
  __device__ __forceinline__ void multiply_share(Share& share, const Rounds& rounds) const {
    while (share.stage < share.stages) {
      if (!share.is_begun) {
        find_tile(share, rounds);
        barrier_wait(places.full(share.place.index), share.place.parity);
        load_half(share.first, weights(share.place), 0);
      }
      const unsigned from = weights(share.place), x = share.x + share.group * GROUP * SPAN * sizeof(T);
      const unsigned next_part = lane_index() / 4 % 2 ? -PART_BYTES : PART_BYTES;
      barrier_wait(places.full_input(), parity);
      uint4 columns[STEPS];
#pragma unroll
      for (int i = 0; i < STEPS; ++i) columns[i] = load_shared16(x + i / 2 * 2 * PART_BYTES + (i % 2 ? next_part : 0));
      Half second;
      load_half(second, from, 1);
      float d[4] = {};
      multiply_half<Product>(d, share.first, columns, 0);
      multiply_half<Product>(d, second, columns, STEPS / 2);
      barrier_arrive(places.empty(share.place.index));
      const int chunk = share.group * GROUP + pair();
      const unsigned to = share.sums + share.group * GROUP * TILE * sizeof(float);
      if (has_sums() && chunk < rounds.chunks) store_shared(to, d[0]);
      if (has_sums() && chunk + 1 < rounds.chunks) store_shared(to + TILE * sizeof(float), d[3]);
      share.stage += Rounds::STRIDE;
      share.group += Rounds::STRIDE;
      share.place.advance_within(Rounds::STRIDE);
      share.is_begun = false;
    }
  }
  // d += the products of half a chunk's steps, and of x from a step's columns on.
  template <class Product>
  static __device__ __forceinline__ void multiply_half(float (&d)[4], const Half& w, const uint4 (&columns)[STEPS], int first) {
#pragma unroll
    for (int i = 0; i < STEPS; ++i) {
      const uint4& c = columns[first + i / 2];
      mma<Product>(d, w[i][0], w[i][1], w[i][2], w[i][3], i % 2 ? c.z : c.x, i % 2 ? c.w : c.y);
    }
  }
  static __device__ __forceinline__ uint4 load_shared16(unsigned address) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
  }
};

// The linear steps of the warps that multiply.
template <class T>
struct LinearSteps {
  const Places<T> places;
  Products<T> products;
  int next;  // first tile of the next step

  __device__ __forceinline__ explicit LinearSteps(const Places<T>& places)
      : places(places), products(places), next(block_number(places.a)) {}

  // bring(takes_part) is called while x is awaited; begin() before, if this block takes part.
  template <class Begin, class Bring>
  __device__ __forceinline__ void run(const LinearArgs<T>& l, const Begin& begin, const Bring& bring) {
    const Rounds rounds(l.n, l.k, l.gated, next);
    next = rounds.next;
    const bool takes_part = rounds.own > 0;
    typename Products<T>::Share share(products.round);
    if (takes_part) {
      begin();
      products.share_out(share, rounds, rounds.stages(rounds.own));
    }
    bring(takes_part);
    if (takes_part) products.run(rounds, share, l.dtype);
  }
};
