//! The files that ship the service say the same as the code: versions, profiles, settings, times,
//! names. No engine and no runner is asked: those are `.github/workflows/ci.yml`'s to try.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use runledger::config::{Config, Flags, SETTINGS_HELP};

use super::documents::{read, settings};
use super::rules::root;

/// How much longer than the drain a stop may take where the store is away: two of `app`'s last
/// steps, one of which is in the drain.
const AFTER_DRAIN: Duration = Duration::from_secs(2);

/// The files, as they are or as a planted case has them.
struct Shipping {
    cargo: String,
    docker: String,
    ignore: String,
    compose: String,
    workflows: Vec<(String, String)>,
    readme: String,
}

impl Shipping {
    fn read() -> Shipping {
        let folder = ".github/workflows";
        let entries = fs::read_dir(root().join(folder)).expect("the folder is there");
        let names = entries.map(|entry| entry.expect("it can be read").file_name());
        let mut workflows: Vec<(String, String)> = names
            .map(|name| format!("{folder}/{}", name.to_str().expect("names are ASCII")))
            .map(|path| (path.clone(), read(&path)))
            .collect();
        workflows.sort();
        Shipping {
            cargo: read("Cargo.toml"),
            docker: read("Dockerfile"),
            ignore: read(".dockerignore"),
            compose: read("docker-compose.yml"),
            workflows,
            readme: read("README.md"),
        }
    }

    fn sins(&self) -> Vec<String> {
        [self.toolchain(), self.image(), self.names(), self.times(), self.actions()].concat()
    }

    /// One version of Rust, one profile that is there, one Debian.
    fn toolchain(&self) -> Vec<String> {
        let mut found = Vec::new();
        let manifest: toml::Table = self.cargo.parse().expect("cargo has read it");
        let version = manifest["package"]["rust-version"].as_str().expect("it is text");
        let debian = after(&self.docker, "FROM gcr.io/distroless/cc-debian").next();
        let debian = debian.and_then(|rest| rest.split(':').next()).unwrap_or("no Debian");
        let codename = match debian {
            "12" => "bookworm",
            "13" => "trixie",
            unknown => unknown,
        };
        if word_after(&self.docker, "FROM rust:") != format!("{version}-slim-{codename}") {
            found.push(format!("Dockerfile: build with rust:{version}-slim-{codename}"));
        }
        for (path, text) in &self.workflows {
            let images = after(text, "container: rust:");
            let others = images.filter(|image| !image.starts_with(&format!("{version}-")));
            found.extend(others.map(|_| format!("{path}: test with rust:{version}")));
        }
        for profile in after(&self.docker, "--profile ").map(first_word) {
            if !manifest["profile"].as_table().expect("it is a table").contains_key(profile) {
                found.push(format!("Dockerfile: Cargo.toml has no profile {profile}"));
            }
            if !self.docker.contains(&format!("/target/{profile}/runledger")) {
                found.push(format!("Dockerfile: takes no binary of {profile}"));
            }
        }
        found
    }

    /// The image starts what it was given, asks it how it is, and gets all that the build needs.
    fn image(&self) -> Vec<String> {
        let mut found = Vec::new();
        let place = self.docker.lines().find_map(|line| line.strip_prefix("COPY --from=binary "));
        let place = place.and_then(|line| line.split(' ').nth(1)).unwrap_or("no place");
        for line in [
            format!("ENTRYPOINT [\"{place}\"]"),
            format!("CMD [\"{place}\", \"healthcheck\"]"),
            "USER 65532:65532".to_owned(),
            "COPY --from=build --chown=65532:65532 /data /data".to_owned(),
        ] {
            if !self.docker.lines().any(|have| have.trim() == line) {
                found.push(format!("Dockerfile: no line `{line}`"));
            }
        }
        let sent: BTreeSet<&str> =
            self.ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
        for line in self.docker.lines().filter(|line| line.starts_with("COPY ")) {
            let parts: Vec<&str> = line.split(' ').skip(1).collect();
            if parts.iter().any(|part| part.starts_with("--from=")) {
                continue;
            }
            let sources = &parts[..parts.len() - 1];
            let lost = sources.iter().filter(|path| !sent.contains(**path));
            found.extend(lost.map(|path| format!(".dockerignore: leaves out {path}")));
        }
        found
    }

    /// Settings that exist, and services, ports and images that the README tells of.
    fn names(&self) -> Vec<String> {
        let mut found = Vec::new();
        let known = settings(SETTINGS_HELP);
        let mut files = vec![("Dockerfile", &self.docker), ("docker-compose.yml", &self.compose)];
        files.extend(self.workflows.iter().map(|(path, text)| (path.as_str(), text)));
        for (path, text) in files {
            let unknown = settings(text).into_iter().filter(|name| !known.contains(name));
            found.extend(unknown.map(|name| format!("{path}: there is no setting {name}")));
        }
        let services = self.compose.split_once("\nservices:\n").map_or("", |(_, rest)| rest);
        let services = services.split("\nvolumes:").next().unwrap_or_default();
        let names = services.lines().filter_map(|line| {
            let name = line.strip_prefix("  ")?.strip_suffix(':')?;
            (!name.starts_with([' ', '#'])).then_some(name)
        });
        let ports = after(services, "ports: [\"").filter_map(|port| port.rsplit_once(":8080"));
        let ports: Vec<&str> = ports.map(|(published, _)| published).collect();
        let names: Vec<&str> = names.collect();
        if names.len() != 3 || ports.len() != 2 {
            found.push(format!("docker-compose.yml: can't be read here: {names:?} {ports:?}"));
        }
        let untold = names.into_iter().filter(|name| !self.readme.contains(&format!("`{name}`")));
        found.extend(untold.map(|name| format!("README.md: does not tell of `{name}`")));
        let untold = ports.into_iter().filter(|port| !self.readme.contains(&format!("//{port}")));
        found.extend(untold.map(|port| format!("README.md: does not tell of {port}")));
        found
    }

