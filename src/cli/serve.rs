//! `stablehand serve`: puts the rooms together, says what it serves, and stops without losing anything.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use candle_core::Device;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::device::DeviceArgs;
use super::model::{self, Loaded};
use crate::api::{self, ApiState, Feeds, Keys, Limits, RateLimits, Server, Tokens};
use crate::blobs::Blobs;
use crate::config::{Config, OutputUrls, ServeArgs};
use crate::domain::{Catalog, Hardware, InputLimits, ModelManifest, Source};
use crate::engine::{EngineHandle, EngineOptions};
use crate::fetch::Fetcher;
use crate::live::Live;
use crate::store::{DataDir, SqliteStore, Store};
use crate::uploads::Uploads;
use crate::web;
use crate::webhooks::{Render, Secret, WebhookOptions, Webhooks};
use crate::weights::manifests;
use crate::worker::{Keeper, Worker, WorkerError, WorkerOptions};

/// Requests that take turns on a CPU. More make each of them later; fewer let a short one wait behind long ones.
const CPU_JOBS: usize = 16;

/// Predictions that are claimed at once for a GPU, where short ones are to share calls, and for a CPU, where they had
/// better wait in the queue than in the engine.
const GPU_BATCH: usize = 8;
const CPU_BATCH: usize = 1;

/// The file in the data folder that says where the server listens, for scripts that asked for port 0.
const ADDRESS: &str = "address";

/// The name under which the store keeps the secret that webhooks are signed with.
const WEBHOOK_SECRET: &str = "webhook-secret";

/// Serves until a signal.
pub fn run(args: ServeArgs) -> Result<()> {
    let config = args.resolve().map_err(|wrong| anyhow!("these settings are wrong:\n{wrong}"))?;
    let level = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).init();
    if let Some(threads) = config.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(&config))
}

async fn serve(config: &Config) -> Result<()> {
    let ground = Ground::take(config).await?;
    let device = DeviceArgs { device: config.device, dtype: config.dtype };
    let mut loaded = model::load(config.model.as_deref(), &device, config.offline)?;
    let (width, height) = loaded.default_size();
    if let Source::Directory { .. } = loaded.manifest.source {
        loaded.manifest.input.prefer_size(width as u32, height as u32);
    }
    if let Err(error) = loaded.model.learn_previews() {
        loaded.opened.notes.push(format!("there will be no live previews: {error}"));
    }
    let about = describe(config, &loaded, &ground.access);
    let catalog = Catalog::new(loaded.manifest.clone(), &manifests::known()?).on(hardware(&loaded.opened.device));
    let (max_jobs, batch) = match loaded.opened.device.is_cpu() {
        true => (CPU_JOBS, CPU_BATCH),
        false => (EngineOptions::default().max_jobs, GPU_BATCH),
    };
    let engine = loaded.start(EngineOptions { max_rows: config.max_rows, max_jobs, ..EngineOptions::default() })?;
    let serving = ground.serve(config, catalog, engine, batch).await?;
    println!("{about}\nlistening on http://{}", serving.address);
    until_signal(serving, config.drain).await
}

/// What clients are told that the model runs on.
fn hardware(device: &Device) -> Hardware {
    let (name, sku) = match device {
        Device::Cpu => ("CPU", "cpu"),
        Device::Cuda(_) => ("CUDA GPU", "cuda"),
        Device::Metal(_) => ("Metal GPU", "metal"),
    };
    Hardware { name: name.to_string(), sku: sku.to_string() }
}

/// What a person who starts the server should know.
fn describe(config: &Config, loaded: &Loaded, access: &Access) -> String {
    let Loaded { manifest, opened, load_s, .. } = loaded;
    let mut lines = vec![
        format!("stablehand {}", env!("CARGO_PKG_VERSION")),
        format!("model   {} (loaded in {load_s:.1} s): {}", manifest.name, manifest.description),
    ];
    lines.extend(stand_in(manifest));
    lines.push(format!("device  {:?}, {:?}", opened.device.location(), opened.dtype).to_lowercase());
    lines.extend(opened.notes.iter().map(|note| format!("        {note}")));
    lines.push(format!("data    {}", config.data_dir.display()));
    lines.push(format!("keys    {}", access.describe()));
    lines.join("\n")
}

