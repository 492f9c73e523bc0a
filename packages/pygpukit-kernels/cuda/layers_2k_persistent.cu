// layers_persistent for models of a hidden size of more than 1,024, up to 2,048.
#include "common/layers_persistent.cuh"

#define ENTRIES(T) ENTRY(layers_2k_persistent, 2, 64, 8, T) ENTRY(layers_2k_persistent, 2, 128, 8, T)
FOR_EACH_16BIT(ENTRIES)
