//! What nodes tell each other: a hint to every other handle that listens.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::{Database, Memory, Op};
use crate::store::{Heard, NodeId, Notice, StoreError};

/// How many messages wait for a listener: those beyond are lost, and it is told that some were.
const WAITING_MAX: usize = 1024;

/// What was told on one handle and not heard yet.
#[derive(Debug, Default)]
pub(super) struct Ear {
    told: Mutex<VecDeque<(NodeId, Vec<Notice>)>>,
    news: Notify,
    has_missed: AtomicBool,
}

impl Database {
    pub(super) fn listen(&self) -> Arc<Ear> {
        let ear = Arc::new(Ear { has_missed: AtomicBool::new(true), ..Ear::default() });
        let mut ears = self.ears.lock().expect("nothing panics while it is held");
        ears.retain(|ear| ear.strong_count() > 0);
        ears.push(Arc::downgrade(&ear));
        ear
    }

    fn tell(&self, node: NodeId, notices: &[Notice]) {
        let ears = self.ears.lock().expect("nothing panics while it is held");
        for ear in ears.iter().filter_map(std::sync::Weak::upgrade) {
            let mut told = ear.told.lock().expect("nothing panics while it is held");
            if told.len() < WAITING_MAX {
                told.push_back((node, notices.to_vec()));
            } else {
                ear.has_missed.store(true, Ordering::Relaxed);
            }
            ear.news.notify_one();
        }
    }
}

impl Memory {
    pub(in crate::store) async fn notify(
        &self,
        node: NodeId,
        notices: Vec<Notice>,
    ) -> Result<(), StoreError> {
        if notices.is_empty() {
            return Ok(());
        }
        let database = Arc::clone(&self.database);
        self.run(Op::Notify, move |_, _| {
            database.tell(node, &notices);
            Ok(())
        })
        .await
    }

    /// The first word on a new handle is that some were missed.
    pub(in crate::store) async fn hear(&self, node: NodeId) -> Result<Heard, StoreError> {
        loop {
            if self.ear.has_missed.swap(false, Ordering::Relaxed) {
                return Ok(Heard::Missed);
            }
            let told = self.ear.told.lock().expect("nothing panics while it is held").pop_front();
            match told {
                Some((sender, notices)) if sender != node => {
                    self.link.come(Op::Hear).await;
                    return Ok(Heard::Notices(notices));
                }
                Some(_) => {}
                None => self.ear.news.notified().await,
            }
        }
    }
}