    /// Who is told to stop has the time for it.
    fn times(&self) -> Vec<String> {
        let config = Config::from_lookup(&Flags::default(), |_| None, None);
        let least = config.expect("the defaults are right").drain + AFTER_DRAIN;
        let (node, _) = self.compose.split_once("\nservices:").unwrap_or_default();
        let grace = word_after(node, "stop_grace_period: ");
        let grace = grace.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
        match grace.map(Duration::from_secs) {
            Some(grace) if grace >= least => Vec::new(),
            Some(_) | None => {
                vec![format!("docker-compose.yml: a stop takes up to {} s", least.as_secs())]
            }
        }
    }

    /// Workflows run what was looked at, with no more rights than they say.
    fn actions(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (path, text) in &self.workflows {
            if !text.contains("\npermissions:\n  contents: read\n") {
                found.push(format!("{path}: begin with `permissions: contents: read`"));
            }
            for action in after(text, "uses: ").filter(|action| !action.starts_with("./")) {
                let line = action.lines().next().unwrap_or_default();
                let pin = line.split_once('@').and_then(|(_, pin)| pin.split_once(" # v"));
                let is_commit =
                    |pin: &str| pin.len() == 40 && pin.bytes().all(|byte| byte.is_ascii_hexdigit());
                if !pin.is_some_and(|(commit, _version)| is_commit(commit)) {
                    found.push(format!("{path}: `{line}`: name a commit, and its version behind"));
                }
            }
        }
        found
    }
}

/// What follows each of these words.
fn after<'a>(text: &'a str, words: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(words).skip(1)
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

fn word_after<'a>(text: &'a str, words: &'a str) -> &'a str {
    after(text, words).next().map_or("", first_word)
}

#[test]
fn what_ships_the_service_agrees_with_it() {
    let found = Shipping::read().sins();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// A change to the files, and a part of the words that it is found with.
type Planted = (fn(&mut Shipping), &'static str);

#[test]
fn what_disagrees_is_found() {
    fn swap(text: &mut String, old: &str, new: &str) {
        assert!(text.contains(old), "{old}");
        *text = text.replace(old, new);
    }
    let planted: [Planted; 16] = [
        (|s| swap(&mut s.cargo, "rust-version = \"1", "rust-version = \"2"), "with rust:2."),
        (|s| swap(&mut s.docker, "cc-debian12", "cc-debian13"), "slim-trixie"),
        (
            |s| swap(&mut s.workflows[0].1, "container: rust:1", "container: rust:0"),
            "test with rust:1",
        ),
        (|s| swap(&mut s.docker, "--profile dist", "--profile fast"), "no profile fast"),
        (|s| swap(&mut s.docker, "target/dist", "target/release"), "no binary of dist"),
        (
            |s| swap(&mut s.docker, "ENTRYPOINT [\"/usr", "ENTRYPOINT [\"/opt"),
            "no line `ENTRYPOINT",
        ),
        (|s| swap(&mut s.docker, "\"healthcheck\"", "\"check\""), "no line `CMD"),
        (|s| swap(&mut s.docker, "USER 65532", "USER 0"), "no line `USER"),
        (|s| swap(&mut s.ignore, "!migrations\n", ""), "leaves out migrations"),
        (|s| swap(&mut s.docker, "RUNLEDGER_DATA_DIR", "RUNLEDGER_DIR"), "setting RUNLEDGER_DIR"),
        (|s| swap(&mut s.compose, "RUNLEDGER_DRAIN", "RUNLEDGER_REST"), "setting RUNLEDGER_REST"),
        (|s| swap(&mut s.readme, "`runledger-b`", "`node-b`"), "not tell of `runledger-b`"),
        (|s| swap(&mut s.compose, ":8081:8080", ":9081:8080"), "not tell of 127.0.0.1:9081"),
        (|s| swap(&mut s.compose, "period: 20s", "period: 9s"), "takes up to 10 s"),
        (|s| swap(&mut s.workflows[1].1, "@bbbca2dda", "@v7 #"), "name a commit"),
        (
            |s| swap(&mut s.workflows[1].1, "contents: read\n\n", "contents: write\n\n"),
            "begin with",
        ),
    ];
    for (plant, words) in planted {
        let mut shipping = Shipping::read();
        plant(&mut shipping);
        let found = shipping.sins();
        assert!(found.iter().any(|sin| sin.contains(words)), "{words}: {found:#?}");
    }
}
