// The linear steps of layers_persistent.cuh: what linear_gemv does, with the same bits.
//
// The tiles of all steps are dealt out to the blocks one after the other, so that none has more to do than others for long. A
// block takes its tiles of a step in rounds. Eight warps multiply, each every fourth stage's half; four others add up the
// chunks and send the results, each every fourth round, so that products don't wait for what comes after them.
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
  };

  const Places<T> places;
  Place round;       // of the first stage of the next round
  unsigned number = 0;  // of that stage
  unsigned parity = 0;  // of the barriers of x
  Slot<WARPS> sums;

  __device__ __forceinline__ explicit Products(const Places<T>& places) : places(places), round(places.a.stages) {}

  // Waits until all have multiplied what is in the place of x.
  __device__ __forceinline__ void wait_for_room() const { barrier_wait(places.empty_input(), parity ^ 1); }

  // This warp's share of the next round, of `stages` stages, once there is room for its sums; begun if weights have come.
  __device__ __forceinline__ Share share(const Rounds& rounds, int stages) const {
    const int first = (warp_index() / (GROUP / 2) - number) % Rounds::STRIDE, column = lane_index() / 4 % 2;
    Share share{first, stages, first, round};
    share.place.advance_within(first);
    share.sums = shared_address(places.sums(sums.index) + pair() * TILE + lane_index() / 4);
    share.x = input_part(shared_address(places.input()) + lane_index() % 4 * 16, pair() + column, 0);
    find_tile(share, rounds);
    barrier_wait(places.empty_sums(sums.index), sums.parity ^ 1);
    share.is_begun = first < stages && barrier_test(places.full(share.place.index), share.place.parity);
    if (share.is_begun) load_half(share.first, weights(share.place), 0);
    return share;
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
      first = share(rounds, rounds.stages(left));
    }
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

  // `share` has found its tile. All that a chain of products takes is loaded before it: it waits for nothing but itself.
  template <class Product>
  __device__ __forceinline__ void multiply_share(Share& share, const Rounds& rounds) const {
    for (; share.stage < share.stages; find_tile(share, rounds)) {
      if (!share.is_begun) {
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

// Brings x, normalised, into shared memory. What is normalised has GROUPS groups of a thread and is_plain(), or is anything.
template <int GROUPS, class T>
struct Input {
  // Values that the first WARPS read together.
  static constexpr int AT_ONCE = 8 * Mailbox::AHEAD * WARPS * WARP;

  const Places<T> places;

  __device__ __forceinline__ explicit Input(const Places<T>& places) : places(places) {}

  // Of the first WARPS.
  __device__ __forceinline__ void load(const Mailbox& box, const LinearArgs<T>& l) const {
    if (is_shared(l))
      bring_together(box, l);
    else if (l.norm.kind == NORM_NONE)
      bring<WARPS>(box, l.x, l.k, [&](int g, const uint4& v) { put_group(g, v); });
    else if constexpr (GROUPS > 0)
      bring_short(box, l.x, l.k, l.norm, l.dtype);
    else
      bring_any(box, l.x, l.k, stage_norm(l.norm, l.k, places.vectors(l.k), places.vectors_room(l.k), true), l.dtype);
  }

  // Whether the others take part: where there is much to bring and no norm.
  static __device__ __forceinline__ bool is_shared(const LinearArgs<T>& l) {
    return l.norm.kind == NORM_NONE && l.k > AT_ONCE;
  }
  // Of all that multiply.
  __device__ __forceinline__ void bring_together(const Mailbox& box, const LinearArgs<T>& l) const {
    bring<PRODUCT_WARPS>(box, l.x, l.k, [&](int g, const uint4& v) { put_group(g, v); });
  }

 private:
  // In registers. To ask for each of a thread's groups whether it exists would take as long as what is done with it.
  __device__ __forceinline__ void bring_short(const Mailbox& box, const T* source, int length, const NormArgs& norm,
                                              int dtype) const {
    ShortRow<T, GROUPS> row(norm, length);
    if (box) {
      wait_for_all<WARPS>(box, length);
      box.receive_some<NORM_THREADS, GROUPS - 1>(row.values, thread_index(), length / 8);
    } else {
      row.load(source);
    }
    row.normalize(places.scratch(), [&](int g, const Eight& y) { put_normalized(g, y, dtype); });
    clear_behind<NORM_THREADS>(length);
  }

  // What it is normalised with, as far as this thread has begun to copy it, is there when x is, and for all behind the next
  // barrier: that of the moments.
  __device__ __forceinline__ void bring_any(const Mailbox& box, const T* source, int length, const NormArgs& norm,
                                            int dtype) const {
    float squares = 0.f;
    bring<WARPS>(box, source, length, [&](int g, const uint4& v) {
      put_group(g, v);
      if (norm.kind == NORM_RMS) squares = add_squares(squares, unpack8<T>(v));
    });
    copy_async_commit();
    copy_async_wait<0>();
    const auto group = [&](int g) { return input_group(g); };
    const Moments moments = norm.kind == NORM_RMS ? block_moments(norm, reciprocal(length), 0.f, squares, places.scratch())
                                                  : block_moments(norm, length, group, places.scratch());
#pragma unroll 1
    for (int g = thread_index(); g < length / 8; g += NORM_THREADS)
      put_normalized(g, moments(norm, 8 * g, length, input_group(g)), dtype);
  }

  // Of the first COUNT warps. put(g, values) has the values of group g, in the order of the groups of a thread; zeros are put
  // behind them.
  template <int COUNT, class Put>
  __device__ __forceinline__ void bring(const Mailbox& box, const T* source, int length, const Put& put) const {
    constexpr int THREADS = COUNT * WARP;
    const int groups = length / 8;
    if (box) {
      wait_for_all<COUNT>(box, length);
      box.receive_groups<THREADS>(groups, put);
    } else {
#pragma unroll 1
      for (int g = thread_index(); g < groups; g += THREADS) put(g, load16(source + 8 * g));
    }
    clear_behind<THREADS>(length);
  }

  // Of the first COUNT warps.
  template <int COUNT>
  static __device__ __forceinline__ void wait_for_all(const Mailbox& box, int length) {
    // The last tile is one of those that come last. Only one warp asks for it: what asks often is in the results' way.
    if (warp_index() == 0) box.wait_for(length - 1);
    // Behind it nobody attends any more, to keys and values in the place of x.
    block_sync<COUNT>();
  }

  // Puts zeros behind the values, as far as products go.
  template <int THREADS>
  __device__ __forceinline__ void clear_behind(int length) const {
#pragma unroll 1
    for (int g = length / 8 + thread_index(); g < ceil_div(length, SPAN) * (SPAN / 8); g += THREADS)
      put_group(g, make_uint4(0, 0, 0, 0));
  }

  // x lies in shared memory as the products take it: of the 32 values of a part lane q has 2q, 2q + 1 and those 8, 16 and 24
  // after them.
  __device__ __forceinline__ unsigned* input_words(int group) const {
    constexpr int PARTS = SPAN / 32;
    const int part = group / 4;
    return reinterpret_cast<unsigned*>(input_part(places.input(), part / PARTS, part % PARTS)) + group % 4;
  }
  __device__ __forceinline__ void put_group(int group, const uint4& v) const {
    unsigned* words = input_words(group);
    words[0] = v.x;
    words[4] = v.y;
    words[8] = v.z;
    words[12] = v.w;
  }
  __device__ __forceinline__ void put_normalized(int group, const Eight& y, int dtype) const {
    put_group(group, dtype == DTYPE_F16 ? pack8<f16>(y) : pack8<T>(y));
  }
  __device__ __forceinline__ Eight input_group(int group) const {
    const unsigned* words = input_words(group);
    Eight e;
#pragma unroll
    for (int i = 0; i < 4; ++i) unpack2<T>(words[4 * i], e.value[2 * i], e.value[2 * i + 1]);
    return e;
  }
};

// Of the warps that multiply.
template <int GROUPS, class T>
struct LinearSteps {
  const Places<T> places;
  const Mailboxes<T> mailboxes;
  const Input<GROUPS, T> input;
  Products<T> products;
  int next = blockIdx.x;  // first tile of the next step

  __device__ __forceinline__ LinearSteps(const PersistentArgs<T>& args, const Places<T>& places)
      : places(places), mailboxes(args), input(places), products(places) {}

  // Of the first WARPS.
  __device__ __forceinline__ void run(const Step<T>& step) {
    run(step.linear, [&] { input.load(mailboxes(step.x), step.linear); });
  }
  // Of the others.
  __device__ __forceinline__ void help(const Step<T>& step) {
    const LinearArgs<T>& l = step.linear;
    run(l, [&] {
      if (input.is_shared(l)) input.bring_together(mailboxes(step.x), l);
    });
  }

 private:
  template <class Bring>
  __device__ __forceinline__ void run(const LinearArgs<T>& l, const Bring& bring) {
    const Rounds rounds(l.n, l.k, l.gated, next);
    next = rounds.next;
    if (rounds.own == 0) return;
    typename Products<T>::Share share = products.share(rounds, rounds.stages(rounds.own));
    products.wait_for_room();
    bring();
    barrier_arrive(places.full_input());
    products.run(rounds, share, l.dtype);
  }
};

// Of the warps that add up the chunks and send.
template <class T>
struct Finisher {
  const Places<T> places;
  const Mailboxes<T> mailboxes;
  int next = blockIdx.x;  // first tile of the next step
  unsigned parity = 0;    // of the barriers of x
  Slot<WARPS> sums;

  __device__ __forceinline__ Finisher(const PersistentArgs<T>& args, const Places<T>& places)
      : places(places), mailboxes(args) {}

  // `maxima`: null, or of the step's results.
  __device__ __forceinline__ void finish(const Step<T>& step, Ranked* maxima) {
    const LinearArgs<T> l = step.linear;
    const Rounds rounds(l.n, l.k, l.gated, next);
    next = rounds.next;
    const Mailbox residual = mailboxes(step.residual), out = mailboxes(step.out);
    const bool stores = step.stores;
    const int own = lane_index() / TILE, i = lane_index() % TILE;
    if (rounds.own == 0) return;
    // The residual is there when x is: what is asked for before has to be asked for again, while all wait for it. Who waits
    // for x gives its place back like those that take it, so that its barriers' phases can't run ahead.
    barrier_wait(places.full_input(), parity);
    parity ^= 1;
    barrier_arrive(places.empty_input());
    for (int first = rounds.first; first < rounds.tiles; first += rounds.stride(), sums.advance()) {
      if (sums.index != warp_index() % WARPS) continue;
      const int column = (first + own * static_cast<int>(gridDim.x)) * TILE + i;
      const bool exists = own < rounds.together && column < l.n;
      // What is added comes while the products are made; −0 changes nothing.
      unsigned word = 0;
      float bias = -0.f, bias_up = -0.f, added = -0.f;
      if (exists && residual) word = load_word(residual.words + column);
      if (exists && !residual && l.residual) added = l.residual[column];
      if (exists && l.bias) bias = l.bias[column];
      if (exists && l.bias && l.gated) bias_up = l.bias[l.n + column];
      barrier_wait(places.full_sums(sums.index), sums.parity);
      float y = 0.f, up = 0.f;
      if (exists) {
        const float* from = places.sums(sums.index) + own * rounds.parts * rounds.chunks * TILE;
        y = add_chunks(from, rounds.chunks, TILE, 0, i);
        if (l.gated) up = add_chunks(from, rounds.chunks, TILE, 1, i);
      }
      barrier_arrive(places.empty_sums(sums.index));
      Ranked ranked = 0;
      if (exists) {
        if (residual) added = to_float(residual.receive<T>(column, word));
        y = finish_biased(l, y + bias, up + bias_up) + added;
        if (out) out.send(column, l.out_dtype == DTYPE_F16 ? from_float<f16>(y).bits : from_float<bf16>(y).bits);
        if (stores) store(l, 0, column, y);
        ranked = rank_any(y, column);
      }
      if (!maxima) continue;
      // A tile is a run of a part.
      static_assert(TILE == PART_RUN, "as parts are counted");
      ranked = warp_reduce<TILE>(ranked, Later());
      if (i == 0 && exists) atomicMax(maxima + column / TILE % MAXIMA, ranked);
    }
  }
};
