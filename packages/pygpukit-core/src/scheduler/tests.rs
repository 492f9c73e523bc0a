//! The policies, one by one.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::emulator::Emulator;
use super::simulate::{Arrival, SimulationError, StepCost, simulate};
use super::*;

fn config(pages: u32, page_size: u32) -> SchedulerConfig {
    SchedulerConfig {
        step_tokens: 16,
        max_running: 4,
        reserved_pages: 0,
        priority_boost: 1000,
        ..SchedulerConfig::new(pages, page_size)
    }
}

fn scheduler(config: SchedulerConfig) -> Scheduler {
    Scheduler::new(config).unwrap()
}

/// A prompt of its own.
fn prompt(first: Token, length: u32) -> Vec<Token> {
    (0..length).map(|i| first * 1000 + i).collect()
}

fn counts(plan: &StepPlan) -> Vec<(RequestId, u32, bool)> {
    plan.rows.iter().map(|row| (row.request, row.count, row.samples)).collect()
}

/// Plans and completes one step in which nothing stops by itself.
fn step(scheduler: &mut Scheduler, now: Micros) -> StepPlan {
    let plan = scheduler.schedule(now);
    let chosen = vec![Chosen { token: 7, stop: false }; plan.sampled().count()];
    if !plan.rows.is_empty() {
        scheduler.complete(plan.step, &chosen).unwrap();
    }
    plan
}

#[test]
fn decoding_goes_first_and_prompts_take_what_is_left() {
    let mut scheduler = scheduler(config(100, 4));
    let short = scheduler.submit(Request::new(prompt(1, 3), 9), 0).unwrap();
    assert_eq!(counts(&step(&mut scheduler, 0)), [(short, 3, true)]);
    let long = scheduler.submit(Request::new(prompt(2, 40), 2), 0).unwrap();
    let rows: Vec<_> = (0..4).map(|_| counts(&step(&mut scheduler, 0))).collect();
    assert_eq!(rows[0], [(short, 1, true), (long, 15, false)]);
    assert_eq!(rows[1], [(short, 1, true), (long, 15, false)]);
    assert_eq!(rows[2], [(short, 1, true), (long, 10, true)]);
    assert_eq!(rows[3], [(short, 1, true), (long, 1, true)]);
}

#[test]
fn the_next_step_can_be_planned_before_the_last_outcome_is_known() {
    let mut scheduler = scheduler(config(100, 4));
    let id = scheduler.submit(Request::new(prompt(1, 3), 3), 0).unwrap();
    let plans: Vec<_> = (0..4).map(|_| scheduler.schedule(0)).collect();
    let starts: Vec<_> = plans.iter().flat_map(|plan| &plan.rows).map(|row| row.start).collect();
    assert_eq!(starts, [0, 3, 4], "the third token is never computed on");
    assert!(scheduler.pages(id).is_empty(), "only outcomes are missing");
    for (plan, ends) in plans[..3].iter().zip([false, false, true]) {
        let ended = scheduler.complete(plan.step, &[Chosen { token: 5, stop: false }]).unwrap();
        assert_eq!(ended, if ends { vec![(id, End::Length)] } else { vec![] });
    }
    assert!(!scheduler.is_busy());
}

#[test]
fn a_row_planned_for_a_request_that_has_stopped_is_ignored() {
    let mut scheduler = scheduler(config(100, 4));
    let id = scheduler.submit(Request::new(prompt(1, 3), 9), 0).unwrap();
    let (first, second) = (scheduler.schedule(0), scheduler.schedule(0));
    let stop = Chosen { token: 5, stop: true };
    assert_eq!(scheduler.complete(first.step, &[stop]).unwrap(), [(id, End::Stopped)]);
    assert_eq!(scheduler.stats().pages_in_use, 0);
    assert_eq!(scheduler.complete(second.step, &[stop]).unwrap(), []);
    assert!(!scheduler.is_busy());
}

