//! common/layers_persistent.cuh: a decoder's steps for one token in one launch, in place of the launches of each.

mod entry;
mod run;
mod shape;
#[cfg(test)]
mod tests;

use std::ops::Range;

use bytemuck::{NoUninit, Pod, Zeroable};

use self::run::Run;
use self::shape::Shape;
use super::arguments::launch;
use super::joined::Joined;
use super::linear::LinearArgs;
use super::maxima::Choice;
use crate::cuda::CudaLaunch;
use crate::device::Limits;

/// Mailboxes that steps take in turn. A step may write one again when all readers of what was in it are
/// done: those of two steps before are, and nobody reads farther than [`FARTHEST`] back.
const MAILBOXES: usize = 8;
const FARTHEST: usize = 5;

/// Consecutive launches that run as one.
pub(super) struct Persistent {
    /// Which launches it stands for.
    pub(super) range: Range<usize>,
    source: &'static str,
    function: &'static str,
    steps: Vec<Step>,
    weights: Vec<Weights>,
    /// Where those lie.
    reads_early: Vec<Range<usize>>,
    /// Values of the longest result that goes through a mailbox.
    longest: usize,
    /// Of a head in attention's mailbox.
    most_pieces: i32,
    /// Words of that mailbox.
    pieces: usize,
    /// What comes of what the last step makes.
    choice: Option<Choice>,
    shape: Shape,
}

/// `Route` of common/steps.cuh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Route {
    words: i32,
    step: i32,
}

const TENSOR_ALONE: Route = Route { words: -1, step: 0 };

/// `Step` of common/steps.cuh.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Step {
    kind: i16,
    stores: i16,
    splits: i32,
    x: Route,
    residual: Route,
    out: Route,
    arguments: [u64; 60],
}
const _: () = assert!(size_of::<Step>() == 512);

const LINEAR: i16 = 0;
const ATTENTION: i16 = 1;
const MERGE: i16 = 2;

impl Step {
    fn set_arguments(&mut self, arguments: &[u8]) {
        bytemuck::cast_slice_mut::<u64, u8>(&mut self.arguments)[..arguments.len()]
            .copy_from_slice(arguments);
    }

    fn linear(&self) -> LinearArgs {
        bytemuck::pod_read_unaligned(
            &bytemuck::bytes_of(&self.arguments)[..size_of::<LinearArgs>()],
        )
    }
}

/// `Weights` of common/steps.cuh.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Weights {
    weight: u64,
    stride: i64,
    n: i32,
    k: i32,
    gated: i32,
    padding: i32,
}

impl Weights {
    /// Whether some stage of a row isn't filled.
    fn are_partial(&self) -> bool {
        self.k % Shape::STAGE_VALUES as i32 != 0
    }
}

/// `PersistentArgs` of common/steps.cuh.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct PersistentArgs {
    steps: u64,
    weights: u64,
    attention: u64,
    state: u64,
    words: u64,
    pieces: u64,
    maxima: u64,
    step_count: i32,
    weights_count: i32,
    attention_count: i32,
    stages: i32,
    under_way: i32,
    sums_size: i32,
    ahead: i32,
    places: [i32; 8],
    most_pieces: i32,
    partial: i32,
    by_multiprocessor: i32,
}
const _: () = assert!(size_of::<PersistentArgs>() == 128);

/// Finds the launches that can run as one, those that a GPU runs faster so.
///
/// A launch may be part of it if nothing in its graph writes its weights: one that still `overlap`s.
pub(super) fn join(launches: &[&CudaLaunch], limits: &Limits) -> Vec<Persistent> {
    let mut found = Vec::new();
    if !limits.is_hopper() {
        return found;
    }
    let mut start = 0;
    while start < launches.len() {
        let mut run = Run::default();
        let mut end = start;
        while let Some(taken) = run.take(&launches[end..], limits) {
            end += taken;
        }
        found.extend(run.finish(start..end, limits));
        start = end.max(start + 1);
    }
    found
}

