//! The benchmark is built beside the service, and changes nothing of what the service is built of:
//! else `cargo test` and `cargo test --workspace` would each build most of it for themselves.

use std::collections::BTreeSet;
use std::process::Command;

use super::rules::root;

/// The features of the crates that these packages are built of, as cargo tells them.
fn features(packages: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges", "features", "--prefix", "none"])
        .args(packages)
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).expect("names are ASCII");
    let lines = told.lines().map(|line| line.trim_end_matches(" (*)").to_owned());
    lines.filter(|line| line.contains(" feature \"")).collect()
}

/// What the second list asks more of the crates of the first.
fn more<'a>(own: &'a BTreeSet<String>, all: &'a BTreeSet<String>) -> Vec<&'a str> {
    let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let known: BTreeSet<String> = own.iter().map(|line| name(line)).collect();
    all.difference(own).filter(|line| known.contains(&name(line))).map(String::as_str).collect()
}

#[test]
fn the_benchmark_asks_for_no_feature_that_the_service_has_not() {
    let own = features(&["--package", "runledger"]);
    let all = features(&["--workspace"]);
    assert!(own.len() > 100, "only {} features were found", own.len());
    assert_eq!(more(&own, &all), Vec::<&str>::new());
}

#[test]
fn a_feature_that_only_another_member_has_is_found() {
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
    let own = lines(&["a feature \"std\"", "b feature \"default\""]);
    let all = lines(&["a feature \"std\"", "a feature \"rand\"", "c feature \"default\""]);
    assert_eq!(more(&own, &all), ["a feature \"rand\""]);
}
