//! Limits: where they end, whom they bind, and when they begin anew.

use super::*;

/// 2026-11-30T23:59:59Z, the last second of a month.
const MONTH_END: i64 = 1_796_083_199;

fn budget(scope: Scope, limit: u64) -> Budget {
    let limit = Some(cost(limit));
    match scope {
        Scope::Day => Budget { day: limit, ..NO_LIMIT },
        Scope::Month => Budget { month: limit, ..NO_LIMIT },
        Scope::KeyDay => Budget { key_day: limit, ..NO_LIMIT },
        Scope::KeyMonth => Budget { key_month: limit, ..NO_LIMIT },
    }
}

const SCOPES: [Scope; 4] = [Scope::Day, Scope::Month, Scope::KeyDay, Scope::KeyMonth];

/// The limit that refused: its scope, what was spent, itself and the estimate.
fn refusal(result: Result<Reservation, LedgerError>) -> (Scope, [u64; 3]) {
    match result {
        Err(LedgerError::Exceeded { scope, spent, limit, estimate, .. }) => {
            (scope, [spent, limit, estimate].map(Cost::as_picos))
        }
        other => panic!("no limit refused: {other:?}"),
    }
}

#[tokio::test]
async fn each_limit_can_be_reached_but_not_passed() {
    for scope in SCOPES {
        let fixture = Fixture::new(budget(scope, 10));
        assert_eq!(refusal(fixture.reserve("alice", 11).await), (scope, [0, 10, 11]));
        let _seven = fixture.reserve("alice", 7).await.unwrap();
        assert_eq!(refusal(fixture.reserve("alice", 4).await), (scope, [7, 10, 4]));
        let _ten = fixture.reserve("alice", 3).await.unwrap();
        assert_eq!(refusal(fixture.reserve("alice", 1).await), (scope, [10, 10, 1]));
        let _free = fixture.reserve("alice", 0).await.unwrap();
        fixture.assert_spent(10, 10).await;
    }
}

#[tokio::test]
async fn key_limits_bind_each_caller_and_the_others_all_together() {
    for scope in SCOPES {
        let fixture = Fixture::new(budget(scope, 10));
        let _alice = fixture.reserve("alice", 10).await.unwrap();
        let bob = fixture.reserve("bob", 10).await;
        match scope {
            Scope::Day | Scope::Month => assert_eq!(refusal(bob), (scope, [10, 10, 10])),
            Scope::KeyDay | Scope::KeyMonth => assert_eq!(bob.unwrap().estimate(), cost(10)),
        }
    }
}

#[tokio::test]
async fn a_refused_charge_leaves_nothing() {
    // The last limit to be looked at refuses, after the other totals had room.
    let fixture = Fixture::new(budget(Scope::KeyMonth, 10));
    refusal(fixture.reserve("alice", 11).await);
    fixture.assert_spent(0, 0).await;
    assert_eq!(fixture.ledger.spent_by("alice").await.unwrap(), spent(0, 0));
    assert_eq!(charges(&fixture.path()), []);
}

#[tokio::test]
async fn a_settlement_makes_room_or_takes_it() {
    let fixture = Fixture::new(budget(Scope::Day, 10));
    fixture.reserve("alice", 10).await.unwrap().settle(cost(4)).await.unwrap();
    fixture.reserve("alice", 6).await.unwrap().settle(cost(8)).await.unwrap();
    assert_eq!(refusal(fixture.reserve("alice", 0).await), (Scope::Day, [12, 10, 0]));
}

#[tokio::test]
async fn midnight_gives_new_room_for_days_only() {
    for scope in SCOPES {
        let fixture = Fixture::new(budget(scope, 10));
        let last_second = NOON + DAY / 2 - 1;
        fixture.clock.set(last_second);
        let _full = fixture.reserve("alice", 10).await.unwrap();
        fixture.clock.set(last_second + 1);
        let next_day = fixture.reserve("alice", 10).await;
        match scope {
            Scope::Day | Scope::KeyDay => assert_eq!(next_day.unwrap().estimate(), cost(10)),
            Scope::Month | Scope::KeyMonth => {
                assert_eq!(refusal(next_day), (scope, [10, 10, 10]));
            }
        }
    }
}

#[tokio::test]
async fn a_new_month_gives_new_room_for_all() {
    for scope in SCOPES {
        let fixture = Fixture::new(budget(scope, 10));
        fixture.clock.set(MONTH_END);
        let _full = fixture.reserve("alice", 10).await.unwrap();
        refusal(fixture.reserve("alice", 10).await);
        fixture.clock.set(MONTH_END + 1);
        let _new = fixture.reserve("alice", 10).await.unwrap();
        fixture.assert_spent(10, 10).await;
    }
}

