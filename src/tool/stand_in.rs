//! Tools that a simulation plays.

use std::fmt::Debug;

use futures_util::future::BoxFuture;

use super::{Invocation, Toolbox, Tried};

/// Plays what is elsewhere.
pub trait Play: Debug + Send + Sync {
    /// One try at a call of a tool: see [`Toolbox::call`].
    fn call<'a>(&'a self, call: &'a Invocation) -> BoxFuture<'a, Tried>;
}

impl Toolbox {
    pub(super) async fn play(&self, call: &Invocation) -> Tried {
        self.play.as_ref().expect("somebody plays").call(call).await
    }
}
