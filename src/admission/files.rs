//! How many connections of clients a process has room for among the files that it may open.

use rustix::process::{Resource, getrlimit};

/// So many files at least are not for clients: the store's, the runtime's, and some calls of models.
const KEPT_MIN: usize = 64;

/// `most`, or what is left where so many may not be open: a quarter of all is for the calls of models
/// and tools, without which a full house would get nothing done.
pub fn connections_max(most: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.map(usize::try_from);
    within(most, files.and_then(Result::ok).unwrap_or(usize::MAX))
}

fn within(most: usize, files: usize) -> usize {
    most.min(files - (files / 4).max(KEPT_MIN).min(files)).max(1)
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn a_quarter_of_the_files_or_64_are_not_for_clients() {
        let rooms = [0, 64, 100, 256, 1024, 20_000, 1_048_576].map(|files| within(16_384, files));
        assert_eq!(rooms, [1, 1, 36, 192, 768, 15_000, 16_384]);
        assert_eq!(within(16_384, usize::MAX), 16_384);
    }
}
