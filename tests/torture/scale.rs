//! How much a test of reliability does: as little as shows the thing in `make test`, and all that
//! docs/reliability.md speaks of in `make torture`.

/// The first number, or the second where the whole is asked for.
pub fn scaled(short: usize, whole: usize) -> usize {
    match std::env::var("RUNLEDGER_TORTURE") {
        Ok(form) => {
            assert_eq!(form, "whole", "RUNLEDGER_TORTURE is `whole`, or not there");
            whole
        }
        Err(_absent) => short,
    }
}
