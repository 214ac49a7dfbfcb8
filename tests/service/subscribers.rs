//! Readers of streams by the thousand: none misses an event, none holds a connection to the database, and
//! those that don't read, or don't ask, are cut.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::json;
use sqlx::{ConnectOptions, Connection};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use crate::bulk;
use crate::client::{Client, spec};
use crate::nodes::Nodes;
use crate::scale::scaled;
use crate::service::Service;
use crate::stub::{Do, Gate, Stub};
use crate::waiting::{until, within};

/// Runs that the readers share.
const RUNS: usize = 10;

/// As many open files as the system lets one process have; the services inherit it.
fn many_files() {
    let resource = rustix::process::Resource::Nofile;
    let limit = rustix::process::getrlimit(resource);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(resource, raised).unwrap();
}

/// Opens a stream by hand: a client as small as can be.
async fn open(client: &Client, run: &str) -> BufReader<TcpStream> {
    let address = client.url.trim_start_matches("http://");
    let socket = TcpSocket::new_v4().unwrap();
    // What the kernel holds for it is the service's, as far as can be.
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let head = format!("GET /runs/{run}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut stream = BufReader::with_capacity(1024, stream);
    let mut status = String::new();
    stream.read_line(&mut status).await.unwrap();
    assert!(status.contains(" 200 "), "{status}");
    stream
}

/// Reads to the end; how many events came, whether each came in its place, and when each text came. What a
/// text says is left for later: thousands of readers would wait for that instead of for the service.
async fn follow(mut stream: BufReader<TcpStream>) -> (u64, bool, Vec<(Timestamp, String)>) {
    let (mut last, mut is_gap_free, mut texts) = (0, true, Vec::new());
    let (mut line, mut kind) = (String::new(), String::new());
    loop {
        line.clear();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return (last, false, texts);
        }
        if let Some(id) = line.strip_prefix("id: ") {
            let id: u64 = id.trim().parse().unwrap();
            is_gap_free &= id == last + 1;
            last = id;
        }
        if let Some(of) = line.strip_prefix("event: ") {
            of.trim_end().clone_into(&mut kind);
        }
        if line.starts_with("data: ") {
            match kind.as_str() {
                "text" => texts.push((Timestamp::now(), line.clone())),
                "run.completed" => return (last, is_gap_free, texts),
                _ => {}
            }
        }
    }
}

/// How late a text came.
fn lateness(came: Timestamp, line: &str) -> Duration {
    let at = line.split("\"at\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let at: Timestamp = at.unwrap().parse().unwrap();
    Duration::try_from(came.duration_since(at)).unwrap_or_default()
}

/// reliability.md, row 20.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reader_of_many_gets_every_event() {
    many_files();
    let readers = scaled(500, 10_000);
    let (words, pause) = (scaled(4, 15), Duration::from_millis(scaled(100, 1000) as u64));
    let stub = Stub::start().await;
    let gate = Gate::new();
    let opened = gate.clone();
    stub.on("slow", move |_| {
        vec![Do::Wait(opened.clone()), Do::Words(words, pause), Do::Finish("stop")]
    });
    let service = Service::start(&stub).await;
    let mut body = spec("openai/slow", "x");
    body["config"] = json!({"max_time": 3600, "timeout_per_turn": 3600});
    let runs = bulk::create(&service.client, &vec![body; RUNS]).await;
    stub.called("slow", RUNS).await;
    let before = service.memory_kib("VmRSS");
    let opened = bulk::all(0..readers, |n| open(&service.client, &runs[n % RUNS])).await;
    let following: Vec<_> = opened.into_iter().map(|stream| tokio::spawn(follow(stream))).collect();
    gate.open();
    let more = async {
        bulk::ended(&service.client, &runs[0]).await;
        service.memory_kib("VmRSS").saturating_sub(before)
    };
    let (ends, more) = tokio::join!(join_all(following), more);
    let (mut ok, mut found, mut late) = (0, 0, Vec::new());
    for end in ends {
        let (events, is_gap_free, texts) = end.unwrap();
        // Texts that came during one commit are one event: few, where the machine is busy.
        ok += usize::from(events > 5);
        found += usize::from(!is_gap_free);
        late.extend(texts.iter().map(|(came, line)| lateness(*came, line)));
    }
    println!(
        "row=20 faults_fired={readers} ops_ok={ok} events={} p99_ms={} kib_each={:.1} value={found}",
        late.len(),
        bulk::p99(&mut late).as_millis(),
        more as f64 / readers as f64,
    );
    assert_eq!((found, ok), (0, readers));
}

/// How many connections the database has, beside the one that asks.
async fn connections(nodes: &Nodes) -> i64 {
    let query = "select count(*) from pg_stat_activity
                  where datname = current_database() and pid <> pg_backend_pid()";
    nodes.count(query).await
}

