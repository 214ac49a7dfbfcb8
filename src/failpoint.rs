//! The named steps at which a test may crash, delay or panic the process that it started.
//!
//! Each call of [`reach`] stands between two things of which one may be done and the other not. It
//! is nothing but a name, unless the feature `testing` is on: then `FAILPOINTS` of the environment
//! says what happens there, as the crate `fail` reads it (`turn.started=3*off->return`). `return` ends the
//! process at once, without unwinding; `panic`, `sleep(MS)` and `print` are the crate's own.

/// Lists the steps with their names.
macro_rules! steps {
    ($($(#[$doc:meta])+ $step:ident = $name:literal),+ $(,)?) => {
        /// A step of a run's life at which the process may die.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Step {
            $($(#[$doc])+ $step),+
        }

        impl Step {
            /// Every step, in the order of a run's life.
            pub const ALL: &[Step] = &[$(Step::$step),+];

            /// Its name, as `FAILPOINTS` has it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Step::$step => $name),+
                }
            }
        }
    };
}

steps! {
    /// The create lane has taken a batch of creates.
    CreateTaken = "create.taken",
    /// They are committed; nobody has heard of it.
    CreateCommitted = "create.committed",
    /// The workers know of a new run; its client has no answer.
    CreateTold = "create.told",
    /// A batch of runs is committed; its client has no answer.
    BatchCommitted = "batch.committed",
    /// The queue is going to be asked.
    ClaimAsked = "claim.asked",
    /// Runs are claimed; none has a driver.
    ClaimCommitted = "claim.committed",
    /// The embedded store is going to commit what it has written, whatever that is.
    Committing = "store.committing",
    /// A driver has read its run's row.
    RunLoaded = "run.loaded",
    /// It has folded the log and opened the run.
    RunOpened = "run.opened",
    /// `run.started` is committed.
    RunStarted = "run.started",
    /// The inbox is read; what it says is not committed.
    InboxRead = "inbox.read",
    /// What the inbox said is committed.
    InboxCommitted = "inbox.committed",
    /// The append lane has numbered a batch.
    AppendTaken = "append.taken",
    /// It is committed; nobody has heard of it.
    AppendCommitted = "append.committed",
    /// Streams have heard of it; the drivers have not.
    AppendTold = "append.told",
    /// A model is going to be called: `turn.started` is committed.
    TurnStarted = "turn.started",
    /// The model's first output is with the append lane.
    TurnDelta = "turn.delta",
    /// The model's message is whole, and nothing of its end is committed.
    TurnAnswered = "turn.answered",
    /// The model's failure is known, and not committed.
    TurnFailed = "turn.failed",
    /// Tools are going to be called: their `tool.started` are committed.
    ToolsStarted = "tools.started",
    /// A tool has answered; its result is not committed.
    ToolAnswered = "tool.answered",
    /// A tool's result is committed.
    ToolCommitted = "tool.committed",
    /// The run's end is going to be appended.
    RunEnding = "run.ending",
    /// The run's end is committed; its driver has not left.
    RunEnded = "run.ended",
    /// A run is going to be let go and queued.
    RequeueAsked = "requeue.asked",
    /// It is queued again; no worker was woken.
    RequeueCommitted = "requeue.committed",
    /// Somebody is going to leave a note for a run.
    LeaveAsked = "leave.asked",
    /// The note is committed; its client has no answer and its owner no news.
    LeaveCommitted = "leave.committed",
    /// A run is erased; its client has no answer.
    PurgeCommitted = "purge.committed",
    /// The lease is going to be renewed.
    BeatAsked = "beat.asked",
    /// The lease is renewed; this process does not know it.
    BeatCommitted = "beat.committed",
    /// Dead nodes are going to be looked for.
    RescueAsked = "rescue.asked",
    /// A dead node's runs are queued; no worker was woken.
    RescueCommitted = "rescue.committed",
    /// This process is a node, and has begun nothing.
    Registered = "node.registered",
    /// This node's runs are going to be handed over.
    HandOverAsked = "hand_over.asked",
    /// They are handed over; the process has not ended.
    HandOverCommitted = "hand_over.committed",
}

/// Reads what the environment says of the steps; where it can't be read, the process ends.
pub fn setup() {
    #[cfg(feature = "testing")]
    std::mem::forget(fail::FailScenario::setup());
}

/// The process has come to a step.
#[inline]
pub fn reach(step: Step) {
    #[cfg(feature = "testing")]
    fail::fail_point!(step.name(), |_| {
        eprintln!("failpoint {} ends the process", step.name());
        std::process::abort()
    });
    #[cfg(not(feature = "testing"))]
    let _ = step;
}
