//! The judge of the torture: it says that a row is held where it is, and nowhere else.

use std::process::Command;

/// A table of one row, whose test and control are in the suite `service`.
const TABLE: &str = r#"
[[row]]
row = "7"
what = "the test is planted"
goal = "none"
tests = [{ test = "service held", faults = [3, 9], ops = [2, 9] }]
controls = [{ test = "service control" }]
"#;

/// What cargo prints of a suite whose tests print these lines.
fn log(held: &str, control: &str) -> String {
    format!(
        "     Running tests/service/main.rs (target/debug/deps/service-1)\n\n\
         running 2 tests\ntest control ... ok\ntest held ... ok\n\nsuccesses:\n\n\
         ---- control stdout ----\n{control}\n\n---- held stdout ----\n{held}\n\n\n\
         successes:\n    control\n    held\n\ntest result: ok. 2 passed; 0 failed\n"
    )
}

/// The judge's words about the row, and whether it was content.
fn judged(log: &str) -> (String, bool) {
    let folder = tempfile::tempdir().unwrap();
    let (table, of_cargo) = (folder.path().join("rows.toml"), folder.path().join("log"));
    std::fs::write(&table, TABLE).unwrap();
    std::fs::write(&of_cargo, log).unwrap();
    let judge = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/torture/torture.py");
    let mut command = Command::new("python3");
    command.arg(judge).arg("--table").arg(table).arg("--judge").arg(of_cargo);
    let output = command.output().unwrap();
    let words = String::from_utf8(output.stdout).unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (words, output.status.success())
}

const HELD: &str = "row=7 faults_fired=3 ops_ok=2 value=0 seed=17";
const CONTROL: &str = "row=7 control=true faults_fired=1 value=1";

#[test]
fn a_row_that_fired_enough_and_found_nothing_is_held() {
    let (words, is_content) = judged(&log(HELD, CONTROL));
    assert!(is_content && words.contains("held") && !words.contains("NOT HELD"), "{words}");
    let in_two = "row=7,8 faults_fired=2 ops_ok=1 value=0\nrow=7 faults_fired=1 ops_ok=1 value=0";
    assert!(judged(&log(in_two, CONTROL)).1, "what two lines say adds up");
}

#[test]
fn a_row_is_not_held_for_any_of_these_reasons() {
    for (what, log) in [
        ("below the floor", log("row=7 faults_fired=2 ops_ok=2 value=0", CONTROL)),
        ("below the floor", log("row=7 faults_fired=3 ops_ok=1 value=0", CONTROL)),
        ("below the floor", log("row=8 faults_fired=3 ops_ok=2 value=0", CONTROL)),
        ("1 violations", log("row=7 faults_fired=3 ops_ok=2 value=1", CONTROL)),
        ("without the number value", log("row=7 faults_fired=3 ops_ok=2 value=9ms", CONTROL)),
        ("found nothing", log(HELD, "row=7 control=true faults_fired=1 value=0")),
        ("found nothing", log(HELD, "")),
        ("did not run", log(HELD, CONTROL).replace("held", "other")),
        ("failed", log(HELD, CONTROL).replace("held ... ok", "held ... FAILED")),
    ] {
        let (words, is_content) = judged(&log);
        assert!(!is_content && words.contains("NOT HELD"), "{what}: {words}");
        assert!(words.contains(what), "{what}: {words}");
    }
}

#[test]
fn a_row_whose_fault_is_not_possible_here_is_not_called_held() {
    let (words, is_content) = judged(&log("row=7 not_possible=no-mounts", CONTROL));
    assert!(is_content && words.contains("not possible here"), "{words}");
    assert!(words.contains("0 of 1 rows held"), "{words}");
    let in_part = format!("{HELD}\nrow=7 not_possible=no-mounts");
    assert!(judged(&log(&in_part, CONTROL)).0.contains("held in part"));
}
