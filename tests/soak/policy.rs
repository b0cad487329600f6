//! The memory policy over millions of events, and what catches a policy that lacks a rule.

use anyhow::{Result, anyhow, ensure};
use tasuki::core::memory::simulator::{self, RULES, Tally};
use tasuki_tests::named;

const EVENTS_MIN: u64 = 1_000_000;
const ROUNDS: u32 = 500;
/// Seeds among which a missing rule must show.
const CONTROL_SEEDS: u64 = 300;

pub fn run(arguments: &[String]) -> Result<()> {
    let seeds = u64::from(named::number(arguments, "seeds", 10_000)?);
    let mut total = Tally::default();
    for seed in 0..seeds {
        let tally = simulator::run(seed, ROUNDS, None).map_err(|broken| anyhow!(broken))?;
        total.events += tally.events;
        total.recycles += tally.recycles;
        total.evacuations += tally.evacuations;
        total.alarms += tally.alarms;
    }
    let Tally { events, recycles, evacuations, alarms } = total;
    println!(
        "{seeds} seeds, {events} events: {recycles} recycles, {evacuations} of them from the hard \
         limit, {alarms} alarms; every invariant held"
    );
    ensure!(seeds < 10_000 || events >= EVENTS_MIN, "too few events");
    for rule in RULES {
        let caught = (0..CONTROL_SEEDS)
            .find_map(|seed| simulator::run(seed, ROUNDS, Some(rule)).err())
            .ok_or_else(|| anyhow!("nothing shows that {rule:?} is missing"))?;
        println!("without {rule:?}: {caught}");
    }
    Ok(())
}
