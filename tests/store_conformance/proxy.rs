//! What may stand between a node and its database: it holds, cuts and delays what goes through.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Within so many bytes a client has said who it is.
const GREETING: usize = 512;

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
    /// The next answer on a connection whose client has said this at its start is lost, and the connection
    /// with it.
    lost: Mutex<Option<&'static str>>,
}

impl Disturbed {
    fn loses(&self, greeting: &[u8]) -> bool {
        let mut lost = self.lost.lock().expect("nothing panics while it is held");
        let has = |name: &str| {
            name.is_empty() || greeting.windows(name.len()).any(|part| part == name.as_bytes())
        };
        lost.take_if(|name| has(name)).is_some()
    }
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
            lost: Mutex::new(None),
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
                let greeting = Arc::new(Mutex::new(Vec::new()));
                let there = (number, Arc::clone(&greeting), false);
                let back = (number, greeting, true);
                pumps.spawn(pump(from_client, to_server, there, Arc::clone(&shared)));
                pumps.spawn(pump(from_server, to_client, back, Arc::clone(&shared)));
            }
        });
        Proxy { url, disturbed, _tasks: tasks }
    }

    /// From now on nothing comes through on the connections that there are.
    pub(crate) fn hold(&self) {
        self.disturbed.held_below.send_replace(self.disturbed.connections.load(Ordering::SeqCst));
    }

    /// From now on nothing comes through at all, also on connections that are made later.
    pub(crate) fn part(&self) {
        self.disturbed.held_below.send_replace(u64::MAX);
    }

    /// What was held comes through after all.
    pub(crate) fn release(&self) {
        self.disturbed.held_below.send_replace(0);
    }

    /// The next answer to whoever said this first of all is lost: to anybody, where it is empty.
    pub(crate) fn lose_next_answer(&self, of: &'static str) {
        *self.disturbed.lost.lock().expect("nothing panics while it is held") = Some(of);
    }

    /// Whether the answer that was to be lost came by; if not, it is no longer waited for.
    pub(crate) fn has_lost_it(&self) -> bool {
        self.disturbed.lost.lock().expect("nothing panics while it is held").take().is_none()
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    (number, greeting, are_answers): (u64, Arc<Mutex<Vec<u8>>>, bool),
    disturbed: Arc<Disturbed>,
) {
    let mut held_below = disturbed.held_below.subscribe();
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok(length) = from.read(&mut buffer).await else { return };
        if held_below.wait_for(|below| number >= *below).await.is_err() || length == 0 {
            return;
        }
        {
            let mut greeting = greeting.lock().expect("nothing panics while it is held");
            if !are_answers && greeting.len() < GREETING {
                greeting.extend(&buffer[..length]);
            }
            if are_answers && disturbed.loses(&greeting) {
                return;
            }
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
