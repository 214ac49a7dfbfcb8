//! The command line as people meet it: what it says, and with which exit code.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start may take on a busy machine until it is taken for one that hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a process that ended by itself said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// A folder that is this test's alone.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("command_line").join(name);
    // It is absent at the first run.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the build's folder can be written");
    folder
}

/// Runs the binary in `folder` without any settings but these, until it ends by itself.
fn run(folder: &Path, flags: &[&str], env: &[(&str, &str)]) -> Said {
    let mut child = Command::new(env!("CARGO_BIN_EXE_runledger"))
        .args(flags)
        .env_clear()
        .env("RUST_BACKTRACE", "1")
        .envs(env.iter().copied())
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary is there");
    let since = Instant::now();
    while child.try_wait().expect("it is our child").is_none() {
        if since.elapsed() > PATIENCE {
            child.kill().expect("it is our child");
            panic!("it did not end by itself: {flags:?} {env:?}");
        }
        std::thread::yield_now();
    }
    let output = child.wait_with_output().expect("it has ended");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it says text");
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn help_and_version_are_told_on_standard_output() {
    let here = folder("help");
    let help = run(&here, &["--help"], &[]);
    assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
    for part in ["--listen", "--data-dir", "--insecure-no-auth", "RUNLEDGER_SLOTS", "serve"] {
        assert!(help.out.contains(part), "{part}: {}", help.out);
    }
    let help = run(&here, &["healthcheck", "--help"], &[]);
    assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
    for part in ["--url", "--ready", "--config", "RUNLEDGER_LISTEN", "/healthz", "/readyz"] {
        assert!(help.out.contains(part), "{part}: {}", help.out);
    }
    let version = run(&here, &["--version"], &[]);
    assert_eq!(version.code, Some(0));
    assert_eq!(version.out, format!("runledger {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_or_flag_is_code_2() {
    let here = folder("flags");
    for (flags, word) in [(&["bogus"][..], "bogus"), (&["--bogus"], "--bogus")] {
        let said = run(&here, flags, &[]);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:?}");
        assert!(said.err.contains(word) && said.err.contains("--help"), "{}", said.err);
    }
}

#[test]
fn wrong_settings_are_all_told_and_are_code_2() {
    let here = folder("settings");
    std::fs::write(here.join("runledger.toml"), "drain = -1\n").expect("it can be written");
    let said = run(&here, &["--listen", "nowhere"], &[("RUNLEDGER_SLOTS", "none")]);
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:?}");
    let lines: Vec<&str> = said.err.lines().collect();
    assert_eq!(lines.len(), 4, "{said:?}");
    assert_eq!(lines[0], "runledger: 3 settings are wrong:");
    for (line, setting) in lines[1..].iter().zip(["--listen", "RUNLEDGER_SLOTS", "drain"]) {
        assert!(line.starts_with(&format!("  {setting}: ")), "{line}");
    }
    let said = run(&here, &["serve", "--config", "absent.toml"], &[]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.starts_with("runledger: a setting is wrong:\n  absent.toml: "), "{said:?}");
}

#[test]
fn a_start_that_fails_is_code_1_and_one_line() {
    let here = folder("start");
    let taken = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let said = run(&here, &["--listen", &address], &[]);
    let expected = format!("runledger: can't listen on {address}: Address already in use");
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.starts_with(&expected) && said.err.lines().count() == 1, "{said:?}");

    std::fs::write(here.join("file"), "").expect("it can be written");
    let said = run(&here, &["--listen", "127.0.0.1:0", "--data-dir", "file/data"], &[]);
    let expected = "runledger: can't make the data folder file/data: ";
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.err.starts_with(expected) && said.err.lines().count() == 1, "{said:?}");
}
