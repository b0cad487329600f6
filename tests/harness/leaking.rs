//! Workers that leak under live streams, and the limits that they are recycled at.
//!
//! Four servers at the same time: one that recycles its leaking workers under live streams; one that
//! leaks the same and recycles nothing, without streams; one whose workers only free lazily; and one
//! whose worker takes one step below its limit and rests there. The first must stay under a bound
//! that the second exceeds, and the last two must recycle nobody.

use crate::ledger::Ledger;
use crate::lives::{Lives, Mix};
use crate::origin::Origin;
use crate::proc::{self, Memory};
use crate::server::{Server, Setup};
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::status::{RecycleStatus, Status};

const MIB: u64 = 1 << 20;
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Of the streams' time, left at the end: what ends them is no recycle's doing.
const END_TIME: Duration = Duration::from_secs(3);
const WORKERS: u32 = 2;
/// What a worker with its streams needs besides a leak, and so what a limit has room for.
const NEEDS: u64 = 64 * MIB;
/// A worker's leak gets from its birth to its limit so often in a run, or more.
const LIVES_IN_A_RUN: u64 = 5;
/// The step that rests: of the room between what is needed and the soft limit, in percent.
const STEP_PERCENT: u64 = 60;
/// A leak smaller than this over the whole run shows nothing.
const LEAK_MIN: u64 = 150 * MIB;
/// Progress is shown every so many looks.
const SHOW_EVERY: usize = 30;

#[derive(Clone, Copy, Debug)]
pub struct Leaking {
    pub seconds: u32,
    /// Of each worker.
    pub bytes_per_minute: u64,
    pub mix: Mix,
}

/// What follows from the leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub soft: u64,
    pub hard: u64,
    /// All processes of the server together: the workers, the one that stands by, and during a
    /// recycle one more, each within its soft limit.
    pub total: u64,
}

impl Leaking {
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let soft = NEEDS + self.leak_bytes(1) / LIVES_IN_A_RUN;
        Bounds { soft, hard: soft / 2 * 3, total: soft * u64::from(WORKERS + 2) }
    }

    /// What so many workers leak in the whole run.
    fn leak_bytes(&self, workers: u32) -> u64 {
        self.bytes_per_minute * u64::from(self.seconds) * u64::from(workers) / 60
    }

    /// How many workers must have been replaced at least, when each of them holds `needs` without its
    /// leak: what was leaked and is not there any more, over what one may leak until its soft limit.
    #[must_use]
    pub fn recycles_min(&self, needs: u64) -> u64 {
        let room = self.bounds().soft.saturating_sub(needs).max(1);
        (self.leak_bytes(WORKERS) / room).saturating_sub(u64::from(WORKERS))
    }
}

/// Which of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    Recycling,
    Unbounded,
    LazyFree,
    Step,
}

impl Case {
    pub const ALL: [Self; 4] = [Self::Recycling, Self::Unbounded, Self::LazyFree, Self::Step];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Recycling => "recycling",
            Self::Unbounded => "unbounded",
            Self::LazyFree => "lazy-free",
            Self::Step => "step",
        }
    }

    fn mix(self, leaking: &Leaking) -> Mix {
        match self {
            Self::Recycling => leaking.mix,
            Self::Unbounded => Mix { encoded: 0, passed: 0 },
            Self::LazyFree | Self::Step => Mix { encoded: 1, passed: 0 },
        }
    }

    fn setup(self, leaking: &Leaking, origin: &Origin, state: &Path) -> Setup {
        let Bounds { soft, hard, .. } = leaking.bounds();
        let rate = leaking.bytes_per_minute;
        let recycle = if self == Self::Unbounded { "off" } else { "on" };
        let leak = match self {
            Self::Recycling | Self::Unbounded => format!("leak = {rate}\nkind = \"rust\""),
            Self::LazyFree => format!("leak = {rate}\nkind = \"lazy_free\""),
            Self::Step => {
                let step = (soft - NEEDS) / 100 * STEP_PERCENT;
                format!("leak = {step}\nshape = \"steps\"\nuntil = {step}")
            }
        };
        let (workers, standby) = match self {
            Self::Recycling | Self::Unbounded => (WORKERS, 1),
            Self::LazyFree | Self::Step => (1, 0),
        };
        let mut setup = self.mix(leaking).setup(origin);
        setup.tables.push_str(&format!(
            "[memory]\nrecycle = \"{recycle}\"\nsoft = {soft}\nhard = {hard}\nmargin = \"5s\"\n\
             min_life = \"20s\"\nbudget = 1000\n\n[chaos]\n{leak}\n"
        ));
        Setup {
            workers: Some(workers),
            worker_lines: format!("standby = {standby}\n"),
            arguments: vec!["--allow-chaos"],
            // Evidence is kept in the state directory, as systemd names it.
            wrapper: vec!["env".to_owned(), format!("STATE_DIRECTORY={}", state.display())],
            ..setup
        }
    }
}