#[test]
fn outcomes_must_be_those_of_the_oldest_step() {
    let mut scheduler = scheduler(config(100, 4));
    let none = scheduler.complete(0, &[]).unwrap_err();
    assert_eq!(none.to_string(), "step 0 can't be completed: expected a plan with rows first");
    scheduler.submit(Request::new(prompt(1, 3), 9), 0).unwrap();
    let plan = scheduler.schedule(0);
    let wrong = scheduler.complete(plan.step + 1, &[]).unwrap_err();
    assert_eq!(wrong, OutcomeError::Step { expected: Some(plan.step), found: plan.step + 1 });
    let few = scheduler.complete(plan.step, &[]).unwrap_err();
    assert_eq!(few, OutcomeError::Count { step: plan.step, expected: 1, found: 0 });
    scheduler.complete(plan.step, &[Chosen { token: 5, stop: true }]).unwrap();
}

#[test]
fn what_can_never_fit_is_refused_at_once() {
    let mut scheduler = scheduler(SchedulerConfig { max_length: 30, ..config(5, 4) });
    let submit = |scheduler: &mut Scheduler, length, new| {
        scheduler.submit(Request::new(prompt(1, length), new), 0)
    };
    assert!(submit(&mut scheduler, 20, 1).is_ok(), "the last token needs no place");
    let refusal = submit(&mut scheduler, 20, 2).unwrap_err();
    assert_eq!(refusal, Refusal::TooLong { prompt: 20, new: 2, needed: 22, capacity: 21 });
    assert!(matches!(submit(&mut scheduler, 1, u32::MAX), Err(Refusal::TooLong { .. })));
    assert_eq!(submit(&mut scheduler, 0, 1), Err(Refusal::EmptyPrompt));
    assert_eq!(submit(&mut scheduler, 1, 0), Err(Refusal::NothingToGenerate));
}

#[test]
fn the_queue_is_bounded() {
    let mut scheduler = scheduler(SchedulerConfig { max_waiting: 2, ..config(100, 4) });
    let request = Request::new(prompt(1, 3), 1);
    let results: Vec<_> = (0..3).map(|_| scheduler.submit(request.clone(), 0)).collect();
    assert_eq!(results[2], Err(Refusal::QueueFull { waiting: 2 }));
    step(&mut scheduler, 0);
    assert!(scheduler.submit(request, 0).is_ok());
}

#[test]
fn bounds_that_allow_no_work_are_refused() {
    let good = config(5, 4);
    for (config, message) in [
        (SchedulerConfig { pages: 0, ..good }, "pages: expected at least 1, found 0"),
        (SchedulerConfig { page_size: 0, ..good }, "page_size: expected at least 1, found 0"),
        (
            SchedulerConfig { step_tokens: 3, ..good },
            "step_tokens: expected at least 4 (max_running), found 3",
        ),
        (
            SchedulerConfig { max_length: 1, ..good },
            "max_length: expected at least 2 (a prompt and an output of one token), found 1",
        ),
    ] {
        assert_eq!(Scheduler::new(config).err().unwrap().to_string(), message);
    }
}

#[test]
fn requests_that_begin_alike_share_full_pages() {
    let mut scheduler = scheduler(config(100, 4));
    let mut other = prompt(1, 11);
    other[9] = 0;
    let first = scheduler.submit(Request::new(prompt(1, 11), 5), 0).unwrap();
    step(&mut scheduler, 0);
    let second = scheduler.submit(Request::new(other, 5), 0).unwrap();
    let plan = step(&mut scheduler, 0);
    assert_eq!(plan.admitted, [Admission { request: second, cached: 8 }]);
    assert_eq!(scheduler.pages(first)[..2], scheduler.pages(second)[..2]);
    assert_ne!(scheduler.pages(first)[2], scheduler.pages(second)[2]);
    assert_eq!(scheduler.stats().pages_in_use, 4);
}

