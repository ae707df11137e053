//! What every store must do, and what SQLite's does besides.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use stablehand::domain::{INTERRUPTED, Prediction, Status, new_prediction_id};
use stablehand::store::{
    Change, Lease, ListFilter, MAX_INTERRUPTIONS, NewPrediction, Outcome, PAGE_SIZE, Recovered, Renewal, SqliteStore,
    Store, StoreError,
};

const TERM: Duration = Duration::from_secs(30);
const NOTHING: Duration = Duration::ZERO;
const ALL: ListFilter = ListFilter { created_after: None, created_before: None, source: None };

/// A prediction to insert.
pub fn new(prompt: &str) -> NewPrediction {
    let input = json!({"prompt": prompt, "width": 512.0, "unknown": [1, null]});
    NewPrediction {
        id: new_prediction_id(),
        model: "stability-ai/stable-diffusion".to_string(),
        version: "ac732df8".to_string(),
        deployment: Some("stability-ai/stable-diffusion".to_string()),
        input: input.as_object().unwrap().clone(),
        seed: u64::MAX - 1,
        ..NewPrediction::default()
    }
}

async fn add(store: &dyn Store, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(store.insert(new(&n.to_string()), 1000).await.unwrap().id);
    }
    ids
}

pub async fn get(store: &dyn Store, id: &str) -> Prediction {
    store.get(id).await.unwrap().unwrap()
}

pub async fn claim_one(store: &dyn Store, worker: &str, term: Duration) -> Lease {
    store.claim(1, worker, term).await.unwrap().remove(0).lease
}

async fn what_goes_in_comes_out(store: Arc<dyn Store>) {
    let new = new("a \u{0} \u{1F980} \"quote\"");
    let inserted = store.insert(new.clone(), 10).await.unwrap();
    assert_eq!(get(&*store, &new.id).await, inserted);
    assert_eq!(store.count_runs(&inserted.model).await.unwrap(), 1);
    assert_eq!(store.count_runs("nobody/nothing").await.unwrap(), 0);
    assert_eq!((inserted.model, inserted.version, inserted.input), (new.model, new.version, new.input));
    assert_eq!(inserted.deployment, new.deployment);
    assert_eq!((inserted.seed, inserted.status, inserted.logs.as_str()), (new.seed, Status::Starting, ""));
    assert_eq!((inserted.output, inserted.error, inserted.started_at, inserted.completed_at), (None, None, None, None));
    assert!(inserted.created_at.duration_until(jiff::Timestamp::now()).as_secs() < 60);
    assert_eq!(store.get("nobody").await.unwrap(), None);
}

async fn the_queue_is_first_in_first_out_and_never_hands_out_twice(store: Arc<dyn Store>) {
    let ids = add(&*store, 30).await;
    assert_eq!(store.count_queued().await.unwrap(), 30);
    let first = store.claim(2, "w", TERM).await.unwrap();
    assert_eq!(first.iter().map(|c| &c.prediction.id).collect::<Vec<_>>(), [&ids[0], &ids[1]]);
    assert_eq!((first[0].prediction.status, first[0].lease.attempt), (Status::Processing, 1));
    assert!(first[0].prediction.started_at.is_some());

    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..10 {
        let store = Arc::clone(&store);
        tasks.spawn(async move { store.claim(5, &format!("w{n}"), TERM).await.unwrap() });
    }
    let claimed: Vec<String> = tasks.join_all().await.into_iter().flatten().map(|c| c.prediction.id).collect();
    assert_eq!(claimed.len(), 28);
    assert_eq!(claimed.into_iter().collect::<HashSet<_>>(), ids[2..].iter().cloned().collect());
    assert_eq!(store.count_queued().await.unwrap(), 0);
}

async fn a_full_queue_refuses(store: Arc<dyn Store>) {
    add(&*store, 3).await;
    let refused = store.insert(new("one too many"), 3).await;
    assert!(matches!(refused, Err(StoreError::QueueFull { queued: 3, limit: 3 })), "{refused:?}");
    store.claim(1, "w", TERM).await.unwrap();
    store.insert(new("running ones do not count"), 3).await.unwrap();
}

