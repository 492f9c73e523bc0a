// The end of a decoding step: what it has chosen goes to the next one and to the host.
#pragma once

struct AdvanceArgs {
  const int* ids;  // (rows), where a kernel of its own takes them from
  int* token_ids;  // (rows); null: nothing is advanced
  int* positions;  // (rows)
  int* history;    // (rows, columns)
  long long history_stride;
  int rows, columns;
};

// A row's move to its next token: token_ids = id; positions += 1; history[row, positions[row]] = id, the last where the history
// has that column. Made early, so that where the row is has come when the id is there.
struct Advance {
  const AdvanceArgs& a;
  const int row, before;

  __device__ __forceinline__ Advance(const AdvanceArgs& args, int row)
      : a(args), row(row), before(args.token_ids ? args.positions[row] : 0) {}

  __device__ __forceinline__ void to(int id) const {
    if (!a.token_ids) return;
    const int position = before == 0x7fffffff ? before : before + 1;
    a.token_ids[row] = id;
    a.positions[row] = position;
    if (position >= 0 && position < a.columns) a.history[row * a.history_stride + position] = id;
  }
};

// Words on their way to the host, each below a tag that tells that it has come.
struct Delivery {
  unsigned long long* out;  // memory of the host that the GPU reaches; null: nothing is delivered
  unsigned tag;
  int padding;

  __device__ __forceinline__ void send(int i, unsigned word) const {
    const unsigned long long tagged = static_cast<unsigned long long>(tag) << 32 | word;
    if (out) asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(out + i), "l"(tagged) : "memory");
  }
};

// What a row has chosen, in `out` and on its way. By one thread.
__device__ __forceinline__ void choose(int* out, int id, const Advance& advance, const Delivery& to) {
  out[advance.row] = id;
  to.send(advance.row, id);
  advance.to(id);
}
