// What comes before and after the products of layers_persistent.cuh: x is brought, sums are added up and results sent.
#pragma once
#include "step_input.cuh"

// The linear steps of the warps that bring x and finish sums, each every fourth round's.
template <int GROUPS, class T>
struct Finisher {
  static constexpr int AHEAD = 4;  // chunks that are loaded together

  const Places<T> places;
  const Mailboxes<T> mailboxes;
  const Input<GROUPS, T> input;
  int next;                   // first tile of the next step
  unsigned number = 0;        // of the next round
  unsigned sums_parity = 0;   // of the barriers of this warp's sums
  unsigned input_parity = 0;  // of those of x

  __device__ __forceinline__ Finisher(const PersistentArgs<T>& args, const Places<T>& places)
      : places(places), mailboxes(args), input(places), next(block_number(args)) {}

  // `maxima`: null, or of the step's results.
  __device__ __forceinline__ void run(const Step<T>& step, Ranked* maxima) {
    const LinearArgs<T>& l = step.linear;
    const Rounds rounds(l.n, l.k, l.gated, next);
    next = rounds.next;
    if (rounds.own == 0) return;
    // Most steps are of the first two kinds, whose code has little to decide when sums have come.
    const Kind kind = !l.gated && l.activation == ACTIVATION_IDENTITY ? PLAIN
                      : l.gated && l.activation == ACTIVATION_SILU    ? GATED_SILU
                                                                      : ANY;
    const int own = (warp_index() - number) % WARPS;
    // It finished neither of the two rounds before.
    const int asking = 2 * WARPS + (number + 1) % WARPS;
    number += rounds.count();
#pragma unroll 1
    for (int i = own; i == own || i < rounds.count(); i += WARPS) {
      const Result result = expect(step, rounds, rounds.first + i * rounds.stride());
      if (i == own) {
        input.bring(mailboxes(step.x), l, input_parity, asking);
        input_parity ^= 1;
        if (i >= rounds.count()) break;
      }
      if (kind == PLAIN)
        finish<PLAIN>(step, rounds, result, maxima);
      else if (kind == GATED_SILU)
        finish<GATED_SILU>(step, rounds, result, maxima);
      else
        finish<ANY>(step, rounds, result, maxima);
      sums_parity ^= 1;
    }
  }

 private:
  enum Kind { PLAIN, GATED_SILU, ANY };

  // What a lane knows of a result before its sums are there.
  struct Result {
    int column;
    bool exists;
    unsigned word;                  // that of the residual, as it was when it was asked for
    float bias, bias_up, residual;  // what is added; −0 changes nothing
  };

  // The result of this lane in the round whose first tile is `first`. The residual is older than x.
  __device__ __forceinline__ Result expect(const Step<T>& step, const Rounds& rounds, int first) const {
    const LinearArgs<T>& l = step.linear;
    const int tile = lane_index() / TILE;
    Result r = {(first + tile * static_cast<int>(gridDim.x)) * TILE + lane_index() % TILE, false, 0, -0.f, -0.f, -0.f};
    r.exists = tile < rounds.together && r.column < l.n;
    if (!r.exists) return r;
    if (step.residual.words >= 0)
      r.word = load_word(mailboxes(step.residual).words + r.column);
    else if (l.residual)
      r.residual = l.residual[r.column];
    if (l.bias) r.bias = l.bias[r.column];
    if (l.bias && l.gated) r.bias_up = l.bias[l.n + r.column];
    return r;
  }

  template <Kind KIND>
  __device__ __forceinline__ void finish(const Step<T>& step, const Rounds& rounds, Result r, Ranked* maxima) const {
    const Mailbox out = mailboxes(step.out);
    const int turn = warp_index() % WARPS;
    const LinearArgs<T>& l = step.linear;
    const float scale = l.scale;
    const bool is_f16 = l.out_dtype == DTYPE_F16;
    const int parts = KIND == PLAIN ? 1 : rounds.parts, tile = r.exists ? lane_index() / TILE : 0;
    const float* from = places.sums(turn) + tile * parts * rounds.chunks * TILE + lane_index() % TILE;
    if (r.exists && step.residual.words >= 0)
      r.residual = to_float(mailboxes(step.residual).template receive<T>(r.column, r.word));
    barrier_wait(places.full_sums(turn), sums_parity);
    float sums[2] = {};
    float y;
    if constexpr (KIND == PLAIN) {
      add_chunks<1>(sums, from, rounds.chunks);
      y = (sums[0] + r.bias) * scale;
    } else if constexpr (KIND == GATED_SILU) {
      add_chunks<2>(sums, from, rounds.chunks);
      y = silu(sums[0] + r.bias) * (sums[1] + r.bias_up) * scale;
    } else {
      add_chunks<1>(sums, from, rounds.chunks);
      float ups[2] = {};
      if (l.gated) add_chunks<1>(ups, from + rounds.chunks * TILE, rounds.chunks);
      sums[1] = ups[0];
      y = finish_biased(l, sums[0] + r.bias, sums[1] + r.bias_up);
    }
    y += r.residual;
    if (r.exists && out) out.send(r.column, is_f16 ? from_float<f16>(y).bits : from_float<bf16>(y).bits);
    barrier_arrive(places.empty_sums(turn));
    if (r.exists && step.stores) store(l, 0, r.column, y);
    if (maxima) rank(maxima, r.column, r.exists, y);
  }

  // Adds up the chunks of PARTS parts that follow each other, in order; AHEAD of each are loaded before they are added.
  template <int PARTS>
  static __device__ __forceinline__ void add_chunks(float (&sums)[2], const float* from, int chunks) {
    const int stride = chunks * TILE;  // from a part to the next
#pragma unroll 1
    for (; chunks >= AHEAD; chunks -= AHEAD, from += AHEAD * TILE) {
      float next[PARTS][AHEAD];
#pragma unroll
      for (int i = 0; i < PARTS * AHEAD; ++i) next[i / AHEAD][i % AHEAD] = from[i / AHEAD * stride + i % AHEAD * TILE];
#pragma unroll
      for (int i = 0; i < PARTS * AHEAD; ++i) sums[i / AHEAD] += next[i / AHEAD][i % AHEAD];
    }
#pragma unroll 1
    for (; chunks > 0; --chunks, from += TILE)
#pragma unroll
      for (int part = 0; part < PARTS; ++part) sums[part] += from[part * stride];
  }

  // A tile is a run of a part.
  static __device__ __forceinline__ void rank(Ranked* maxima, int column, bool exists, float y) {
    static_assert(TILE == PART_RUN, "as parts are counted");
    const Ranked ranked = warp_reduce<TILE>(exists ? rank_any(y, column) : 0, Later());
    if (lane_index() % TILE == 0 && exists) atomicMax(maxima + column / TILE % MAXIMA, ranked);
  }
};