async fn each_outcome_is_recorded_once(store: Arc<dyn Store>) {
    add(&*store, 3).await;
    let claimed = store.claim(3, "w", TERM).await.unwrap();
    let paths = vec!["x/out-0.png".to_string(), "x/out-1.png".to_string()];
    let outcomes = [Outcome::Succeeded(paths.clone()), Outcome::Failed("no".to_string()), Outcome::Canceled];
    for (claimed, outcome) in claimed.iter().zip(&outcomes) {
        store.append_logs(&[(claimed.lease.clone(), "one\n".to_string())]).await.unwrap();
        assert!(store.finish(&claimed.lease, outcome.clone(), "two\n").await.unwrap());
        for again in &outcomes {
            assert!(!store.finish(&claimed.lease, again.clone(), "three\n").await.unwrap());
        }
        store.append_logs(&[(claimed.lease.clone(), "four\n".to_string())]).await.unwrap();
        assert!(!store.release(&claimed.lease).await.unwrap());
        assert_eq!(store.renew(std::slice::from_ref(&claimed.lease), TERM).await.unwrap(), [Renewal::Lost]);
        let ended = get(&*store, &claimed.lease.id).await;
        assert_eq!(ended.logs, "one\ntwo\n");
        assert!(ended.completed_at.unwrap() >= ended.started_at.unwrap());
        let (status, output, error) = match outcome {
            Outcome::Succeeded(_) => (Status::Succeeded, Some(paths.clone()), None),
            Outcome::Failed(text) => (Status::Failed, None, Some(text.clone())),
            Outcome::Canceled => (Status::Canceled, None, None),
        };
        assert_eq!((ended.status, ended.output, ended.error), (status, output, error));
    }
    assert_eq!(store.recover(true).await.unwrap(), Recovered::default());
}

async fn cancel_ends_queued_ones_and_marks_running_ones(store: Arc<dyn Store>) {
    let ids = add(&*store, 3).await;
    let lease = claim_one(&*store, "w", TERM).await;
    let mut news = store.changes();

    let queued = store.request_cancel(&ids[1]).await.unwrap().unwrap();
    assert_eq!((queued.status, queued.started_at), (Status::Canceled, None));
    assert!(queued.completed_at.is_some());
    assert_eq!(news.recv().await.unwrap(), Change::Finished(ids[1].clone()));
    assert_eq!(store.request_cancel(&ids[1]).await.unwrap().unwrap(), queued);

    let running = store.request_cancel(&ids[0]).await.unwrap().unwrap();
    assert_eq!((running.status, running.cancel_requested), (Status::Processing, true));
    assert_eq!(news.recv().await.unwrap(), Change::CancelRequested(ids[0].clone()));
    assert_eq!(store.renew(std::slice::from_ref(&lease), TERM).await.unwrap(), [Renewal::CancelRequested]);
    assert!(store.finish(&lease, Outcome::Canceled, "").await.unwrap());

    assert_eq!(store.request_cancel("nobody").await.unwrap(), None);
    assert_eq!(claim_one(&*store, "w", TERM).await.id, ids[2], "a canceled one is not claimed");
}

async fn an_expired_lease_is_claimed_again_and_the_old_one_is_void(store: Arc<dyn Store>) {
    let ids = add(&*store, 2).await;
    let old = claim_one(&*store, "dead", NOTHING).await;
    let alive = claim_one(&*store, "alive", TERM).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(store.recover(false).await.unwrap(), Recovered { requeued: 1, ended: 0 });
    let requeued = get(&*store, &ids[0]).await;
    assert_eq!((requeued.status, requeued.started_at), (Status::Starting, None));

    let again = store.claim(5, "alive", TERM).await.unwrap().remove(0);
    assert_eq!((again.lease.id.as_str(), again.lease.attempt, again.interruptions), (ids[0].as_str(), 2, 1));
    assert!(!store.finish(&old, Outcome::Failed("late".to_string()), "late").await.unwrap());
    store.append_logs(&[(old.clone(), "late".to_string())]).await.unwrap();
    let renewed = store.renew(&[old, again.lease.clone(), alive.clone()], TERM).await.unwrap();
    assert_eq!(renewed, [Renewal::Lost, Renewal::Held, Renewal::Held]);
    assert!(store.finish(&again.lease, Outcome::Succeeded(vec![]), "").await.unwrap());
    assert_eq!(get(&*store, &ids[0]).await.logs, "");
}

async fn renewal_saves_a_lease_that_expired_unnoticed(store: Arc<dyn Store>) {
    add(&*store, 1).await;
    let lease = claim_one(&*store, "slept", NOTHING).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(store.renew(std::slice::from_ref(&lease), TERM).await.unwrap(), [Renewal::Held]);
    assert_eq!(store.recover(false).await.unwrap(), Recovered::default());
}

async fn a_prediction_that_kills_its_workers_fails_in_the_end(store: Arc<dyn Store>) {
    let ids = add(&*store, 1).await;
    for _ in 0..MAX_INTERRUPTIONS {
        claim_one(&*store, "w", TERM).await;
        assert_eq!(store.recover(true).await.unwrap(), Recovered { requeued: 1, ended: 0 });
    }
    claim_one(&*store, "w", TERM).await;
    assert_eq!(store.recover(true).await.unwrap(), Recovered { requeued: 0, ended: 1 });
    let failed = get(&*store, &ids[0]).await;
    assert_eq!((failed.status, failed.error.as_deref()), (Status::Failed, Some(INTERRUPTED)));
}

