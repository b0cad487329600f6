//! A worker's memory as a bar, and the history of its footprint as a row of columns.
//!
//! RSS grows with memory that the kernel may take back at any time (LazyFree) and with pages that
//! others share, so what grows is not always what leaks. The bar therefore has three parts with a
//! glyph of their own each, told apart without colours too.

use super::paint::Ink;
use tasuki_shared::status::WorkerStatus;

pub(super) const FOOTPRINT: char = '█';
pub(super) const LAZY_FREE: char = '▒';
pub(super) const REST: char = '░';
pub(super) const SOFT: char = '¦';
pub(super) const HARD: char = '┃';
const EMPTY: char = '·';
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(Clone, Debug)]
pub(super) struct Bar {
    footprint: u64,
    lazy_free: u64,
    rss: u64,
    /// None where no limit is judged.
    soft: Option<u64>,
    hard: Option<u64>,
    full: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Spark {
    pub history: super::history::History,
    /// What a full column stands for, if that is more than the largest sample.
    pub full: u64,
    pub ink: Ink,
}

impl Bar {
    /// `full` is what the whole width stands for.
    pub(super) fn new(worker: &WorkerStatus, full: u64) -> Self {
        let memory = worker.memory.as_ref();
        let limit = |bytes: u64| Some(bytes).filter(|bytes| *bytes > 0);
        Self {
            footprint: worker.footprint_bytes,
            lazy_free: worker.lazy_free_bytes,
            rss: worker.rss_bytes,
            soft: memory.and_then(|memory| limit(memory.soft_limit_bytes)),
            hard: memory.and_then(|memory| limit(memory.hard_limit_bytes)),
            full,
        }
    }

    pub(super) fn cells(&self, width: usize) -> Vec<(char, Ink)> {
        let footprint = self.place(self.footprint, width);
        let lazy_free = self.footprint.saturating_add(self.lazy_free);
        let rest = self.place(self.rss.max(lazy_free), width);
        let lazy_free = self.place(lazy_free, width);
        let ink = level(self.footprint, self.soft, self.hard);
        let mut cells: Vec<_> = (0..width)
            .map(|at| match at {
                at if at < footprint => (FOOTPRINT, ink),
                at if at < lazy_free => (LAZY_FREE, Ink::LazyFree),
                at if at < rest => (REST, Ink::Rest),
                _ => (EMPTY, Ink::Rest),
            })
            .collect();
        for (limit, mark) in [(self.soft, SOFT), (self.hard, HARD)] {
            let Some(limit) = limit else { continue };
            if let Some(cell) = cells.get_mut(self.place(limit, width)) {
                *cell = (mark, Ink::Limit);
            }
        }
        cells
    }

    /// Cells that so many bytes fill, to the nearest.
    fn place(&self, bytes: u64, width: usize) -> usize {
        let full = u128::from(self.full.max(1));
        let width_wide = u128::try_from(width).unwrap_or(0);
        let cells = (u128::from(bytes) * width_wide + full / 2) / full;
        usize::try_from(cells).unwrap_or(width).min(width)
    }
}

/// How near its limits a footprint is.
pub(super) fn level(footprint: u64, soft: Option<u64>, hard: Option<u64>) -> Ink {
    match (soft, hard) {
        (_, Some(hard)) if footprint >= hard => Ink::Bad,
        (Some(soft), _) if footprint >= soft => Ink::Caution,
        (Some(_), _) | (_, Some(_)) => Ink::Good,
        (None, None) => Ink::Plain,
    }
}

impl Spark {
    pub(super) fn cells(&self, width: usize) -> Vec<(char, Ink)> {
        let columns = self.history.columns(width);
        let full = u128::from(columns.iter().copied().max().unwrap_or(0).max(self.full).max(1));
        let last = LEVELS.len() - 1;
        let glyph = |sample: u64| {
            let level = u128::from(sample) * 7 / full;
            LEVELS[usize::try_from(level).unwrap_or(last).min(last)]
        };
        let blank = width.saturating_sub(columns.len());
        let cells = columns.into_iter().map(|sample| (glyph(sample), self.ink));
        std::iter::repeat_n((' ', Ink::Plain), blank).chain(cells).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(cells: Vec<(char, Ink)>) -> String {
        cells.into_iter().map(|(symbol, _)| symbol).collect()
    }

    #[test]
    fn a_bar_tells_footprint_lazy_free_and_the_rest_apart_and_marks_the_limits() {
        let mut bar =
            Bar { footprint: 40, lazy_free: 20, rss: 90, soft: None, hard: None, full: 200 };
        assert_eq!(text(bar.cells(20)), "████▒▒░░░···········");
        (bar.soft, bar.hard) = (Some(120), Some(160));
        assert_eq!(text(bar.cells(20)), "████▒▒░░░···¦···┃···");
        assert_eq!(bar.cells(20)[0].1, Ink::Good);
        (bar.footprint, bar.lazy_free, bar.rss) = (170, 0, 175);
        assert_eq!(text(bar.cells(20)), "████████████¦███┃░··");
        assert_eq!(bar.cells(20)[0].1, Ink::Bad);
    }

    #[test]
    fn a_row_of_columns_ends_with_the_newest_sample_and_is_full_at_the_soft_limit() {
        let mut history = super::super::history::History::default();
        for sample in [0, 50, 100] {
            history.push(sample);
        }
        let spark = Spark { history, full: 100, ink: Ink::Good };
        assert_eq!(text(spark.cells(5)), "  ▁▄█");
        assert_eq!(text(spark.cells(2)), "▄█");
    }
}
