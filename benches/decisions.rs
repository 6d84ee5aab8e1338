//! What is decided once per session: finding its route. And what is counted with each chunk and datagram, by all
//! workers at once. `cargo bench` runs it.

use std::{
    fmt::Write,
    hint::black_box,
    path::Path,
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate::{
    config::Config,
    lane,
    metrics::Metrics,
    route::RouteTable,
    transport::{Authorization, RequestHead},
};

/// So many routes, each with a capture behind its own first segment.
fn table(routes: usize) -> RouteTable {
    let mut text =
        "version = 1\n[[listener]]\nquic = [\"127.0.0.1:0\"]\nself_signed = [\"a.test\"]\n\
                    [backend.b]\nendpoints = [{ tcp = \"127.0.0.1:1\" }]\n"
            .to_owned();
    for i in 0..routes {
        writeln!(
            text,
            "[[route]]\npath = \"/game{i}/{{room}}\"\norigins = [\"https://play.example.com\"]\n\
             backend = \"b\"\ndatagrams = \"drop\""
        )
        .expect("strings take everything");
    }
    let config = Config::parse(&text, "bench", Path::new(".")).expect("a good configuration");
    RouteTable::new(&config.routes, &Metrics::new())
}

fn head(path: &str) -> RequestHead {
    RequestHead {
        authority: "gateway.example.com".to_owned(),
        path: path.to_owned(),
        query: None,
        authorization: Authorization::default(),
        origin: Some("https://play.example.com".to_owned()),
        client: "127.0.0.1:1".parse().expect("an address"),
        local: None,
        dialect: "draft02",
        tls: None,
        protocols: Vec::new(),
    }
}

fn lookup(c: &mut Criterion) {
    for routes in [10, 1000] {
        let table = table(routes);
        let (hit, miss) = (head("/game7/lobby"), head("/nowhere/at/all"));
        c.bench_function(&format!("lookup in {routes} routes"), |b| {
            b.iter(|| table.lookup(black_box(&hit)).is_ok());
        });
        c.bench_function(&format!("miss in {routes} routes"), |b| {
            b.iter(|| table.lookup(black_box(&miss)).is_ok());
        });
    }
}

/// How long so many workers take for so many counts each: the time of the slowest. The clock of each begins when
/// all are there.
fn time_of(workers: u8, counts: u64, count: impl Fn() + Sync) -> Duration {
    let barrier = Barrier::new(workers.into());
    let one = &|worker| {
        lane::join(worker);
        barrier.wait();
        #[expect(clippy::disallowed_methods, reason = "a clock that nobody can pause is meant")]
        let begun = std::time::Instant::now();
        (0..counts).for_each(|_| count());
        begun.elapsed()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|worker| scope.spawn(move || one(worker))).collect();
        let times = threads.into_iter().map(|thread| thread.join().expect("counting cannot fail"));
        times.max().unwrap_or_default()
    })
}

/// The gateway's counters against one place that all workers write.
fn counting(c: &mut Criterion) {
    for workers in [1, 2] {
        let counter = Metrics::new().route("game").up.stream_bytes;
        c.bench_function(&format!("count on {workers} workers"), |b| {
            b.iter_custom(|counts| time_of(workers, counts, || counter.inc_by(black_box(1))));
        });
        let shared = AtomicU64::new(0);
        c.bench_function(&format!("count on {workers} workers in one place"), |b| {
            b.iter_custom(|counts| {
                time_of(workers, counts, || _ = shared.fetch_add(black_box(1), Relaxed))
            });
        });
    }
}

criterion_group!(benches, lookup, counting);
criterion_main!(benches);
