//! The house's rules, held by machine: who may import whom, how files begin and end, what no code
//! may do. Every rule is shown to find its sin. The tables change only with a decision in
//! `docs/adr/`.

mod clippy;
mod documents;
mod reference;
mod rules;
mod shipping;
mod source;
mod torture;
mod workspace;
