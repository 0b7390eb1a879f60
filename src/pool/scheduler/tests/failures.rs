//! Children that cannot be started, or die.

use super::*;

/// Lets a start fail as often as this, one after another.
fn fail_in_a_row(pool: &mut Pool, times: u64) {
    for _ in 0..times {
        let child = pool.scheduler.started();
        let done = pool.fail(child);
        if done.is_empty() {
            pool.pass(pool.due_in().expect("it is tried again"));
        }
    }
}

#[test]
fn starts_that_fail_are_put_off_for_longer_and_longer() {
    let mut pool = pool_with(4, |it| (it.idle, it.grow_after) = (1, Duration::ZERO));
    assert_eq!(pool.run(), "+1");
    assert_eq!(pool.fail(1), "+2", "once is an accident");
    let mut wait = 100 * MS;
    for child in 2..20 {
        assert_eq!(pool.fail(child), "");
        let due = pool.due_in().unwrap();
        assert!(
            due >= wait * 3 / 4 && due <= wait * 5 / 4,
            "{due:?} is not about {wait:?}"
        );
        assert_eq!(pool.pass(due), format!("+{}", child + 1));
        wait = (2 * wait).min(30 * SEC);
    }
    assert_eq!(wait, 30 * SEC);
}

#[test]
fn child_that_has_lost_its_calls_is_not_told_to_exit_and_its_death_counts() {
    let mut pool = pool_with(1, |it| it.grow_after = Duration::ZERO);
    assert_eq!(pool.call('a'), "+1");
    assert_eq!(pool.fail(1), "+2");
    assert_eq!(pool.ready(2), "a:2");
    pool.scheduler.unsent(ChildId(2), pool.now);
    assert_eq!(pool.lose(2), "", "not -2");
    assert_eq!(pool.fail(2), "");
    assert_eq!(pool.scheduler.sources[0].failures(), 2);
    assert_eq!(pool.call('b'), "", "the next start is put off");

    let mut pool = pool_with(1, |it| it.idle = 1);
    assert_eq!(pool.run(), "+1");
    pool.ready(1);
    pool.lose(1);
    assert_eq!(pool.close(), "", "not even by the end of all");
    assert!(!pool.scheduler.is_over());
    assert_eq!(pool.fail(1), "");
    assert!(pool.scheduler.is_over());
}

#[test]
fn waits_are_not_the_same_for_different_pools() {
    let waits = |seed| {
        let mut pool = pool_with(1, |it| it.idle = 1);
        pool.scheduler.random = Random::new(seed);
        pool.run();
        fail_in_a_row(&mut pool, 9);
        pool.now - pool.start
    };
    assert_ne!(waits(1), waits(3));
}

#[test]
fn calls_get_the_error_after_three_failed_starts_and_one_goes_on_probing() {
    let mut pool = pool(4);
    let key = pool.key_of(2);
    assert_eq!(pool.call('a'), "+1");
    assert_eq!(pool.fail(1), "+2");
    assert_eq!(pool.call('b'), "");
    assert_eq!(pool.fail(2), "");
    assert_eq!(pool.pass(125 * MS), "+3");
    assert_eq!(pool.keyed('c', key), "+4");
    assert_eq!(pool.fail(3), "", "another one may succeed");
    assert_eq!(pool.fail(4), "a!no b!no c!no");
    assert_eq!(pool.call('d'), "d!no");
    assert_eq!(pool.keyed('e', key), "e!no");
    assert_eq!(pool.due_in(), None, "without calls nothing is tried");
    pool.pass(SEC);
    assert_eq!(pool.call('f'), "+5");
    assert_eq!(pool.keyed('g', key), "", "one at a time");
    for name in ['h', 'i', 'j'] {
        pool.call(name);
    }
    assert_eq!(pool.pass(HOUR), "");
    assert_eq!(pool.ready(5), "f:5 +6", "now that has succeeded");
    assert_eq!(pool.child(6).slot, 2);
    assert_eq!(pool.fail(6), "g!no");
    assert_eq!(pool.answer(5), "h:5", "there is a child for these");
}

#[test]
fn no_two_children_of_a_broken_source_are_started_at_a_time() {
    let mut pool = pool_with(4, |it| (it.idle, it.grow_after) = (3, Duration::ZERO));
    assert_eq!(pool.run(), "+1 +2 +3");
    let (mut alone, mut most) = (0, 0);
    for _ in 0..50 {
        let first = pool.children()[0];
        let mut done = pool.fail(first);
        if pool.children().is_empty() {
            let due = pool.due_in().expect("it is tried again");
            done = pool.pass(due);
        }
        let starting = pool.children().len();
        most = most.max(starting);
        if pool.scheduler.sources[0].failures() >= 3 && !done.is_empty() {
            assert_eq!(starting, 1, "{done}");
            assert_eq!(pool.due_in(), None);
            alone += 1;
        }
    }
    assert!(most == 3 && alone > 40, "{most}, {alone}");
}

