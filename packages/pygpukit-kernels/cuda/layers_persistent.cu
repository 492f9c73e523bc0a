// layers_persistent for norms of any kind and width, and for more than 8 heads to a key.
#include "common/layers_persistent.cuh"

#define ENTRIES(T)                                                             \
  ENTRY(layers_persistent, 0, 64, 8, T) ENTRY(layers_persistent, 0, 64, 16, T) \
  ENTRY(layers_persistent, 0, 128, 8, T) ENTRY(layers_persistent, 0, 128, 16, T)
FOR_EACH_16BIT(ENTRIES)
