//! The pure rooms' second guard is clippy, by `clippy.toml` and a `#![deny]` at the rooms' heads.
//! Here it is shown to work: in a small crate of its own, with the project's lint settings, the
//! heads of the real rooms and stand-ins for the outside crates, every sin is planted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::rules::root;

/// The heads of the pure rooms, and where their sins are planted: in the file itself, or in one
/// below it, as most of the room is.
const PURE: &[(&str, &str)] =
    &[("src/run/mod.rs", "src/run/decide.rs"), ("src/journal/batch.rs", "src/journal/batch.rs")];

/// Every path of `clippy.toml`, and code that uses it.
const SINS: &[(&str, &str)] = &[
    ("std::time::Instant::now", "std::time::Instant::now();"),
    ("std::time::SystemTime::now", "std::time::SystemTime::now();"),
    ("tokio::time::Instant::now", "tokio::time::Instant::now();"),
    ("jiff::Timestamp::now", "jiff::Timestamp::now();"),
    ("uuid::Uuid::now_v7", "uuid::Uuid::now_v7();"),
    ("std::thread::spawn", "std::thread::spawn(|| ());"),
    ("tokio::spawn", "tokio::spawn(());"),
    ("std::collections::HashMap", "let _ = std::collections::HashMap::<u8, u8>::new();"),
    ("std::collections::HashSet", "let _ = std::collections::HashSet::<u8>::new();"),
];

/// What the sins need of the outside crates.
const STAND_INS: &[(&str, &str)] = &[
    (
        "tokio",
        "pub fn spawn(_: ()) {}\n\
         pub mod time { pub struct Instant; impl Instant { pub fn now() {} } }",
    ),
    ("jiff", "pub struct Timestamp; impl Timestamp { pub fn now() {} }"),
    ("uuid", "pub struct Uuid; impl Uuid { pub fn now_v7() {} }"),
];

/// A crate in a folder of its own.
struct Planted(PathBuf);

impl Planted {
    fn new(name: &str) -> Planted {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        // What an earlier run planted must not be found; its compiled stand-ins may stay.
        let _ = fs::remove_dir_all(folder.join("src"));
        let planted = Planted(folder);
        let dependencies: String = STAND_INS
            .iter()
            .map(|(name, _)| format!("{name} = {{ path = \"{name}\" }}\n"))
            .collect();
        let manifest: toml::Table = read("Cargo.toml").parse().expect("cargo has read it");
        let lints =
            toml::Table::from_iter([("lints".to_owned(), manifest["workspace"]["lints"].clone())]);
        let own = package("planted");
        let manifest = format!("{own}\n[workspace]\n\n[dependencies]\n{dependencies}\n{lints}");
        planted.write("Cargo.toml", &manifest);
        planted.write("clippy.toml", &read("clippy.toml"));
        for (name, code) in STAND_INS {
            planted.write(&format!("{name}/Cargo.toml"), &package(name));
            planted.write(&format!("{name}/src/lib.rs"), code);
        }
        planted
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        let folder = path.parent().expect("it stands in the crate");
        fs::create_dir_all(folder).expect("the build's folder can be written");
        fs::write(path, text).expect("the build's folder can be written");
    }

    /// What clippy has against the crate: for each file, the paths that it refuses.
    fn clippy(&self, files: &BTreeMap<&str, String>) -> (bool, Vec<(String, String)>) {
        self.write("src/lib.rs", "//! Planted.\npub mod journal;\npub mod run;\npub mod worker;\n");
        for (path, text) in files {
            self.write(path, text);
        }
        let output = Command::new(env!("CARGO"))
            .args(["clippy", "--offline", "--quiet", "--message-format=short", "--color=never"])
            .arg("--manifest-path")
            .arg(self.0.join("Cargo.toml"))
            .env("CARGO_TARGET_DIR", self.0.join("target"))
            .env_remove("CLIPPY_CONF_DIR")
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .output()
            .expect("cargo runs");
        let told = String::from_utf8_lossy(&output.stderr);
        let refused = told.lines().filter_map(|line| {
            let (place, words) = line.split_once(": error: use of a disallowed ")?;
            let path = words.split('`').nth(1)?;
            Some((place.split(':').next()?.to_owned(), path.to_owned()))
        });
        let refused: Vec<(String, String)> = refused.collect();
        let is_about_lints = output.status.success() || !refused.is_empty();
        assert!(is_about_lints, "clippy could not look at the planted crate: {told}");
        (output.status.success(), refused)
    }
}

fn package(name: &str) -> String {
    format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect("a file of the project can be read")
}

/// The comments and inner attributes with which a file opens.
fn head(path: &str) -> String {
    let is_head = |line: &&str| line.starts_with("//!") || line.starts_with("#![");
    let head: Vec<String> =
        read(path).lines().take_while(is_head).map(|line| format!("{line}\n")).collect();
    head.concat()
}

fn function(code: &str) -> String {
    format!("/// Planted.\npub fn planted() {{\n{code}\n}}\n")
}

/// The rooms' real heads over harmless code.
fn rooms() -> BTreeMap<&'static str, String> {
    let mut files = BTreeMap::from([
        ("src/worker.rs", "//! Impure.\n".to_owned() + &function("")),
        ("src/journal/mod.rs", "//! Impure.\npub mod batch;\n".to_owned()),
        ("src/run/decide.rs", "//! Pure by its room.\n".to_owned() + &function("")),
    ]);
    files.insert("src/run/mod.rs", head("src/run/mod.rs") + "\npub mod decide;\n");
    files.insert("src/journal/batch.rs", head("src/journal/batch.rs") + &function(""));
    files
}

#[test]
fn clippy_refuses_every_sin_in_the_pure_rooms_and_only_there() {
    let all: String = SINS.iter().map(|(_, code)| format!("{code}\n")).collect();
    let mut files = rooms();
    files
        .get_mut("src/worker.rs")
        .expect("it is there")
        .push_str(&function(&all).replace("planted", "world"));
    let planted = Planted::new("guards");
    assert_eq!(planted.clippy(&files), (true, Vec::new()), "the world may be used outside");
    let mut expected = Vec::new();
    for (_, file) in PURE {
        let text = files.get_mut(file).expect("it is there");
        text.push_str(&function(&all).replace("planted", "sinful"));
        expected.extend(SINS.iter().map(|(path, _)| ((*file).to_owned(), (*path).to_owned())));
    }
    let (is_clean, mut found) = planted.clippy(&files);
    assert!(!is_clean, "the sins pass");
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn every_disallowed_path_has_its_sin() {
    let table: toml::Table = read("clippy.toml").parse().expect("clippy has read it");
    let mut listed: Vec<&str> = ["disallowed-methods", "disallowed-types"]
        .iter()
        .flat_map(|list| table[*list].as_array().expect("it is a list"))
        .map(|entry| entry["path"].as_str().expect("it has a path"))
        .collect();
    let mut sins: Vec<&str> = SINS.iter().map(|(path, _)| *path).collect();
    listed.sort_unstable();
    sins.sort_unstable();
    assert_eq!(listed, sins);
}

#[test]
fn every_pure_head_denies_both_lints() {
    for (file, _) in PURE {
        let deny = "#![deny(clippy::disallowed_methods, clippy::disallowed_types)]";
        assert!(head(file).contains(deny), "{file}");
    }
}
