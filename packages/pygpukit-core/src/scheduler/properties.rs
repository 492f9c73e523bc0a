//! Properties that hold whatever happens, checked by the [`Emulator`](super::emulator).

use proptest::prelude::*;

use super::emulator::{Emulator, expected};
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Submit(Request),
    Cancel(prop::sample::Index),
    Schedule,
    Complete,
    Wait(Micros),
}

fn any_config() -> impl Strategy<Value = SchedulerConfig> {
    (1..=24_u32, 1..=5_u32, 1..=6_u32, 0..=10_u32, 0..=4_u32, 0..=24_u32, 0..=3_u32, 0..=3_u64)
        .prop_map(|(pages, size, running, more, reserved, cached, overtakes, boost)| {
            SchedulerConfig {
                step_tokens: running + more,
                max_running: running,
                max_waiting: 20,
                max_length: 40,
                reserved_pages: reserved,
                cached_pages: cached,
                priority_boost: boost * 10,
                max_overtakes: overtakes,
                ..SchedulerConfig::new(pages, size)
            }
        })
}

/// Few different tokens, so that many prompts begin alike.
fn any_request() -> impl Strategy<Value = Request> {
    let prompt = prop::collection::vec(0..2_u32, 0..18);
    let deadline = prop::option::weighted(0.2, 1..200_u64);
    (prompt, 0..14_u32, 0..3_u64, -2..3_i32, deadline, 0..2_u32).prop_map(
        |(prompt, max_new_tokens, tenant, priority, deadline, variant)| Request {
            prompt,
            max_new_tokens,
            tenant,
            priority,
            deadline,
            variant,
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any_request().prop_map(Step::Submit),
        1 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        8 => Just(Step::Schedule),
        6 => Just(Step::Complete),
        1 => (0..30_u64).prop_map(Step::Wait),
    ]
}

/// Most steps that are under way at once.
const DEPTH: usize = 3;

fn replay(config: SchedulerConfig, steps: &[Step]) -> (Emulator, Vec<(RequestId, Request)>) {
    let mut emulator = Emulator::new(config);
    let mut accepted = Vec::new();
    for step in steps {
        emulator.now += 1;
        match step {
            Step::Submit(request) => match emulator.submit(request.clone()) {
                Ok(id) => accepted.push((id, request.clone())),
                Err(refusal) => check_refusal(&emulator, request, refusal),
            },
            Step::Cancel(index) if !emulator.live().is_empty() => {
                let id = *index.get(&emulator.live());
                emulator.cancel(id);
                accepted.retain(|(other, _)| *other != id);
            }
            Step::Cancel(_) => {}
            Step::Schedule if emulator.under_way() == DEPTH => emulator.complete(),
            Step::Schedule => {
                emulator.schedule();
            }
            Step::Complete => emulator.complete(),
            Step::Wait(time) => emulator.now += time,
        }
    }
    (emulator, accepted)
}

fn check_refusal(emulator: &Emulator, request: &Request, refusal: Refusal) {
    let config = emulator.scheduler.config();
    let needed = request.prompt.len() as u32 + request.max_new_tokens;
    match refusal {
        Refusal::EmptyPrompt => assert!(request.prompt.is_empty()),
        Refusal::NothingToGenerate => assert_eq!(request.max_new_tokens, 0),
        Refusal::TooLong { .. } => {
            let pages = (needed - 1).div_ceil(config.page_size);
            assert!(needed > config.max_length || pages > config.pages);
        }
        Refusal::QueueFull { waiting } => {
            assert_eq!(
                (waiting, waiting),
                (config.max_waiting, emulator.scheduler.stats().waiting)
            );
        }
        Refusal::DeadlinePassed { deadline, now } => assert!(deadline <= now),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_request_ends_with_the_tokens_that_it_gets_alone(
        config in any_config(),
        steps in prop::collection::vec(any_step(), 1..120),
    ) {
        let (mut emulator, accepted) = replay(config, &steps);
        emulator.drain();
        prop_assert_eq!(emulator.ended.len(), accepted.len());
        for (id, request) in accepted {
            let (found, end) = &emulator.ended[&id];
            let (tokens, expected_end) = expected(&request);
            if *end == End::Expired {
                prop_assert!(request.deadline.is_some());
                prop_assert!(tokens.starts_with(found));
            } else {
                prop_assert_eq!((found, *end), (&tokens, expected_end));
            }
        }
    }

    #[test]
    fn the_same_calls_get_the_same_decisions(
        config in any_config(),
        steps in prop::collection::vec(any_step(), 1..80),
    ) {
        let (first, _) = replay(config, &steps);
        let (second, _) = replay(config, &steps);
        prop_assert_eq!(first.plans, second.plans);
    }
}