#[test]
fn starts_that_fail_together_are_one_failure() {
    let mut pool = pool_with(8, |it| it.idle = 8);
    assert_eq!(pool.run(), "+1 +2 +3 +4 +5 +6 +7 +8");
    for child in 1..=8 {
        assert_eq!(pool.fail(child), "");
    }
    assert_eq!(pool.scheduler.sources[0].failures(), 1);
    assert_eq!(pool.pass(100 * MS), "+9");
    pool.fail(9);
    assert_eq!(pool.scheduler.sources[0].failures(), 2);
}

#[test]
fn child_that_dies_before_it_has_ended_any_call_is_a_failed_start() {
    let mut pool = pool(1);
    assert_eq!(pool.call('a'), "+1");
    for child in 1..=3 {
        assert_eq!(pool.ready(child), format!("a:{child}"));
        pool.now += MS;
        // It had not begun. Before the end of its child is reported, it comes back.
        pool.comes_back('a');
        let mut done = pool.retire(child);
        done.push_str(&pool.fail(child));
        if done.is_empty() {
            done = pool.pass(pool.due_in().unwrap());
        }
        assert!(
            done == format!("+{}", child + 1) || child == 3 && done == "a!no",
            "{done}"
        );
    }
    assert_eq!(pool.scheduler.sources[0].failures(), 3);
}

#[test]
fn child_that_a_call_has_killed_or_that_has_ended_some_is_no_failed_start() {
    let mut pool = pool_with(1, |it| it.load = 2);
    pool.call('a');
    pool.ready(1);
    pool.crash(1);
    for (child, name) in [(2, 'b'), (3, 'c'), (4, 'd')] {
        assert_eq!(pool.call(name), format!("+{child}"));
        pool.ready(child);
        pool.answer(child);
        pool.fail(child);
    }
    assert_eq!(pool.scheduler.sources[0].failures(), 0);
}

#[test]
fn one_healthy_minute_resets_the_failures_and_one_success_does_not() {
    let mut pool = pool_with(4, |it| it.shrink_after = HOUR);
    pool.call('a');
    fail_in_a_row(&mut pool, 3);
    assert_eq!(pool.scheduler.sources[0].failures(), 3);
    pool.pass(SEC);
    assert_eq!(pool.call('b'), "+4");
    pool.ready(4);
    pool.answer(4);
    pool.pass(59 * SEC);
    assert_eq!(pool.scheduler.sources[0].failures(), 3);
    pool.pass(SEC);
    pool.run();
    assert_eq!(
        pool.scheduler.sources[0].failures(),
        0,
        "and it still lives"
    );
}

#[test]
fn minute_before_the_last_failure_does_not_count() {
    let mut pool = pool_with(2, |it| it.shrink_after = HOUR).serving(1);
    pool.pass(HOUR / 2);
    let key = pool.key_of(1);
    pool.keyed('a', key);
    fail_in_a_row(&mut pool, 3);
    assert_eq!(pool.scheduler.sources[0].failures(), 3);
    assert_eq!(pool.crash(1), "");
    assert_eq!(pool.scheduler.sources[0].failures(), 3);
}

#[test]
fn failure_after_a_healthy_minute_is_the_first() {
    let mut pool = pool_with(2, |it| it.idle = 1);
    pool.run();
    fail_in_a_row(&mut pool, 5);
    pool.ready(6);
    let key = pool.key_of(1);
    assert_eq!(pool.keyed('a', key), "+7");
    // Nothing happens before.
    pool.now += 61 * SEC;
    assert_eq!(pool.fail(7), "+8");
    assert_eq!(pool.scheduler.sources[0].failures(), 1);
}

#[test]
fn idle_death_is_no_failed_start_if_a_younger_child_than_the_last_has_worked() {
    let mut pool = pool_with(1, |it| (it.idle, it.shrink_after) = (1, HOUR));
    pool.run();
    for child in [1, 3, 5] {
        pool.ready(child);
        pool.call('a');
        pool.answer(child);
        assert_eq!(pool.fail(child), "");
        assert_eq!(pool.pass(100 * MS), format!("+{}", child + 1));
        pool.ready(child + 1);
        assert_eq!(pool.fail(child + 1), "");
        assert_eq!(pool.scheduler.sources[0].failures(), 0);
        assert_eq!(pool.pass(100 * MS), format!("+{}", child + 2));
    }
}

#[test]
fn idle_deaths_at_once_are_failed_starts_though_an_old_child_works() {
    let mut pool = pool_with(2, |it| (it.idle, it.grow_after) = (1, Duration::ZERO));
    pool.run();
    pool.ready(1);
    assert_eq!(pool.call('a'), "a:1 +2");
    pool.answer(1);
    assert_eq!(pool.call('b'), "b:1");
    for (child, failures, next) in [(2, 0, "+3"), (3, 1, "+4"), (4, 2, "")] {
        pool.ready(child);
        assert_eq!(pool.fail(child), next);
        assert_eq!(pool.scheduler.sources[0].failures(), failures);
    }
}