#[test]
fn what_a_request_has_generated_is_found_by_the_next_turn_of_the_conversation() {
    let mut scheduler = scheduler(config(100, 4));
    scheduler.submit(Request::new(prompt(1, 6), 8), 0).unwrap();
    while scheduler.is_busy() {
        step(&mut scheduler, 0);
    }
    let mut turn = prompt(1, 6);
    turn.extend([7; 8]);
    turn.extend(prompt(2, 3));
    let next = scheduler.submit(Request::new(turn, 8), 0).unwrap();
    assert_eq!(step(&mut scheduler, 0).admitted, [Admission { request: next, cached: 12 }]);
}

#[test]
fn the_last_token_of_a_prompt_is_computed_even_if_all_is_cached() {
    let mut scheduler = scheduler(config(100, 4));
    for _ in 0..2 {
        scheduler.submit(Request::new(prompt(1, 8), 1), 0).unwrap();
        step(&mut scheduler, 0);
    }
    assert_eq!(scheduler.stats().cached_tokens, 4);
    assert_eq!(scheduler.stats().computed_tokens, 8 + 4);
}

#[test]
fn variants_of_a_model_share_no_pages() {
    let mut scheduler = scheduler(config(100, 4));
    for (variant, cached) in [(0, 0), (1, 0), (1, 4), (0, 4)] {
        let request = Request { variant, ..Request::new(prompt(1, 8), 1) };
        let request = scheduler.submit(request, 0).unwrap();
        assert_eq!(step(&mut scheduler, 0).admitted, [Admission { request, cached }]);
    }
}

#[test]
fn pages_whose_memory_is_not_there_yet_are_not_handed_out() {
    let mut scheduler = scheduler(config(8, 4));
    scheduler.provide(2);
    let request = scheduler.submit(Request::new(prompt(1, 12), 1), 0).unwrap();
    assert!(step(&mut scheduler, 0).rows.is_empty());
    scheduler.provide(3);
    assert_eq!(counts(&step(&mut scheduler, 0)), [(request, 12, true)]);
    scheduler.provide(1);
    scheduler.submit(Request::new(prompt(2, 12), 1), 0).unwrap();
    assert_eq!(step(&mut scheduler, 0).rows.len(), 1, "three are there already");
}

#[test]
fn the_longest_unused_pages_are_dropped_first_and_ends_before_beginnings() {
    let mut scheduler = scheduler(config(6, 4));
    for first in [1, 2] {
        scheduler.submit(Request::new(prompt(first, 12), 1), 0).unwrap();
        step(&mut scheduler, 0);
    }
    assert_eq!(scheduler.stats().pages_cached, 6);
    // Four pages: those of the first prompt, and the last of the second.
    scheduler.submit(Request::new(prompt(3, 16), 1), 0).unwrap();
    step(&mut scheduler, 0);
    for (first, cached) in [(2, 8), (1, 0)] {
        let request = scheduler.submit(Request::new(prompt(first, 12), 1), 0).unwrap();
        assert_eq!(step(&mut scheduler, 0).admitted, [Admission { request, cached }]);
    }
}

#[test]
fn unused_pages_are_kept_up_to_a_bound() {
    let mut scheduler = scheduler(SchedulerConfig { cached_pages: 2, ..config(100, 4) });
    scheduler.submit(Request::new(prompt(1, 15), 1), 0).unwrap();
    step(&mut scheduler, 0);
    assert_eq!(scheduler.stats().pages_cached, 2);
    let request = scheduler.submit(Request::new(prompt(1, 15), 1), 0).unwrap();
    assert_eq!(step(&mut scheduler, 0).admitted, [Admission { request, cached: 8 }]);
}

#[test]
fn the_last_of_rank_gives_up_its_pages_and_goes_on_later() {
    let mut emulator = Emulator::new(config(4, 4));
    let requests = [1, 2].map(|first| Request::new(prompt(first, 7), 7));
    let [first, second] = requests.clone().map(|request| emulator.submit(request).unwrap());
    let preempted = loop {
        let plan = emulator.schedule();
        emulator.complete();
        if !plan.preempted.is_empty() {
            break plan.preempted;
        }
    };
    assert_eq!(preempted, [second]);
    emulator.drain();
    for (id, request) in [first, second].into_iter().zip(requests) {
        assert_eq!(emulator.ended[&id], super::emulator::expected(&request));
    }
}

