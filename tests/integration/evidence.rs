//! The two looks at a live worker: its heap and its threads.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::process::{Command, Output};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::passage::{BOUND, NAME};
use tasuki_tests::place::{self, in_run_directory};
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Rung, Server, Setup};

/// Field of a pprof `Profile` that holds its strings.
const STRING_TABLE: u64 = 6;
const SAMPLE: u64 = 2;

/// A transcoding worker's profile is a pprof profile with libav's and x264's functions, and its
/// threads are told apart by what they do.
#[test]
fn a_live_worker_shows_its_heap_and_its_threads() {
    in_run_directory("evidence", |run| {
        let setup = Setup {
            workers: Some(1),
            rungs: Some(vec![Rung::Source, Rung::encoded(72, 150)]),
            ..Setup::default()
        };
        let mut server = Server::start(run.path(), &setup)?;
        let file = Recipe::small(60).file()?;
        let _publisher =
            publisher::ffmpeg(run.path(), "publisher", &file, &server.url(NAME), Pace::RealTime)?;
        let worker = server.wait_status("encoded frames", BOUND, |status| {
            let session = status.sessions.iter().find(|session| session.state == "live")?;
            let encodes = session.rungs.iter().any(|rung| rung.label == "72p" && rung.frames > 0);
            encodes.then(|| session.worker.split('/').next().unwrap_or_default().to_owned())
        })?;
        let tasuki = |arguments: &[&str]| -> Result<Output> {
            let mut command = Command::new(place::binary("tasuki")?);
            command.args(arguments).arg(&worker).arg("--socket").arg(server.socket());
            let output = command.current_dir(run.path()).output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(output)
        };
        let threads = String::from_utf8(tasuki(&["threads"])?.stdout)?;
        for name in ["io", "dec", "enc-72p", "control"] {
            ensure!(threads.split_whitespace().any(|word| word == name), "no {name}:\n{threads}");
        }
        tasuki(&["heap", "--output", "heap.pb.gz"])?;
        let unpacked = Command::new("gzip").arg("-dc").arg(run.join("heap.pb.gz")).output()?;
        ensure!(unpacked.status.success(), "not gzip");
        let fields = fields(&unpacked.stdout)?;
        ensure!(fields.iter().any(|(number, _)| *number == SAMPLE), "no sample");
        let strings: Vec<_> = fields
            .iter()
            .filter(|(number, _)| *number == STRING_TABLE)
            .map(|(_, bytes)| String::from_utf8_lossy(bytes))
            .collect();
        for prefix in ["av", "x264_"] {
            let named = strings.iter().any(|text| text.starts_with(prefix));
            ensure!(named, "no function {prefix}… in {strings:?}");
        }
        fs::remove_file(run.join("heap.pb.gz"))?;
        Ok(())
    });
}

/// Length-delimited fields of a protobuf message; others are stepped over.
fn fields(mut rest: &[u8]) -> Result<Vec<(u64, &[u8])>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match tag & 7 {
            0 => {
                varint(&mut rest)?;
            }
            2 => {
                let length = usize::try_from(varint(&mut rest)?)?;
                let (field, after) = rest.split_at_checked(length).context("a field is cut")?;
                found.push((tag >> 3, field));
                rest = after;
            }
            other => bail!("wire type {other}"),
        }
    }
    Ok(found)
}

fn varint(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().context("a number is cut")?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("a number has no end")
}
