// layers_persistent for models of a hidden size of more than 3,072, up to 4,096.
#include "common/layers_persistent.cuh"

#define ENTRIES(T) ENTRY(layers_4k_persistent, 4, 128, 8, T)
FOR_EACH_16BIT(ENTRIES)