#[test]
fn pages_are_kept_free_for_running_requests_to_grow_into() {
    let mut scheduler = scheduler(SchedulerConfig { reserved_pages: 2, ..config(6, 4) });
    let first = scheduler.submit(Request::new(prompt(1, 8), 9), 0).unwrap();
    step(&mut scheduler, 0);
    let second = scheduler.submit(Request::new(prompt(2, 12), 1), 0).unwrap();
    assert!(step(&mut scheduler, 0).admitted.is_empty(), "3 of 4 pages, and 2 are reserved");
    assert!(scheduler.cancel(first));
    assert_eq!(step(&mut scheduler, 0).admitted[0].request, second);
}

#[test]
fn higher_priority_goes_first_and_waiting_makes_up_for_it() {
    let mut scheduler = scheduler(SchedulerConfig { max_running: 1, ..config(100, 4) });
    let mut submit = |priority, now| {
        scheduler.submit(Request { priority, ..Request::new(prompt(1, 3), 1) }, now).unwrap()
    };
    let low = submit(0, 0);
    let late = submit(1, 1500);
    let soon = submit(1, 500);
    let order: Vec<_> = (0..3).map(|_| step(&mut scheduler, 1500).rows[0].request).collect();
    assert_eq!(order, [soon, low, late]);
}

#[test]
fn higher_priority_takes_the_place_of_what_it_outranks() {
    let mut scheduler = scheduler(SchedulerConfig { max_running: 2, ..config(100, 4) });
    let batch =
        [1, 2].map(|first| scheduler.submit(Request::new(prompt(first, 3), 50), 0).unwrap());
    step(&mut scheduler, 0);
    let urgent = Request { priority: 1, ..Request::new(prompt(3, 3), 50) };
    let urgent = scheduler.submit(urgent, 10).unwrap();
    let plan = step(&mut scheduler, 10);
    assert_eq!(plan.preempted, [batch[1]]);
    assert_eq!(counts(&plan), [(batch[0], 1, true), (urgent, 3, true)]);
}

#[test]
fn priority_is_no_use_against_other_tenants() {
    let mut scheduler = scheduler(SchedulerConfig { max_running: 1, ..config(100, 4) });
    scheduler.submit(Request::new(prompt(1, 3), 5), 0).unwrap();
    step(&mut scheduler, 0);
    let other = Request { priority: 9, tenant: 1, ..Request::new(prompt(2, 3), 5) };
    scheduler.submit(other, 0).unwrap();
    assert!(step(&mut scheduler, 0).preempted.is_empty());
}

#[test]
fn nothing_is_preempted_for_pages_that_both_begin_with() {
    let mut scheduler = scheduler(config(6, 4));
    let batch = scheduler.submit(Request::new(prompt(1, 12), 5), 0).unwrap();
    step(&mut scheduler, 0);
    let other = Request { tenant: 1, ..Request::new(prompt(2, 11), 1) };
    scheduler.submit(other, 0).unwrap();
    // It lacks three pages. The first request has four, but three of them are its own beginning too.
    let mut long = prompt(1, 12);
    long.extend(prompt(3, 8));
    let urgent = Request { priority: 1, ..Request::new(long, 1) };
    scheduler.submit(Request { tenant: 1, ..Request::new(prompt(2, 3), 9) }, 0).unwrap();
    scheduler.submit(urgent, 0).unwrap();
    let plan = scheduler.schedule(0);
    assert!(!plan.preempted.contains(&batch), "{plan:?}");
}

