// What the queries of a block of attention see, sequence after sequence.
#pragma once
#include "attention.cuh"

// Consecutive tokens of one sequence, and the positions that any of them sees; made by a whole warp.
template <int TOKENS>
struct Segment {
  int sequence, tokens, begin, end;

  // The longest one that starts at `token` and ends before `end_token`, which is at most TOKENS tokens on.
  template <class T>
  __device__ __forceinline__ Segment(const AttentionArgs<T>& a, int token, int end_token) {
    sequence = a.sequences[token];
    tokens = 0;
    begin = 0x7fffffff;
    int last = -1;
#pragma unroll
    for (int i = 0; i < TOKENS; i += WARP) {
      const int t = token + i + lane_index();
      const bool same = tokens == i && t < end_token && a.sequences[t] == sequence;
      const unsigned others = ~__ballot_sync(~0u, same);
      const int count = others ? __ffs(others) - 1 : WARP;
      tokens += count;
      const int position = lane_index() < count ? a.positions[t] : -1;
      if (a.pages.holds(sequence, position)) {
        begin = min(begin, a.first_visible(position));
        last = max(last, position);
      }
    }
    begin = __reduce_min_sync(~0u, begin);
    end = __reduce_max_sync(~0u, last) + 1;
  }
};
