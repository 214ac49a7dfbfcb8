//! Many runs at once: everything arrives, in order, without a gap. It checks, and tells the figures.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::spec;
use crate::service::Service;
use crate::stub::{Do, Gate, Stub};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_runs_of_two_hundred_deltas_all_complete_without_a_gap() {
    const RUNS: usize = 1000;
    const DELTAS: usize = 200;
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit {
            current: rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum,
            ..rustix::process::getrlimit(rustix::process::Resource::Nofile)
        },
    )
    .unwrap();
    let stub = Stub::start().await;
    let gate = Gate::new();
    let opened = gate.clone();
    stub.on("many", move |_| {
        let words = Do::Words(DELTAS, Duration::from_millis(2));
        vec![Do::Wait(opened.clone()), words, Do::Finish("stop")]
    });
    let service = Service::start(&stub).await;
    let idle = service.memory_kib("VmRSS");
    let mut readers = Vec::new();
    for n in 0..RUNS {
        let mut body = spec("openai/many", &format!("many {n}"));
        // The clocks of the first run while the last is being created.
        body["config"] = json!({"max_time": 3600, "timeout_per_turn": 3600});
        let mut stream = service.client.post_stream(&body, &[]).await;
        readers.push(tokio::spawn(async move {
            let blocks = stream.rest().await;
            let ids: Vec<u64> = blocks.iter().map(|block| block.id()).collect();
            assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "gap-free");
            let text: String = blocks
                .iter()
                .filter(|block| block.kind() == "text")
                .map(|block| block.data()["content"].as_str().unwrap().to_owned())
                .collect();
            assert_eq!(blocks.last().unwrap().kind(), "run.completed");
            (text, blocks.len())
        }));
    }
    stub.called("many", RUNS).await;
    let active = service.memory_kib("VmRSS");
    let began = Instant::now();
    gate.open();
    let expected: String = (1..=DELTAS).map(|n| format!("w{n} ")).collect();
    let mut events = 0;
    for reader in readers {
        let (text, count) = reader.await.unwrap();
        assert_eq!(text, expected, "all text, once, in order");
        events += count;
    }
    println!(
        "row=load runs={RUNS} deltas={DELTAS} events={events} seconds={:.1} idle_kib={idle} \
         active_kib={active} peak_kib={}",
        began.elapsed().as_secs_f64(),
        service.memory_kib("VmHWM"),
    );
}
