//! What a prediction costs beside its mathematics: the store's transactions, the PNG, the durable file, the answer to a
//! create call. `cargo bench --bench server`.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use stablehand::blobs::Blobs;
use stablehand::domain::new_prediction_id;
use stablehand::store::{ListFilter, NewPrediction, Outcome, SqliteStore, Store};
use stablehand::worker::encode_png;

const TERM: Duration = Duration::from_secs(30);

fn new() -> NewPrediction {
    let input = serde_json::json!({"prompt": "an astronaut riding a horse on mars, hd, dramatic lighting", "seed": 1});
    NewPrediction {
        id: new_prediction_id(),
        model: "stability-ai/stable-diffusion".to_string(),
        version: "ac732df83cea7fff18b8472768c88ad041fa750ff7682a21affe81863cbe77e4".to_string(),
        deployment: None,
        input: input.as_object().cloned().unwrap(),
        seed: 1,
        ..NewPrediction::default()
    }
}

fn store(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = runtime.block_on(SqliteStore::open(&folder.path().join("bench.sqlite"))).unwrap();
    let mut group = c.benchmark_group("store");
    group.sample_size(50);
    group.bench_function("insert", |b| b.iter(|| runtime.block_on(store.insert(new(), u64::MAX)).unwrap()));
    let known = runtime.block_on(store.insert(new(), u64::MAX)).unwrap().id;
    group.bench_function("get", |b| b.iter(|| runtime.block_on(store.get(&known)).unwrap()));
    group.bench_function("list", |b| b.iter(|| runtime.block_on(store.list(ListFilter::default(), None)).unwrap()));
    group.bench_function("claim, log, renew and finish", |b| {
        b.iter_custom(|rounds| {
            runtime.block_on(async {
                for _ in 0..rounds {
                    store.insert(new(), u64::MAX).await.unwrap();
                }
                let begun = Instant::now();
                for _ in 0..rounds {
                    let lease = store.claim(1, "bench", TERM).await.unwrap().remove(0).lease;
                    store.append_logs(&[(lease.clone(), "a line\n".to_string())]).await.unwrap();
                    store.renew(std::slice::from_ref(&lease), TERM).await.unwrap();
                    assert!(store.finish(&lease, Outcome::Succeeded(vec![]), "the last\n").await.unwrap());
                }
                begun.elapsed()
            })
        });
    });
    group.finish();
}

/// A picture with smooth and rough parts, as models draw them.
fn picture(side: u32) -> image::RgbImage {
    let mut state = 1u32;
    image::RgbImage::from_fn(side, side, |x, y| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let grain = (state >> 29) as u8;
        image::Rgb([(x * 255 / side) as u8 ^ grain, (y * 255 / side) as u8 ^ grain, ((x ^ y) & 0x3f) as u8])
    })
}

fn pictures(c: &mut Criterion) {
    let mut group = c.benchmark_group("pictures");
    group.sample_size(20);
    for side in [512, 768] {
        let rgb = picture(side);
        group.bench_function(format!("png {side}"), |b| b.iter(|| encode_png(black_box(&rgb)).unwrap()));
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::local(folder.path()).unwrap();
    let png = Bytes::from(encode_png(&picture(768)).unwrap());
    group.bench_function("durable file 768", |b| {
        b.iter_batched(
            || Blobs::new_folder().unwrap(),
            |folder| runtime.block_on(blobs.put(&folder, "out-0.png", png.clone())).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, store, pictures);
criterion_main!(benches);
