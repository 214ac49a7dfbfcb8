//! What an error of PostgreSQL means for whoever asked.

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::store::StoreError;

/// What our own functions raise where a node is dead.
const FENCED: &str = "RL001";

/// Nobody gives way: a lock that was not to be had in time, or a deadlock. Nothing was done.
const CONTENDED: [&str; 3] = ["55P03", "40P01", "40001"];

/// What an error means for the caller, by its SQLSTATE
/// (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
pub(super) fn store_error(error: sqlx::Error) -> StoreError {
    let text = error.to_string();
    match &error {
        sqlx::Error::Database(inner) => of_the_database(inner.as_ref(), text),
        sqlx::Error::Encode(_) => StoreError::Data(text),
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::RowNotFound
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. } => StoreError::Corrupt(text),
        _of_the_connection => StoreError::Unavailable(text),
    }
}

fn of_the_database(error: &dyn DatabaseError, text: String) -> StoreError {
    let code = error.code().unwrap_or_default();
    match (&*code, code.get(..2).unwrap_or_default()) {
        (FENCED, _) => StoreError::Fenced,
        // Raised where no partition takes a row; what it says has only the table's name.
        ("23514", _) if text.contains("no partition") => StoreError::Data(format!(
            "the run's id is of a day for which the database has no partition ({text}): is a clock \
             wrong, or has nobody made partitions for days?"
        )),
        // Data exceptions, broken constraints, limits of the program: refused however often they are
        // sent.
        (_, "22" | "23" | "54") => StoreError::Data(text),
        ("XX001" | "XX002", _) => StoreError::Corrupt(text),
        // No such table, column or function: another release's schema, which may change back while
        // nodes are replaced; what is stored is well.
        ("42P01" | "42703" | "42883", _) => StoreError::Unavailable(format!(
            "the database's schema is not the one that this release knows ({text}): run `runledger \
             migrate` of the newest release that is in use"
        )),
        // Resources, locks, interruptions, a standby, and whatever else: it may pass.
        _ => StoreError::Unavailable(text),
    }
}

/// Whether a statement was refused because its node is dead.
pub(super) fn is_fenced(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| code == FENCED)
}

/// Whether a statement only met others on its way, and can be sent again at once.
pub(super) fn is_contended(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| CONTENDED.contains(&&*code))
}

/// Whether the connection that an error came by can be used again.
pub(super) fn is_connection_sound(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(inner) => inner
            .try_downcast_ref::<PgDatabaseError>()
            .is_some_and(|error| error.severity() == PgSeverity::Error),
        sqlx::Error::Encode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::RowNotFound
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. } => true,
        _of_the_connection => false,
    }
}
