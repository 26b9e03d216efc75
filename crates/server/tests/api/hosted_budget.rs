//! What may be spent, under load.

use futures_util::future::join_all;
use harmonium_hosted::{Budget, Cost};
use serde_json::json;

use crate::hosted::{Leg, code, header, long};
use crate::support::{PATIENCE, config, post};
use crate::upstream::{Act, end, error, events, far_away, text};

/// More than any budget here has room for.
const NUM_REQUESTS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_requests_never_spend_more_than_the_budget() {
    let budget = Cost::from_usd(0.05).unwrap();
    // Some fail, some break off, the others cost what they say.
    let script = |number| match number % 4 {
        0 => error(500, "server_error", "oops", ""),
        1 => Act::Say(events(&[text("Far ")])),
        _ => far_away(),
    };
    let leg = Leg::with(script, config(), |hosted| {
        hosted.budget = Budget { day: Some(budget), ..Budget::default() };
    })
    .await;
    let answers = join_all((0..NUM_REQUESTS).map(|_| leg.long(json!({"max_tokens": 1})))).await;
    let num = |wanted: (u16, &str)| answers.iter().filter(|answer| code(answer) == wanted).count();
    let (num_whole, num_failed) = (num((200, "")), num((502, "hosted_failed")));
    // Until the last of those before them has ended, it is not known that nothing will be left.
    let num_refused = num((429, "hosted_budget_exceeded")) + num((429, "hosted_budget_reserved"));
    assert_eq!(num_whole + num_failed + num_refused, NUM_REQUESTS);
    assert_eq!(leg.upstream.seen().len(), num_whole + num_failed);
    // Whole ones cost 5000 tokens and 3; more than half of the budget is used, and never more than all of it.
    let whole = num_whole as f64 * (5000.0 * 0.4 + 3.0 * 1.6) / 1e6;
    let spent = leg.hosted().spent().await.unwrap().day;
    assert!(num_refused > 0 && spent > Cost::from_usd(0.025).unwrap(), "{spent}");
    assert!(whole <= spent.as_usd() && spent <= budget, "{whole} {spent}");
}

#[tokio::test]
async fn a_budget_that_is_only_set_aside_is_worth_asking_again() {
    // The first answer stays open; two estimates do not fit, an estimate and an actual cost do.
    let script = |number| match number {
        0 => Act::Hold(events(&[text("Far ")])),
        _ => far_away(),
    };
    let leg = Leg::with(script, config(), |hosted| {
        hosted.budget = Budget { day: Cost::from_usd(0.006), ..Budget::default() };
    })
    .await;
    let open = leg.fixture.send(post(long(json!({"stream": true})).to_string())).await;
    assert_eq!(open.status(), 200);
    let refused = leg.long(json!({})).await;
    assert_eq!(code(&refused), (429, "hosted_budget_reserved"));
    assert_eq!(header(&refused, "retry-after"), "5");
    assert_eq!(header(&refused, "x-should-retry"), "");
    // The client leaves: upstream has worked, and nobody knows for how much.
    drop(open);
    leg.upstream.left().await;
    let given_up =
        async { while code(&leg.long(json!({})).await) != (429, "hosted_budget_exceeded") {} };
    tokio::time::timeout(PATIENCE, given_up).await.expect("it is spent");
}

#[tokio::test]
async fn what_upstream_charges_beyond_the_estimate_counts_too() {
    // It counts three times as many tokens as we do.
    let script = |_| {
        let [stop, usage, done] = end(15_000, 3);
        Act::Say(events(&[text("Far "), stop, usage, done]))
    };
    let leg = Leg::with(script, config(), |hosted| {
        hosted.budget = Budget { day: Cost::from_usd(0.006), ..Budget::default() };
    })
    .await;
    assert_eq!(leg.long(json!({"max_tokens": 1})).await.status, 200);
    let refused = leg.long(json!({"max_tokens": 1})).await;
    assert_eq!(code(&refused), (429, "hosted_budget_exceeded"));
    assert_eq!(leg.hosted().spent().await.unwrap().day, Cost::from_usd(0.0060048).unwrap());
}