/// How long it takes from asking for a run to its model's call; the 99th of a hundred.
async fn start_p99(client: &Client, count: usize) -> Duration {
    let mut times = Vec::new();
    for n in 0..count {
        let began = Instant::now();
        let run = bulk::create(client, &[spec("openai/any", &format!("start {n}"))]).await;
        let path = format!("/runs/{}/events?types=turn.started&limit=1&wait=80", run[0]);
        bulk::get(client, &path).await;
        times.push(began.elapsed());
    }
    bulk::p99(&mut times)
}

/// reliability.md, row 22. There is one tenant: the other client is one of the same.
#[tokio::test]
async fn open_streams_hold_no_connection_to_the_database() {
    many_files();
    let (streams, starts) = (scaled(200, 2000), scaled(10, 100));
    let nodes = Nodes::new().await;
    nodes.stub.on("hang", |_| vec![Do::Say("x".into()), Do::Hang]);
    let service = nodes.start().await;
    let client = &service.client;
    let runs = bulk::create(client, &vec![spec("openai/hang", "x"); RUNS]).await;
    nodes.stub.called("hang", RUNS).await;
    // The pool as large as it gets.
    drop(bulk::all(0..200, |n| open(client, &runs[n % RUNS])).await);
    let alone = start_p99(client, starts).await;
    let before = connections(&nodes).await;
    let open = bulk::all(0..streams, |n| open(client, &runs[n % RUNS])).await;
    let with = connections(&nodes).await;
    let beside = start_p99(client, starts).await;
    let held = (with - before).max(0);
    println!(
        "row=22 faults_fired={} ops_ok={} connections={with} start_p99_ms={} alone_p99_ms={} value={held}",
        open.len(),
        2 * starts,
        beside.as_millis(),
        alone.as_millis()
    );
    assert_eq!(held, 0, "{before} connections before, {with} with the streams");

    // The control: streams that hold one each.
    let options: sqlx::postgres::PgConnectOptions = nodes.url.parse().unwrap();
    let holders = join_all((0..5).map(|_| options.connect())).await;
    let held = connections(&nodes).await - with;
    println!("row=22 control=true faults_fired=5 value={held}");
    assert!(held >= 5);
    for holder in holders {
        holder.unwrap().close().await.unwrap();
    }
}

/// Sockets that a process holds.
fn sockets(service: &Service) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", service.pid())).unwrap().flatten();
    let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

/// What TCP holds in the kernel, KiB; of the whole machine.
fn kernel_kib() -> usize {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
    4 * line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()
}

/// The 99th of so many answers.
async fn healthy_p99(client: &Client, count: usize) -> Duration {
    let mut times = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        bulk::get(client, "/runs?limit=1").await;
        times.push(began.elapsed());
    }
    bulk::p99(&mut times)
}

/// reliability.md, row 21: the whole of it. `src/api/server/tests.rs` has its parts, with paused time.
#[tokio::test]
async fn who_does_not_read_or_ask_is_cut_in_time() {
    const CUT_MAX: Duration = Duration::from_secs(35);
    let (stalled, slow) = (scaled(0, 200), scaled(0, 1000));
    if stalled == 0 {
        println!("row=21 not_possible=in-the-short-size");
        return;
    }
    many_files();
    let stub = Stub::start().await;
    stub.on("long", |_| {
        let mut steps = vec![Do::Say("x".repeat(64 * 1024)); 48];
        steps.push(Do::Finish("stop"));
        steps
    });
    let service = Service::start(&stub).await;
    let client = &service.client;
    let run = client.run("openai/long", "x").await;
    bulk::ended(client, &run).await;
    let alone = healthy_p99(client, 300).await;
    let (before, kernel) = (sockets(&service), kernel_kib());
    let began = Instant::now();
    let readers = bulk::all(0..stalled, |_| open(client, &run)).await;
    let address = client.url.trim_start_matches("http://");
    let askers = bulk::all(0..slow, |_| async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /heal").await.unwrap();
        stream
    })
    .await;
    let beside = healthy_p99(client, 300).await;
    let most = kernel_kib().saturating_sub(kernel);
    let cut = async {
        let gone = || async { (sockets(&service) <= before + 2).then_some(()) };
        until("the cuts", gone).await;
        began.elapsed()
    };
    let cut = cut.await;
    let mut ended = 0;
    for mut asker in askers {
        // To the end of the connection, however it ends: one that stays open is waited for in vain.
        let _ = within("the end of a slow request", asker.read_to_end(&mut Vec::new())).await;
        ended += 1;
    }
    println!(
        "row=21 faults_fired={} ops_ok={ended} cut_s={:.1} kernel_mib={:.1} healthy_p99_ms={} \
         alone_p99_ms={} value={}",
        readers.len() + slow,
        cut.as_secs_f64(),
        most as f64 / 1024.0,
        beside.as_millis(),
        alone.as_millis(),
        usize::from(cut > CUT_MAX)
    );
    assert!(cut <= CUT_MAX, "{cut:?}");
}
