//! Finding the launches that can be steps of one.

use std::ops::Range;

use bytemuck::Zeroable;

use super::super::arguments::number;
use super::super::attention::{AttentionArgs, SinkArgs};
use super::super::linear::LinearArgs;
use super::super::maxima::Choice;
use super::super::rope::AppendArgs;
use super::entry::kernel;
use super::shape::Shape;
use super::{
    ATTENTION, FARTHEST, LINEAR, MAILBOXES, MERGE, Persistent, Route, Step, TENSOR_ALONE, Weights,
};
use crate::cuda::CudaLaunch;
use crate::device::Limits;
use crate::dtype::DType;

/// Steps below which launches of their own are as fast.
const FEWEST_STEPS: usize = 12;

/// What one result is: where it lies, and which step makes it.
#[derive(Clone, Copy)]
struct Written {
    address: u64,
    bytes: u64,
    step: usize,
}

impl Written {
    fn overlaps(&self, address: u64, bytes: u64) -> bool {
        address < self.address + self.bytes && self.address < address + bytes
    }
}

/// Steps on their way to a [`Persistent`].
#[derive(Default)]
pub(super) struct Run {
    /// Of the residual stream.
    stream: Option<DType>,
    /// That of all steps, but for the caches and the window.
    attention: Option<AttentionArgs>,
    /// The pieces, chunks or spans, that a head's results can have.
    most_pieces: i32,
    steps: Vec<Step>,
    weights: Vec<Weights>,
    reads_early: Vec<Range<usize>>,
    written: Vec<Written>,
    /// What comes of what the last step makes; nothing can follow it.
    choice: Option<Choice>,
}

impl Run {
    /// Adds the operation whose launches come first; how many they are, or None where it has to end.
    pub(super) fn take(&mut self, launches: &[&CudaLaunch], limits: &Limits) -> Option<usize> {
        let launch = launches.first()?;
        match launch.source {
            _ if self.choice.is_some() => None,
            "argmax" => self.choice(launches),
            "linear_gemv" => self.linear(launch).map(|()| 1),
            "rope" if launch.function.starts_with("rope_append_kv") => {
                let [append, attention] = launches.first_chunk()?;
                // A block, or a cluster, that has all spans of its heads merges them itself.
                let merged = attention.grid[2] == attention.cluster[2];
                let is_merge =
                    |launch: &&CudaLaunch| launch.function.starts_with("attention_decode_merge");
                if !merged && !launches.get(2).is_some_and(is_merge) {
                    return None;
                }
                self.heads(append, attention, limits)?;
                Some(if merged { 2 } else { 3 })
            }
            _ => None,
        }
    }

    fn linear(&mut self, launch: &CudaLaunch) -> Option<()> {
        let args: LinearArgs = launch.parameters.first()?;
        let stream = self.stream_of(&args)?;
        let vectors = [args.norm.weight, args.norm.bias, args.bias];
        if args.rows != 1 || !launch.overlap || !vectors.iter().all(|v| self.is_constant(v.data)) {
            return None;
        }
        let previous = self.steps.len();
        let x = self.route(args.x, args.k)?;
        // Every step waits for the one before it: what makes mailboxes safe to write again.
        if previous > 0 && x.step as usize != previous {
            return None;
        }
        let residual_values = if args.residual.data == 0 { 0 } else { args.n };
        let residual = self.route(args.residual.data, residual_values)?;
        let is_16_bit = args.out_dtype != number(DType::F32);
        let bytes = args.n as u64 * if is_16_bit { 2 } else { 4 };
        self.replaced(args.out, bytes)?;
        self.stream = stream;
        let (n, k, gated) = (args.n, args.k, args.gated);
        let stride = args.weight_stride;
        self.weights.push(Weights { weight: args.weight, stride, n, k, gated, padding: 0 });
        self.reads_early.extend_from_slice(&launch.reads_early);
        self.push(LINEAR, [x, residual], bytemuck::bytes_of(&args), args.out, bytes);
        if !is_16_bit {
            self.steps.last_mut()?.out = TENSOR_ALONE;
        }
        Some(())
    }

    fn choice(&mut self, launches: &[&CudaLaunch]) -> Option<usize> {
        let product = self.steps.last().filter(|step| step.kind == LINEAR)?.linear();
        self.choice = Choice::of(&product, launches);
        self.choice.as_ref().map(|choice| choice.launches)
    }

    fn heads(
        &mut self,
        append: &CudaLaunch,
        attention: &CudaLaunch,
        limits: &Limits,
    ) -> Option<()> {
        let first: AppendArgs = append.parameters.first()?;
        let SinkArgs { attention: second, sinks, .. } = attention.parameters.first()?;
        let dim = second.dim;
        let function = match dim {
            64 => "attention_decode_64",
            128 => "attention_decode_128",
            _ => return None,
        };
        let previous = self.steps.len();
        let qkv = self.route(first.qkv, (first.heads + 2 * first.kv_heads) * dim)?;
        let group = second.heads / second.kv_heads;
        let blocks = second.kv_heads * group.cast_unsigned().div_ceil(16).cast_signed();
        let expected = attention.function.starts_with(function)
            && attention.function.ends_with("_f16")
            && self.attention.is_none_or(|known| alike(&known, &second))
            && second.tokens == 1
            && sinks == 0
            && first.is_of(&second)
            && second.q_head_stride == i64::from(dim)
            && second.has_packed_rows()
            && blocks <= limits.sm_count.cast_signed();
        if !expected || previous == 0 || qkv.step as usize != previous {
            return None;
        }
        let bytes = 2 * second.heads as u64 * dim as u64;
        self.replaced(first.out, bytes)?;
        self.replaced(second.out, bytes)?;
        self.attention = Some(second);
        let both = [bytemuck::bytes_of(&first), bytemuck::bytes_of(&second)].concat();
        self.push(ATTENTION, [qkv, TENSOR_ALONE], &both, first.out, bytes);
        let step = self.steps.last_mut()?;
        step.splits = limits.sm_count.cast_signed() / blocks;
        self.most_pieces = step.splits.max(second.most_spans);
        step.out = TENSOR_ALONE;
        let pieces = Route { words: 0, step: self.steps.len() as i32 };
        self.push(MERGE, [pieces, TENSOR_ALONE], &both, second.out, bytes);
        Some(())
    }

