//! What a block's shared memory is for.

use super::super::attention::AttentionArgs;
use super::super::linear::LinearArgs;
use super::{LINEAR, Step};
use crate::device::Limits;

/// The parts of a block's shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) stages: usize,
    /// Of them those that are copied at a time, at most.
    pub(super) under_way: usize,
    /// Floats.
    pub(super) sums_size: usize,
    /// Whether keys and values have a place of their own.
    pub(super) ahead: bool,
    /// Where the parts behind the first begin, in the order of common/steps.cuh.
    pub(super) places: [i32; 8],
    pub(super) bytes: usize,
}

impl Shape {
    pub(super) const WARPS: usize = 4;
    pub(super) const SPAN: usize = 256;
    pub(super) const TILE: usize = 8;
    /// Chunks of k of a stage, and the stages that warps multiply at a time.
    pub(super) const GROUP: usize = 4;
    /// Of a row of weights.
    pub(super) const STAGE_VALUES: usize = Self::GROUP * Self::SPAN;
    const STAGE: usize = Self::TILE * (Self::STAGE_VALUES + 8) * 2;
    const MOST_TILES: usize = 4;
    pub(super) const MOST_HEAD_PLACES: usize = 3;
    pub(super) const STEP_PLACES: usize = 4;
    pub(super) const MOST_VECTOR_BYTES: usize = 16 << 10;
    const MOST_STAGES: usize = 12;
    /// With so many one launch is as fast as many are.
    const FEWEST_UNDER_WAY: usize = 2;
    /// Enough for the memory; the latency of words grows with more.
    const MOST_UNDER_WAY: usize = 3;
    /// So many that keys and values that are there early are worth more than further ones.
    pub(super) const ENOUGH_STAGES: usize = 9;

    /// The shape that has the most weights under way; of such one with room for the vectors of norms, which
    /// can be read from where they are; then enough stages; then a place for keys and values. None where too
    /// little can be under way.
    pub(super) fn new(steps: &[Step], attention: &AttentionArgs, limits: &Limits) -> Option<Shape> {
        let choices = [(false, false), (false, true), (true, false), (true, true)];
        let shapes = choices.into_iter().filter_map(|(vectors, ahead)| {
            let shape = Self::with(steps, attention, vectors, ahead, limits)?;
            let stages = shape.stages.min(Self::ENOUGH_STAGES);
            Some(((shape.under_way, vectors, stages, ahead), shape))
        });
        shapes.max_by_key(|(value, _)| *value).map(|(_, shape)| shape)
    }

    /// As common/steps.cuh has it, with room for the vectors of norms or without.
    fn with(
        steps: &[Step],
        attention: &AttentionArgs,
        vectors: bool,
        ahead: bool,
        limits: &Limits,
    ) -> Option<Shape> {
        let most_vectors = if vectors { Self::MOST_VECTOR_BYTES } else { 0 };
        // Stages are multiplied as a whole, though what is behind the end of x counts for nothing.
        let input = |args: LinearArgs| {
            let k = args.k as usize;
            2 * k.next_multiple_of(Self::STAGE_VALUES) + args.norm.vector_bytes(k).min(most_vectors)
        };
        let input = linears(steps).map(input).max()?;
        let chunk_places = Self::chunk_bytes(attention);
        let (input, chunk_places) =
            if ahead { (input, chunk_places) } else { (0, input.max(chunk_places)) };
        // Of as many tiles at a time as give each warp something to multiply.
        let chunks = |args: LinearArgs| {
            let (parts, chunks) = (1 + args.gated as usize, (args.k as usize).div_ceil(Self::SPAN));
            let stages = parts * chunks.div_ceil(Self::GROUP);
            (Self::GROUP / stages).clamp(1, Self::MOST_TILES) * parts * chunks
        };
        let sums_size = linears(steps).map(chunks).max()? * Self::TILE;
        let heads = Self::heads_bytes(attention);
        let steps = Self::STEP_PLACES * size_of::<Step>();
        let sums = 4 * Self::WARPS * sums_size;
        let scratch = 4 * 2 * (2 * Self::WARPS);
        let missing = (8 * Self::MOST_HEAD_PLACES).next_multiple_of(16);
        let parts = [input, chunk_places, heads, steps, sums, scratch, missing];
        let pairs = Self::WARPS + Self::MOST_HEAD_PLACES + Self::STEP_PLACES;
        let barriers = (8 * (2 * pairs + 3)).next_multiple_of(16);
        let stage = Self::STAGE + 16;
        let fixed = parts.iter().sum::<usize>() + barriers;
        let free = (limits.shared_bytes_per_block as usize).saturating_sub(fixed);
        let stages = (free / stage).min(Self::MOST_STAGES);
        let mut places = [0; 8];
        let mut end = 0;
        let parts = parts.into_iter().chain([barriers + 16 * stages]);
        for (place, bytes) in places.iter_mut().zip(parts) {
            end += bytes;
            *place = end as i32;
        }
        // What common/streams.cuh has to keep phases apart.
        let apart = stages.saturating_sub(4).min(stages.saturating_sub(1) / 2);
        let under_way = apart.min(Self::MOST_UNDER_WAY);
        let bytes = fixed + stages * stage;
        (under_way >= Self::FEWEST_UNDER_WAY).then_some(Shape {
            stages,
            under_way,
            sums_size,
            ahead,
            places,
            bytes,
        })
    }

    /// What keys and values of chunks take, as common/step_heads.cuh has it.
    fn chunk_bytes(attention: &AttentionArgs) -> usize {
        let places = if attention.dim == 64 { 2 } else { Self::MOST_HEAD_PLACES };
        128 * places * attention.dim as usize
    }

    /// What else attention takes.
    fn heads_bytes(attention: &AttentionArgs) -> usize {
        let room = most_queries(attention);
        (16 + 2 * room) * attention.dim as usize + 512 * room
    }
}

/// Rows of queries that a block has room for, which its kernel's name tells: 8, or 16 where more heads share
/// a key.
pub(super) fn most_queries(attention: &AttentionArgs) -> usize {
    if attention.heads / attention.kv_heads > 8 { 16 } else { 8 }
}

pub(super) fn linears(steps: &[Step]) -> impl Iterator<Item = LinearArgs> + '_ {
    steps.iter().filter(|step| step.kind == LINEAR).map(Step::linear)
}
