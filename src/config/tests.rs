//! Settings from given sources.
