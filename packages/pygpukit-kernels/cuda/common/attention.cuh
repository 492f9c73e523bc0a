// What the attention kernels share: arguments, the order of summation, the state of a query's softmax.
//
// Token t of sequence s sees the positions max(0, p - window + 1) (0 without a window) to p, its own. With
// score = scale * q·k, or cap * tanh(scale * q·k / cap), and w = softmax(score), out = Σ w v. Query head h uses
// key/value head h / (heads / kv_heads). A query for which a visible position has no page gets NaN.
//
// Positions are taken in chunks of 64 and spans of four chunks, both counted from position 0. A chunk gives a query
// its largest score, the sum of the exponentials and the sum of the values weighted with them; the chunks of a span are
// merged in order, and so are the spans (Milakov & Gimelshein 2018, arXiv:1805.02867). Every kernel for a type keeps to
// that, and so a query's result is the same whichever kernel computes it, with however many queries beside it.
#pragma once
#include "pages.cuh"
#include "reduce.cuh"

constexpr int CHUNK_KEYS = 64;
constexpr int SPAN_CHUNKS = 4;
constexpr int SPAN_KEYS = CHUNK_KEYS * SPAN_CHUNKS;

constexpr float LOG2_E = 1.44269504f;

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// To about 1e-7, not relative to the result: enough for a score.
__device__ __forceinline__ float tanh_fast(float x) {
  return 1.f - __fdividef(2.f, exp2_fast(2.88539008f * x) + 1.f);
}

template <class T>
struct AttentionArgs {
  T* out;        // (tokens, heads * dim)
  float* spans;  // scratch of the split kernels, see SpanResults
  const T* q;    // (tokens, heads, dim)
  const T* k_cache;
  const T* v_cache;
  const int* positions;  // (tokens)
  const int* sequences;  // (tokens)
  Pages pages;
  CacheStrides k_strides, v_strides;
  long long q_stride, q_head_stride, out_stride;  // elements from token to token, head to head
  int tokens, heads, kv_heads, dim;
  int window;      // positions that a query sees, or 0 for all
  int most_spans;  // spans that the block tables have room for
  float scale, soft_cap;  // soft_cap 0: none

  __device__ __forceinline__ int group() const { return heads / kv_heads; }
  __device__ __forceinline__ int first_visible(int position) const {
    return window && position >= window ? position - window + 1 : 0;
  }
};

// What launches of their own take: where there are sinks, each head has a score that belongs to no position and that
// joins the softmax. Their merge comes last, so all before it is the same with sinks and without.
template <class T>
struct SinkArgs : AttentionArgs<T> {
  const float* sinks;  // (heads), or null
  int alone;           // whether each token is known to be the only one of its sequence; only the host reads it

  // The sink of a head, or null.
  __device__ __forceinline__ const float* sink(int head) const { return sinks ? sinks + head : nullptr; }
};

// Makes scores of the products of queries and keys, in units of log2 for exp2.
template <class T>
struct Scorer {
  float factor, cap;

  __device__ __forceinline__ Scorer() {}
  __device__ __forceinline__ explicit Scorer(const AttentionArgs<T>& a) {
    cap = a.soft_cap * LOG2_E;
    factor = cap > 0.f ? a.scale / a.soft_cap : a.scale * LOG2_E;
  }
  __device__ __forceinline__ float operator()(float product) const {
    const float x = product * factor;
    return cap == 0.f ? x : capped(x);
  }
  // Many at once, which branch once.
  template <int N>
  __device__ __forceinline__ void score(float (&products)[N][4]) const {
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) products[i / 4][i % 4] *= factor;
    if (cap == 0.f) return;
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) products[i / 4][i % 4] = capped(products[i / 4][i % 4]);
  }

 private:
  __device__ __forceinline__ float capped(float x) const {
    return cap * (same_type<T, float> ? tanhf(x) : tanh_fast(x));
  }
};

// By what two sums are scaled when they are added.
struct Scales {
  float before, next;
  __device__ __forceinline__ float operator()(float sum, float added) const { return fmaf(added, next, sum * before); }
  template <int N>
  __device__ __forceinline__ void add(float (&sums)[N], const float (&added)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) sums[i] = (*this)(sums[i], added[i]);
  }
};

// The largest score a query has met, and the sum of the exponentials relative to it.
struct Softmax {
  float largest = -INFINITY_F32, weight = 0.f;

  // What is subtracted from the scores: not infinity where nothing is visible.
  __device__ __forceinline__ float reference() const { return largest == -INFINITY_F32 ? 0.f : largest; }

  // The weight with that of a sink. What has met nothing keeps none.
  __device__ __forceinline__ float with_sink(const float* sink) const {
    if (!sink || !(weight > 0.f)) return weight;
    return weight + exp2_fast(fmaf(*sink, LOG2_E, -largest));
  }

  // Adds the positions of `next`; the sums of the values are to be added with the result.
  __device__ __forceinline__ Scales merge(const Softmax& next) {
    const Softmax both = {fmaxf(largest, next.largest), 0.f};
    const Scales scales = {exp2_fast(largest - both.reference()), exp2_fast(next.largest - both.reference())};
    weight = scales(weight, next.weight);
    largest = both.largest;
    return scales;
  }
};

// Results of spans on their way to attention_merge: sums (tokens, heads, most_spans, dim), then largest score and
// weight (tokens, heads, most_spans, 2).
template <class T>
struct SpanResults {
  float* sums;
  float* softmax;

  __device__ __forceinline__ SpanResults(const AttentionArgs<T>& a, int token, int head) {
    const long long row = (static_cast<long long>(token) * a.heads + head) * a.most_spans;
    const long long rows = static_cast<long long>(a.tokens) * a.heads * a.most_spans;
    sums = a.spans + row * a.dim;
    softmax = a.spans + rows * a.dim + row * 2;
  }
};
