//! linear_few_tma.cu: products of a few rows on Hopper.

use super::Linear;
use crate::cuda::CudaLaunch;
use crate::cuda::operations::arguments::{PANEL, launch, share_tiles};
use crate::device::Limits;

/// Values of k whose products are summed in a chain.
const CHUNK: usize = 256;
/// Weight rows of a tile.
const TILE: usize = 16;
/// Of this launch, or of it and the next.
const BLOCKS_PER_SM: usize = 2;

/// The ring of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ring {
    /// Rows of x that a chunk has room for.
    rows: usize,
    /// Chunks.
    stages: usize,
    function: &'static str,
}

impl Ring {
    const ALL: [Ring; 3] = [
        Ring { rows: 8, stages: 8, function: "linear_few_tma_8" },
        Ring { rows: 16, stages: 6, function: "linear_few_tma_16" },
        Ring { rows: 32, stages: 4, function: "linear_few_tma_32" },
    ];

    /// The one for so many rows of k values. A single row is left to linear_gemv.cu, which needs no
    /// other launch for its norm.
    pub(super) fn choose(rows: usize, k: usize, limits: &Limits) -> Option<Ring> {
        if !limits.is_hopper() || !k.is_multiple_of(PANEL) || rows < 2 {
            return None;
        }
        Self::ALL.into_iter().find(|ring| rows <= ring.rows)
    }

    fn threads(self) -> usize {
        // A warp multiplies each chunk, four finish tiles, two copy.
        32 * (self.stages + 6)
    }

    fn shared_bytes(self) -> usize {
        let chunk = 2 * CHUNK * (TILE + self.rows);
        self.stages * (chunk + 4 * TILE * self.rows + 32)
    }
}

impl Linear<'_> {
    /// The kernel for a few rows on Hopper.
    pub(super) fn few(&self, ring: Ring, limits: &Limits) -> CudaLaunch {
        let tiles = self.n.div_ceil(TILE / self.parts());
        let blocks = share_tiles(tiles, limits.sm_count as usize * BLOCKS_PER_SM);
        let (grid, threads, shared) = ([blocks, 1, 1], ring.threads(), ring.shared_bytes());
        let launch = launch("linear_few_tma", ring.function, grid, threads, shared, self.arguments);
        self.copied_in_boxes(launch, [ring.rows, TILE, CHUNK / PANEL])
    }
}