#[test]
fn nobody_starves_behind_a_stream_of_higher_priority() {
    let mut scheduler = scheduler(SchedulerConfig { max_running: 1, ..config(100, 4) });
    let low = scheduler.submit(Request::new(prompt(1, 3), 3), 0).unwrap();
    let mut now = 0;
    while now < 10_000 {
        let urgent = Request { priority: 3, ..Request::new(prompt(2, 3), 1) };
        scheduler.submit(urgent, now).unwrap();
        if step(&mut scheduler, now).rows.iter().any(|row| row.request == low) {
            break;
        }
        now += 10;
    }
    assert!((3000..3100).contains(&now), "three levels are worth 3000 µs, it waited {now}");
}

/// Tokens that each of two tenants gets in some steps in which both always have requests waiting.
fn served(scheduler: &mut Scheduler, steps: u32) -> [f64; 2] {
    let mut tenants = std::collections::HashMap::new();
    let mut tokens = [0; 2];
    for index in 0..2 * steps {
        // The second asks for longer outputs, which must not give it more.
        let tenant = u64::from(index % 2);
        let request = Request::new(prompt(index, 3), if tenant == 0 { 4 } else { 16 });
        tenants.insert(scheduler.submit(Request { tenant, ..request }, 0).unwrap(), tenant);
    }
    for _ in 0..steps {
        for row in step(scheduler, 0).rows {
            tokens[tenants[&row.request] as usize] += row.count;
        }
    }
    tokens.map(f64::from)
}

#[test]
fn tenants_are_served_alike_or_by_weight() {
    let [first, second] = served(&mut scheduler(config(100, 4)), 2000);
    assert!((first / second - 1.0).abs() < 0.05, "{first}, {second}");
    let mut scheduler = scheduler(config(100, 4));
    scheduler.set_weight(1, NonZeroU32::new(3).unwrap());
    let [first, second] = served(&mut scheduler, 2000);
    assert!((second / first - 3.0).abs() < 0.2, "{first}, {second}");
}

#[test]
fn a_tenant_that_was_away_does_not_collect_credit() {
    let mut scheduler = scheduler(SchedulerConfig { max_running: 1, ..config(100, 4) });
    let submit = |scheduler: &mut Scheduler, tenant| {
        scheduler.submit(Request { tenant, ..Request::new(prompt(1, 3), 2) }, 0).unwrap()
    };
    let first: Vec<_> = (0..40).map(|_| submit(&mut scheduler, 0)).collect();
    for _ in 0..60 {
        step(&mut scheduler, 0);
    }
    let second: Vec<_> = (0..5).map(|_| submit(&mut scheduler, 1)).collect();
    let mut order = Vec::new();
    for _ in 0..20 {
        let plan = step(&mut scheduler, 0);
        order.extend(plan.admitted.iter().map(|admission| first.contains(&admission.request)));
    }
    assert_eq!(second.len(), order.iter().filter(|&&of_first| !of_first).count());
    let longest = order.chunk_by(|a, b| a == b).map(<[bool]>::len).max();
    assert!(longest <= Some(2), "they take turns: {order:?}");
}

#[test]
fn only_so_many_overtake_a_request_that_does_not_fit() {
    let mut scheduler = scheduler(SchedulerConfig { max_overtakes: 3, ..config(10, 4) });
    let running = scheduler.submit(Request::new(prompt(1, 16), 17), 0).unwrap();
    step(&mut scheduler, 0);
    let large = Request { tenant: 1, ..Request::new(prompt(2, 32), 1) };
    let large = scheduler.submit(large, 0).unwrap();
    for first in 0..9 {
        let small = Request { tenant: 2, ..Request::new(prompt(10 + first, 3), 1) };
        scheduler.submit(small, 0).unwrap();
    }
    let mut overtakes = 0;
    loop {
        let plan = step(&mut scheduler, 0);
        if plan.admitted.iter().any(|admission| admission.request == large) {
            break;
        }
        overtakes += plan.admitted.len();
        assert!(scheduler.is_busy());
    }
    assert_eq!(overtakes, 3);
    assert!(scheduler.pages(running).is_empty());
}

