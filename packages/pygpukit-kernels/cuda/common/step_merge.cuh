// The merge of attention's pieces in layers_persistent.cuh: what attention_decode does with spans, with the same bits.
#pragma once
#include "step_heads.cuh"

// Of the warps that finish sums: while others attend they have nothing else to do, and merge pieces as they come.
template <int DIM, class T>
struct Merger {
  static constexpr int AHEAD = 8;  // pieces that are read together: whole spans of chunks

  const Mailboxes<T> mailboxes;
  const HeadShare share;
  int most_pieces;
  int first;  // head that this block merges

  __device__ __forceinline__ explicit Merger(const PersistentArgs<T>& args)
      : mailboxes(args), share(args), most_pieces(args.most_pieces), first(gridDim.x - 1 - block_number(args)) {}

  // The last blocks merge: the first ones have the pieces.
  __device__ __forceinline__ void merge(const Step<T>& step) const {
    const AttentionArgs<Head>& at = step.heads.attention;
    const Mailbox out = mailboxes(step.out);
    if (column() >= DIM) return;
    for (int head = first; head < at.heads; head += gridDim.x) {
      const Head y = from_float<Head>(merge_pieces(Pieces(at, share), head, mailboxes.pieces(step.x.step)));
      const int i = head * DIM + column();
      if (out) out.send(i, y.bits);
      if (step.stores) at.out[i] = y;
    }
  }

 private:
  // This thread's element of a head's result.
  static __device__ __forceinline__ int column() { return thread_index() % NORM_THREADS; }

  // Of pieces that are read together: this thread's elements, then the softmax of the piece of this lane.
  using Values = float[AHEAD + 2];

  // What is scaled alike: this thread's element of the sums, and the softmax's weight.
  struct Total {
    float sum = 0.f, weight = 0.f;
    __device__ __forceinline__ void add(const Scales& scales, float next, float next_weight) {
      sum = scales(sum, next);
      weight = scales(weight, next_weight);
    }
  };

  // What has been merged.
  struct Merged {
    float largest = -INFINITY_F32;
    Total total, span;

    // Adds pieces. Lane i finds what the i-th is scaled with: of what comes before it only the largest scores matter for that.
    // Pieces that aren't there have no weight.
    __device__ __forceinline__ void add(const Values& values, bool are_spans) {
      const Softmax own = {values[AHEAD], values[AHEAD + 1]};
      const int lane = lane_index(), within = are_spans ? 0 : lane % SPAN_CHUNKS;
      const float of_span = warp_scan<SPAN_CHUNKS>(own.largest, Max(), within);
      const float of_all = warp_scan<AHEAD>(fmaxf(own.largest, largest), Max(), lane);
      const float before_piece = __shfl_up_sync(~0u, of_span, 1);
      const float before_span = __shfl_sync(~0u, of_all, max(lane - within - 1, 0));
      const Scales in_span = Softmax{within ? before_piece : -INFINITY_F32}.merge(own);
      Scales in_all = Softmax{lane > within ? before_span : largest}.merge({of_span});
      // A piece within a span changes nothing but that; and a span's first one leaves nothing of the span before.
      if (!are_spans && lane % SPAN_CHUNKS != SPAN_CHUNKS - 1) in_all = {1.f, 0.f};
      largest = __shfl_sync(~0u, of_all, AHEAD - 1);
#pragma unroll
      for (int i = 0; i < AHEAD; ++i) {
        span.add(of_lane(in_span, i), values[i], __shfl_sync(~0u, own.weight, i));
        total.add(of_lane(in_all, i), span.sum, span.weight);
      }
    }

   private:
    static __device__ __forceinline__ Scales of_lane(const Scales& scales, int i) {
      return {__shfl_sync(~0u, scales.before, i), __shfl_sync(~0u, scales.next, i)};
    }
  };

  // Those that come next are on their way while some are merged. What is read begins with a span. While others follow only
  // the last of them is asked for again and again.
  __device__ __forceinline__ float merge_pieces(const Pieces& pieces, int head, const FloatMailbox& results) const {
    const int lane = lane_index(), column = this->column();
    Values values;
    unsigned long long read[AHEAD + 2];
    Merged merged;
    int skipped = pieces.behind_span();
#pragma unroll 1
    for (int start = -skipped, merged_to = start; start < pieces.count || merged_to < start;) {
      const int left = pieces.count - start;
      const bool has_piece = lane >= skipped && lane < min(left, AHEAD);
      const auto exists = [&](int j) { return j < AHEAD ? j < left && (j >= SPAN_CHUNKS - 1 || j >= skipped) : has_piece; };
      const long long words = piece_words<DIM>(most_pieces, head, start), own = words + column;
      const long long softmax = words + lane * (DIM + 2) + DIM;
      if (left > 0) results.ask(read, exists, [&](int j) { return j < AHEAD ? own + j * (DIM + 2) : softmax + j - AHEAD; });
      if (merged_to < start) {
        merged.add(values, pieces.chunks > 1);
        merged_to = start;
      }
      if (left <= 0) continue;
      if (results.receive(values, read, exists)) {
        if (!has_piece) values[AHEAD] = -INFINITY_F32;
        start += AHEAD;
        skipped = 0;
      } else if (left > AHEAD) {
        results.wait_for(words + (AHEAD - 1) * (DIM + 2) + DIM);
      }
    }
    // Where there is nothing to see, 0 / 0 gives NaN.
    return merged.total.sum * (1.f / merged.total.weight);
  }
};
