//! What every store must do about webhooks, deadlines and retention.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use stablehand::domain::{PredictionSource, Status, Webhook, WebhookEvent, new_prediction_id};
use stablehand::store::{
    Change, Delivery, Expired, InFlight, Lease, ListFilter, NewPrediction, Outcome, Recovered, Renewal, SqliteStore,
    Store,
};

use crate::store::{claim_one, contract, get, new};

const TERM: Duration = Duration::from_secs(30);
const THROTTLE: Duration = Duration::from_millis(520);

fn hooked(url: &str, events: Option<&[WebhookEvent]>) -> NewPrediction {
    let webhook = Webhook { url: url.to_string(), events_filter: events.map(<[WebhookEvent]>::to_vec) };
    NewPrediction { webhook: Some(webhook), origin: "http://here:8000".to_string(), ..new("hooked") }
}

/// Inserts and claims one.
async fn running(store: &dyn Store, events: Option<&[WebhookEvent]>) -> Lease {
    store.insert(hooked("http://there/hook", events), 1000).await.unwrap();
    claim_one(store, "w", TERM).await
}

fn anything() -> InFlight {
    InFlight { per_host: 100, room: 100, ..InFlight::default() }
}

async fn take(store: &dyn Store) -> Vec<Delivery> {
    store.take_webhooks(&anything(), TERM).await.unwrap()
}

async fn events(store: &dyn Store) -> Vec<WebhookEvent> {
    take(store).await.iter().map(|delivery| delivery.event).collect()
}

async fn log(store: &dyn Store, lease: &Lease, text: &str) {
    store.append_logs(&[(lease.clone(), text.to_string())]).await.unwrap();
}

fn succeeded() -> Outcome {
    Outcome::Succeeded(vec!["x/out-0.png".to_string()])
}

async fn webhooks_come_back_as_sent(store: Arc<dyn Store>) {
    for events in [None, Some(&[][..]), Some(&[WebhookEvent::Logs, WebhookEvent::Start][..])] {
        let sent = hooked("https://user:p@there/hook?a=b#c", events);
        let kept = store.insert(sent.clone(), 1000).await.unwrap();
        assert_eq!((kept.webhook, kept.origin), (sent.webhook, sent.origin));
        assert_eq!(get(&*store, &sent.id).await.webhook, hooked("https://user:p@there/hook?a=b#c", events).webhook);
    }
}

async fn throttled_messages_show_the_newest_state(store: Arc<dyn Store>) {
    let mut news = store.changes();
    let lease = running(&*store, Some(&WebhookEvent::ALL)).await;
    assert_eq!((news.recv().await.unwrap(), news.recv().await.unwrap()), (Change::Queued, Change::Outbox));
    let start = take(&*store).await.remove(0);
    assert_eq!((start.event, start.attempt, start.host.as_str()), (WebhookEvent::Start, 1, "there"));
    assert!(start.id.starts_with("msg_"));

    log(&*store, &lease, "a").await;
    let first = take(&*store).await.remove(0);
    assert_eq!((first.event, first.prediction.logs.as_str()), (WebhookEvent::Logs, "a"));
    for text in ["b", "c"] {
        log(&*store, &lease, text).await;
        assert_eq!(events(&*store).await, []);
    }
    tokio::time::sleep(THROTTLE).await;
    let second = take(&*store).await.remove(0);
    assert_eq!((second.event, second.prediction.logs.as_str()), (WebhookEvent::Logs, "abc"));
    assert_ne!(first.id, second.id);

    log(&*store, &lease, "d").await;
    assert!(store.finish(&lease, succeeded(), "e").await.unwrap());
    let end = take(&*store).await.remove(0);
    assert_eq!((end.event, end.prediction.logs.as_str()), (WebhookEvent::Completed, "abcde"));
    store.settle_webhook(&end.id, None).await.unwrap();
    tokio::time::sleep(THROTTLE).await;
    assert_eq!(events(&*store).await, [], "nothing follows the end");
}