#[test]
fn a_deadline_ends_a_request_wherever_it_is() {
    let mut scheduler = scheduler(SchedulerConfig { max_running: 1, ..config(100, 4) });
    let with = |deadline| Request { deadline: Some(deadline), ..Request::new(prompt(1, 3), 90) };
    let running = scheduler.submit(with(100), 0).unwrap();
    let waiting = scheduler.submit(with(50), 0).unwrap();
    let refusal = scheduler.submit(with(7), 7);
    assert_eq!(refusal, Err(Refusal::DeadlinePassed { deadline: 7, now: 7 }));
    assert_eq!(step(&mut scheduler, 49).expired, []);
    assert_eq!(step(&mut scheduler, 50).expired, [waiting]);
    let plan = step(&mut scheduler, 100);
    assert_eq!((plan.expired.as_slice(), plan.rows.len()), ([running].as_slice(), 0));
    assert!(!plan.is_empty() && !scheduler.is_busy());
}

#[test]
fn cancelling_frees_pages_at_any_point() {
    let mut scheduler = scheduler(config(100, 4));
    let running = scheduler.submit(Request::new(prompt(1, 9), 9), 0).unwrap();
    let plan = scheduler.schedule(0);
    let waiting = scheduler.submit(Request::new(prompt(2, 9), 9), 0).unwrap();
    assert!(scheduler.cancel(running) && scheduler.cancel(waiting));
    assert!(!scheduler.cancel(running), "it is gone");
    assert_eq!(
        scheduler.stats(),
        Stats { pages_cached: 2, computed_tokens: 9, ..Stats::default() }
    );
    assert!(scheduler.is_busy(), "a step is under way");
    scheduler.complete(plan.step, &[Chosen { token: 1, stop: false }]).unwrap();
    assert!(!scheduler.is_busy());
}

#[test]
fn models_share_a_device_under_quotas() {
    let one = NonZeroU32::MIN;
    let mut share = Share::new(1000);
    let first = share.add(config(6, 4), 100, one).unwrap();
    let refused = share.add(config(5, 4), 100, one).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "5 pages of 100 bytes are 500 bytes, but of 1000 only 400 are left; lower the page quota of \
         this model or of another"
    );
    let second = share.add(config(8, 4), 50, NonZeroU32::new(2).unwrap()).unwrap();
    for model in [first, second] {
        share.scheduler_mut(model).submit(Request::new(prompt(1, 2), 19), 0).unwrap();
    }
    let mut turns = [0; 2];
    for _ in 0..15 {
        let (model, plan) = share.schedule(0).unwrap();
        turns[model] += plan.tokens();
        let chosen = vec![Chosen { token: 1, stop: false }; plan.sampled().count()];
        share.scheduler_mut(model).complete(plan.step, &chosen).unwrap();
    }
    assert!(turns[second] >= 2 * turns[first] - 3 && turns[first] >= 5, "{turns:?}");
    while let Some((model, plan)) = share.schedule(0) {
        let chosen = vec![Chosen { token: 1, stop: false }; plan.sampled().count()];
        share.scheduler_mut(model).complete(plan.step, &chosen).unwrap();
    }
    assert!(!share.scheduler(first).is_busy() && !share.scheduler(second).is_busy());
}

#[test]
fn the_turn_is_that_of_the_model_that_has_computed_least() {
    let one = NonZeroU32::MIN;
    let mut share = Share::new(1000);
    let [first, second] = [(); 2].map(|()| share.add(config(5, 4), 100, one).unwrap());
    assert_eq!(share.turn(), None);
    share.scheduler_mut(second).submit(Request::new(prompt(1, 2), 8), 0).unwrap();
    assert_eq!(share.turn(), Some(second));
    let plan = share.schedule_model(second, 0);
    share.scheduler_mut(first).submit(Request::new(prompt(1, 2), 8), 0).unwrap();
    assert_eq!(share.turn(), Some(first), "the other has had two tokens");
    share.scheduler_mut(second).complete(plan.step, &[Chosen { token: 1, stop: false }]).unwrap();
    assert_eq!(share.schedule(0).map(|(model, _)| model), Some(first));
}

