//! The disk is full, says that it can't flush, or is slow: nothing acknowledged is lost, and the
//! service goes on by itself.

mod load;
mod place;
mod postgres;
mod sqlite;
mod strace;