/// Where the parts of the memory that a [`Persistent`] works in begin.
struct Layout {
    steps: usize,
    weights: usize,
    attention: usize,
    words: usize,
    pieces: usize,
    maxima: usize,
    end: usize,
}

impl Persistent {
    fn layout(&self) -> Layout {
        const STATE: usize = 256;
        let after = |start: usize, bytes: usize| (start + bytes).next_multiple_of(256);
        let (steps, weights) = (STATE, after(STATE, size_of_val(&self.steps[..])));
        let attention = after(weights, size_of_val(&self.weights[..]));
        let words = after(attention, size_of_val(&self.attention()[..]));
        let pieces = after(words, 4 * MAILBOXES * self.longest);
        let maxima = after(pieces, 8 * self.pieces);
        let end = after(maxima, self.choice.as_ref().map_or(0, Choice::bytes));
        Layout { steps, weights, attention, words, pieces, maxima, end }
    }

    /// Whether every block of a launch has begun before one can end: all take part in some step, and in the
    /// last one, which nobody begins before all have made theirs of that step.
    fn begins_before_it_ends(&self, limits: &Limits) -> bool {
        let is_for_all = |weights: &Weights| {
            weights.n.cast_unsigned().div_ceil(Shape::TILE as u32) >= limits.sm_count
        };
        let Some((last, others)) = self.weights.split_last() else { return false };
        is_for_all(last) && others.iter().any(is_for_all)
    }

    /// The numbers of the steps that are attention.
    fn attention(&self) -> Vec<i32> {
        (0..).zip(&self.steps).filter(|(_, step)| step.kind == ATTENTION).map(|(i, _)| i).collect()
    }
}

impl Joined for Persistent {
    fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    fn bytes(&self) -> usize {
        self.layout().end
    }

    fn content(&self) -> Vec<u8> {
        let layout = self.layout();
        let mut content = vec![0; layout.words];
        let steps: &[u8] = bytemuck::cast_slice(&self.steps);
        let weights: &[u8] = bytemuck::cast_slice(&self.weights);
        content[layout.steps..][..steps.len()].copy_from_slice(steps);
        content[layout.weights..][..weights.len()].copy_from_slice(weights);
        let attention = self.attention();
        let attention: &[u8] = bytemuck::cast_slice(&attention);
        content[layout.attention..][..attention.len()].copy_from_slice(attention);
        content
    }

    fn launches(&self, memory: u64, limits: &Limits) -> Vec<CudaLaunch> {
        let Layout { steps, weights, attention, words, pieces, maxima, .. } = self.layout();
        let at = |offset: usize| memory + offset as u64;
        let arguments = PersistentArgs {
            steps: at(steps),
            weights: at(weights),
            attention: at(attention),
            state: memory,
            words: at(words),
            pieces: at(pieces),
            maxima: self.choice.as_ref().map_or(0, |_| at(maxima)),
            step_count: self.steps.len() as i32,
            weights_count: self.weights.len() as i32,
            attention_count: self.attention().len() as i32,
            stages: self.shape.stages as i32,
            under_way: self.shape.under_way as i32,
            sums_size: self.shape.sums_size as i32,
            ahead: self.shape.ahead.into(),
            places: self.shape.places,
            most_pieces: self.most_pieces,
            partial: self.weights.iter().any(Weights::are_partial).into(),
            by_multiprocessor: self.begins_before_it_ends(limits).into(),
        };
        let grid = [limits.sm_count as usize, 1, 1];
        let bytes = self.shape.bytes;
        let steps = CudaLaunch {
            reads_early: self.reads_early.clone(),
            holds_back: true,
            ..launch(self.source, self.function, grid, 512, bytes, arguments)
        };
        let choice = self.choice.as_ref().map(|choice| choice.launch(at(maxima)));
        [steps].into_iter().chain(choice).collect()
    }
}
