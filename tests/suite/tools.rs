//! Interpreters and pinned packages for the tests that come from outside, set up below `target/` on first use.
//!
//! Where an interpreter is missing, a test says so loudly and passes, or fails when `CI` is set.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use sha2::{Digest, Sha256};

/// One set-up at a time: two tests may want the same folder.
static SETTING_UP: Mutex<()> = Mutex::new(());

/// Says that `what` is missing, so that `test` was not made; a failure in CI.
pub fn missing(test: &str, what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{test}: {what} is missing on this machine, and CI must have it");
    eprintln!("\n*** NOT TESTED: {test}: {what} is missing on this machine ***\n");
}

pub fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// A folder below `target/` that holds what these files ask for; `fill` makes it, once for each content.
fn prepared(name: &str, files: &[PathBuf], fill: impl FnOnce(&Path)) -> PathBuf {
    let _one = SETTING_UP.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut content = Sha256::new();
    for file in files {
        content.update(fs::read(file).unwrap());
    }
    let tag: String = content.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{tag}"));
    let ready = folder.join(".ready");
    if !ready.exists() {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        fill(&folder);
        fs::write(ready, "").unwrap();
    }
    folder
}

/// The folder with the `node_modules` of `tests/{place}/package.json`.
pub fn node_packages(place: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(place);
    let files = ["package.json", "package-lock.json"].map(|file| source.join(file));
    prepared(&format!("node-{place}"), &files, |folder| {
        for file in &files {
            fs::copy(file, folder.join(file.file_name().unwrap())).unwrap();
        }
        run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(folder));
    })
}

/// The interpreter of a virtual environment with what this file, relative to `tests/`, asks for.
pub fn python(requirements: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(requirements);
    let name = requirements.replace(['/', '.'], "-");
    let folder = prepared(&format!("python-{name}"), std::slice::from_ref(&file), |folder| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder));
        let pip = folder.join("bin/pip");
        run(Command::new(pip).args(["install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&file));
    });
    folder.join("bin/python")
}

/// Runs a command to its end; a failure shows all that it said. Returns what it wrote to stdout.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout
}