/// One process at one look.
#[derive(Clone, Debug)]
pub struct Held {
    /// As `w0/g3`; `pid 77` for one that the status does not tell of.
    pub process: String,
    pub sessions: u32,
    pub memory: Memory,
}

/// One server at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    pub at: Duration,
    pub held: Vec<Held>,
}

impl Look {
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.held.iter().map(|held| held.memory.footprint_bytes).sum()
    }
}

/// What one server did.
#[derive(Debug)]
pub struct Story {
    pub case: Case,
    pub looks: Vec<Look>,
    pub recycles: Vec<RecycleStatus>,
    /// Pictures that arrived, each once and in order.
    pub pictures: usize,
    pub evidence: BTreeSet<PathBuf>,
}

impl Story {
    #[must_use]
    pub fn total_max(&self) -> u64 {
        self.looks.iter().map(Look::total_bytes).max().unwrap_or(0)
    }

    /// Footprints of each process in the order of time.
    #[must_use]
    pub fn by_process(&self) -> BTreeMap<&str, Vec<(Duration, &Held)>> {
        let mut found: BTreeMap<&str, Vec<(Duration, &Held)>> = BTreeMap::new();
        for look in &self.looks {
            for held in &look.held {
                found.entry(&held.process).or_default().push((look.at, held));
            }
        }
        found
    }

    /// Workers that streams moved away from for their memory.
    pub fn memory_recycles(&self) -> impl Iterator<Item = &RecycleStatus> {
        let reasons = ["memory_soft", "memory_hard", "time_to_limit"];
        self.recycles.iter().filter(move |recycle| {
            reasons.contains(&recycle.reason.as_str())
                && recycle.outcome == "done"
                && !recycle.moves.is_empty()
        })
    }

    fn serving_min(&self) -> Option<u64> {
        let serving = self.looks.iter().flat_map(|look| &look.held).filter(|h| h.sessions > 1);
        serving.map(|held| held.memory.footprint_bytes).min()
    }
}

/// What is to be shown of a run that held.
#[derive(Debug)]
pub struct Leaked {
    pub stories: Vec<Story>,
    /// What a worker with streams held at least.
    pub needs_bytes: u64,
    pub recycles_min: u64,
}

/// Runs all four; `show` gets a line now and then, and all stories before anything is judged.
pub fn run(
    directory: &Path,
    leaking: &Leaking,
    show: impl FnOnce(&[Story]) -> Result<()>,
) -> Result<Leaked> {
    let least = LEAK_MIN / MIB;
    ensure!(leaking.leak_bytes(1) >= LEAK_MIN, "a leak of less than {least} MiB shows nothing");
    // Before anybody leaks.
    for case in Case::ALL {
        case.mix(leaking).make_sources(leaking.seconds)?;
    }
    let mut nodes = Vec::new();
    for case in Case::ALL {
        nodes.push(Node::start(directory, leaking, case)?);
    }
    let began = clock::now();
    for looks in 0_usize.. {
        for node in &mut nodes {
            node.look(began.elapsed())?;
        }
        if looks.is_multiple_of(SHOW_EVERY) {
            println!("{}", progress(&nodes));
        }
        if nodes.iter().any(Node::is_about_to_end) {
            break;
        }
        clock::pause(LOOK_INTERVAL);
    }
    let stories = nodes.into_iter().map(Node::finish).collect::<Result<Vec<_>>>()?;
    show(&stories)?;
    judge(leaking, stories)
}

fn judge(leaking: &Leaking, stories: Vec<Story>) -> Result<Leaked> {
    let bounds = leaking.bounds();
    let of = |case| stories.iter().find(|story| story.case == case).context("all were run");
    let recycling = of(Case::Recycling)?;
    for look in &recycling.looks {
        let total = look.total_bytes();
        ensure!(total <= bounds.total, "{total} bytes after {:?}: {look:?}", look.at);
    }
    let unbounded = of(Case::Unbounded)?;
    ensure!(unbounded.recycles.is_empty(), "recycled, and it is off: {:?}", unbounded.recycles);
    let most = unbounded.total_max();
    ensure!(most > bounds.total, "without recycling it would have been {most} bytes: no proof");
    let needs = recycling.serving_min().context("nobody ever served")?;
    let recycles_min = leaking.recycles_min(needs);
    let recycles = u64::try_from(recycling.memory_recycles().count())?;
    ensure!(recycles >= recycles_min.max(1), "{recycles} recycles, {recycles_min} are needed");
    let kept = &recycling.evidence;
    let saved = recycling.memory_recycles().filter(|recycle| recycle.evidence.is_some()).count();
    ensure!(saved == recycling.memory_recycles().count(), "{saved} sets of evidence of {recycles}");
    ensure!(!kept.is_empty(), "no evidence is kept");

    let lazy = of(Case::LazyFree)?;
    ensure!(lazy.recycles.is_empty(), "recycled for LazyFree: {:?}", lazy.recycles);
    let lazily = |held: &Held| held.memory.lazy_free_bytes;
    let grown = lazy.looks.iter().flat_map(|look| &look.held).map(lazily).max().unwrap_or(0);
    ensure!(grown > bounds.soft, "only {grown} bytes of LazyFree: no proof");

    let step = of(Case::Step)?;
    ensure!(step.recycles.is_empty(), "recycled for one step: {:?}", step.recycles);
    let footprints: Vec<u64> =
        step.looks.iter().flat_map(|l| &l.held).map(|h| h.memory.footprint_bytes).collect();
    let highest = footprints.iter().max().copied().unwrap_or(0);
    let size = (bounds.soft - NEEDS) / 100 * STEP_PERCENT;
    ensure!(highest > size && highest < bounds.soft, "the step led to {highest} bytes");
    Ok(Leaked { needs_bytes: needs, recycles_min, stories })
}