async fn output_comes_before_the_end(store: Arc<dyn Store>) {
    let lease = running(&*store, None).await;
    log(&*store, &lease, "nobody wants to hear").await;
    assert_eq!(events(&*store).await, []);
    store.finish(&lease, succeeded(), "").await.unwrap();
    let output = take(&*store).await.remove(0);
    let shown = output.prediction.clone().as_of(output.event);
    assert_eq!((output.event, shown.status, shown.completed_at), (WebhookEvent::Output, Status::Processing, None));
    assert_eq!(shown.output.unwrap(), ["x/out-0.png"]);
    let flying = InFlight { predictions: vec![lease.id.clone()], ..anything() };
    assert!(store.take_webhooks(&flying, TERM).await.unwrap().is_empty(), "the output is still on its way");
    let end = take(&*store).await.remove(0);
    assert_eq!((end.event, end.prediction.status), (WebhookEvent::Completed, Status::Succeeded));
}

async fn an_end_is_told_until_it_is_settled(store: Arc<dyn Store>) {
    let lease = running(&*store, Some(&[WebhookEvent::Completed])).await;
    store.finish(&lease, Outcome::Failed("no".to_string()), "").await.unwrap();
    let first = store.take_webhooks(&anything(), Duration::ZERO).await.unwrap().remove(0);
    let second = take(&*store).await.remove(0);
    assert_eq!((second.attempt, &second.id), (2, &first.id), "whoever took it first died");
    assert_eq!(events(&*store).await, [], "it is being sent");
    store.settle_webhook(&first.id, Some(TERM)).await.unwrap();
    assert_eq!(events(&*store).await, [], "it is for later");
    store.recover(false).await.unwrap();
    assert_eq!(events(&*store).await, []);
    store.recover(true).await.unwrap();
    let third = take(&*store).await.remove(0);
    assert_eq!((third.attempt, &third.id), (3, &first.id));
    store.settle_webhook(&first.id, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(take(&*store).await.remove(0).attempt, 4);
    store.settle_webhook(&first.id, None).await.unwrap();
    store.recover(true).await.unwrap();
    assert_eq!(events(&*store).await, []);
}

async fn every_end_is_told_once(store: Arc<dyn Store>) {
    let only_end = Some(&[WebhookEvent::Completed][..]);
    let mut ends = Vec::new();
    for outcome in [succeeded(), Outcome::Failed("no".to_string()), Outcome::Canceled] {
        let lease = running(&*store, only_end).await;
        assert!(store.finish(&lease, outcome.clone(), "").await.unwrap());
        assert!(!store.finish(&lease, outcome, "").await.unwrap());
        ends.push(lease.id);
    }
    let queued = hooked("http://there", only_end);
    let late = NewPrediction { cancel_after: Some(Duration::ZERO), ..hooked("http://there", only_end) };
    for new in [&queued, &late] {
        store.insert(new.clone(), 1000).await.unwrap();
        ends.push(new.id.clone());
    }
    store.request_cancel(&queued.id).await.unwrap();
    store.request_cancel(&queued.id).await.unwrap();
    store.expire().await.unwrap();
    let told: Vec<(String, Status)> =
        take(&*store).await.into_iter().map(|d| (d.prediction.id, d.prediction.status)).collect();
    let statuses = [Status::Succeeded, Status::Failed, Status::Canceled, Status::Canceled, Status::Aborted];
    assert_eq!(told, ends.into_iter().zip(statuses).collect::<Vec<_>>());
}

async fn filters_without_the_end_hear_the_last_of_theirs(store: Arc<dyn Store>) {
    let lease = running(&*store, Some(&[WebhookEvent::Logs])).await;
    log(&*store, &lease, "a").await;
    assert_eq!(events(&*store).await, [WebhookEvent::Logs]);
    store.finish(&lease, succeeded(), "z").await.unwrap();
    assert_eq!(events(&*store).await, []);
    tokio::time::sleep(THROTTLE).await;
    assert_eq!(take(&*store).await.remove(0).prediction.logs, "az");

    let lease = running(&*store, Some(&[WebhookEvent::Output])).await;
    store.finish(&lease, succeeded(), "").await.unwrap();
    assert_eq!(events(&*store).await, [WebhookEvent::Output]);
    assert_eq!(events(&*store).await, []);
}

async fn a_start_is_told_once(store: Arc<dyn Store>) {
    let lease = running(&*store, Some(&[WebhookEvent::Start])).await;
    assert!(store.release(&lease).await.unwrap());
    claim_one(&*store, "w", TERM).await;
    let start = take(&*store).await.remove(0);
    let shown = start.prediction.as_of(start.event);
    assert_eq!((start.event, shown.status, shown.logs.as_str()), (WebhookEvent::Start, Status::Processing, ""));
    assert_eq!(events(&*store).await, []);
}

async fn hosts_get_no_more_than_they_may(store: Arc<dyn Store>) {
    for host in ["slow", "slow", "slow", "slow", "fast", "slow", "other"] {
        let new = hooked(&format!("http://{host}/hook"), None);
        store.insert(new.clone(), 1000).await.unwrap();
        store.request_cancel(&new.id).await.unwrap();
    }
    let two = InFlight { per_host: 2, room: 10, ..InFlight::default() };
    let hosts = async |flying: &InFlight| -> Vec<String> {
        let taken = store.take_webhooks(flying, Duration::ZERO).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
        taken.into_iter().map(|d| d.host).collect()
    };
    assert_eq!(hosts(&two).await, ["slow", "slow", "fast", "other"]);
    let busy = InFlight { hosts: HashMap::from([("slow".to_string(), 2), ("fast".to_string(), 1)]), ..two.clone() };
    let mut taken = hosts(&busy).await;
    taken.sort();
    assert_eq!(taken, ["fast", "other"]);
    assert_eq!(hosts(&InFlight { room: 1, ..two }).await.len(), 1);
}

async fn deadlines_pass_in_the_queue(store: Arc<dyn Store>) {
    let new = NewPrediction { cancel_after: Some(Duration::from_millis(30)), ..new("late") };
    let inserted = store.insert(new.clone(), 10).await.unwrap();
    let deadline = inserted.deadline.unwrap();
    assert_eq!(deadline.duration_since(inserted.created_at).as_millis(), 30);
    assert_eq!(store.expire().await.unwrap(), Expired::default());
    tokio::time::sleep(Duration::from_millis(40)).await;
    assert!(store.claim(5, "w", TERM).await.unwrap().is_empty(), "too late to start");
    assert_eq!(store.expire().await.unwrap(), Expired { aborted: 1, canceled: 0 });
    assert_eq!(store.expire().await.unwrap(), Expired::default());
    let ended = get(&*store, &new.id).await;
    assert_eq!((ended.status, ended.started_at, ended.deadline), (Status::Aborted, None, Some(deadline)));
    assert!(ended.completed_at.is_some());
}

async fn deadlines_end_running_ones(store: Arc<dyn Store>) {
    let mut ids = Vec::new();
    for _ in 0..3 {
        let new = NewPrediction { cancel_after: Some(Duration::from_millis(100)), ..new("late") };
        ids.push(store.insert(new, 10).await.unwrap().id);
    }
    let leases: Vec<Lease> =
        store.claim(3, "w", TERM).await.unwrap().into_iter().map(|claimed| claimed.lease).collect();
    let mut news = store.changes();
    tokio::time::sleep(Duration::from_millis(110)).await;
    assert!(store.release(&leases[0]).await.unwrap());
    assert_eq!(get(&*store, &ids[0]).await.status, Status::Canceled, "not queued again");
    assert_eq!(news.recv().await.unwrap(), Change::Finished(ids[0].clone()));
    assert_eq!(store.expire().await.unwrap(), Expired { aborted: 0, canceled: 2 });
    assert_eq!(news.recv().await.unwrap(), Change::CancelRequested(ids[1].clone()));
    assert_eq!(store.expire().await.unwrap(), Expired::default());
    assert_eq!(store.renew(&leases[1..2], TERM).await.unwrap(), [Renewal::CancelRequested]);
    assert!(store.finish(&leases[1], Outcome::Canceled, "").await.unwrap());
    assert_eq!(store.recover(true).await.unwrap(), Recovered { requeued: 0, ended: 1 });
    for id in &ids {
        assert_eq!(get(&*store, id).await.status, Status::Canceled);
    }
}

async fn data_is_removed_when_nobody_needs_it(store: Arc<dyn Store>) {
    let plain = new("plain");
    store.insert(plain.clone(), 10).await.unwrap();
    let lease = claim_one(&*store, "w", TERM).await;
    store.finish(&lease, succeeded(), "logs").await.unwrap();
    let told = running(&*store, None).await;
    store.finish(&told, Outcome::Failed("no".to_string()), "logs").await.unwrap();
    let queued = store.insert(new("queued"), 10).await.unwrap().id;

    let past = Timestamp::now() - Duration::from_secs(60);
    assert!(store.outlived(past, 10).await.unwrap().is_empty());
    let future = Timestamp::now() + Duration::from_secs(60);
    let outlived = store.outlived(future, 10).await.unwrap();
    assert_eq!(outlived.iter().map(|o| &o.id).collect::<Vec<_>>(), [&plain.id], "the other owes a webhook");
    assert_eq!(outlived[0].paths, ["x/out-0.png"]);
    let end = take(&*store).await.remove(0);
    store.settle_webhook(&end.id, None).await.unwrap();
    assert_eq!(store.outlived(future, 10).await.unwrap().len(), 2);
    assert_eq!(store.outlived(future, 1).await.unwrap().len(), 1);

    let before = [get(&*store, &plain.id).await, get(&*store, &told.id).await];
    store.remove_data(&[plain.id.clone(), told.id.clone(), queued.clone(), "nobody".to_string()]).await.unwrap();
    assert!(store.outlived(future, 10).await.unwrap().is_empty());
    for before in before {
        let after = get(&*store, &before.id).await;
        assert!(after.data_removed && after.input.is_empty() && after.logs.is_empty() && after.output.is_none());
        let same = (before.status, before.error, before.created_at, before.completed_at);
        assert_eq!((after.status, after.error, after.created_at, after.completed_at), same);
    }
    let waiting = get(&*store, &queued).await;
    assert!(!waiting.data_removed && !waiting.input.is_empty());
}

async fn lists_can_be_narrowed(store: Arc<dyn Store>) {
    let mut all = Vec::new();
    for n in 0..6 {
        let source = if n % 2 == 0 { PredictionSource::Web } else { PredictionSource::Api };
        all.push(store.insert(NewPrediction { source, ..new("x") }, 10).await.unwrap());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let list = async |filter: ListFilter| -> Vec<usize> {
        let page = store.list(filter, None).await.unwrap();
        page.predictions.iter().map(|p| all.iter().position(|a| a.id == p.id).unwrap()).collect()
    };
    let (after, before) = (Some(all[1].created_at), Some(all[4].created_at));
    let filter = ListFilter::default();
    assert_eq!(list(filter).await, [5, 4, 3, 2, 1, 0]);
    assert_eq!(list(ListFilter { created_after: after, ..filter }).await, [5, 4, 3, 2, 1]);
    assert_eq!(list(ListFilter { created_before: before, ..filter }).await, [3, 2, 1, 0]);
    assert_eq!(list(ListFilter { created_after: after, created_before: before, ..filter }).await, [3, 2, 1]);
    assert_eq!(list(ListFilter { source: Some(PredictionSource::Web), ..filter }).await, [4, 2, 0]);
    let none = ListFilter { created_after: before, created_before: after, source: None };
    assert_eq!(list(none).await, [0; 0]);
}

async fn small_things_are_kept_as_they_were_first(store: Arc<dyn Store>) {
    assert_eq!(store.keep("a", "1").await.unwrap(), "1");
    assert_eq!(store.keep("a", "2").await.unwrap(), "1");
    assert_eq!(store.keep("b", &new_prediction_id()).await.unwrap().len(), 26);
}

contract!(
    webhooks_come_back_as_sent,
    throttled_messages_show_the_newest_state,
    output_comes_before_the_end,
    an_end_is_told_until_it_is_settled,
    every_end_is_told_once,
    filters_without_the_end_hear_the_last_of_theirs,
    a_start_is_told_once,
    hosts_get_no_more_than_they_may,
    deadlines_pass_in_the_queue,
    deadlines_end_running_ones,
    data_is_removed_when_nobody_needs_it,
    lists_can_be_narrowed,
    small_things_are_kept_as_they_were_first,
);
