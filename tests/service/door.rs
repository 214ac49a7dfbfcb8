//! A door in front of a service: its address stays when the service moves, and it can lose answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What the connections share.
#[derive(Default)]
struct Shared {
    /// `ADDRESS:PORT` of the service.
    to: Mutex<String>,
    /// How many more answers are to be lost, and how many were.
    to_swallow: AtomicUsize,
    swallowed: AtomicUsize,
}

/// The open door.
pub struct Door {
    pub url: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

fn address(url: &str) -> String {
    url.trim_start_matches("http://").to_owned()
}

impl Door {
    pub async fn open(url: &str) -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared { to: Mutex::new(address(url)), ..Shared::default() });
        let mut tasks = JoinSet::new();
        let inside = shared.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((from, _)) = listener.accept().await {
                connections.spawn(pass(from, inside.clone()));
            }
        });
        Door { url: own, shared, _tasks: tasks }
    }

    /// Connections from now on go there.
    pub fn leads_to(&self, url: &str) {
        *self.shared.to.lock().unwrap() = address(url);
    }

    /// Of the next connections, so many break off when the answer comes.
    pub fn swallow_answers(&self, count: usize) {
        self.shared.to_swallow.store(count, Ordering::SeqCst);
    }

    pub fn swallowed(&self) -> usize {
        self.shared.swallowed.load(Ordering::SeqCst)
    }
}

async fn pass(mut from: TcpStream, shared: Arc<Shared>) {
    let to = shared.to.lock().unwrap().clone();
    // Nobody there: the visitor's connection breaks off.
    let Ok(mut to) = TcpStream::connect(to).await else { return };
    let lose = |left: usize| left.checked_sub(1);
    if shared.to_swallow.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose).is_ok() {
        let mut request = [0; 64 * 1024];
        let read = from.read(&mut request).await.unwrap();
        to.write_all(&request[..read]).await.unwrap();
        // The first byte of the answer: what was asked for is committed.
        to.read_u8().await.unwrap();
        shared.swallowed.fetch_add(1, Ordering::SeqCst);
        return;
    }
    // It ends as one side ends.
    let _ = copy_bidirectional(&mut from, &mut to).await;
}