fn progress(nodes: &[Node]) -> String {
    let at = nodes.first().and_then(|node| node.looks.last()).map_or(0, |look| look.at.as_secs());
    let mut line = format!("{at:>5} s");
    for node in nodes {
        let total = node.looks.last().map_or(0, Look::total_bytes);
        let recycles = node.ledger.all().count();
        let name = node.case.name();
        line.push_str(&format!("   {name} {:>4} MiB {recycles:>2} recycles", total / MIB));
    }
    line
}

/// One server with its origin and its streams.
struct Node {
    case: Case,
    server: Server,
    origin: Origin,
    lives: Option<Lives>,
    state: PathBuf,
    ledger: Ledger,
    looks: Vec<Look>,
}

impl Node {
    fn start(directory: &Path, leaking: &Leaking, case: Case) -> Result<Self> {
        let name = case.name();
        let directory = directory.join(name);
        let state = directory.join("state");
        fs::create_dir_all(&state)?;
        let origin = Origin::start(&directory)?;
        let mut server = Server::start(&directory, &case.setup(leaking, &origin, &state))?;
        let mix = case.mix(leaking);
        let lives = if mix.streams() == 0 {
            None
        } else {
            let at = (&mut server, &origin);
            Some(Lives::publish(&directory, &format!("{name}-"), mix, leaking.seconds, at)?)
        };
        let (ledger, looks) = (Ledger::default(), Vec::new());
        Ok(Self { case, server, origin, lives, state, ledger, looks })
    }

    fn look(&mut self, at: Duration) -> Result<()> {
        let status = self.server.status()?;
        self.ledger.note(&status);
        if let Some(lives) = &self.lives {
            lives.must_be_live(&status)?;
        }
        let mut held = Vec::new();
        for pid in proc::below(self.server.pid())? {
            if let Some(memory) = Memory::of(pid)? {
                let (process, sessions) = named(&status, pid);
                held.push(Held { process, sessions, memory });
            }
        }
        self.looks.push(Look { at, held });
        Ok(())
    }

    fn is_about_to_end(&self) -> bool {
        self.lives.as_ref().is_some_and(|lives| lives.left() < END_TIME)
    }

    fn finish(self) -> Result<Story> {
        let Self { case, mut server, origin, lives, state, ledger, looks } = self;
        let pictures = match lives {
            Some(lives) => lives
                .finish((&mut server, &origin))
                .with_context(|| format!("the streams of {}", case.name()))?,
            None => 0,
        };
        // Those that were over while all streams were live.
        ledger.check(0).with_context(|| case.name())?;
        let recycles = ledger.all().cloned().collect();
        let mut evidence = BTreeSet::new();
        if let Ok(sets) = fs::read_dir(state.join("evidence")) {
            for set in sets {
                evidence.insert(set?.path());
            }
        }
        server.stop()?;
        Ok(Story { case, looks, recycles, pictures, evidence })
    }
}

fn named(status: &Status, pid: i32) -> (String, u32) {
    match status.workers.iter().find(|worker| worker.pid == pid) {
        Some(worker) if worker.role == "worker" => {
            // A worker may get another slot, its generation stays.
            (format!("g{}", worker.generation), worker.sessions)
        }
        Some(worker) => (worker.role.clone(), 0),
        None => (format!("pid {pid}"), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_demands_as_many_recycles_as_its_limit_has_room_for() {
        let mix = Mix { encoded: 3, passed: 5 };
        let leaking = Leaking { seconds: 1200, bytes_per_minute: 20 * MIB, mix };
        let Bounds { soft, hard, total } = leaking.bounds();
        assert_eq!((soft / MIB, hard / MIB, total / MIB), (144, 216, 576));
        // 800 MiB are leaked by two; each gets rid of 100, and 200 are still there at the end.
        assert_eq!(leaking.recycles_min(44 * MIB), 6);
        let short = Leaking { seconds: 60, ..leaking };
        assert_eq!(short.recycles_min(44 * MIB), 0);
    }
}
