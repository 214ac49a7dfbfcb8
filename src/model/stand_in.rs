//! A model that a simulation plays.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::{Delta, Failure, Reply};
use crate::run::Request;

/// Plays models.
pub trait Play: Debug + Send + Sync {
    /// One call of the model of this name: see [`super::Model::call`].
    fn call<'a>(
        &'a self,
        model: &'a str,
        request: &'a Request,
        deltas: mpsc::Sender<Delta>,
    ) -> BoxFuture<'a, Result<Reply, Failure>>;
}

/// One of the models that are played.
#[derive(Clone, Debug)]
pub struct StandIn {
    pub(super) name: String,
    pub(super) play: Arc<dyn Play>,
}