    /// The type of the residual stream, if a product is known to be the same: what is normalised is of
    /// that type, what is added to, too, and products that aren't in float16.
    fn stream_of(&self, args: &LinearArgs) -> Option<Option<DType>> {
        let normalised = (args.norm.kind != 0).then_some(args.x_dtype);
        let added = (args.residual.data != 0).then_some(args.residual.dtype);
        let multiplied = (args.dtype != number(DType::F16)).then_some(args.dtype);
        let mut stream = self.stream;
        for found in [normalised, added, multiplied].into_iter().flatten() {
            let found =
                [DType::F16, DType::BF16].into_iter().find(|&dtype| number(dtype) == found)?;
            if *stream.get_or_insert(found) != found {
                return None;
            }
        }
        Some(stream)
    }

    /// Where a step gets `length` values at `address` from: the step that wrote them, or their tensor if
    /// none did. None where they aren't just what one step wrote.
    fn route(&self, address: u64, length: i32) -> Option<Route> {
        let bytes = 2 * length as u64;
        let Some(found) = self.written.iter().rev().find(|w| w.overlaps(address, bytes)) else {
            return Some(TENSOR_ALONE);
        };
        let sent = self.steps[found.step].out;
        let whole = (found.address, found.bytes) == (address, bytes);
        let near = self.steps.len() - found.step <= FARTHEST;
        (whole && near && sent != TENSOR_ALONE).then_some(sent)
    }

    /// Whether no step writes what lies there.
    fn is_constant(&self, address: u64) -> bool {
        !self.written.iter().any(|w| w.overlaps(address, 1))
    }

    /// The earlier results that one of `bytes` bytes at `address` would take the place of; None where it
    /// would of a part of one.
    fn replaced(&self, address: u64, bytes: u64) -> Option<Vec<usize>> {
        let overlapping = self.written.iter().filter(|w| w.overlaps(address, bytes));
        let covered = |w: &Written| address <= w.address && w.address + w.bytes <= address + bytes;
        overlapping.map(|w| covered(w).then_some(w.step)).collect()
    }

    /// Adds a step whose result has `bytes` bytes at `address`, where [`Run::replaced`] isn't None.
    fn push(
        &mut self,
        kind: i16,
        [x, residual]: [Route; 2],
        arguments: &[u8],
        address: u64,
        bytes: u64,
    ) {
        // Of a tensor that is written again only what comes last can be seen.
        for earlier in self.replaced(address, bytes).unwrap_or_default() {
            self.steps[earlier].stores = 0;
        }
        let number = self.steps.len();
        // The mailbox's number; its first word is known when all steps are.
        let out = Route { words: (number % MAILBOXES) as i32, step: number as i32 + 1 };
        let mut step = Step { kind, stores: 1, splits: 0, x, residual, out, ..Step::zeroed() };
        step.set_arguments(arguments);
        self.steps.push(step);
        self.written.push(Written { address, bytes, step: number });
    }

    pub(super) fn finish(mut self, range: Range<usize>, limits: &Limits) -> Option<Persistent> {
        let (attention, stream) = (self.attention?, self.stream?);
        if self.steps.len() < FEWEST_STEPS {
            return None;
        }
        let shape = Shape::new(&self.steps, &attention, limits)?;
        // What nobody reads needs no mailbox: the last result.
        self.steps.last_mut()?.out = TENSOR_ALONE;
        let sent = self.written.iter().filter(|w| self.steps[w.step].out != TENSOR_ALONE);
        let longest = sent.map(|w| w.bytes as usize / 2).max()?.next_multiple_of(8);
        for step in &mut self.steps {
            for route in [&mut step.x, &mut step.residual, &mut step.out] {
                if route.words > 0 {
                    route.words *= longest as i32;
                }
            }
        }
        let (source, function) = kernel(&self.steps, &attention, stream);
        let Run { steps, weights, reads_early, most_pieces, choice, .. } = self;
        let pieces = (attention.heads * most_pieces * (attention.dim + 2)) as usize;
        Some(Persistent {
            range,
            source,
            function,
            steps,
            weights,
            reads_early,
            longest,
            most_pieces,
            pieces,
            choice,
            shape,
        })
    }
}

/// Whether two steps of attention are shared out alike and of the same token.
fn alike(a: &AttentionArgs, b: &AttentionArgs) -> bool {
    let of = |args: &AttentionArgs| {
        let shape = [args.heads, args.kv_heads, args.dim, args.most_spans];
        (shape, args.positions, args.sequences)
    };
    of(a) == of(b)
}