#[test]
fn a_cleared_scheduler_is_a_new_one_that_gives_no_number_twice() {
    let mut scheduler = Scheduler::new(config(6, 4)).unwrap();
    let before = scheduler.submit(Request::new(prompt(1, 9), 3), 0).unwrap();
    let plan = scheduler.schedule(0);
    scheduler.clear();
    assert!(!scheduler.is_busy());
    assert_eq!(scheduler.stats(), Stats::default());
    assert!(!scheduler.cancel(before));
    scheduler.complete(plan.step, &[Chosen { token: 1, stop: false }]).unwrap_err();
    let request = scheduler.submit(Request::new(prompt(1, 9), 3), 0).unwrap();
    assert_ne!(request, before);
    assert_ne!(scheduler.schedule(0).step, plan.step);
    assert_eq!(scheduler.stats().cached_tokens, 0);
}

const COST: StepCost = StepCost { step: 1000.0, token: 10.0, position: 0.0 };

#[test]
fn a_simulation_has_the_latencies_that_can_be_worked_out_by_hand() {
    let arrival = Arrival { prompt: 10, output: 3, ..Arrival::default() };
    let later = Arrival { at: 500, ..arrival };
    let report = simulate(config(100, 4), COST, [arrival, later]).unwrap();
    // Steps of 10, 11 and 2 tokens, and one of 1: 1100, 1110, 1020 and 1010 µs.
    assert_eq!((report.finished, report.refused, report.steps), (2, 0, 4));
    assert_eq!((report.end, report.busy), (4240, 4240));
    let near = |found: Micros, expected: f64| (found as f64 / expected - 1.0).abs() < 2e-3;
    assert!(near(report.first_token.percentile(0.0), 1100.0));
    assert!(near(report.first_token.percentile(100.0), 2210.0 - 500.0));
    assert!(near(report.between_tokens.percentile(100.0), 1110.0));
    assert!(near(report.whole.percentile(100.0), 4240.0 - 500.0));
    assert_eq!((report.first_token.count(), report.between_tokens.count()), (2, 4));
}

#[test]
fn a_simulation_finds_shared_beginnings_and_refuses_what_does_not_fit() {
    let arrival = Arrival { prompt: 10, output: 1, shared: 9, group: 5, ..Arrival::default() };
    let other = Arrival { group: 6, ..arrival };
    let long = Arrival { prompt: 500, ..arrival };
    let report = simulate(config(100, 4), COST, [arrival, other, arrival, long]).unwrap();
    assert_eq!((report.finished, report.refused, report.cached_tokens), (3, 1, 8));
}

#[test]
fn a_simulation_refuses_what_makes_no_sense() {
    let arrivals = [5, 4].map(|at| Arrival { at, prompt: 1, output: 1, ..Arrival::default() });
    let order = simulate(config(100, 4), COST, arrivals).unwrap_err();
    assert_eq!(order, SimulationError::Order { index: 1, at: 4, before: 5 });
    let cost = StepCost { step: 0.0, ..COST };
    let message = simulate(config(100, 4), cost, []).unwrap_err().to_string();
    assert_eq!(message, "cost.step: expected a finite number of more than 0, found 0");
}

proptest! {
    #[test]
    fn a_simulation_counts_every_request_once(
        gaps in prop::collection::vec((0..3000_u64, 1..30_u32, 1..20_u32, 0..30_u32), 0..40),
    ) {
        let mut at = 0;
        let arrivals: Vec<_> = gaps.iter().map(|&(gap, prompt, output, shared)| {
            at += gap;
            Arrival { at, prompt, output, shared, ..Arrival::default() }
        }).collect();
        let report = simulate(config(10, 4), COST, arrivals.clone()).unwrap();
        prop_assert_eq!(report.finished + report.refused, arrivals.len() as u64);
        prop_assert_eq!(report.whole.count(), report.finished);
        prop_assert_eq!(report.first_token.count(), report.finished);
    }
}