#[tokio::test]
async fn settlement_after_midnight_corrects_the_day_before() {
    let fixture = Fixture::new(NO_LIMIT);
    let reservation = fixture.reserve("alice", 10).await.unwrap();
    fixture.clock.set(NOON + DAY);
    let _today = fixture.reserve("alice", 100).await.unwrap();
    reservation.settle(cost(4)).await.unwrap();
    fixture.assert_spent(100, 104).await;
    assert_eq!(fixture.ledger.spent_by("alice").await.unwrap(), spent(100, 104));
    fixture.clock.set(NOON);
    fixture.assert_spent(4, 104).await;
    assert_eq!(fixture.ledger.spent_by("alice").await.unwrap(), spent(4, 104));
}

/// Through two ledgers on one file, as two processes would: neither may look at a total while the
/// other is about to change it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_reservations_never_pass_the_limit() {
    let fixture = Fixture::new(budget(Scope::Day, 1000));
    let other = open(&fixture.path(), budget(Scope::Day, 1000), &fixture.clock).unwrap();
    let tasks: Vec<_> = (0..200)
        .map(|index| {
            let ledger = if index % 2 == 0 { &fixture.ledger } else { &other }.clone();
            tokio::spawn(async move { ledger.reserve("alice", "model", cost(7)).await })
        })
        .collect();
    let mut num_reserved = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => num_reserved += 1,
            refused => assert_eq!(refusal(refused), (Scope::Day, [994, 1000, 7])),
        }
    }
    assert_eq!(num_reserved, 1000 / 7);
    fixture.assert_spent(994, 994).await;
    assert_eq!(charges(&fixture.path()).len(), 142);
}

#[test]
fn a_refusal_says_what_and_how_much() {
    let error = LedgerError::Exceeded {
        scope: Scope::KeyDay,
        spent: Cost::from_usd(0.95).unwrap(),
        limit: Cost::from_usd(1.0).unwrap(),
        open: Cost::ZERO,
        estimate: Cost::from_usd(0.052429).unwrap(),
    };
    assert_eq!(
        error.to_string(),
        "no room in the budget of this key's day: 0.950000 of 1.000000 USD are spent and the \
         request may cost 0.052429 USD"
    );
}

#[tokio::test]
async fn money_that_is_only_set_aside_may_come_back() {
    for scope in SCOPES {
        let fixture = Fixture::new(budget(scope, 10));
        let may_pass = async |picos| {
            let foreseen = fixture.ledger.check_room("alice", cost(picos)).await.unwrap_err();
            let error = fixture.reserve("alice", picos).await.unwrap_err();
            assert_eq!(foreseen.to_string(), error.to_string());
            error.may_pass()
        };
        fixture.reserve("alice", 4).await.unwrap().settle(cost(4)).await.unwrap();
        let open = fixture.reserve("alice", 5).await.unwrap();
        assert!(may_pass(2).await, "{scope}");
        assert!(may_pass(6).await, "{scope}");
        // More than is left when all has come back.
        assert!(!may_pass(7).await, "{scope}");
        // Given up, it stays charged.
        drop(open);
        assert!(!may_pass(2).await, "{scope}");
    }
}

#[tokio::test]
async fn a_limit_that_is_spent_says_more_than_one_that_may_pass() {
    let fixture = Fixture::new(Budget { day: Some(cost(10)), key_day: Some(cost(5)), ..NO_LIMIT });
    fixture.reserve("alice", 5).await.unwrap().settle(cost(5)).await.unwrap();
    let _open = fixture.reserve("bob", 5).await.unwrap();
    assert_eq!(refusal(fixture.reserve("carol", 1).await), (Scope::Day, [10, 10, 1]));
    assert_eq!(refusal(fixture.reserve("alice", 1).await), (Scope::KeyDay, [5, 5, 1]));
}

#[tokio::test]
async fn what_another_process_set_aside_counts_as_spent() {
    let fixture = Fixture::new(budget(Scope::Day, 10));
    let other = open(&fixture.path(), budget(Scope::Day, 10), &fixture.clock).unwrap();
    let _open = other.reserve("alice", "model", cost(10)).await.unwrap();
    assert!(!fixture.reserve("alice", 1).await.unwrap_err().may_pass());
}
