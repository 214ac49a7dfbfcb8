//! Every case, with a few runs: what it asks for is done, and done right. How fast says nothing here.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// The service's binary of this build, which stands beside the folder of the tests' programs; or the
/// one that `RUNLEDGER_TEST_BINARY` names.
fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("RUNLEDGER_TEST_BINARY") {
        return named.into();
    }
    let program = std::env::current_exe().unwrap();
    let binary = program.ancestors().nth(2).unwrap().join("runledger");
    assert!(binary.exists(), "`cargo test --workspace` builds {}", binary.display());
    binary
}

/// Runs these cases on a store, or all, and gives the report.
fn smoke(store: &str, cases: &[&str]) -> Value {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let json = folder.join(format!("smoke-{}-{store}.json", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_runledger-bench"))
        .args(["--smoke", "--store", store, "--binary"])
        .arg(binary())
        .arg("--json")
        .arg(&json)
        .args(cases)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let erred = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{erred}");
    let report = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    std::fs::remove_file(json).unwrap();
    report
}

fn names(report: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = report["figures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|figure| figure["case"].as_str().unwrap())
        .collect();
    names.dedup();
    names
}

#[track_caller]
fn check(store: &str, cases: &[&str], expected: &[&str]) {
    let report = smoke(store, cases);
    assert_eq!(names(&report), expected);
    assert_eq!(report["violation_count"], 0);
    assert_eq!((&report["format"], &report["store"]), (&1.into(), &store.into()));
}

#[test]
fn every_case_is_right_and_gives_figures() {
    let list = Command::new(env!("CARGO_BIN_EXE_runledger-bench")).arg("--list").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let cases: Vec<&str> = list.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(cases.len() > 4, "{list}");
    check("postgres", &[], &cases);
}

#[test]
fn cases_are_right_on_the_embedded_store_too() {
    check("sqlite", &["plain", "tools"], &["plain", "tools"]);
}

#[test]
fn what_is_unknown_is_refused() {
    for arguments in [&["nothing"][..], &["plain", "--binary", "absent"]] {
        let bench = Command::new(env!("CARGO_BIN_EXE_runledger-bench")).args(arguments).output();
        assert!(!bench.unwrap().status.success(), "{arguments:?}");
    }
}
