//! Python environments for the tests that look at the server from outside: made once under `target/`, from pinned files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// The Python that has what `tests/{folder}/requirements.txt` lists. `None`: it cannot be had here, which was said
/// loudly, and is a failure in CI.
pub fn with_requirements(folder: &str) -> Option<PathBuf> {
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder).join("requirements.txt");
    let pinned = Sha256::digest(fs::read(&requirements).unwrap());
    let digest: String = pinned.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let environment = target.join(format!("python-{folder}-{digest}"));
    let python = environment.join("bin/python");
    if python.exists() {
        return Some(python);
    }
    let making = tempfile::tempdir_in(target).unwrap();
    let making_python = making.path().join("bin/python");
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    let made = run(Command::new("python3").args(["-m", "venv"]).arg(making.path()))
        .and_then(|()| run(Command::new(&making_python).args(install).arg(&requirements)));
    if let Err(trouble) = made {
        let message = format!("no Python with tests/{folder} (Python 3.11, venv and PyPI are needed): {trouble}");
        assert!(std::env::var("CI").is_err(), "{message}");
        eprintln!("NOT TESTED: {message}");
        return None;
    }
    // Another test may have been faster: then its copy stays. Only `python -m` survives the renaming, not the scripts.
    let _ = fs::rename(making.path(), &environment);
    Some(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("{:?}: {error}", command.get_program())),
    }
}
