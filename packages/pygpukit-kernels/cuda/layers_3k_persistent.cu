// layers_persistent for models of a hidden size of more than 2,048, up to 3,072.
#include "common/layers_persistent.cuh"

#define ENTRIES(T) ENTRY(layers_3k_persistent, 3, 128, 8, T)
FOR_EACH_16BIT(ENTRIES)
