//! A mixture of experts (Shazeer et al. 2017, arXiv:1701.06538): which experts a token goes to, and
//! the sum of what they give. The experts themselves are `expert_linear`.

use super::HostKernel;
use super::pool::ThreadPool;
use super::simd::{ACTIVATIONS, Numbers, Simd, WithSimd, dispatch, for_each_vector};
use super::view::{FloatView, View, check_layout, expect_shape};
use crate::dispatch::{KernelArgs, LaunchError, Param, Signature};
use crate::dtype::DType;

mod route_args {
    pub(super) const LOGITS: usize = 0;
    pub(super) const WEIGHTS: usize = 1;
    pub(super) const EXPERTS: usize = 2;
    pub(super) const NORMALIZE: usize = 3;
}

fn check_route(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    use route_args::*;
    check_layout(args)?;
    let logits = &args.tensor(LOGITS).shape;
    let choices = args.tensor(WEIGHTS).shape[1];
    if choices > logits[1] {
        let reason =
            format!("expected at most the {} experts there are, found {choices}", logits[1]);
        return Err(args.refuse(WEIGHTS, reason));
    }
    expect_shape(args, WEIGHTS, &[logits[0], choices])?;
    expect_shape(args, EXPERTS, &[logits[0], choices])
}

fn run_route(args: &KernelArgs<'_>) {
    use route_args::*;
    let logits = View::<f32, 2>::of(args.tensor(LOGITS));
    let weights = View::<f32, 2>::of(args.tensor(WEIGHTS));
    let experts = View::<i32, 2>::of(args.tensor(EXPERTS));
    let normalize = args.int(NORMALIZE) != 0;
    // An exponential costs about as much as 16 elements of an ordinary row kernel.
    ThreadPool::global().run_rows(logits.length(0), logits.length(1) * 16, |token| {
        // SAFETY: nobody writes to the logits.
        let probabilities = softmax(unsafe { logits.slice(token) });
        let chosen = largest(&probabilities, weights.length(1));
        let total: f32 = match normalize {
            true => chosen.iter().map(|&expert| probabilities[expert]).sum(),
            false => 1.0,
        };
        for (choice, &expert) in chosen.iter().enumerate() {
            weights.set([token, choice], probabilities[expert] / total);
            experts.set([token, choice], expert as i32);
        }
    });
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut values: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let total: f32 = values.iter().sum();
    values.iter_mut().for_each(|value| *value /= total);
    values
}

/// The indices of the `count` largest values, largest first, the first of equals before the others.
fn largest(values: &[f32], count: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..values.len()).collect();
    indices.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    indices.truncate(count);
    indices
}

/// `route(logits (T,E), weights (T,C), experts (T,C), normalize)`: the C largest of the softmax of
/// each row, largest first, and their columns; divided by their sum where `normalize` isn't 0.
pub(crate) const ROUTE: HostKernel = HostKernel {
    signature: &Signature {
        name: "route",
        params: &[
            Param::input("logits", &[DType::F32], 2),
            Param::output("weights", &[DType::F32], 2),
            Param::output("experts", &[DType::I32], 2),
            Param::int("normalize"),
        ],
    },
    check: check_route,
    run: run_route,
};

mod group_args {
    pub(super) const LOGITS: usize = 0;
    pub(super) const CORRECTION: usize = 1;
    pub(super) const WEIGHTS: usize = 2;
    pub(super) const EXPERTS: usize = 3;
    pub(super) const SIGMOID: usize = 4;
    pub(super) const GROUPS: usize = 5;
    pub(super) const TOP_GROUPS: usize = 6;
    pub(super) const NORMALIZE: usize = 7;
}

/// Added to the sum that weights are divided by, as DeepSeek has it.
const TINY: f32 = 1e-20;

fn check_route_by_group(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    use group_args::*;
    check_layout(args)?;
    let &[tokens, experts] = args.tensor(LOGITS).shape.as_slice() else {
        unreachable!("the signature's rank");
    };
    let choices = args.tensor(WEIGHTS).shape[1];
    let groups = usize::try_from(args.int(GROUPS)).unwrap_or(0);
    if groups == 0 || experts % groups != 0 {
        let reason = format!("expected a divisor of {experts} experts, found {}", args.int(GROUPS));
        return Err(args.refuse(GROUPS, reason));
    }
    let top_groups = usize::try_from(args.int(TOP_GROUPS)).unwrap_or(0);
    if top_groups == 0 || top_groups > groups || choices > top_groups * (experts / groups) {
        let reason = format!(
            "expected 1 to {groups} groups with at least {choices} experts, found {}",
            args.int(TOP_GROUPS)
        );
        return Err(args.refuse(TOP_GROUPS, reason));
    }
    expect_shape(args, CORRECTION, &[experts])?;
    expect_shape(args, WEIGHTS, &[tokens, choices])?;
    expect_shape(args, EXPERTS, &[tokens, choices])
}

