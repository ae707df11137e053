//! Keeps the arrows of `docs/ARCHITECTURE.md` true: which room may use which.

use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms that it may use, as in the table of `docs/ARCHITECTURE.md`.
/// `main.rs`, `lib.rs` and `cli` may use everything.
const ARROWS: &[(&str, &[&str])] = &[
    ("config", &[]),
    ("domain", &[]),
    ("store", &["domain"]),
    ("blobs", &["domain"]),
    ("live", &[]),
    ("uploads", &["domain", "store", "blobs"]),
    ("api", &["domain", "store", "blobs", "uploads", "live", "fetch"]),
    ("web", &["api", "domain"]),
    ("fetch", &[]),
    ("webhooks", &["store", "fetch", "domain"]),
    ("worker", &["domain", "store", "blobs", "uploads", "live", "fetch", "engine"]),
    ("engine", &["domain", "diffusion"]),
    ("diffusion", &["ops", "weights", "domain"]),
    ("ops", &[]),
    ("weights", &["domain"]),
];

fn sources(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

/// The rooms named after `crate::` in this text, groups (`use crate::{a, b::c}`) included.
fn rooms_used(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for after in text.split("crate::").skip(1) {
        if let Some(group) = after.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => rooms.push(std::mem::take(&mut item)),
                    _ if depth == 0 => item.push(c),
                    _ => {}
                }
            }
            rooms.push(item);
        } else {
            rooms.push(after.to_string());
        }
    }
    let name = |s: &String| s.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    rooms.iter().map(name).filter(|s| !s.is_empty()).collect()
}

#[test]
fn groups_and_paths_are_found() {
    let text = "use crate::store::Store;\nuse crate::{domain::{A, B}, engine};\nlet x = crate::ops::f();";
    assert_eq!(rooms_used(text), ["store", "domain", "engine", "ops"]);
}

#[test]
fn rooms_use_only_what_they_may() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut checked = 0;
    for file in sources(&source) {
        let relative = file.strip_prefix(&source).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_string_lossy();
        let room = first.trim_end_matches(".rs").to_string();
        if ["main", "lib", "cli"].contains(&room.as_str()) {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("src/{} is in no room of the table", relative.display()));
            continue;
        };
        checked += 1;
        for used in rooms_used(&fs::read_to_string(&file).unwrap()) {
            if used != room && !allowed.contains(&used.as_str()) {
                wrong.push(format!("src/{}: {room} may not use {used}", relative.display()));
            }
        }
    }
    assert!(checked > 8, "only {checked} files were looked at");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Only `store` contains SQL, only `ops` and `weights` (memory maps) contain `unsafe`.
#[test]
fn sql_and_unsafe_stay_in_their_rooms() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in sources(&source) {
        let relative = file.strip_prefix(&source).unwrap().to_string_lossy().to_string();
        let text = fs::read_to_string(&file).unwrap();
        let code = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        if !relative.starts_with("store") {
            assert!(!code.contains("sqlx::"), "{relative} uses sqlx");
        }
        if !relative.starts_with("ops") && !relative.starts_with("weights") {
            assert!(!code.contains("unsafe {") && !code.contains("unsafe fn"), "{relative} uses unsafe");
        }
    }
}
