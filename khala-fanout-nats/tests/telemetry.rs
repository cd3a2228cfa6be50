//! What operators see: metrics, log lines, and no secrets. One test, because both are of the whole process.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a fault is told")]

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use khala_core::{Topic, fanout::Fanout as _};
use khala_fanout_nats::{NatsFanout, NatsOptions};
use khala_testing::Nats;
use metrics_exporter_prometheus::PrometheusBuilder;
use tracing_subscriber::filter::LevelFilter;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// How many lines of the fanout's own say that.
    fn count(&self, what: &str) -> usize {
        let text = self.text();
        text.lines().filter(|line| line.contains(" khala_fanout_nats") && line.contains(what)).count()
    }
}

#[tokio::test]
async fn a_lost_connection_is_counted_and_logged_once_and_secrets_are_nowhere() {
    let metrics = PrometheusBuilder::new().install_recorder().unwrap();
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let until = async |what: &str, so: &dyn Fn() -> bool| {
        for _ in 0..3_000 {
            if so() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}; {}; {}", metrics.render(), log.text());
    };
    let shows = |line: &str| metrics.render().lines().any(|other| other == line);
    let connected = "khala_fanout_connected{transport=\"nats\"}";
    let reconnects = "khala_fanout_reconnects_total{transport=\"nats\"}";

    let nats = Nats::start_with("authorization { user: ann, password: s3cret }");
    let address = format!("nats://ann:s3cret@127.0.0.1:{}", nats.port());
    let fanout =
        NatsFanout::connect(NatsOptions { servers: vec![address], ..NatsOptions::default() }).await.unwrap();
    fanout.connected().await;
    until("the gauge rises", &|| shows(&format!("{connected} 1"))).await;
    let watch = fanout.watch(&Topic::parse("t").unwrap()).await.unwrap();

    nats.kill();
    until("the gauge falls", &|| shows(&format!("{connected} 0"))).await;
    until("it tries", &|| log.count("refused") > 0).await;
    nats.configure("authorization { user: ann, password: another }");
    nats.restart();
    until("it is kept out", &|| log.count("authorization violation") > 0).await;
    nats.kill();
    nats.configure("authorization { user: ann, password: s3cret }");
    nats.restart();
    until("the gauge rises", &|| shows(&format!("{connected} 1"))).await;
    assert!(shows(&format!("{reconnects} 1")), "{}", metrics.render());

    assert_eq!(log.count("lost the connection to NATS"), 1, "{}", log.text());
    assert_eq!(log.count("connected to NATS again"), 1);
    assert_eq!(log.count("refused"), 1, "each different fault once, however often it is tried");
    assert_eq!(log.count("authorization violation"), 1);
    assert!(!log.text().contains("s3cret"), "{}", log.text());

    drop((fanout, watch));
    assert!(shows(&format!("{connected} 0")));
}