fn run_route_by_group(args: &KernelArgs<'_>) {
    use group_args::*;
    let logits = View::<f32, 2>::of(args.tensor(LOGITS));
    let correction = args.optional(CORRECTION).map(View::<f32, 1>::of);
    let weights = View::<f32, 2>::of(args.tensor(WEIGHTS));
    let experts = View::<i32, 2>::of(args.tensor(EXPERTS));
    let groups = args.int(GROUPS) as usize;
    let size = logits.length(1) / groups;
    ThreadPool::global().run_rows(logits.length(0), logits.length(1) * 16, |token| {
        // SAFETY: nobody writes to the logits.
        let logits = unsafe { logits.slice(token) };
        let scores = match args.int(SIGMOID) {
            0 => softmax(logits),
            _ => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
        };
        let mut ranks = scores.clone();
        if let Some(correction) = correction {
            for (expert, rank) in ranks.iter_mut().enumerate() {
                *rank += correction.get([expert]);
            }
        }
        // With a correction a group counts by its two best experts, else by its best.
        let best = if correction.is_some() { 2 } else { 1 };
        let group_ranks: Vec<f32> = ranks
            .chunks(size)
            .map(|group| largest(group, best).iter().map(|&expert| group[expert]).sum())
            .collect();
        let kept = largest(&group_ranks, args.int(TOP_GROUPS) as usize);
        for (expert, rank) in ranks.iter_mut().enumerate() {
            if !kept.contains(&(expert / size)) {
                *rank = f32::NEG_INFINITY;
            }
        }
        let chosen = largest(&ranks, weights.length(1));
        let total = match args.int(NORMALIZE) {
            0 => 1.0,
            _ => chosen.iter().map(|&expert| scores[expert]).sum::<f32>() + TINY,
        };
        for (choice, &expert) in chosen.iter().enumerate() {
            weights.set([token, choice], scores[expert] / total);
            experts.set([token, choice], expert as i32);
        }
    });
}

/// `route_by_group(logits (T,E), correction (E,), weights (T,C), experts (T,C), sigmoid, groups,
/// top_groups, normalize)`: as `route`, of the sigmoid of each logit where `sigmoid` isn't 0, and
/// among the experts of the `top_groups` best groups only (DeepSeek-AI 2024, arXiv:2405.04434). The
/// correction counts in what is chosen, not in the weights (arXiv:2412.19437).
pub(crate) const ROUTE_BY_GROUP: HostKernel = HostKernel {
    signature: &Signature {
        name: "route_by_group",
        params: &[
            Param::input("logits", &[DType::F32], 2),
            Param::optional("correction", &[DType::F32], 1),
            Param::output("weights", &[DType::F32], 2),
            Param::output("experts", &[DType::I32], 2),
            Param::int("sigmoid"),
            Param::int("groups"),
            Param::int("top_groups"),
            Param::int("normalize"),
        ],
    },
    check: check_route_by_group,
    run: run_route_by_group,
};

mod combine_args {
    pub(super) const X: usize = 0;
    pub(super) const WEIGHTS: usize = 1;
    pub(super) const RESIDUAL: usize = 2;
    pub(super) const OUT: usize = 3;
    pub(super) const SCALE: usize = 4;
}

fn check_combine(args: &KernelArgs<'_>) -> Result<(), LaunchError> {
    use combine_args::*;
    check_layout(args)?;
    let (x, weights) = (&args.tensor(X).shape, &args.tensor(WEIGHTS).shape);
    expect_shape(args, X, &[weights[0] * weights[1], x[1]])?;
    expect_shape(args, RESIDUAL, &[weights[0], x[1]])?;
    expect_shape(args, OUT, &[weights[0], x[1]])
}

fn run_combine(args: &KernelArgs<'_>) {
    use combine_args::*;
    let [x, out] = [X, OUT].map(|index| FloatView::<2>::of(args.tensor(index)));
    let weights = View::<f32, 2>::of(args.tensor(WEIGHTS));
    let residual = args.optional(RESIDUAL).map(FloatView::<2>::of);
    let scale = args.float(SCALE) as f32;
    let choices = weights.length(1);
    ThreadPool::global().run_rows(out.length(0), x.length(1) * choices, |token| {
        dispatch(Combine {
            x: &x,
            first: token * choices,
            // SAFETY: nobody writes to the weights.
            weights: unsafe { weights.slice(token) },
            residual: residual.map(|residual| residual.row(token)),
            scale,
            out: out.row(token),
        });
    });
}

/// `out = residual + scale · Σ_c weights[c] · x[first + c]`.
struct Combine<'a> {
    x: &'a FloatView<2>,
    first: usize,
    weights: &'a [f32],
    residual: Option<Numbers>,
    scale: f32,
    out: Numbers,
}

impl WithSimd for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for_each_vector!(S, self.x.length(1), |start, count| {
            // SAFETY: the vector lies within the rows, by the kernel's check.
            unsafe {
                let mut sum = simd.splat(0.0);
                for (choice, &weight) in self.weights.iter().enumerate() {
                    let x = self.x.row(self.first + choice).load(simd, start, count);
                    sum = simd.add(sum, simd.mul(simd.splat(weight), x));
                }
                sum = simd.mul(simd.splat(self.scale), sum);
                if let Some(residual) = self.residual {
                    sum = simd.add(residual.load(simd, start, count), sum);
                }
                self.out.store(simd, start, sum, count);
            }
        });
    }
}

/// `combine_experts(x (T·C,N), weights (T,C), residual (T,N), out (T,N), scale)`: `out[t] =
/// residual[t] + scale · Σ_c weights[t, c] · x[t·C + c]`.
pub(crate) const COMBINE_EXPERTS: HostKernel = HostKernel {
    signature: &Signature {
        name: "combine_experts",
        params: &[
            Param::input("x", ACTIVATIONS, 2),
            Param::input("weights", &[DType::F32], 2),
            Param::optional("residual", ACTIVATIONS, 2),
            Param::output("out", ACTIVATIONS, 2),
            Param::float("scale"),
        ],
    },
    check: check_combine,
    run: run_combine,
};
