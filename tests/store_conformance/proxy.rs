//! What may stand between a node and its database: it holds, cuts and delays what goes through.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A way to a server that can be disturbed. It ends when it is dropped.
pub(crate) struct Proxy {
    /// The server's address by this way.
    pub(crate) url: String,
    disturbed: Arc<Disturbed>,
    _tasks: JoinSet<()>,
}

struct Disturbed {
    /// How many connections there have been.
    connections: AtomicU64,
    /// Of connections below this nothing comes through, either way.
    held_below: watch::Sender<u64>,
    /// The next answer is lost, and its connection with it.
    is_next_answer_lost: AtomicBool,
}

impl Proxy {
    /// A way to the database at `url`.
    pub(crate) async fn to(url: &str) -> Proxy {
        let authority = url.split_once('@').expect("it has a user").1;
        let server = authority.split_once('/').expect("it has a database").0.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
        let here = listener.local_addr().expect("it has an address").to_string();
        let disturbed = Arc::new(Disturbed {
            connections: AtomicU64::new(0),
            held_below: watch::channel(0).0,
            is_next_answer_lost: AtomicBool::new(false),
        });
        let url = url.replace(&server, &here);
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&disturbed);
        tasks.spawn(async move {
            let mut pumps = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("it is asked");
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                client.set_nodelay(true).expect("it is a socket");
                server.set_nodelay(true).expect("it is a socket");
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                pumps.spawn(pump(from_client, to_server, number, Arc::clone(&shared), false));
                pumps.spawn(pump(from_server, to_client, number, Arc::clone(&shared), true));
            }
        });
        Proxy { url, disturbed, _tasks: tasks }
    }

    /// From now on nothing comes through on the connections that there are.
    pub(crate) fn hold(&self) {
        self.disturbed.held_below.send_replace(self.disturbed.connections.load(Ordering::SeqCst));
    }

    /// What was held comes through after all.
    pub(crate) fn release(&self) {
        self.disturbed.held_below.send_replace(0);
    }

    pub(crate) fn lose_next_answer(&self) {
        self.disturbed.is_next_answer_lost.store(true, Ordering::SeqCst);
    }

    /// Whether the answer that was to be lost came by; if not, it is no longer waited for.
    pub(crate) fn has_lost_it(&self) -> bool {
        !self.disturbed.is_next_answer_lost.swap(false, Ordering::SeqCst)
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    disturbed: Arc<Disturbed>,
    are_answers: bool,
) {
    let mut held_below = disturbed.held_below.subscribe();
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok(length) = from.read(&mut buffer).await else { return };
        if held_below.wait_for(|below| number >= *below).await.is_err() || length == 0 {
            return;
        }
        if are_answers && disturbed.is_next_answer_lost.swap(false, Ordering::SeqCst) {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
