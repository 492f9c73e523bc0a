// The paged cache of keys and values: one layer's is (pages, kv_heads, page_size, dim).
//
// Row s of the block tables names the pages of sequence s: position p lies in page tables[s][p / page_size], in row
// p % page_size of it.
#pragma once
#include "types.cuh"

struct Pages {
  const int* tables;       // (sequences, columns)
  long long table_stride;  // entries from row to row
  int sequences, columns, page_size, pages;

  // Which of its sequence's pages a position is in. Sizes are powers of two as a rule, and dividing takes long.
  __device__ __forceinline__ int index(int position) const {
    const int shift = 31 - __clz(page_size);
    return page_size == 1 << shift ? position >> shift : position / page_size;
  }

  // Whether there is room in the tables for a token of this sequence and position.
  __device__ __forceinline__ bool holds(int sequence, int position) const {
    return sequence >= 0 && sequence < sequences && position >= 0 && index(position) < columns;
  }

  // The page of a position, and the row in it; false where the table names none.
  __device__ __forceinline__ bool find(int sequence, int position, int& page, int& row) const {
    const int column = index(position);
    row = position - column * page_size;
    if (column >= columns) return false;
    page = tables[sequence * table_stride + column];
    return page >= 0 && page < pages;
  }
};

// One of the two caches: elements from page to page, head to head, row to row.
struct CacheStrides {
  long long page, head, row;
};
