//! What is decided once per session: finding its route. `cargo bench` runs it.

use std::{fmt::Write, hint::black_box, path::Path};

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate::{
    config::Config,
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

criterion_group!(benches, lookup);
criterion_main!(benches);
