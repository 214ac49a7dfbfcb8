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
    /// How many bytes of a stream of events pass; 0: all.
    stream_bytes: AtomicUsize,
    cuts: AtomicUsize,
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

    /// Of each stream of events so many bytes pass, then its connection breaks off.
    pub fn cut_streams_after(&self, bytes: usize) {
        self.shared.stream_bytes.store(bytes, Ordering::SeqCst);
    }

    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

async fn pass(mut from: TcpStream, shared: Arc<Shared>) {
    let to = shared.to.lock().unwrap().clone();
    // Nobody there: the visitor's connection breaks off.
    let Ok(mut to) = TcpStream::connect(to).await else { return };
    let lose = |left: usize| left.checked_sub(1);
    if shared.to_swallow.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose).is_ok() {
        let (mut answer, mut request) = to.split();
        tokio::select! {
            // The first byte of the answer: what was asked for is committed.
            first = answer.read_u8() => drop(first.unwrap()),
            _ = tokio::io::copy(&mut from, &mut request) => return,
        }
        shared.swallowed.fetch_add(1, Ordering::SeqCst);
        return;
    }
    match shared.stream_bytes.load(Ordering::SeqCst) {
        // It ends as one side ends.
        0 => drop(copy_bidirectional(&mut from, &mut to).await),
        most => pass_until_cut(from, to, most, &shared.cuts).await,
    }
}

/// Passes both directions until the service, having begun a stream, has sent so much more.
async fn pass_until_cut(mut from: TcpStream, mut to: TcpStream, most: usize, cuts: &AtomicUsize) {
    let ((mut from_read, mut from_write), (mut to_read, mut to_write)) = (from.split(), to.split());
    let back = async {
        let (mut piece, mut left) = (vec![0; 16 * 1024], None);
        loop {
            let read = to_read.read(&mut piece).await.unwrap_or(0);
            let answer = &piece[..read];
            let begins = |window: &[u8]| window == b"text/event-stream";
            if left.is_none() && answer.windows(17).any(begins) {
                left = Some(most);
            }
            let passed = left.map_or(read, |left| read.min(left));
            if read == 0 || from_write.write_all(&answer[..passed]).await.is_err() {
                return;
            }
            left = left.map(|left| left - passed);
            if left == Some(0) {
                cuts.fetch_add(1, Ordering::SeqCst);
                return;
            }
        }
    };
    tokio::select! {
        () = back => {}
        _ = tokio::io::copy(&mut from_read, &mut to_write) => {}
    }
}
