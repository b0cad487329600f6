//! Families of metrics, put together and written.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Encoder, TextEncoder};
use tasuki_shared::status::{PAUSE_BOUNDS_US, Pauses};

pub type Labels = Vec<(&'static str, String)>;
pub type Samples = Vec<(Labels, f64)>;

/// See the module.
pub struct Page(Vec<MetricFamily>);

impl Page {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Its text.
    pub fn render(mut self) -> Result<String, prometheus::Error> {
        // An empty family would be refused.
        self.0.retain(|family| !family.get_metric().is_empty());
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.0, &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }

    pub fn gauge(&mut self, name: &str, help: &str, samples: Samples) {
        let metrics = samples.into_iter().map(|(labels, value)| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            let mut metric = Metric::from_label(pairs(labels));
            metric.set_gauge(gauge);
            metric
        });
        self.add(name, help, MetricType::GAUGE, metrics.collect());
    }

    pub fn counter(&mut self, name: &str, help: &str, samples: Samples) {
        let metrics = samples.into_iter().map(|(labels, value)| {
            let mut counter = Counter::default();
            counter.set_value(value);
            let mut metric = Metric::from_label(pairs(labels));
            metric.set_counter(counter);
            metric
        });
        self.add(name, help, MetricType::COUNTER, metrics.collect());
    }

    pub fn pauses(&mut self, name: &str, help: &str, pauses: &Pauses) {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(PAUSE_BOUNDS_US.len());
        for (at, bound_us) in PAUSE_BOUNDS_US.iter().enumerate() {
            count += pauses.counts.get(at).copied().unwrap_or(0);
            let mut bucket = Bucket::default();
            bucket.set_cumulative_count(count);
            bucket.set_upper_bound(float(*bound_us) / 1e6);
            buckets.push(bucket);
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(pauses.counts.iter().sum());
        histogram.set_sample_sum(float(pauses.sum_us) / 1e6);
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.add(name, help, MetricType::HISTOGRAM, vec![metric]);
    }

    fn add(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

fn pairs(labels: Labels) -> Vec<LabelPair> {
    let pair = |(name, value): (&str, String)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value);
        pair
    };
    labels.into_iter().map(pair).collect()
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
pub fn float(value: u64) -> f64 {
    value as f64
}