fn stand_in(manifest: &ModelManifest) -> Option<String> {
    let (own, others) = (&manifest.name, manifest.stands_in_for.join(", "));
    match (&manifest.source, others.is_empty()) {
        (_, true) => None,
        (Source::Builtin, _) => {
            Some(format!("NOTE    no real model is configured (--model): the built-in {own} stands in for {others}"))
        }
        _ => Some(format!("NOTE    {own} stands in for {others}")),
    }
}

/// The data folder, the port and the keys: taken first, so that a second server fails before it loads a model.
pub struct Ground {
    data: DataDir,
    listener: TcpListener,
    access: Access,
}

/// A server that runs.
pub struct Serving {
    pub address: SocketAddr,
    stop: CancellationToken,
    closing: CancellationToken,
    worker: JoinHandle<Result<(), WorkerError>>,
    server: JoinHandle<()>,
    keeper: JoinHandle<()>,
    webhooks: JoinHandle<()>,
    store: Arc<SqliteStore>,
    data: DataDir,
}

impl Ground {
    /// Locks the folder, binds the port and sees to it that strangers need a key.
    pub async fn take(config: &Config) -> Result<Ground> {
        let data = DataDir::open(&config.data_dir)?;
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("{} cannot be listened on: try another --listen", config.listen))?;
        // A killed server leaves its address behind.
        let _ = fs::remove_file(data.path().join(ADDRESS));
        let access = Access::decide(&config.api_keys, listener.local_addr()?.ip(), data.api_key())?;
        Ok(Ground { data, listener, access })
    }

    /// Starts to work and to answer.
    ///
    /// `batch` predictions are claimed at once when the engine has admitted all that it was given.
    pub async fn serve(self, config: &Config, catalog: Catalog, engine: EngineHandle, batch: usize) -> Result<Serving> {
        let Ground { data, listener, access } = self;
        let address = listener.local_addr()?;
        let store = Arc::new(SqliteStore::open(&data.database()).await?);
        // The folder's lock is ours, so whoever held leases is dead: no need to wait until they expire.
        let recovered = store.recover(true).await?;
        if recovered.requeued + recovered.ended > 0 {
            tracing::info!("the last run was interrupted: {recovered:?}");
        }
        let blobs = Blobs::local(&data.blobs())?;
        let uploads = Uploads::open(store.clone(), Blobs::local(&data.uploads())?, config.file_retention).await?;
        let limits = InputLimits { prompt_chars: config.max_prompt_chars, megapixel_steps: config.max_megapixel_steps };
        let catalog = Arc::new(catalog.limited(limits));
        let (stop, closing) = (CancellationToken::new(), CancellationToken::new());
        let options =
            WorkerOptions { drain: config.drain, run_limit: config.run_limit, batch, ..WorkerOptions::default() };
        let shared: Arc<dyn Store> = store.clone();
        let live = Live::default();
        let worker = Worker::new(shared.clone(), blobs.clone(), catalog.clone(), engine, live.clone(), options);
        let pages = web::routes(api::about(&catalog));
        let keeper = Keeper::new(shared.clone(), blobs.clone(), config.retention);
        let fetcher = Fetcher::new(config.allow_private_network);
        let secret = Secret::parse(&store.keep(WEBHOOK_SECRET, Secret::fresh()?.text()).await?)?;
        let webhook_secret = secret.text().to_string();
        let tokens = Tokens::new(&data.secret()?);
        let webhooks = webhooks(config, shared.clone(), fetcher.clone(), secret, tokens.clone());
        let state = ApiState {
            feeds: Feeds::new(shared.clone(), live, closing.clone()),
            tokens,
            store: shared,
            blobs,
            catalog,
            fetcher,
            webhook_secret,
            uploads: uploads.clone(),
            keys: Keys::new(access.keys()),
            rate_limits: RateLimits::per_minute(config.rate_limit_create, config.rate_limit_other),
            public_url: config.public_url.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            output_urls: output_urls(config.output_urls),
            queue_limit: config.queue_limit,
            closing: closing.clone(),
        };
        let router = api::router(state, pages);
        let server = Server::new(router, Limits::default());
        tokio::spawn(uploads.sweep_until(stop.clone()));
        fs::write(data.path().join(ADDRESS), address.to_string()).context("the data folder cannot be written")?;
        Ok(Serving {
            address,
            worker: tokio::spawn(worker.run(stop.clone())),
            server: tokio::spawn(server.run(listener, stop.clone(), closing.clone())),
            keeper: tokio::spawn(keeper.run(closing.clone())),
            webhooks: tokio::spawn(webhooks.run(closing.clone())),
            stop,
            closing,
            store,
            data,
        })
    }
}

