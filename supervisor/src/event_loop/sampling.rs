//! Measures processes and host in rounds, on a blocking thread.

use super::SharedShell;
use crate::core::event::Event;
use crate::io::sample::{Due, Round, Sampler};
use std::time::Duration;
use tasuki_shared::limits::SAMPLE_INTERVAL;

pub(super) async fn sample(shell: SharedShell) {
    let mut sampler = Sampler::default();
    let mut turns = tokio::time::interval(SAMPLE_INTERVAL);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let processes: Vec<_> = {
            let shell = shell.borrow();
            let waits =
                |g| if shell.core.awaits_measurement(g) { Due::Now } else { Due::WhenCheap };
            shell.processes.iter().map(|(g, process)| (*g, process.pid, waits(*g))).collect()
        };
        let measured = tokio::task::spawn_blocking(move || {
            let round = sampler.sample(&processes);
            (sampler, round)
        });
        let Ok((returned, round)) = measured.await else { return };
        sampler = returned;
        let Round { cpu_percent, host, mut workers, ended } = round;
        let delay = ended.map_or(Duration::ZERO, |ended| ended.elapsed());
        for (_, sample) in &mut workers {
            sample.measured_ago += delay;
        }
        let event = Event::Sampled { cpu_percent, host, workers };
        let mut shell = shell.borrow_mut();
        shell.oom.forget();
        shell.on(event);
    }
}
