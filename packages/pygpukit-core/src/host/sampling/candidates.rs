//! Choosing the best of many logits without sorting them all.

use std::cmp::Ordering;

/// A token and its logit (or weight).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) token: usize,
    pub(super) value: f32,
}

/// The larger value first, then the lower token.
pub(super) fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.value.total_cmp(&a.value).then(a.token.cmp(&b.token))
}

/// The `count` best tokens, in no particular order, and those that tie with the last where
/// `with_ties`.
pub(super) fn best(logits: &[f32], count: usize, with_ties: bool) -> Vec<Candidate> {
    let all = || logits.iter().enumerate().map(|(token, &value)| Candidate { token, value });
    if count >= logits.len() {
        return all().collect();
    }
    if count == 0 {
        return Vec::new();
    }
    // Tokens below the `count`-th best so far are passed over; the buffer is cut back when full.
    let capacity = (4 * count).max(256).min(logits.len());
    let mut kept: Vec<Candidate> = Vec::with_capacity(capacity);
    let mut threshold = f32::NEG_INFINITY;
    for candidate in all() {
        if candidate.value < threshold {
            continue;
        }
        if kept.len() == capacity {
            threshold = cut(&mut kept, count, with_ties);
            if kept.len() == capacity {
                kept.reserve(capacity);
            }
        }
        kept.push(candidate);
    }
    cut(&mut kept, count, with_ties);
    kept
}

/// Keeps the `count` best (and those that tie with the last); returns the last one's value.
fn cut(kept: &mut Vec<Candidate>, count: usize, with_ties: bool) -> f32 {
    let (_, &mut last, _) = kept.select_nth_unstable_by(count - 1, best_first);
    if with_ties {
        kept.retain(|candidate| candidate.value >= last.value);
    } else {
        kept.truncate(count);
    }
    last.value
}

/// Keeps the heaviest candidates that together weigh at least `wanted`: each one such that those
/// heavier than it weigh less. At least one is kept.
pub(super) fn keep_heaviest(candidates: &mut Vec<Candidate>, wanted: f64) {
    let mass = |part: &[Candidate]| part.iter().map(|c| f64::from(c.value)).sum::<f64>();
    // The cut lies in `low..high`; what is heavier stands before `low` and weighs `heavier`.
    let (mut low, mut high, mut heavier) = (0, candidates.len(), 0.0);
    while high - low > 1 {
        let middle = (high - low) / 2;
        candidates[low..high].select_nth_unstable_by(middle, best_first);
        let half = mass(&candidates[low..low + middle]);
        if heavier + half >= wanted {
            high = low + middle;
        } else {
            heavier += half;
            low += middle;
        }
    }
    candidates.truncate(high.max(1));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sorted(values: &[f32]) -> Vec<Candidate> {
        let mut all: Vec<_> =
            values.iter().enumerate().map(|(token, &value)| Candidate { token, value }).collect();
        all.sort_by(best_first);
        all
    }

    proptest! {
        #[test]
        fn best_is_the_head_of_the_sorted_list(
            values in prop::collection::vec((-20i8..20).prop_map(f32::from), 1..2000),
            count in 0usize..300,
        ) {
            let order = sorted(&values);
            let mut found = best(&values, count, false);
            found.sort_by(best_first);
            prop_assert_eq!(&found[..], &order[..count.min(order.len())]);
            let mut tied = best(&values, count, true);
            tied.sort_by(best_first);
            let length = match count.min(order.len()) {
                0 => 0,
                count => order.iter().filter(|c| c.value >= order[count - 1].value).count(),
            };
            prop_assert_eq!(&tied[..], &order[..length]);
        }

        #[test]
        fn the_heaviest_are_the_shortest_head_that_weighs_enough(
            values in prop::collection::vec(0.001f32..1.0, 1..500),
            share in 0.0f64..1.0,
        ) {
            let order = sorted(&values);
            let wanted = share * values.iter().map(|&value| f64::from(value)).sum::<f64>();
            let mut kept = order.clone();
            kept.sort_by_key(|candidate| candidate.token);
            keep_heaviest(&mut kept, wanted);
            kept.sort_by(best_first);
            prop_assert_eq!(&kept[..], &order[..kept.len()]);
            let mass = |count: usize| order[..count].iter().map(|c| f64::from(c.value)).sum::<f64>();
            prop_assert!(mass(kept.len()) >= wanted - 1e-9);
            prop_assert!(kept.len() == 1 || mass(kept.len() - 1) < wanted + 1e-9);
        }
    }
}
