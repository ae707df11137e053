//! The pages in a real Chromium, against the real program.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::restart::Program;
use crate::tools;

fn chromium() -> Option<PathBuf> {
    let given = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let usual = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].map(PathBuf::from);
    given.into_iter().chain(usual).find(|path| path.exists())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_can_use_the_pages() {
    if !tools::has("node") || !tools::has("npm") {
        return tools::missing("pages", "Node.js with npm");
    }
    let Some(chromium) = chromium() else { return tools::missing("pages", "Chromium (set CHROMIUM)") };
    let (open, guarded) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Program::start(open.path(), &[]).await;
    let locked = Program::start(guarded.path(), &["--api-key", "a-key-of-the-test"]).await;
    let shots = std::env::var_os("STABLEHAND_SCREENSHOTS")
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots"), PathBuf::from);
    std::fs::create_dir_all(&shots).unwrap();
    let mut command = Command::new("node");
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/pages.mjs"))
        .args([&server.url, &locked.url, "a-key-of-the-test"])
        .arg(&shots)
        .env("PACKAGES", tools::node_packages("browser"))
        .env("CHROMIUM", chromium);
    let said = tokio::task::spawn_blocking(move || tools::run(&mut command)).await.unwrap();
    assert_eq!(said.trim(), "ok");
}
