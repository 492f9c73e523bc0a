// layers_persistent for models of a hidden size of up to 1,024.
#include "common/layers_persistent.cuh"

#define ENTRIES(T) ENTRY(layers_1k_persistent, 1, 64, 8, T) ENTRY(layers_1k_persistent, 1, 128, 8, T)
FOR_EACH_16BIT(ENTRIES)