#[test]
fn child_that_retires_before_its_first_call_has_failed_to_start() {
    let mut pool = pool_with(1, |it| (it.idle, it.grow_after) = (1, Duration::ZERO));
    assert_eq!(pool.run(), "+1");
    let mut wait = Duration::ZERO;
    for child in 1..8 {
        pool.ready(child);
        // Not in the same instant in which it was started.
        pool.now += NS;
        pool.retire(child);
        assert_eq!(pool.scheduler.sources[0].failures() as u64, child);
        assert_eq!(pool.retire(child), "", "once is enough");
        pool.exit(child);
        assert_eq!(pool.scheduler.sources[0].failures() as u64, child);
        let due = pool.due_in().unwrap_or_default();
        assert!(due >= wait * 3 / 4, "{due:?} is not about {wait:?}");
        pool.pass(due);
        wait = (2 * wait).max(50 * MS);
    }
}

#[test]
fn child_that_retires_in_its_first_call_has_not_failed_to_start() {
    let mut pool = pool_with(1, |it| (it.idle, it.grow_after) = (1, Duration::ZERO));
    assert_eq!(pool.run(), "+1");
    pool.ready(1);
    for child in 1..10 {
        assert_eq!(pool.call('a'), format!("a:{child}"));
        pool.retire(child);
        pool.answer(child);
        pool.exit(child);
        pool.ready(child + 1);
    }
    assert_eq!(pool.scheduler.sources[0].failures(), 0);
}

#[test]
fn idle_deaths_of_children_that_were_started_together_are_one() {
    let mut pool = pool_with(3, |it| it.idle = 3).serving(3);
    assert_eq!(pool.call('a'), "a:1");
    pool.answer(1);
    pool.fail(2);
    pool.fail(3);
    assert_eq!(pool.scheduler.sources[0].failures(), 0);
}

#[test]
fn idle_death_after_ten_seconds_is_no_failed_start() {
    let mut pool = pool_with(1, |it| (it.idle, it.shrink_after) = (1, HOUR));
    pool.run();
    for (child, lives, failures) in [(1, 10 * SEC, 0), (2, 10 * SEC, 0), (3, 9 * SEC, 1)] {
        pool.ready(child);
        pool.pass(lives);
        assert_eq!(pool.fail(child), "");
        assert_eq!(pool.scheduler.sources[0].failures(), failures);
        pool.pass(100 * MS);
    }
}

#[test]
fn child_is_started_where_nothing_has_failed() {
    let mut pool = pool_of(&[2, 1], |_| {});
    assert_eq!(pool.call('a'), "+1@0");
    assert_eq!(pool.fail(1), "+2@1");
    assert_eq!(pool.ready(2), "a:2");
    let bad = pool.key_of(0);
    assert_eq!(pool.keyed('b', bad), "+3@0");
    assert_eq!(pool.fail(3), "");
    assert_eq!(pool.pass(125 * MS), "+4@0");
    assert_eq!(pool.fail(4), "b!no");
    assert_eq!(pool.crash(2), "");
    assert_eq!(pool.call('c'), "+5@1", "it is not broken");
}

#[test]
fn source_that_cannot_start_does_not_keep_others_from_it() {
    let mut pool = pool_of(&[2, 2], |it| it.grow_after = MS);
    let (bad, good) = (pool.key_of(0), pool.key_of(2));
    assert_eq!(pool.keyed('a', bad), "+1@0");
    assert_eq!(pool.fail(1), "+2@0");
    assert_eq!(pool.fail(2), "");
    assert_eq!(pool.call('b'), "+3@1");
    assert_eq!(pool.call('c'), "");
    assert_eq!(pool.pass(MS), "+4@1");
    assert_eq!(pool.pass(125 * MS), "+5@0");
    assert_eq!(pool.fail(5), "a!no");
    assert_eq!(pool.keyed('d', bad), "d!no");
    assert_eq!(pool.keyed('e', good), "");
    assert_eq!(pool.ready(3), "b:3");
    assert_eq!(pool.crash(4), "+6@1", "c waits for nothing that is broken");
}

#[test]
fn calls_fail_if_the_only_source_that_has_slots_cannot_start() {
    let mut pool = pool_of(&[0, 1], |_| {});
    pool.call('a');
    let mut done = String::new();
    for child in 1..=3 {
        done = pool.fail(child);
        pool.pass(pool.due_in().unwrap_or_default());
    }
    assert_eq!(done, "a!no");
}

#[test]
fn start_that_is_not_wanted_any_more_is_no_failure() {
    let mut pool = pool(1);
    pool.call('a');
    pool.cancel('a');
    assert_eq!(pool.close(), "-1");
    assert_eq!(pool.fail(1), "");
    assert_eq!(pool.scheduler.sources[0].failures(), 0);
    assert!(pool.scheduler.is_over());
}