fn output_urls(choice: OutputUrls) -> api::OutputUrls {
    match choice {
        OutputUrls::Auto => api::OutputUrls::Auto,
        OutputUrls::Url => api::OutputUrls::Url,
        OutputUrls::Data => api::OutputUrls::Data,
    }
}

impl Serving {
    /// Stops accepting, lets running predictions end or go back to the queue, then lets open answers end.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        let worked = (&mut self.worker).await;
        self.close().await;
        ended(worked)
    }

    /// Ends when the worker does, which without [`Serving::stop`] is a failure.
    async fn failed(&mut self) -> anyhow::Error {
        let worked = (&mut self.worker).await;
        self.stop.cancel();
        self.close().await;
        ended(worked).err().unwrap_or_else(|| anyhow!("the worker ended"))
    }

    async fn close(&mut self) {
        self.closing.cancel();
        if let Err(error) = (&mut self.server).await {
            tracing::error!("server: {error}");
        }
        for task in [&mut self.keeper, &mut self.webhooks] {
            if let Err(error) = task.await {
                tracing::error!("{error}");
            }
        }
        self.store.close().await;
        // Best effort: an old address is only confusing.
        let _ = fs::remove_file(self.data.path().join(ADDRESS));
    }
}

/// Webhooks show what the API shows; the two rooms do not know each other.
fn webhooks(config: &Config, store: Arc<dyn Store>, fetcher: Fetcher, secret: Secret, tokens: Tokens) -> Webhooks {
    let public_url = config.public_url.clone();
    let render: Render = Arc::new(move |prediction| api::webhook_body(prediction, public_url.as_deref(), &tokens));
    let options = WebhookOptions { retry_for: config.webhook_retry, ..WebhookOptions::default() };
    Webhooks::new(store, fetcher, secret, render, options)
}

fn ended(worked: Result<Result<(), WorkerError>, tokio::task::JoinError>) -> Result<()> {
    worked.context("the worker panicked")?.map_err(anyhow::Error::from)
}

/// Serves until a signal or a failure. The first signal drains, the second exits at once.
async fn until_signal(mut serving: Serving, drain: std::time::Duration) -> Result<()> {
    let mut signals = Signals::new()?;
    tokio::select! {
        error = serving.failed() => return Err(error),
        name = signals.next() => {
            println!("{name}: finishing what runs, for at most {} s; again to exit at once", drain.as_secs());
        }
    }
    tokio::select! {
        done = serving.stop() => done,
        name = signals.next() => {
            println!("{name}: exiting at once");
            let _ = std::io::stdout().flush();
            std::process::exit(130);
        }
    }
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "Ctrl-C",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Result<Signals> {
        Ok(Signals)
    }

    async fn next(&mut self) -> &'static str {
        let _ = tokio::signal::ctrl_c().await;
        "Ctrl-C"
    }
}