async fn giving_back_is_no_interruption(store: Arc<dyn Store>) {
    let ids = add(&*store, 2).await;
    for attempt in 1..=2 * MAX_INTERRUPTIONS {
        let claimed = store.claim(1, "w", TERM).await.unwrap().remove(0);
        assert_eq!((claimed.lease.id.as_str(), claimed.lease.attempt), (ids[0].as_str(), attempt), "keeps its place");
        assert_eq!(claimed.interruptions, 0);
        assert!(store.release(&claimed.lease).await.unwrap());
        assert!(!store.release(&claimed.lease).await.unwrap());
    }
}

async fn a_cancel_outlives_its_worker(store: Arc<dyn Store>) {
    let ids = add(&*store, 2).await;
    let leases = [claim_one(&*store, "w", TERM).await, claim_one(&*store, "w", TERM).await];
    for id in &ids {
        store.request_cancel(id).await.unwrap();
    }
    assert!(store.release(&leases[0]).await.unwrap());
    assert_eq!(store.recover(true).await.unwrap(), Recovered { requeued: 0, ended: 1 });
    for id in &ids {
        assert_eq!(get(&*store, id).await.status, Status::Canceled);
    }
}

async fn lists_page_both_ways_newest_first(store: Arc<dyn Store>) {
    let empty = store.list(ALL, None).await.unwrap();
    assert!(empty.predictions.is_empty() && empty.next.is_none() && empty.previous.is_none());

    let mut ids = add(&*store, 2 * PAGE_SIZE + 5).await;
    ids.reverse();
    let mut pages = vec![store.list(ALL, None).await.unwrap()];
    while let Some(next) = pages.last().unwrap().next {
        pages.push(store.list(ALL, Some(next)).await.unwrap());
    }
    let listed: Vec<String> = pages.iter().flat_map(|p| &p.predictions).map(|p| p.id.clone()).collect();
    assert_eq!(listed, ids);
    assert_eq!(pages.iter().map(|p| p.predictions.len()).collect::<Vec<_>>(), [PAGE_SIZE, PAGE_SIZE, 5]);
    assert_eq!(pages[0].previous, None);

    let back = store.list(ALL, pages[2].previous).await.unwrap();
    assert_eq!(back.predictions, pages[1].predictions);
    let front = store.list(ALL, back.previous).await.unwrap();
    assert_eq!(front.predictions, pages[0].predictions);
    assert_eq!(front.previous, None);
}

async fn a_dropped_caller_tears_nothing(store: Arc<dyn Store>) {
    for n in 0..50u64 {
        let insert = store.insert(new("dropped"), 1000);
        // Dropped at another point each time, from before the first poll to after the commit.
        let _ = tokio::time::timeout(Duration::from_micros(n * 20), insert).await;
    }
    let last = store.insert(new("kept"), 1000).await.unwrap();
    let claimed = store.claim(100, "w", TERM).await.unwrap();
    assert_eq!(claimed.last().unwrap().lease.id, last.id);
    assert_eq!(store.count_queued().await.unwrap(), 0);
}

/// Runs the contract against SQLite; another store joins by another module.
macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let folder = tempfile::tempdir().unwrap();
                    let store = super::SqliteStore::open(&folder.path().join("s.sqlite")).await.unwrap();
                    super::$case(std::sync::Arc::new(store)).await;
                }
            )*
        }
    };
}

pub(crate) use contract;

contract!(
    what_goes_in_comes_out,
    the_queue_is_first_in_first_out_and_never_hands_out_twice,
    a_full_queue_refuses,
    each_outcome_is_recorded_once,
    cancel_ends_queued_ones_and_marks_running_ones,
    an_expired_lease_is_claimed_again_and_the_old_one_is_void,
    renewal_saves_a_lease_that_expired_unnoticed,
    a_prediction_that_kills_its_workers_fails_in_the_end,
    giving_back_is_no_interruption,
    a_cancel_outlives_its_worker,
    lists_page_both_ways_newest_first,
    a_dropped_caller_tears_nothing,
);

/// The file says the same after it is opened again.
#[tokio::test]
async fn sqlite_remembers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.sqlite");
    let store = SqliteStore::open(&file).await.unwrap();
    let ids = add(&store, 2).await;
    claim_one(&store, "w", TERM).await;
    store.close().await;
    drop(store);
    let store = SqliteStore::open(&file).await.unwrap();
    assert_eq!(get(&store, &ids[0]).await.status, Status::Processing);
    assert_eq!(get(&store, &ids[1]).await.status, Status::Starting);
    assert_eq!(store.recover(false).await.unwrap(), Recovered::default(), "the lease has not expired");
    assert_eq!(store.recover(true).await.unwrap(), Recovered { requeued: 1, ended: 0 });
}
