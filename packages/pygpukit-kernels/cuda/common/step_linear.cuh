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

  int chunks, groups, parts, tiles, together;
  int first;
  int own;  // tiles of this block

  // As many tiles in a round as give each warp something to do.
  __device__ __forceinline__ Rounds(int n, int k, int gated, int first)
      : chunks(ceil_div(k, SPAN)), groups(ceil_div(chunks, GROUP)), parts(1 + gated), tiles(ceil_div(n, TILE)), first(first) {
    together = min(max(STRIDE / (parts * groups), 1), MOST_TILES);
    own = ceil_div(tiles - first, static_cast<int>(gridDim.x));
  }
  // The first tile of the next step.
  __device__ __forceinline__ int next() const { return first + own * static_cast<int>(gridDim.x) - tiles; }
  __device__ __forceinline__ int stride() const { return together * gridDim.x; }
  // Stages of the round that begins when `left` tiles are left.
  __device__ __forceinline__ int stages(int left) const { return min(together, left) * parts * groups; }
};

// Of the warps that multiply.
template <class T>
struct Products {
  const Places<T> places;
  Place round;       // of the first stage of the next round
  unsigned number = 0;  // of that stage
  unsigned parity = 0;  // of the barriers of x
  Slot<WARPS> sums;

  __device__ __forceinline__ explicit Products(const Places<T>& places) : places(places), round(places.a.stages) {}

  // Waits until all have multiplied what is in the place of x.
  __device__ __forceinline__ void wait_for_room() const { barrier_wait(places.empty_input(), parity ^ 1); }

  // Waits for x when there are weights to multiply it with.
  __device__ __forceinline__ void run(const Rounds& rounds, int dtype) {
    const int warp = warp_index(), lane = lane_index();
    for (int left = rounds.own; left > 0; left -= rounds.together, sums.advance()) {
      const int stages = rounds.stages(left);
      barrier_wait(places.empty_sums(sums.index), sums.parity ^ 1);
      if (dtype == DTYPE_F16)
        multiply_round<f16>(warp, lane, stages, rounds, places.sums(sums.index));
      else
        multiply_round<T>(warp, lane, stages, rounds, places.sums(sums.index));
      round.advance(stages);
      number += stages;
      if (has_sums(lane)) barrier_arrive(places.full_sums(sums.index));
    }
    parity ^= 1;
    barrier_arrive(places.empty_input());
  }

 private:
  // Of the lanes of a warp there are TILE.
  static __device__ __forceinline__ bool has_sums(int lane) { return lane % 4 == 0; }

  // Multiplies this warp's pairs of chunks: a tile's rows in both are the halves of one matrix, and the chunks of x columns of
  // the other. The other half of the results is for nothing.
  template <class Product>
  __device__ __forceinline__ void multiply_round(int warp, int lane, int stages, const Rounds& rounds, float* sums) const {
    const unsigned half = lane / 8 % 2, column = lane / 4 % 2;
    const int first = (warp / (GROUP / 2) - number) % Rounds::STRIDE, pair = warp % (GROUP / 2) * 2;
    const unsigned row = (lane % 8 * GROUP_PITCH + (pair + half) * SPAN + lane / 16 * 8) * sizeof(T);
    const unsigned x = shared_address(places.input()) + (pair + column) * SPAN * sizeof(T) + lane % 4 * 16;
    Place place = round;
    place.advance(first);
    int group = first;
    float* result = sums + pair * TILE + lane / 4;
    for (int stage = first; stage < stages; stage += Rounds::STRIDE, group += Rounds::STRIDE) {
      for (; group >= rounds.groups; group -= rounds.groups) result += rounds.chunks * TILE;
      barrier_wait(places.full(place.index), place.parity);
      float d[4] = {};
      multiply<Product>(d, places.stage(place.index) + row, x + group * GROUP * SPAN * sizeof(T),
                        [&] { barrier_wait(places.full_input(), parity); });
      barrier_arrive(places.empty(place.index));
      place.advance(Rounds::STRIDE);
      const int chunk = group * GROUP + pair;
      if (has_sums(lane) && chunk < rounds.chunks) result[group * GROUP * TILE] = d[0];
      if (has_sums(lane) && chunk + 1 < rounds.chunks) result[(group * GROUP + 1) * TILE] = d[3];
    }
  }

  // d += the products of two chunks, at the addresses that this lane gives. All is loaded before it is needed: a chain of
  // products waits for nothing but itself. Half of the weights are loaded while x is waited for, as eight warps that load
  // all of theirs are in each other's way.
  template <class Product, class Wait>
  static __device__ __forceinline__ void multiply(float (&d)[4], unsigned weights, unsigned x, const Wait& wait_for_x) {
    constexpr int STEPS = SPAN / 32;
    unsigned w[2 * STEPS][4];
    uint4 columns[STEPS];
#pragma unroll
    for (int i = 0; i < STEPS; ++i) load_matrix_x4(w[i], weights + i * 16 * sizeof(T));
    wait_for_x();
#pragma unroll
    for (int i = 0; i < STEPS; ++i) {
      columns[i] = load_shared16(x + i * 32 * sizeof(T));
      load_matrix_x4(w[STEPS + i], weights + (STEPS + i) * 16 * sizeof(T));
    }
#pragma unroll
    for (int i = 0; i < STEPS; ++i) {
      const unsigned(&a)[4] = w[2 * i], (&b)[4] = w[2 * i + 1];
      mma<Product>(d, a[0], a[1], a[2], a[3], columns[i].x, columns[i].y);
      mma<Product>(d, b[0], b[1], b[2], b[3], columns[i].z, columns[i].w);
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
    else
      bring_normalized(box, l.x, l.k, stage_norm(l.norm, l.k, places.vectors(l.k), places.vectors_room(l.k), true), l.dtype);
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
  // What it is normalised with, as far as this thread has begun to copy it, is there when x is, and for all behind the next
  // barrier: that of the moments.
  __device__ __forceinline__ void bring_normalized(const Mailbox& box, const T* source, int length, const NormArgs& norm,
                                                   int dtype) const {
    if constexpr (GROUPS > 0)
      bring_short(box, source, length, norm, dtype);
    else
      bring_any(box, source, length, norm, dtype);
  }

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
    copy_async_commit();
    copy_async_wait<0>();
    row.normalize(places.scratch(), [&](int, int g) { return row.weight(g); },
                  [&](int g, const Eight& y) { put_normalized(g, y, dtype); });
    clear_behind<NORM_THREADS>(length);
  }

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
    const Moments moments = norm.kind == NORM_RMS ? block_moments(norm, length, 0.f, squares, places.scratch())
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

  // x lies in shared memory as the products take it: of 32 values lane q has 2q, 2q + 1 and those 8, 16 and 24 after them.
  __device__ __forceinline__ unsigned* input_words(int group) const {
    return reinterpret_cast<unsigned*>(places.input()) + group / 4 * 16 + group % 4;
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
    next = rounds.next();
    if (rounds.own == 0) return;
    products.wait_for_room();
    bring();
    barrier_arrive(places.full_input());
    products.run(rounds, l.dtype);
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
    next = rounds.next();
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
      // It comes while the products are made.
      unsigned word = 0;
      if (exists && residual) word = load_word(residual.words + column);
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
        y = finish_sums(l, column, y, up);
        if (residual)
          y += to_float(residual.receive<T>(column, word));
        else if (l.residual)
          y += l.residual[column];
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
